"""Steps put together from the seconds of single kernels."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import NamedTuple

from harness.cost.errors import CostError
from harness.cost.measured import CollectivePoint, MeasuredProfile, StepPoint
from harness.cost.model import DTYPE_BYTES
from harness.cost.roofline import Roofline
from harness.cost.shape import StepShape

STEP_OVERHEAD_S = 30e-6
"""What a step takes beside its kernels, as the roofline has it: batch metadata in, tokens out."""

_PAGE = 16  # tokens, what all three profile with


class ImportProfileError(CostError):
    """A file of another simulator's profile that cannot be used; the message names file, line and column."""


class Table:
    """Seconds by size, between its points and beyond them along straight lines, never less than 0.

    Args:
        points: Sizes and seconds, in any order; of equal sizes the mean counts.
    """

    def __init__(self, points: Iterable[tuple[float, float]]) -> None:
        together: dict[float, list[float]] = {}
        for size, seconds in points:
            together.setdefault(size, []).append(seconds)
        self.sizes = sorted(together)
        self.seconds = [sum(together[size]) / len(together[size]) for size in self.sizes]

    def at(self, size: float) -> float:
        """Seconds of one size."""
        sizes, seconds = self.sizes, self.seconds
        if len(sizes) == 1:
            return seconds[0]
        right = min(max(bisect_left(sizes, size), 1), len(sizes) - 1)
        slope = (seconds[right] - seconds[right - 1]) / (sizes[right] - sizes[right - 1])
        if size > sizes[-1]:
            slope = max(slope, 0.0)
        return max(seconds[right] + slope * (size - sizes[right]), 0.0)


class Attention(NamedTuple):
    """Seconds of one layer's attention for equal chunks and equal decodes.

    Attributes:
        prefills: Sequences that compute a chunk of a prompt.
        tokens: Of each of those chunks.
        before: Tokens of context before each of them.
        decodes: Sequences that compute one token.
        context: KV tokens that each of those reads, in the mean.
        longest: KV tokens that the longest of them reads.
        seconds: Of one layer.
    """

    prefills: int
    tokens: int
    before: int
    decodes: int
    context: int
    longest: int
    seconds: float


@dataclass(frozen=True)
class Layerwise:
    """What the kernels of a model take, from another simulator's tables.

    Attributes:
        device: Where they were measured.
        versions: Of the software that ran them.
        layers_s: Seconds of all that a step does for its rows, attention, all-reduces and LM head left out.
        head_s: Seconds of the LM head and sampling by rows, or None where there is no table of them.
        attention: Of one layer.
        reduce_s: Seconds of one all-reduce by bytes, or None.
        reduce_algorithm: Which that is.
    """

    device: str
    versions: Mapping[str, str]
    layers_s: Callable[[int], float]
    head_s: Callable[[int], float] | None
    attention: Sequence[Attention]
    reduce_s: Table | None = None
    reduce_algorithm: str = "unknown"


def composed(kernels: Layerwise, roofline: Roofline, path: str) -> MeasuredProfile:
    """The steps at which attention was measured, with the other kernels for their rows.

    Args:
        kernels: What the kernels take.
        roofline: Of the same model, device and ``tp``: gives what the tables do not.
        path: Where the tables are.
    """
    model, tp = roofline.model, roofline.tp
    nothing_s = roofline.step_s(StepShape())
    reductions = 2 * model.layers + 1
    row_bytes = model.hidden_size * max(2, DTYPE_BYTES[roofline.weight_dtype])

    def reduce_s(rows: int) -> float:
        if tp == 1 or kernels.reduce_s is None:
            return roofline.all_reduce_s(rows)
        return reductions * kernels.reduce_s.at(rows * row_bytes)

    def head_s(rows: int) -> float:
        if kernels.head_s is not None:
            return kernels.head_s(rows)
        return roofline.step_s(StepShape(sampled=rows)) - nothing_s

    steps = []
    for point in _thinned(kernels.attention):
        shape = _shape(point)
        rows = shape.prefill_tokens + shape.decode_rows
        seconds = kernels.layers_s(rows) + head_s(shape.sampled) + reduce_s(rows) + model.layers * point.seconds
        steps.append(StepPoint(shape, False, seconds, 0.0, 1))
    if not steps:
        raise ImportProfileError(f"{path}: no attention was measured in it that fits the model and tp={tp}")
    largest = max(step.shape.decode_sequences for step in steps)
    return MeasuredProfile(
        model=model,
        hardware=roofline.hardware,
        device=kernels.device,
        tp=tp,
        weight_dtype=roofline.weight_dtype,
        kv_dtype=roofline.kv_dtype,
        page_size=_PAGE,
        pages=max(step.shape.decode_context + step.shape.prefill_context for step in steps) // _PAGE + 1,
        max_running=max(largest, 1),
        max_context=max(max(point.longest, point.before + point.tokens) for point in kernels.attention),
        graph_sizes=(),
        overlap=True,
        attention="imported",
        versions=dict(kernels.versions),
        date="unknown",
        command=f"imported from {path}",
        steps=steps,
        collectives=[
            CollectivePoint("all_reduce", kernels.reduce_algorithm, int(size), seconds, 0.0, 1)
            for size, seconds in zip(kernels.reduce_s.sizes, kernels.reduce_s.seconds, strict=True)
        ]
        if kernels.reduce_s is not None and tp > 1
        else (),
    )


def _shape(point: Attention) -> StepShape:
    chunk = point.tokens * point.before + point.tokens * (point.tokens + 1) // 2
    return StepShape(
        prefill_sequences=point.prefills,
        prefill_tokens=point.prefills * point.tokens,
        prefill_pairs=point.prefills * chunk,
        prefill_context=point.prefills * (point.before + point.tokens),
        decode_sequences=point.decodes,
        decode_rows=point.decodes,
        decode_context=point.decodes * point.context,
        decode_max_context=point.longest,
        sampled=point.prefills + point.decodes,
    )


def _thinned(points: Sequence[Attention]) -> list[Attention]:
    """One point of each octave of every size (of two octaves where both kinds are in a step): tables have thousands."""
    kept: dict[tuple[int, ...], Attention] = {}
    for point in sorted(points):
        wide = 2 if point.prefills and point.decodes else 1
        kept[tuple(round(log2(1 + size) / wide) for size in point[:-1])] = point
    return list(kept.values())
