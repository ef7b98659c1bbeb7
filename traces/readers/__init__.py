"""Read a trace in any public format, recognised from what is in it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traces.errors import TraceError
from traces.readers import (
    azure,
    bailian,
    blis,
    burstgpt,
    claude_code,
    llmservingsim,
    mooncake,
    native,
    servegen,
    vidur,
)
from traces.readers.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from traces.schema import Trace


@dataclass(frozen=True)
class Format:
    """How to read one public format.

    Attributes:
        recognise: Whether a file is in this format.
        read: Its reader, with the format's own options as keyword arguments.
        origin: Whose format it is, for people.
    """

    recognise: Callable[[Source], bool]
    read: Callable[..., Trace]
    origin: str

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the reader's options."""
        return tuple(inspect.signature(self.read).parameters)[1:]


FORMATS = {
    "native": Format(native.recognise, native.read, "ServeTwin's own schema: JSONL, CSV or Parquet"),
    "mooncake": Format(mooncake.recognise, mooncake.read, "Mooncake (Kimi) and AIPerf: JSONL"),
    "bailian": Format(bailian.recognise, bailian.read, "Qwen-Bailian usage traces: JSONL"),
    "llmservingsim": Format(llmservingsim.recognise, llmservingsim.read, "LLMServingSim workloads: JSONL"),
    "azure": Format(azure.recognise, azure.read, "Azure LLM inference traces 2023, 2024: CSV"),
    "burstgpt": Format(burstgpt.recognise, burstgpt.read, "BurstGPT: CSV"),
    "vidur": Format(vidur.recognise, vidur.read, "Vidur processed traces: CSV"),
    "blis": Format(blis.recognise, blis.read, "BLIS (inference-sim) trace v2: CSV with a YAML header"),
    "servegen": Format(servegen.recognise, servegen.read, "ServeGen client models: a directory, to generate from"),
    "claude_code": Format(claude_code.recognise, claude_code.read, "Claude Code sessions: JSON, or a directory"),
}


def read(path: str | Path, format: str | None = None, **options: Any) -> Trace:  # noqa: A002
    """Read a trace.

    Args:
        path: A file, plain or gzip, or a directory of Claude Code sessions or of ServeGen clients.
        format: A name of :data:`FORMATS`; without, what the content shows.
        **options: The format's own, such as ``spread_ticks`` for mooncake.

    Raises:
        TraceError: The file cannot be read, is in no known format, or a line of it is wrong.
    """
    source = Source.open(Path(path))
    name = recognise(source) if format is None else format
    if name not in FORMATS:
        raise TraceError(f"trace format {name!r} is unknown, expected one of {', '.join(FORMATS)}")
    chosen = FORMATS[name]
    for option in options:
        if option not in chosen.options:
            offered = ", ".join(chosen.options) or "none"
            raise TraceError(f"option {option} is unknown to the {name} reader, it has: {offered}")
    return chosen.read(source, **options)


def recognise(source: Source) -> str:
    """The name of a file's format.

    Raises:
        TraceError: It is in none.
    """
    for name, candidate in FORMATS.items():
        if candidate.recognise(source):
            return name
    found = "holds no sessions or clients" if source.is_folder else f"starts with {source.first_line[:80]!r}"
    raise TraceError(
        f"{source.path} is in no known trace format ({', '.join(FORMATS)}): it {found}; a CSV or JSONL of ours needs "
        f"{', '.join(native.REQUIRED)}"
    )
