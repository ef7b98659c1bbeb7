"""Ranks that decide otherwise are found before they launch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("zmq")

from runtime.messages import Abort, ToRank, Turn
from runtime.scheduler import Batch, Chunk, Sequence, Snapshot
from runtime.server.mail import Inbox, Outbox
from runtime.server.ranks import Checksum, Follower, Leader, OutOfStepError

SEQUENCES = [Sequence(number, 8, np.arange(8, dtype=np.int32), 4) for number in range(3)]


def batch(
    *,
    step: int = 0,
    start: int = 0,
    tokens: int = 8,
    decodes: tuple[int, ...] = (1, 2),
    position: int = 8,
    free: int = 5,
) -> Batch:
    return Batch(
        step,
        [Chunk(SEQUENCES[0], start, tokens, True)],
        [SEQUENCES[index] for index in decodes],
        [position] * len(decodes),
        [],
        Snapshot(0, 3, free, 0, 0, 0),
    )


@pytest.mark.parametrize(
    "other", [batch(step=1), batch(start=1), batch(tokens=7), batch(decodes=(2, 1)), batch(position=9), batch(free=4)]
)
def test_every_difference_shows_in_the_checksum(other: Batch) -> None:
    ours, same, theirs = Checksum(), Checksum(), Checksum()
    ours.decide(batch())
    same.decide(batch())
    theirs.decide(other)
    assert ours.value == same.value != theirs.value
    same.sample([1, 2])
    ours.sample([1, 3])
    assert ours.value != same.value


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Leader, Follower]]:
    outbox, inbox = Outbox(tmp_path), Inbox(tmp_path, "worker.1", ToRank)
    yield Leader(outbox, ["worker.1"]), Follower(1, inbox)
    outbox.close()
    inbox.close()


def test_ranks_in_step_hear_the_same(pair: tuple[Leader, Follower]) -> None:
    leader, follower = pair
    for step in range(3):
        leader.turn(float(step), [Abort(step)])
        leader.decide(batch(step=step))
        assert follower.turn() == Turn(step, float(step), [Abort(step)])
        follower.decide(batch(step=step))
        leader.sample([step])
        follower.sample([step])


def test_another_decision_is_found(pair: tuple[Leader, Follower]) -> None:
    leader, follower = pair
    leader.turn(0.0, [])
    leader.decide(batch())
    follower.turn()
    with pytest.raises(OutOfStepError, match="rank 1 is out of step in turn 0, step 0"):
        follower.decide(batch(tokens=7))


def test_a_decision_where_none_was_taken_is_found(pair: tuple[Leader, Follower]) -> None:
    leader, follower = pair
    leader.turn(0.0, [])
    leader.decide(batch())
    follower.turn()
    with pytest.raises(OutOfStepError, match="planned nothing"):
        follower.turn()


def test_no_decision_where_one_was_taken_is_found(pair: tuple[Leader, Follower]) -> None:
    leader, follower = pair
    leader.turn(0.0, [])
    leader.turn(0.1, [])
    follower.turn()
    with pytest.raises(OutOfStepError, match="rank 0 sent Turn"):
        follower.decide(batch())


def test_tokens_that_differ_are_found_with_the_next_decision(pair: tuple[Leader, Follower]) -> None:
    leader, follower = pair
    leader.turn(0.0, [])
    leader.decide(batch())
    leader.sample([5])
    leader.turn(0.1, [])
    leader.decide(batch(step=1))
    follower.turn()
    follower.decide(batch())
    follower.sample([6])
    follower.turn()
    with pytest.raises(OutOfStepError, match="step 1"):
        follower.decide(batch(step=1))
