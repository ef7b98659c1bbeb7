"""The waiting queue: the order policy's order, whoever comes, goes or comes back."""

from __future__ import annotations

from collections.abc import Sequence as Sequences

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.order import DynamicOrder, Fcfs, Order
from policies.views import SchedulerView, SequenceView
from runtime.scheduler import Scheduler, SchedulerConfig, Sequence
from runtime.scheduler.waiting import WaitingQueue, waiting_queue
from tests.core.driver import Scenario

SCHEDULER: Scheduler = Scenario(SchedulerConfig(8, 1, 8, 8), {}, ()).scheduler()


class ByPriority(Order):
    def key(self, sequence: SequenceView) -> float:
        return sequence.priority


class ByPriorityNow(DynamicOrder):
    def arrange(self, waiting: Sequences[SequenceView], scheduler: SchedulerView, now: float) -> list[SequenceView]:
        assert [s.ordinal for s in waiting] == sorted(s.ordinal for s in waiting)
        return sorted(waiting, key=lambda sequence: sequence.priority)


class Forgetful(DynamicOrder):
    def arrange(self, waiting: Sequences[SequenceView], scheduler: SchedulerView, now: float) -> list[SequenceView]:
        return list(waiting)[1:]


def sequence(ordinal: int, priority: int = 0) -> Sequence:
    made = Sequence(100 - ordinal, 1, np.zeros(1, np.int32), 1, priority=priority)
    made.ordinal = ordinal
    return made


def drained(queue: WaitingQueue) -> list[int]:
    queue.arrange(SCHEDULER, 0.0)
    ordinals = []
    while queue:
        ordinals.append(queue.head().ordinal)
        queue.remove(queue.head())
    return ordinals


@given(
    st.sampled_from([ByPriority, ByPriorityNow]),
    st.lists(st.tuples(st.integers(0, 9), st.integers(-2, 2)), max_size=40),
)
def test_smallest_key_first_then_arrival(order: type[Order], moves: list[tuple[int, int]]) -> None:
    """A move takes a queued sequence out, or queues it again with the key that it has by then."""
    queue, queued = waiting_queue(order()), dict[int, Sequence]()
    for ordinal, priority in moves:
        if ordinal in queued:
            queue.remove(queued.pop(ordinal))
        else:
            queued[ordinal] = sequence(ordinal, priority)
            queue.push(queued[ordinal])
        assert len(queue) == len(queued)
        if queued:
            queue.arrange(SCHEDULER, 0.0)
            assert queue.head() is min(queued.values(), key=lambda s: (s.priority, s.ordinal))
    assert drained(queue) == sorted(queued, key=lambda o: (queued[o].priority, o))


def test_a_preempted_sequence_has_its_place_again() -> None:
    queue = waiting_queue(Fcfs())
    first, *others = (sequence(ordinal) for ordinal in range(3))
    queue.push(first)
    queue.remove(first)
    for other in others:
        queue.push(other)
    queue.push(first)
    assert drained(queue) == [0, 1, 2]


def test_an_order_that_loses_a_sequence_is_named() -> None:
    queue = waiting_queue(Forgetful())
    queue.push(sequence(0))
    with pytest.raises(ValueError, match=r"Forgetful\.arrange returned 0 of 1 waiting sequences: return every one"):
        queue.arrange(SCHEDULER, 0.0)
