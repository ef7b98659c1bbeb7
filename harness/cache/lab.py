"""Many eviction policies at many cache sizes over samples of one trace."""

from __future__ import annotations

import inspect
import signal
from collections import defaultdict
from concurrent.futures import as_completed
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.cache.clairvoyant import belady_hits
from harness.cache.errors import CacheError
from harness.cache.replay import replay_hits
from harness.cache.reuse import find_reuse
from harness.cache.stack import lru_hits
from harness.cache.work import prefill_flops
from harness.faults import PolicyFault, explained, own_policy
from harness.workers import worker_pool
from policies.errors import PolicyError
from policies.registry import PARTS, build, find

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from harness.cache.accesses import Accesses
    from harness.cost.model import ModelShape
    from policies.eviction import Eviction
    from traces.schema import IntArray

BELADY = "belady"
LRU = "lru"
UNBOUNDED = "unbounded"
TOKENS = "_tokens"  # how the name of a parameter ends that counts tokens


@dataclass(frozen=True)
class PolicySpec:
    """A policy and its parameters, as asked for.

    Attributes:
        text: ``NAME:PARAMETER=VALUE:...``, which also labels it.
        name: One that the registry of policies finds, or ``belady`` for the clairvoyant bound.
        parameters: Lengths (``*_tokens``) in tokens.
    """

    text: str
    name: str
    parameters: dict[str, float]

    @classmethod
    def parse(cls, text: str) -> PolicySpec:
        """Read and check a policy.

        Raises:
            CacheError: There is no such policy, or it does not take these parameters.
        """
        name, *pairs = text.split(":")
        parameters: dict[str, float] = {}
        for pair in pairs:
            knob, _, value = pair.partition("=")
            try:
                number = float(value)
            except ValueError:
                raise CacheError(f"--policies {text}: {pair!r} is not PARAMETER=NUMBER, e.g. lru_k:k=3") from None
            parameters[knob] = int(number) if number.is_integer() else number
        spec = cls(text, name, parameters)
        if name == BELADY:
            horizon = parameters.get("horizon", 1)
            if set(parameters) - {"horizon"} or not isinstance(horizon, int) or horizon < 1:
                raise CacheError(f"--policies {text}: belady takes a horizon of 1 request or more: belady:horizon=1000")
        else:
            spec.eviction(block_size=1)
        return spec

    @property
    def own(self) -> dict[str, type]:
        """Its class by what was written, where that is one of the user's own."""
        if self.name in PARTS["eviction"].builtin:
            return {}
        return own_policy("eviction", self.name, f"--policies {self.text}")

    def eviction(self, block_size: int) -> Eviction:
        """A fresh policy for a tree that counts blocks: lengths in tokens become lengths in blocks.

        Raises:
            CacheError: It cannot be found or built.
            PolicyFault: It is one of the user's own, and raises when it is imported or built.
        """
        try:
            with explained(self.own):
                parameters: dict[str, Any] = dict(self.parameters)
                for knob, parameter in inspect.signature(find("eviction", self.name)).parameters.items():
                    if knob.endswith(TOKENS):
                        parameters[knob] = parameters.get(knob, parameter.default) / block_size
                policy: Eviction = build("eviction", self.name, parameters)
        except PolicyFault:
            raise
        except PolicyError as error:
            also = "" if self.name in PARTS["eviction"].builtin else f". Or {BELADY}, the clairvoyant bound"
            raise CacheError(f"--policies {self.text}: {error}{also}") from error
        return policy


class Cell(NamedTuple):
    """One policy at one size over one sample.

    Attributes:
        policy: As asked for.
        size_blocks: Capacity.
        sample: Which sample, from 0.
        hit_ratio: Prompt tokens found, of all.
        of_belady: Prompt tokens found, of those that Belady's bound finds in the same sample at this size; NaN where it
            finds none, or was not asked.
        flops_saved: Prefill operations saved, of all.
    """

    policy: str
    size_blocks: int
    sample: int
    hit_ratio: float
    of_belady: float
    flops_saved: float


class Spread(NamedTuple):
    """A ratio over the samples."""

    mean: float
    low: float
    high: float


