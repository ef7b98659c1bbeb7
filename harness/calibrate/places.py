"""Which steps are measured: first a coarse logarithmic grid, then where the measurements foretell each other worst.

Serving runs decodes for most of its time and prefills, with or without cached context before them, for most of the
rest: so does the grid, and steps that do both are what is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np

from harness.cost.shape import StepShape
from harness.cost.work import StepWork
from runtime.scheduler import SchedulerConfig
from runtime.scheduler.graph_sizes import CHUNKED_SIZES

_NEIGHBOURS = 3  # that foretell a point
_CONTEXTS = (128, 256, 512, 1024, 2048, 4096)  # of a decode
_LONG_CONTEXTS = (16, 8192, 32768)
# Batches between powers of two, or between the sizes of CUDA graphs. 17 and 20 replay the same graph: what is of its
# size is told from what is of the sequences in it. 36 are the fewest of which FlashInfer does not run all at once.
_BETWEEN = (3, 6, 12, 17, 20, 36, 48, 100, 200)
# Times the mean, that the longest context of a decode is, about: in traffic, and in some. Equal contexts, of which
# FlashInfer makes other parts than of any that differ, are hardly met there.
_UNEVEN, _MORE_UNEVEN = 2, 4
_BEFORE = (256, 1024, 4096, 16384)  # context of a chunk
_TOGETHER = (2, 4, 8)  # chunks of a step
_LEAST_CHUNK = 16
# Batch and context, of those that have room. Of longer prefixes more is found in the cache than of those in traffic.
_SHARING = ((32, 1024), (64, 1024), (128, 1024))
_OCTAVES = 4.0  # over which what is known of a kind of work's seconds fades to a third
_NOISE = 1 / 30  # of a measurement, to how far off the roofline may be
TURNS = ("decode", "prefill", "decode", "prefill", "decode", "prefill", "mixed")
"""In which kinds of steps are measured, beyond the grid."""


@dataclass(frozen=True, slots=True)
class Place:
    """A step to be measured: some equal chunks of prompts, some decodes.

    Attributes:
        prefills: Sequences that compute a chunk.
        chunk: Tokens of each chunk.
        prefill_context: Tokens that each had computed before.
        samples: Whether their prompts end in this step.
        decodes: Sequences that compute one token.
        decode_context: KV tokens that each of them reads, its own new one included,
        longest: but for one of them, which reads this many.
        spread: Instead, no two read as many: from few to the longest, as in traffic, and ``decode_context`` about the
            mean.
        shared: Tokens that all of them begin with, of the same pages.
    """

    prefills: int = 0
    chunk: int = 0
    prefill_context: int = 0
    samples: bool = True
    decodes: int = 0
    decode_context: int = 0
    longest: int = 0
    spread: bool = False
    shared: int = 0

    @property
    def kind(self) -> str:
        """``decode``, ``prefill`` or ``mixed``."""
        if not self.prefills:
            return "decode"
        return "mixed" if self.decodes else "prefill"

    def contexts(self) -> list[int]:
        """KV tokens of each sequence after the step: those with a chunk, then those that decode."""
        prefills = [self.prefill_context + self.chunk] * self.prefills
        if self.spread:
            power = self.longest / self.decode_context - 1  # the mean of x ** power is 1 / (power + 1)
            shares = (number / self.decodes for number in range(self.decodes, 0, -1))
            return prefills + [max(1, round(self.longest * share**power)) for share in shares]
        decodes = [self.longest] + [self.decode_context] * (self.decodes - 1) if self.decodes else []
        return prefills + decodes

    def shape(self, decode_rows: int) -> StepShape:
        """What a cost model is to know of it.

        Args:
            decode_rows: Rows that the linear layers run for the decodes, padding included.
        """
        chunk, before = self.chunk, self.prefill_context
        pairs = chunk * before + chunk * (chunk + 1) // 2
        return StepShape(
            prefill_sequences=self.prefills,
            prefill_tokens=self.prefills * chunk,
            prefill_pairs=self.prefills * pairs,
            prefill_context=self.prefills * (before + chunk),
            decode_sequences=self.decodes,
            decode_rows=decode_rows,
            decode_context=sum(self.contexts()[self.prefills :]),
            decode_max_context=self.longest,
            sampled=self.decodes + self.prefills * self.samples,
            prefill_max_context=before + chunk if self.prefills else 0,
        )

    def fits(self, sizes: SchedulerConfig, step_tokens: int) -> bool:
        """Whether a server of these sizes can run it.

        Args:
            sizes: Of the server.
            step_tokens: Prompt tokens that a step may compute.
        """
        contexts = self.contexts()
        pages = sum(-(-tokens // sizes.page_size) for tokens in contexts)
        return (
            len(contexts) <= sizes.max_running
            and max(contexts) <= sizes.max_context
            and pages <= sizes.pages
            and self.prefills * self.chunk <= step_tokens
        )


def decoding(batch: int, context: int, longest: int | None = None) -> Place:
    """A step that only decodes."""
    return Place(decodes=batch, decode_context=context, longest=context if longest is None else longest)


def spreading(batch: int, context: int, longest: int) -> Place:
    """A step that only decodes, of contexts that all differ."""
    return Place(decodes=batch, decode_context=context, longest=longest, spread=True)


def sharing(sizes: SchedulerConfig) -> Iterator[tuple[Place, Place, Place]]:
    """Decodes of which half the KV is shared, the same with none shared, and as many that read so much less."""
    for batch, context in _SHARING:
        apart, less = decoding(batch, context), decoding(batch, context - (batch - 1) * (context // 2) // batch)
        if apart.fits(sizes, 0):
            yield replace(apart, shared=context // 2), apart, less


def coarse_grid(sizes: SchedulerConfig, step_tokens: int, work: StepWork) -> list[Place]:
    """Places for a first look, in an order in which every beginning of the list tells most of all of it.

    Args:
        sizes: Of the server.
        step_tokens: Prompt tokens that a step may compute.
        work: Of its steps.
    """
    most = min(sizes.max_running, sizes.pages)
    batches = sorted({*_powers(1, most), most})
    chunks = sorted({*_powers(min(_LEAST_CHUNK, step_tokens), step_tokens), step_tokens})
    room = sizes.pages * sizes.page_size
    long = min(sizes.max_context, room // 2)
    prefills = [
        *(Place(1, chunk) for chunk in sorted({*chunks, *CHUNKED_SIZES, *(round(2**0.5 * chunk) for chunk in chunks)})),
        *(Place(1, chunk, before) for chunk in chunks[::2] for before in _BEFORE),
        *(Place(count, chunk, before) for count in _TOGETHER for chunk in chunks[1::2] for before in (0, _BEFORE[1])),
        *(Place(count, chunk // count) for chunk in chunks[2::2] for count in (16, 64) if chunk >= 4 * count),
        *(Place(1, chunk, samples=False) for chunk in chunks[::3]),
    ]
    decodes = [
        decoding(1, 1),  # for which the smallest server has room
        *(_decoding(batch, context) for batch in sorted({*batches, *_BETWEEN}) for context in _CONTEXTS),
        *(_decoding(batch, context) for batch in batches[::2] for context in _LONG_CONTEXTS),
        # As much KV as there is, but for what spreading adds to it and what pages leave empty.
        *(
            _decoding(batch, max(1, min(sizes.max_context // _UNEVEN, room * 7 // 8 // batch)))
            for batch in batches[-3:]
        ),
        *(_decoding(batch, context, _MORE_UNEVEN) for batch in batches[2::2] for context in _CONTEXTS[1:4:2]),
        *(decoding(batch, 128, long) for batch in batches[2::2]),
    ]
    mixed = [
        replace(_decoding(batch, context), prefills=1, chunk=chunk, prefill_context=before)
        for chunk in chunks[::2]
        for batch in batches[::2]
        for before, context in ((0, 512), (_BEFORE[1], 2048))
    ]
    grid = [place for place in dict.fromkeys([*decodes, *prefills, *mixed]) if place.fits(sizes, step_tokens)]
    return _most_telling_first(grid, work)


def _decoding(batch: int, context: int, uneven: float = _UNEVEN) -> Place:
    """A decode as in traffic: contexts differ, where there is more than one."""
    return decoding(1, context) if batch == 1 else spreading(batch, context, int(uneven * context))


def _most_kv(batch: int, sizes: SchedulerConfig) -> Place:
    """A decode of as much KV as there is, but for what spreading adds to it and what pages leave empty."""
    context = max(1, min(sizes.max_context, sizes.pages * sizes.page_size * 7 // 8 // batch))
    return _decoding(batch, context, min(_UNEVEN, sizes.max_context / context))


def smallest_of_each_kind(places: Sequence[Place]) -> list[Place]:
    """A small place that decodes, one that prefills, and one that does both, of those that there are."""
    least: dict[str, Place] = {}
    for place in sorted(places, key=lambda place: sum(place.contexts())):
        least.setdefault(place.kind, place)
    return list(least.values())


def _most_telling_first(places: list[Place], work: StepWork) -> list[Place]:
    """Next is always the place that, once measured, leaves the least uncertain of all of them together.

    Seconds are taken for a sum over kinds of work, each the roofline's times a factor that varies with the amount as a
    Gaussian process does on a logarithmic scale; what is uncertain is the variance that the places before leave (Cohn,
    Neural network exploration using optimal experiment design, 1996; Seo et al., 2000).
    """
    shapes = [place.shape(place.decodes) for place in places]
    seconds = np.array([work.roofline_s(shape) for shape in shapes])
    shares = seconds / seconds.sum(axis=1, keepdims=True)
    octaves = np.log2(np.maximum([(1.0, *work.of(shape)) for shape in shapes], 1.0))
    covariance = np.zeros((len(places), len(places)))
    for share, octave in zip(shares.T, octaves.T, strict=True):
        covariance += np.outer(share, share) * np.exp(-np.abs(octave[:, None] - octave) / _OCTAVES)
    left, order = np.ones(len(places), bool), []
    while left.any():
        told = (covariance**2).sum(axis=0) / (covariance.diagonal() + _NOISE**2)
        following = int(np.where(left, told, -1.0).argmax())
        column = covariance[following]
        covariance -= np.outer(column, column) / (column[following] + _NOISE**2)
        left[following] = False
        order.append(places[following])
    return order


def _powers(first: int, last: int) -> Iterator[int]:
    while first <= last:
        yield first
        first *= 2


def leave_one_out(places: Sequence[Place], ratios: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """How wrongly each measured place is foretold by its neighbours of the same kind.

    Args:
        places: Measured.
        ratios: Seconds measured over the roofline's for its work, of each: what is smooth enough to interpolate.

    Returns:
        (places,) absolute error of the logarithm; infinite where there is no other of its kind.
    """
    coordinates = np.array([_coordinates(place) for place in places])
    kinds = np.array([_kind(place) for place in places])
    logs = np.log(ratios)
    errors = np.full(len(places), np.inf)
    for index in range(len(places)):
        others = np.flatnonzero((kinds == kinds[index]) & (np.arange(len(places)) != index))
        if not len(others):
            continue
        distance = np.abs(coordinates[others] - coordinates[index]).sum(axis=1)
        nearest = distance.argsort(kind="stable")[:_NEIGHBOURS]
        weight = 1 / (distance[nearest] + 1e-9)
        errors[index] = abs(float(weight @ logs[others[nearest]] / weight.sum()) - logs[index])
    return errors


def next_place(
    places: Sequence[Place], ratios: Sequence[float], tried: set[Place], sizes: SchedulerConfig, step_tokens: int
) -> Place | None:
    """Where to measure next: half way, on a logarithmic scale, from the worst foretold place to a neighbour of it.

    Args:
        places: Measured.
        ratios: See :func:`leave_one_out`.
        tried: Places that are not to be tried again.
        sizes: Of the server.
        step_tokens: Prompt tokens that a step may compute.

    Returns:
        A place, or None where all are as near to each other as they can be.
    """
    errors = leave_one_out(places, ratios)
    for index in np.argsort(-errors, kind="stable").tolist():
        worst = places[index]
        kin = [place for place in places if place is not worst and _kind(place) == _kind(worst)]
        for other in sorted(kin, key=lambda place: _distance(place, worst))[: 2 * _NEIGHBOURS]:
            middle = _between(worst, other)
            if middle not in tried and middle.fits(sizes, step_tokens):
                return middle
    return None


def _kind(place: Place) -> int:
    unsampled = place.prefills > 0 and not place.samples
    return (place.prefills > 0) + 2 * (place.decodes > 0) + 4 * unsampled + 8 * place.spread


def _coordinates(place: Place) -> list[float]:
    return [math.log2(1 + value) for value in astuple(place)]


def _distance(one: Place, other: Place) -> float:
    return sum(abs(a - b) for a, b in zip(_coordinates(one), _coordinates(other), strict=True))


def _between(one: Place, other: Place) -> Place:
    """Half way between two places of a kind; contexts are at least the token itself."""

    def middle(a: int, b: int) -> int:
        return round(math.sqrt((1 + a) * (1 + b))) - 1

    decode_context = middle(one.decode_context, other.decode_context)
    return Place(
        middle(one.prefills, other.prefills),
        middle(one.chunk, other.chunk),
        middle(one.prefill_context, other.prefill_context),
        one.samples,
        middle(one.decodes, other.decodes),
        decode_context,
        max(middle(one.longest, other.longest), decode_context),
        one.spread,
    )
