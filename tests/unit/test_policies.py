"""What each built-in policy decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.batching import Batching, Chunked, DecodeFirst, PrefillFirst, StepPlan
from policies.eviction import Eviction, Fifo, Lfu, Lru, RandomEviction
from policies.hashing import mix, uniform
from policies.order import Fcfs, Lpm, Order, Priority, Random, Sjf
from policies.prediction import MaxTokens, NoisyOracle, Oracle
from policies.preemption import LeastProgress, Newest, Oldest
from policies.reservation import Full, NoReservation, Predicted, Ratio
from runtime.scheduler import Scheduler, SchedulerConfig, Sequence
from runtime.scheduler.prefix import RadixCache
from tests.core.driver import Scenario

DECODE = StepPlan(prefill_tokens=0, decode=True)


def sequence(
    ordinal: int = 0,
    prompt: tuple[int, ...] = (0,) * 10,
    *,
    output: int = 0,
    max_tokens: int = 100,
    foretold: int | None = None,
    predicted: int = 100,
    priority: int = 0,
) -> Sequence:
    """A sequence with so much output computed."""
    ids = np.array(prompt, np.int32)
    made = Sequence(ordinal, len(prompt), ids, max_tokens, foretold_tokens=foretold, priority=priority)
    made.ordinal = ordinal
    made.predicted_tokens = predicted
    made.total += output
    made.computed = made.total - 1
    return made


def ranked(order: Order, waiting: list[Sequence]) -> list[int]:
    return [s.ordinal for s in sorted(waiting, key=lambda s: (order.key(s), s.ordinal))]


def scheduler() -> Scheduler:
    return Scenario(SchedulerConfig(64, 1, 8, 64), {}, ()).scheduler()


# Order.


def test_fcfs_keeps_the_order_of_arrival() -> None:
    assert ranked(Fcfs(), [sequence(2, priority=9), sequence(0), sequence(1)]) == [0, 1, 2]


def test_sjf_takes_the_shortest_prediction_and_weighs_the_prompt() -> None:
    waiting = [sequence(0, predicted=50), sequence(1, (0,) * 90, predicted=20), sequence(2, predicted=50)]
    assert ranked(Sjf(), waiting) == [1, 0, 2]
    assert ranked(Sjf(prompt_weight=1.0), waiting) == [0, 2, 1]


def test_priority_takes_the_most_urgent() -> None:
    assert ranked(Priority(), [sequence(0), sequence(1, priority=2), sequence(2, priority=2)]) == [1, 2, 0]


def test_a_random_order_is_one_and_the_same_for_a_seed() -> None:
    waiting = [sequence(ordinal) for ordinal in range(50)]
    assert ranked(Random(1), waiting) == ranked(Random(1), waiting[::-1])
    orders = [ranked(Random(seed), waiting) for seed in range(6)]
    shared = [sum(a == b for a, b in zip(orders[0], other, strict=True)) for other in orders[1:]]
    shifted = [sum(a == b + 1 for a, b in zip(orders[0], other, strict=True)) for other in orders[1:]]
    assert max(shared + shifted) < 10, "seeds next to each other draw apart"


def test_lpm_takes_the_longest_cached_prefix_up_to_its_limit() -> None:
    server = scheduler()
    prompts = {0: (9, 9, 9), 1: (1, 2, 9, 9), 2: (1, 2, 3, 9), 3: (8, 1, 2, 3)}
    waiting = [sequence(ordinal, prompt) for ordinal, prompt in prompts.items()]
    for s in waiting:
        server._sequences[s.request_id] = s
    cache = server.memory.cache
    node, _ = cache.lock(cache.match(waiting[0].tokens[:0]), waiting[0])
    node, _ = cache.insert(node, np.array([1, 2, 3], np.int32), server.memory.pool.take(3), waiting[0])
    cache.unlock(node)
    assert [s.ordinal for s in Lpm().arrange(waiting, server, 0.0)] == [2, 1, 0, 3]
    assert [s.ordinal for s in Lpm(limit=3).arrange(waiting, server, 0.0)] == [0, 1, 2, 3]
    assert [s.ordinal for s in Lpm(limit=4).arrange(waiting, server, 0.0)] == [2, 1, 0, 3]
    assert [s.ordinal for s in Lpm(limit=0).arrange(waiting, server, 0.0)] == [2, 1, 0, 3]


# Batching.


class View:
    """As many sequences of each kind as a batching policy is to see."""

    max_running, page_size, available_pages = 8, 1, 64

    def __init__(self, waiting: int = 0, prefilling: int = 0, decoding: int = 0) -> None:
        self.waiting_sequences = waiting
        self.prefilling_sequences = prefilling
        self.decoding_sequences = decoding

    def cached_prefix(self, sequence: object) -> int:
        return 0


def first(batching: Batching, view: View) -> str:
    plan = batching.plan(view, 0.0)[0]
    return "mixed" if plan.decode and plan.prefill_tokens else "decode" if plan.decode else "prefill"


def test_prefill_first_prefers_prompts_whatever_decodes() -> None:
    batching = PrefillFirst(64)
    assert batching.plan(View(1, 0, 5), 0.0) == (StepPlan(64, decode=False), DECODE)
    assert [first(batching, View(1, 0, 5)) for _ in range(100)] == ["prefill"] * 100
    assert batching.steady


def test_prefill_first_with_a_bound_lets_a_decode_through() -> None:
    batching = PrefillFirst(64, max_prefill_steps=2)
    assert not batching.steady
    assert [first(batching, View(1, 0, 5)) for _ in range(7)] == [
        *("prefill", "prefill", "decode", "prefill", "prefill", "decode", "prefill")
    ]
    assert [first(batching, View(1, 0, 0)) for _ in range(5)] == ["prefill"] * 5, "nothing decodes"
    assert first(batching, View(1, 0, 1)) == "decode"


def test_decode_first_admits_a_batch_when_the_last_one_is_done() -> None:
    batching = DecodeFirst(64)
    assert batching.plan(View(3, 0, 2), 0.0) == (DECODE, StepPlan(64, decode=False))
    assert first(batching, View(3, 1, 2)) == "prefill", "a prefill in chunks goes on"


def test_chunked_shares_one_budget() -> None:
    assert Chunked(64).plan(View(3, 1, 2), 0.0) == (StepPlan(64, decode=True, shared=True),)


@pytest.mark.parametrize("batching", [PrefillFirst, DecodeFirst, Chunked])
def test_a_step_needs_room(batching: type[Batching]) -> None:
    with pytest.raises(ValueError, match=r"policy\.batching\.step_tokens=0: .* try policy\.batching\.step_tokens=2048"):
        batching(0)  # type: ignore[call-arg]


# Reservation.


def test_full_keeps_room_for_all_that_may_come() -> None:
    assert Full().tokens(sequence(output=40)) == 110


def test_no_reservation_keeps_what_is_computed() -> None:
    assert NoReservation().tokens(sequence(output=40)) == 49


def test_predicted_keeps_what_is_expected_and_never_less_than_there_is() -> None:
    assert Predicted().tokens(sequence(predicted=30)) == 40
    assert Predicted().tokens(sequence(predicted=30, output=50)) == 60
    assert Predicted().tokens(sequence(predicted=300)) == 110


def test_ratio_decays_with_decode_steps_and_recovers_when_kv_runs_out() -> None:
    ratio = Ratio(start=0.7, floor=0.1, decay_steps=600)
    asked = sequence()  # 100 output tokens to come
    assert ratio.tokens(asked) == 10 + 70
    ratio.stepped(300)
    assert ratio.tokens(asked) == pytest.approx(10 + 40, abs=1)
    ratio.stepped(10_000)
    assert ratio.tokens(asked) == 10 + 10
    assert ratio.tokens(sequence(output=90)) == 100 + 1
    ratio.preempted()
    assert ratio.tokens(asked) == 10 + 70
    assert Ratio(clip_tokens=10).tokens(asked) == 10 + 7
    assert not ratio.steady
    assert Ratio(start=0.5, floor=0.5).steady


@pytest.mark.parametrize(("start", "floor"), [(0.1, 0.7), (1.1, 0.1), (0.5, -0.1)])
def test_ratios_are_shares(start: float, floor: float) -> None:
    with pytest.raises(ValueError, match=f"policy.reservation.start={start}, floor={floor}"):
        Ratio(start=start, floor=floor)


@given(st.integers(0, 99), st.integers(1, 200), st.integers(0, 700))
def test_no_reservation_is_below_what_is_computed(output: int, predicted: int, steps: int) -> None:
    asked = sequence(output=output, predicted=predicted)
    ratio = Ratio()
    ratio.stepped(steps)
    for reservation in (Full(), Predicted(), NoReservation(), ratio):
        assert asked.computed <= reservation.tokens(asked) <= asked.prompt_tokens + asked.max_tokens


# Preemption.


def test_victims() -> None:
    running = [
        sequence(3, output=5),
        sequence(0, output=2),
        sequence(2, (0,) * 20, output=2),
        sequence(1, (0,) * 20, output=2),
        sequence(4, output=9),
    ]
    assert Newest().victim(running).ordinal == 4
    assert Oldest().victim(running).ordinal == 3
    assert LeastProgress().victim(running).ordinal == 2, "least output, longest prompt, latest arrival"


# Prediction.


def test_what_predictions_know() -> None:
    assert MaxTokens().output_tokens(sequence(foretold=7)) == 100
    assert Oracle().output_tokens(sequence(foretold=7)) == 7
    assert Oracle().output_tokens(sequence()) == 100
    assert NoisyOracle(sigma=0.0).output_tokens(sequence(foretold=7)) == 7


def test_the_noise_has_median_one_and_the_sigma_asked_for() -> None:
    noisy = NoisyOracle(sigma=0.5, seed=3)
    asked = [sequence(ordinal, max_tokens=10**9, foretold=10**5) for ordinal in range(4000)]
    error = np.log([noisy.output_tokens(s) / 10**5 for s in asked])
    assert np.median(error) == pytest.approx(0, abs=0.03)
    assert error.std() == pytest.approx(0.5, rel=0.05)
    assert [noisy.output_tokens(s) for s in asked[:9]] == [NoisyOracle(0.5, seed=3).output_tokens(s) for s in asked[:9]]
    with pytest.raises(ValueError, match=r"policy\.prediction\.sigma=-1"):
        NoisyOracle(sigma=-1)


@given(st.integers(0, 500), st.integers(1, 50), st.integers(1, 50))
def test_a_noisy_prediction_is_a_possible_length(ordinal: int, foretold: int, max_tokens: int) -> None:
    asked = sequence(ordinal, foretold=foretold, max_tokens=max_tokens)
    assert 1 <= NoisyOracle(sigma=3.0).output_tokens(asked) <= max_tokens


# Eviction.


def evicted(eviction: Eviction) -> list[int]:
    """Tokens in the order of their eviction, after uses that tell the policies apart.

    1 and 2 come first and last; 1 is used twice more, then 3 once.
    """
    cache = RadixCache(1, eviction)
    for use in (1, 2, 3, 4, 1, 1, 3):
        match = cache.match(np.array([use], np.int32))
        node, _ = cache.lock(match, sequence(use))
        rest = np.array([use], np.int32)[match.tokens :]
        node, _ = cache.insert(node, rest, rest, sequence(use))
        cache.unlock(node)
    return [int(page) for page in cache.evict(4)]


def test_whom_evictions_choose() -> None:
    assert evicted(Lru()) == [2, 4, 1, 3]
    assert evicted(Fifo()) == [1, 2, 3, 4]
    assert evicted(Lfu()) == [2, 4, 3, 1]
    assert len({tuple(evicted(RandomEviction(seed))) for seed in range(9)}) > 3
    assert evicted(RandomEviction(1)) == evicted(RandomEviction(1))


# Hashing.


def test_hashes_are_the_same_everywhere() -> None:
    """Frozen: another value would change every run that anyone keeps."""
    assert mix(0, 1, 2) == 0xF4F373571B7FEB84
    assert mix(1, 2) != mix(2, 1)
    assert mix(0, -1) == mix(0, (1 << 64) - 1)


@given(st.integers(), st.integers())
def test_uniform_is_in_the_unit_interval(seed: int, name: int) -> None:
    assert 0.0 <= uniform(seed, name) < 1.0