def compare(
    samples: Sequence[Accesses],
    policies: Sequence[PolicySpec],
    sizes: Sequence[int],
    model: ModelShape,
    jobs: int,
    watch: Callable[[int, int], None],
) -> list[Cell]:
    """Replay every sample under every policy at every size, and under no bound at all.

    Args:
        samples: Of one trace.
        policies: What to compare; Belady's bound is added where it is not among them.
        sizes: Capacities, blocks.
        model: Whose prefill is saved.
        jobs: Processes.
        watch: Told how many replays are done, of how many.

    Returns:
        Cells by policy in the order asked for, then by size and sample; ``unbounded`` comes last.
    """
    bound = [] if any(spec.text == BELADY for spec in policies) else [PolicySpec.parse(BELADY)]
    everything = max(max(sizes), *(accesses.distinct for accesses in samples))
    asked = [
        *((spec, _passes(spec, sizes)) for spec in [*policies, *bound]),
        (PolicySpec(UNBOUNDED, LRU, {}), [[everything]]),
    ]
    tasks = [(sample, spec, some) for sample in range(len(samples)) for spec, passes in asked for some in passes]
    found: dict[tuple[str, int, int], tuple[float, float]] = {}
    done = 0

    def keep(task: tuple[int, PolicySpec, list[int]], hits: IntArray) -> None:
        nonlocal done
        done += 1
        sample, spec, some = task
        for size, row in zip(some, hits, strict=True):
            found[spec.text, size, sample] = ratios(samples[sample], row, model)
        watch(done, len(tasks))

    if jobs == 1:
        for task in tasks:
            keep(task, hits_at(samples[task[0]], *task[1:]))
    else:
        with worker_pool(jobs, option="--jobs", stop=signal.SIGTERM) as pool:
            futures: dict[Future[IntArray], tuple[int, PolicySpec, list[int]]] = {
                pool.submit(hits_at, samples[task[0]], *task[1:]): task for task in tasks
            }
            for future in as_completed(futures):
                keep(futures[future], future.result())
    cells = []
    for spec, passes in asked:
        for size in [size for some in passes for size in some]:
            for sample in range(len(samples)):
                hit_ratio, saved = found[spec.text, size, sample]
                most, _ = found.get((BELADY, size, sample), (0.0, 0.0))
                cells.append(Cell(spec.text, size, sample, hit_ratio, hit_ratio / most if most else nan, saved))
    return cells


def hits_at(accesses: Accesses, spec: PolicySpec, sizes: Sequence[int]) -> IntArray:
    """Blocks found at the front of each prompt at each size: shape (sizes, requests).

    Raises:
        PolicyFault: A policy of the user's own raised something.
    """
    if spec.name == LRU:
        return lru_hits(find_reuse(accesses), sizes)
    if spec.name == BELADY:
        reuse, horizon = find_reuse(accesses), spec.parameters.get("horizon")
        return np.stack([belady_hits(reuse, size, None if horizon is None else int(horizon)) for size in sizes])
    with explained(spec.own):
        return np.stack([replay_hits(accesses, spec.eviction(accesses.block_size), size) for size in sizes])


def ratios(accesses: Accesses, hits: IntArray, model: ModelShape) -> tuple[float, float]:
    """Prompt tokens found, and prefill operations saved, of all.

    Args:
        accesses: The lookups.
        hits: (requests,) blocks found at the front of each prompt.
        model: Whose prefill is saved.
    """
    cached, prompts = accesses.cached_tokens(hits), accesses.prompt_tokens
    saved = prefill_flops(model, cached).sum() / prefill_flops(model, prompts).sum()
    return float(cached.sum() / prompts.sum()), float(saved)


def spreads(cells: Sequence[Cell], column: str) -> dict[str, dict[int, Spread]]:
    """Mean, lowest and highest of a column over the samples, by policy and size."""
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        values[cell.policy][cell.size_blocks].append(getattr(cell, column))
    return {
        policy: {size: Spread(sum(some) / len(some), min(some), max(some)) for size, some in by_size.items()}
        for policy, by_size in values.items()
    }


def _passes(spec: PolicySpec, sizes: Sequence[int]) -> list[list[int]]:
    """Sizes to replay together: LRU has all from one pass."""
    return [list(sizes)] if spec.name == LRU else [[size] for size in sizes]
