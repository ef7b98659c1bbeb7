"""The simulated server, put together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.cost.shape import CostModel
from harness.metrics.request_log import RequestLog
from harness.metrics.step_log import StepLog
from harness.metrics.token_log import TokenLog
from harness.progress import Progress
from harness.simulator.client import Client
from harness.simulator.engine import EngineOptions, ModelledEngine, SchedulerCosts
from harness.simulator.environment import Environment, Mailbox
from harness.simulator.frontend import ApiSender, ApiServer, Detokenizer, HopCosts, Submission, Tokenizers
from harness.simulator.worker import Worker
from harness.workload import Workload
from policies import Policy
from runtime.scheduler import LeapingScheduler, Scheduler, SchedulerConfig
from traces.prompts import PromptMaker

_SLICE_EVENTS = 100  # between looks at the wall clock


@dataclass(frozen=True)
class ServerModel:
    """What is simulated.

    Attributes:
        scheduler: Sizes.
        options: Overlap and CUDA graphs.
        cost: Seconds of a step on the device.
        loop: CPU seconds of the serving loop.
        hops: CPU seconds of the other processes.
        vocab_size: Token ids are below it.
        leap: Run decode steps without a decision as one. The tables are the same; not leaping is slower.
        notes: What a reader of its figures has to know, a line each.
    """

    scheduler: SchedulerConfig
    options: EngineOptions
    cost: CostModel
    loop: SchedulerCosts
    hops: HopCosts
    vocab_size: int
    leap: bool = True
    notes: tuple[str, ...] = ()


class Simulation:
    """One replay of a workload through a simulated server.

    Attributes:
        env: The clock.
        requests: Request table.
        steps: Step table.
        tokens: Token times.
        scheduler: The core.
    """

    def __init__(self, workload: Workload, server: ServerModel, policy: Policy, *, keep_tokens: bool = False) -> None:
        self.env = env = Environment()
        self.requests = RequestLog(workload.trace)
        self.steps = StepLog(server.scheduler.pages)
        self.tokens = TokenLog(keep=keep_tokens)
        self.scheduler = (LeapingScheduler if server.leap else Scheduler)(server.scheduler, policy)

        arrivals: Mailbox[Submission] = Mailbox(env)  # at the scheduler
        prompts = PromptMaker(workload.trace, server.vocab_size, workload.prompt_seed)
        api = ApiServer(Tokenizers(env, arrivals, self.requests, server.hops), self.requests, server.hops)
        client = Client(env, workload, prompts, api, self.requests, self.tokens, server.hops)
        sender = ApiSender(self.requests, self.tokens, server.hops, client.row_ended)
        worker = Worker(
            env,
            self.scheduler,
            ModelledEngine(server.cost, server.options, server.loop),
            arrivals,
            Detokenizer(sender, self.requests, server.hops),
            client.row_refused,
            self.requests,
            self.steps,
            self.tokens,
            server.hops,
            gather=workload.at_once,
        )
        env.process(worker.run())
        env.process(client.run())
        self._client = client
        self._worker = worker

    def run(self, watch: Callable[[Simulation], bool], every_s: float = 0.1) -> bool:
        """Run to the end of the last request.

        Args:
            watch: Called about every ``every_s`` seconds of wall-clock time; says whether to go on.
            every_s: See ``watch``.

        Returns:
            Whether every request ended.
        """
        env, finished = self.env, self._client.finished
        due = time.monotonic() + every_s
        while True:
            for _ in range(_SLICE_EVENTS):
                if finished.processed:
                    return True
                env.step()
            if time.monotonic() >= due:
                if not watch(self):
                    for row, sequence in self._worker.unfinished():
                        self._client.note(row, sequence)
                    return False
                due = time.monotonic() + every_s

    def progress(self) -> Progress:
        """A look at the run under way."""
        return self.requests.progress(self.env.now, self._client.output_tokens)
