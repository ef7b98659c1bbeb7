"""What the engine tells of its steps: on the device's clock, and how they were run."""

# ruff: noqa: E402 (what needs a GPU is imported once it is known to be there)
from __future__ import annotations

import time

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from policies import build_policy
from runtime.engine.clock import DeviceClock
from runtime.engine.engine import StepRun
from runtime.engine.offline import run_offline
from runtime.engine.torch_engine import make_engine
from runtime.scheduler import Batch, Scheduler, SchedulerConfig
from runtime.scheduler.graph_sizes import chunked_size, ladder
from tests.gpu.small import HALF, small
from tests.tiny.serving import POLICY, prompts, sequence


@pytest.mark.parametrize("cuda_graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "in_turn"])
def test_steps_follow_each_other_and_say_how_they_ran(overlap: bool, cuda_graph: bool) -> None:
    model = small(4)
    sizes = SchedulerConfig(512, 16, 12, 1024)
    scheduler = Scheduler(sizes, build_policy(POLICY))
    engine = make_engine(model.config, model.half, HALF, sizes, scheduler.memory.table, cuda_graph=cuda_graph)
    runs: list[StepRun] = []
    batches: list[Batch] = []
    launch, collect = engine.launch, engine.collect
    engine.launch = lambda batch: batches.append(batch) or launch(batch)  # type: ignore
    engine.collect = lambda ticket: runs.append((result := collect(ticket)).run) or result  # type: ignore
    begun_s = time.monotonic()
    asked = prompts(30, 40, 50, 60, 70, vocab_size=8192)
    for _ in run_offline(scheduler, engine, [sequence(i, p, 20) for i, p in enumerate(asked)], overlap=overlap):
        pass
    ended_s = time.monotonic()
    assert len(runs) == len(batches)
    for run, batch in zip(runs, batches, strict=True):
        chunks, count = batch.chunks, len(batch.chunks) + len(batch.decodes)
        if chunks:
            longest = max(chunk.start + chunk.tokens for chunk in chunks)
            size = chunked_size(len(chunks), sum(chunk.tokens for chunk in chunks), longest, len(batch.decodes))
            assert run.graph == (cuda_graph and size > 0)
            assert run.padded_sequences == count
        else:
            assert run.graph == cuda_graph
            assert run.padded_sequences == (min(s for s in ladder(12) if s >= count) if run.graph else count)
        assert 0 < run.duration_s < 5
    ends = [run.start_s + run.duration_s for run in runs]
    slack_s = 1e-3  # the clocks meet within the host's wake-up
    assert begun_s - slack_s < runs[0].start_s
    assert ends[-1] < ended_s + slack_s
    assert all(run.start_s > end - slack_s for run, end in zip(runs[1:], ends, strict=False))
    engine.close()


def test_the_clock_agrees_with_the_host() -> None:
    clock = DeviceClock()
    before_s = time.monotonic()
    event = clock.mark()
    assert before_s - 1e-3 < clock.wait(event) < time.monotonic() + 1e-3
