"""What was measured of engines, as a file and as a table beside mini-sglang's figures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# mini-sglang (commit 20fcd7f) on one H100 80GB: decode ms at 1, 16, 64, 256; prefill tok/s; offline tok/s.
PEER: dict[str, dict[str, Any]] = {
    "qwen3_0_6b": {"decode": {1: 1.53, 16: 1.93, 64: 3.26, 256: 8.39}, "prefill": 325_900, "offline": 18_180},
    "qwen3_8b": {"decode": {1: 6.78, 16: 7.44, 64: 9.66, 256: 16.96}, "prefill": 42_450, "offline": 7_600},
}
_HEAD = """\
| model | weights, KV, attention, page | offline output tok/s | decode ms at batch {} | times the floor | prefill 16 x 2048 tok/s |
|---|---|---:|---|---|---:|"""  # noqa: E501 (a line of Markdown)


@dataclass
class Figures:
    """Of one engine; what was not measured is None or not there.

    Attributes:
        model: Of conf/model.
        device: The GPU's name.
        case: What kind of engine: weights, KV, attention and page size.
        pages: KV pages.
        build_s: Seconds to make it.
        decode_ms: A decode step, by batch.
        floor_ms: In which its bytes can be read, by batch.
        warm_ms: A decode step at temperature 0.8, by batch.
        prefill: Prompt tokens a second.
        offline: Output tokens a second of the offline workload.
    """

    model: str
    device: str
    case: str
    pages: int
    build_s: float
    decode_ms: dict[int, float] = field(default_factory=dict)
    floor_ms: dict[int, float] = field(default_factory=dict)
    warm_ms: dict[int, float] = field(default_factory=dict)
    prefill: float | None = None
    offline: float | None = None


def save(found: list[Figures], path: Path) -> None:
    """Write them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(figures) for figures in found], indent=1))


def load(path: Path) -> list[Figures]:
    """Read them; none where there is no such file."""
    rows = json.loads(path.read_text()) if path.is_file() else []
    for row in rows:
        for name in ("decode_ms", "floor_ms", "warm_ms"):
            row[name] = {int(batch): ms for batch, ms in row[name].items()}
    return [Figures(**row) for row in rows]


def markdown(found: list[Figures]) -> str:
    """A row for each, the peer's below the first of its model."""
    batches = sorted({batch for figures in found for batch in figures.decode_ms})
    lines, told = [_HEAD.format(" / ".join(map(str, batches)))], set()
    for figures in found:
        decodes, floors = figures.decode_ms, figures.floor_ms
        times = {batch: ms / floors[batch] for batch, ms in decodes.items() if batch in floors}
        lines.append(
            f"| {figures.model} | {figures.case} | {_count(figures.offline)} | {_slashed(decodes, batches)} "
            f"| {_slashed(times, batches)} | {_count(figures.prefill)} |"
        )
        peer = PEER.get(figures.model)
        if peer is not None and figures.model not in told:
            told.add(figures.model)
            lines.append(
                f"| {figures.model} | mini-sglang | {_count(peer['offline'])} | {_slashed(peer['decode'], batches)} | "
                f"| {_count(peer['prefill'])} |"
            )
    return "\n".join(lines)


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _slashed(values: dict[int, float], batches: list[int]) -> str:
    return " / ".join(f"{values[batch]:.2f}" if batch in values else "-" for batch in batches)
