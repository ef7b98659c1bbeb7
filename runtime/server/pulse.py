"""Signs of life: every process tells that it lives and what it waits for, and one rule judges which of them hangs.

The launcher judges to end the server, the API server to answer ``/health``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from runtime.messages import Alive, Gauges
from runtime.scheduler import Batch, Snapshot

_LONGEST_BEAT_S = 1.0
_SILENT_BEATS = 3  # missed in a row, and a process is a suspect where a step does not end
_SLOWEST_TOKEN_S = 0.05  # of a step on a CPU: a long prefill is no hang


def beat_s(stall_s: float) -> float:
    """Seconds between two signs of life, for a limit of ``stall_s``."""
    return min(_LONGEST_BEAT_S, stall_s / 4)


class Pulse:
    """What a process waits for. Its main thread writes, and the thread that gives the signs reads.

    Attributes:
        pages: Of a worker's KV memory, 0 until it is known.

    Args:
        name: The process.
    """

    def __init__(self, name: str) -> None:
        self.pages = 0
        self._name = name
        self._tokens: list[int] = []  # of the steps in flight
        # In one assignment, so that a reader never sees half of it: last step launched, how the scheduler stood when it
        # had been planned, tokens in flight, since when.
        self._state: tuple[int, Snapshot | None, int, float] = (-1, None, 0, 0.0)

    def launching(self, batch: Batch) -> None:
        """A worker's engine is about to begin a step."""
        self._tokens.append(sum([chunk.tokens for chunk in batch.chunks]) + len(batch.decodes))
        self._state = batch.step, batch.snapshot, sum(self._tokens), time.monotonic()

    def collected(self) -> None:
        """The oldest step in flight has ended."""
        del self._tokens[0]
        self._state = *self._state[:2], sum(self._tokens), time.monotonic()

    def alive(self) -> Alive:
        """The next sign of life."""
        step, snapshot, tokens, since_s = self._state
        if snapshot is None or not tokens:
            return Alive(self._name, step)
        gauges = Gauges(*snapshot[:4], self.pages)
        return Alive(self._name, step, tokens, time.monotonic() - since_s, gauges)


class Hang(NamedTuple):
    """Processes that hang.

    Attributes:
        names: Which.
        why: How that shows, for a person.
    """

    names: list[str]
    why: str


class Vigil:
    """Judges by signs of life which process hangs, though it has not died.

    A process hangs that gave no sign for ``stall_s``. A step that makes no progress for ``stall_s`` and 0.05 s for each
    of its tokens waits for a rank that hangs: one that has fallen silent, else those that are furthest behind.

    Args:
        names: The processes.
        stall_s: See above.
        now: Seconds, the clock that the other methods are called by.
    """

    def __init__(self, names: Iterable[str], stall_s: float, now: float) -> None:
        self._stall_s = stall_s
        self._heard_s = dict.fromkeys(names, now)
        self._last: dict[str, Alive] = {}

    def heard(self, sign: Alive, now: float) -> None:
        """A process gave a sign of life; one of no process that is watched is none."""
        if sign.name in self._heard_s:
            self._heard_s[sign.name] = now
            self._last[sign.name] = sign

    def hang(self, now: float) -> Hang | None:
        """Who hangs, if any does."""
        silent_s = {name: now - heard_s for name, heard_s in self._heard_s.items()}
        stuck = next((sign for name, sign in self._last.items() if self._is_stuck(sign, silent_s[name])), None)
        if stuck is None and max(silent_s.values()) <= self._stall_s:
            return None
        silent = [name for name, seconds in silent_s.items() if seconds > _SILENT_BEATS * beat_s(self._stall_s)]
        if silent:
            return Hang(silent, f"no sign of life for {max(silent_s.values()):.1f} s (stall_s={self._stall_s:g})")
        return None if stuck is None else self._behind(stuck, silent_s[stuck.name])

    def _is_stuck(self, sign: Alive, since_s: float) -> bool:
        """Whether a step of the process that gave this sign, so long ago, makes no progress."""
        allowed_s = self._stall_s + _SLOWEST_TOKEN_S * sign.tokens
        return sign.tokens > 0 and sign.waited_s + since_s > allowed_s

    def _behind(self, stuck: Alive, since_s: float) -> Hang:
        waited_s = stuck.waited_s + since_s
        first = min(sign.step for sign in self._last.values() if sign.step >= 0)
        names = [name for name, sign in self._last.items() if sign.step == first]
        return Hang(
            names,
            f"step {stuck.step} ({stuck.tokens} tokens in flight) made no progress for {waited_s:.1f} s "
            f"(stall_s={self._stall_s:g}, and {_SLOWEST_TOKEN_S:g} s a token)",
        )
