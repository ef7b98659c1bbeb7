"""A fake engine on a shadow of KV memory: every slot remembers which token prefix its KV was computed from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from policies.hashing import mix
from runtime.scheduler import Batch, Scheduler, Sequence
from runtime.scheduler.prefix import RadixCache

VOCABULARY = 5
_SEED = 7
_FREED = -1


def _extend(name: int, token: int) -> int:
    """The name of a prefix that is one token longer; 62 bits."""
    return mix(_SEED, name, token) >> 2


def next_token(name: int) -> int:
    """What the fake model says after a prefix."""
    return mix(name, _SEED) % VOCABULARY


@dataclass
class History:
    """The tokens of one request as the engine knows them, and the name of each of its prefixes."""

    prompt: tuple[int, ...]
    foretold: tuple[int, ...] | None
    tokens: list[int] = field(default_factory=list)
    names: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for token in self.prompt:
            self.append(token)

    def append(self, token: int) -> None:
        self.names.append(_extend(self.names[-1] if self.names else 0, token))
        self.tokens.append(token)

    def sample(self) -> int:
        produced = len(self.tokens) - len(self.prompt)
        if self.foretold is not None:  # behind the foretold end stands a surplus token, whatever it is
            token = self.foretold[produced] if produced < len(self.foretold) else 0
        else:
            token = next_token(self.names[-1])
        self.append(token)
        return token


@dataclass(frozen=True)
class _Reader:
    """A sequence of a step in flight: what it computes, and its row as it was at launch."""

    sequence: Sequence
    start: int
    end: int
    samples: bool
    row: int
    pages: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Ticket:
    """A launched step."""

    batch: Batch
    readers: list[_Reader]


class ShadowEngine:
    """Runs batches late, as a device does: nothing is written or read before :meth:`execute`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._memory = scheduler.memory
        self._page_size = scheduler.config.page_size
        self._slots = np.full(scheduler.config.pages * self._page_size, _FREED, np.int64)
        self.histories: dict[int, History] = {}

    def launch(self, batch: Batch) -> Ticket:
        readers = [
            self._reader(chunk.sequence, chunk.start, chunk.start + chunk.tokens, chunk.samples)
            for chunk in batch.chunks
        ]
        for sequence, position in zip(batch.decodes, batch.positions, strict=True):
            readers.append(self._reader(sequence, position, position + 1, True))
        return Ticket(batch, readers)

    def check(self, ticket: Ticket) -> None:
        """A step in flight still has the rows and pages that it was launched with."""
        for reader in ticket.readers:
            assert reader.sequence.row == reader.row, f"{reader.sequence}: its row was retired in flight"
            now = self._memory.table[reader.row, : len(reader.pages)]
            assert np.array_equal(now, reader.pages), f"{reader.sequence}: its row was changed in flight"

    def execute(self, ticket: Ticket) -> list[int]:
        """Write the new KV of all, then read the whole context of each; returns the tokens sampled."""
        self.check(ticket)
        written: list[int] = []
        for reader in ticket.readers:
            slots = self._slots_of(reader)[reader.start :]
            written.extend(slots.tolist())
            self._slots[slots] = self._history(reader).names[reader.start : reader.end]
        assert len(set(written)) == len(written), "two sequences write to one slot"
        for reader in ticket.readers:
            found = self._slots[self._slots_of(reader)]
            assert found.tolist() == self._history(reader).names[: reader.end], (
                f"{reader.sequence} reads KV of other tokens"
            )
        sampling = [reader for reader in ticket.readers if reader.samples]
        assert [reader.sequence for reader in sampling] == ticket.batch.sampled()
        for reader in sampling:
            assert reader.end == len(self._history(reader).tokens), "the token sampled is not the next one"
        return [self._history(reader).sample() for reader in sampling]

    def forget_free_pages(self) -> None:
        """KV in free pages is gone."""
        free = self._memory.pool.free_pages()
        self._slots.reshape(-1, self._page_size)[free] = _FREED

    def check_cache(self) -> None:
        """Every page of the prefix cache holds KV of the tokens that it is found by."""
        cache = self._memory.cache
        rest = [(cache.root, 0)] if isinstance(cache, RadixCache) else []
        while rest:
            node, name = rest.pop()
            names = []
            for token in np.frombuffer(node.key, np.int32).tolist():
                name = _extend(name, token)
                names.append(name)
            held = self._slots.reshape(-1, self._page_size)[node.held]
            assert held.ravel().tolist() == names, "the prefix cache holds KV of other tokens than its key"
            rest.extend((child, name) for child in node.children.values())

    def _reader(self, sequence: Sequence, start: int, end: int, samples: bool) -> _Reader:
        pages = self._memory.table[sequence.row, : -(-end // self._page_size)].copy()
        return _Reader(sequence, start, end, samples, sequence.row, pages)

    def _history(self, reader: _Reader) -> History:
        return self.histories[reader.sequence.request_id]

    def _slots_of(self, reader: _Reader) -> npt.NDArray[np.int64]:
        position = np.arange(reader.end)
        return reader.pages[position // self._page_size] * self._page_size + position % self._page_size
