"""What an experiment's configuration may say: the schema that Hydra holds the YAML files and the command line to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the knob, its value and the way out."""


@dataclass
class TraceConfig:
    """Which trace, and what is done to it, in this order.

    Attributes:
        name: A bundled or fetched trace.
        path: Any file or directory instead.
        format: Its format, where its content does not tell.
        generate: Or a synthetic workload, by the fields of traces.generate.SyntheticWorkload.
        start_s: Leave out what arrives earlier than this; the window then starts at 0.
        end_s: Leave out what arrives later than this.
        head: Only the first so many requests, from 1.
        recover_sessions: Find sessions by prefixes: a prompt that extends an earlier one is its next turn.
        sample: A share of the sessions, such as 1/8, chosen by a fixed hash: keeps what turns share.
        thin: A share of the requests, chosen likewise: a lower rate, and less of what they share.
        seed: Another sample.
        time_scale: Arrivals and think times become so many times as long, as with 0.1 a tenth.
        cap_prompt_tokens: Longer prompts are cut to this, from 1.
        cap_output_tokens: Longer outputs are cut to this, from 1.
        cap_total_tokens: Prompt and output together are cut to this.
        rate: Requests per second to scale the arrivals to; think times stay, so that later turns come when they come.
        rate_scale: Or a factor on the rate; the shape of the arrivals stays.
    """

    name: str = "trace"
    path: str | None = None
    format: str | None = None
    generate: dict[str, Any] = field(default_factory=dict)
    start_s: float | None = None
    end_s: float | None = None
    head: int | None = None
    recover_sessions: bool = False
    sample: str | None = None
    thin: str | None = None
    seed: int = 0
    time_scale: float | None = None
    cap_prompt_tokens: int | None = None
    cap_output_tokens: int | None = None
    cap_total_tokens: int | None = None
    rate: float | None = None
    rate_scale: float | None = None


@dataclass
class WorkloadConfig:
    """When the client sends.

    Attributes:
        arrivals: ``open``: at the trace's times, whatever the server does, so that queues grow as they would;
            ``closed``: a fixed number in flight, which never overloads and so tells throughput, not waiting;
            ``all_at_once``: everything at time 0, which leaves time out of every decision.
        concurrency: For closed arrivals, sessions or lone requests in flight, from 1. More of them: more tokens a
            second, and more between two tokens of one request.
        warmup_s: Requests that arrive earlier, in seconds, are left out of the summary: the prefix cache is cold then.
        prompt_seed: Another seed, other token ids: nothing is shared between runs on one server.
    """

    arrivals: str = "open"
    concurrency: int = 0
    warmup_s: float = 0.0
    prompt_seed: int = 0


@dataclass
class EngineConfig:
    """The server.

    Attributes:
        page_size: Tokens a page of KV, from 1. Only whole pages are shared: small ones find more of a prefix and waste
            less at a sequence's end, large ones are fewer to look after.
        pages: Pages of KV, from 1; null: what fits into the GPU's memory.
        memory_fraction: Share of the GPU's memory to use, over 0 to 1. More of it is more KV: more requests at once,
            longer-lived prefixes; too much leaves nothing for other programs and for fragmentation.
        workspace_bytes: Of that, kept for activations, graphs and buffers.
        max_running: The most requests admitted at once, from 1. More share each reading of the weights, which is
            throughput; each waits longer for its next token; the rest wait in the queue.
        max_context: The longest request, prompt and output, in tokens; null: the model's. Longer ones are rejected.
        overlap: Schedule and launch a step while the device runs the one before. Hides the scheduler's time; a
            sequence that ended is in one step more before that is known.
        cuda_graph: Replay decode steps, and those of few prompt tokens, as CUDA graphs. One launch in place of
            hundreds, for some memory, time at the start, and steps padded to the next captured size.
    """

    page_size: int = 1
    pages: int | None = None
    memory_fraction: float = 0.9
    workspace_bytes: int = 2 << 30
    max_running: int = 256
    max_context: int | None = None
    overlap: bool = True
    cuda_graph: bool = True


@dataclass
class ExperimentConfig:
    """One experiment.

    Attributes:
        name: Of the run, in its directory's name; of itself it also has what parts of the policy are set one by one,
            and the backend where that is not ``sim``.
        tp: GPUs that share the model (tensor parallel), a divisor of its heads. Each holds and reads less, which is
            latency and room for KV; every layer waits for the slowest twice.
        backend: Who plays the engine, and what time is.
        policy: The scheduler's decisions.
        token_times: Also write ``tokens.parquet``: when the client saw each token, a row a token.
        trace: What is replayed.
        workload: When it is sent.
        engine: Sizes of the server.
        model: Which model is served.
        hardware: On which GPU; the simulator's steps take as long as it needs.
        cost: How the simulator finds a step's seconds.
        slo: Limits on a request's latencies, for goodput.
    """

    name: str = MISSING
    tp: int = 1
    token_times: bool = False
    backend: dict[str, Any] = MISSING
    policy: dict[str, Any] = MISSING
    trace: TraceConfig = field(default_factory=TraceConfig)
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    model: dict[str, Any] = MISSING
    hardware: dict[str, Any] = MISSING
    cost: dict[str, Any] = MISSING
    slo: dict[str, Any] = MISSING


def conf_dir() -> Path:
    """Where the configuration files are: beside the package in a wheel, at the project's root in a checkout."""
    beside = Path(__file__).resolve().parent / "_conf"
    return beside if beside.is_dir() else Path(__file__).resolve().parents[1] / "conf"
