"""Who hangs, judged by signs of life; times are made up."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("msgspec")

from runtime.messages import Alive, Gauges
from runtime.scheduler import Batch, Chunk, Sequence, Snapshot
from runtime.server.pulse import Pulse, Vigil, beat_s

NAMES = ["tokenizer.0", "worker.0", "worker.1", "detokenizer"]


def beating(vigil: Vigil, until: float, *but: str, **signs: tuple[int, int, float]) -> None:
    """A sign of life of each process, but some, at a time; ``signs`` of workers: step, tokens, seconds waited."""
    for name in NAMES:
        if name not in but:
            vigil.heard(Alive(name, *signs.get(name.replace(".", "_"), (-1, 0, 0.0))), until)


def batch(step: int, chunk_tokens: int, decodes: int) -> Batch:
    sequences = [Sequence(number, 5, np.zeros(5, np.int32), 5) for number in range(decodes + 1)]
    chunks = [Chunk(sequences[0], 0, chunk_tokens, True)] if chunk_tokens else []
    return Batch(step, chunks, sequences[1:], [0] * decodes, [], Snapshot(1, 2, 3, 4, 0, 0))


def test_a_process_that_gives_no_sign_hangs_once_the_limit_is_over() -> None:
    vigil = Vigil(NAMES, 60.0, 0.0)
    for second in range(1, 60):
        beating(vigil, float(second), "detokenizer")
        assert vigil.hang(second + 0.5) is None
    beating(vigil, 60.1, "detokenizer")
    hang = vigil.hang(60.2)
    assert hang is not None
    assert hang.names == ["detokenizer"]
    assert "no sign of life for 60.2 s (stall_s=60)" in hang.why


def test_all_that_fell_silent_together_are_named() -> None:
    vigil = Vigil(NAMES, 60.0, 0.0)
    beating(vigil, 5.0)
    beating(vigil, 5.5, "worker.0", "worker.1")
    beating(vigil, 65.5, "worker.0", "worker.1")
    hang = vigil.hang(65.6)
    assert hang is not None
    assert hang.names == ["worker.0", "worker.1"]


def test_a_rank_that_waits_for_a_silent_one_is_not_blamed() -> None:
    vigil = Vigil(NAMES, 60.0, 0.0)
    beating(vigil, 10.0, worker_0=(7, 8, 9.0), worker_1=(7, 8, 9.0))
    beating(vigil, 62.0, "worker.1", worker_0=(7, 8, 61.0))  # its step began nine seconds before the other fell silent
    hang = vigil.hang(62.0)
    assert hang is not None
    assert hang.names == ["worker.1"]


def test_a_step_without_progress_blames_the_rank_behind_or_else_all() -> None:
    for other, names in [((6, 0, 0.0), ["worker.1"]), ((7, 8, 70.0), ["worker.0", "worker.1"])]:
        vigil = Vigil(NAMES, 60.0, 0.0)
        beating(vigil, 70.0, worker_0=(7, 8, 70.0), worker_1=other)
        hang = vigil.hang(70.0)
        assert hang is not None
        assert hang.names == names
        assert "step 7 (8 tokens in flight) made no progress for 70.0 s" in hang.why


def test_a_long_prefill_has_longer() -> None:
    vigil = Vigil(NAMES, 60.0, 0.0)
    beating(vigil, 300.0, worker_0=(7, 8192, 300.0), worker_1=(7, 8192, 300.0))
    assert vigil.hang(300.0) is None
    beating(vigil, 500.0, worker_0=(7, 8192, 500.0), worker_1=(7, 8192, 500.0))
    assert vigil.hang(500.0) is not None


def test_workers_without_a_step_in_flight_may_wait_forever() -> None:
    vigil = Vigil(NAMES, 1.0, 0.0)
    beating(vigil, 1e6, worker_0=(7, 0, 0.0), worker_1=(7, 0, 0.0))
    assert vigil.hang(1e6) is None


def test_a_stranger_is_not_watched() -> None:
    vigil = Vigil(NAMES, 1.0, 0.0)
    vigil.heard(Alive("api"), 0.0)
    beating(vigil, 100.0)
    assert vigil.hang(100.0) is None


def test_a_pulse_counts_what_is_in_flight() -> None:
    pulse = Pulse("worker.0")
    assert pulse.alive() == Alive("worker.0")
    pulse.pages = 64
    pulse.launching(batch(0, 100, 0))
    pulse.launching(batch(1, 0, 3))
    sign = pulse.alive()
    assert (sign.step, sign.tokens, sign.waited_s >= 0) == (1, 103, True)
    assert sign.gauges == Gauges(1, 2, 3, 4, 64)
    pulse.collected()
    assert (pulse.alive().step, pulse.alive().tokens) == (1, 3)
    pulse.collected()
    assert pulse.alive() == Alive("worker.0", 1, 0, 0.0)


def test_signs_come_often_enough_for_a_short_limit() -> None:
    assert beat_s(60.0) == 1.0
    assert beat_s(1.0) == 0.25
