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
        start_s: Leave out what arrives earlier,
        end_s: or later, than this; the window then starts at 0.
        head: Only the first so many requests.
        recover_sessions: Find sessions by prefixes: a prompt that extends an earlier one is its next turn.
        sample: A share of the sessions, such as 1/8, chosen by a fixed hash.
        thin: A share of the requests.
        seed: Another sample.
        cap_prompt_tokens: Longer prompts are cut to this,
        cap_output_tokens: longer outputs to this,
        cap_total_tokens: and both together to this.
        rate: Requests per second to scale the arrivals to.
        rate_scale: Or a factor on the rate.
    """

    name: str = "trace"
    path: str | None = None
    format: str | None = None
    generate: dict[str, Any] | None = None
    start_s: float | None = None
    end_s: float | None = None
    head: int | None = None
    recover_sessions: bool = False
    sample: str | None = None
    thin: str | None = None
    seed: int = 0
    cap_prompt_tokens: int | None = None
    cap_output_tokens: int | None = None
    cap_total_tokens: int | None = None
    rate: float | None = None
    rate_scale: float | None = None


@dataclass
class WorkloadConfig:
    """When the client sends; see harness.workload.Workload."""

    arrivals: str = "open"
    concurrency: int = 0
    warmup_s: float = 0.0
    prompt_seed: int = 0


@dataclass
class EngineConfig:
    """The server.

    Attributes:
        page_size: Tokens a page of KV.
        pages: Pages of KV; null: what fits into the GPU's memory.
        memory_fraction: Share of the GPU's memory to use.
        workspace_bytes: Of that, kept for activations, graphs and buffers.
        max_running: The most requests admitted at once.
        max_context: The longest request, prompt and output; null: the model's.
        overlap: Schedule and launch a step while the device runs the one before.
        cuda_graph: Replay decode steps as CUDA graphs.
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
        name: Of the run, in its directory's name.
        tp: GPUs that share the model (tensor parallel).
    """

    name: str = MISSING
    tp: int = 1
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
