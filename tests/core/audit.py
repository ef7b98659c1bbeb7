"""What must hold of the scheduler core after every call."""

from __future__ import annotations

from collections import Counter

import numpy as np

from runtime.scheduler import Scheduler, Sequence, State
from runtime.scheduler.prefix import Node, RadixCache


def audit(scheduler: Scheduler) -> None:
    """Every page is in exactly one place, every lock has its reader, every length is in order.

    Raises:
        AssertionError: It does not hold.
    """
    sequences = list(scheduler._sequences.values())
    _audit_states(scheduler, sequences)
    holding = [sequence for sequence in sequences if sequence.row >= 0]
    memory, config = scheduler.memory, scheduler.config
    nodes = _audit_tree(memory.cache) if isinstance(memory.cache, RadixCache) else []
    _audit_locks(memory.cache, nodes, holding)

    placed = memory.pool.free_pages().tolist()
    for node in nodes:
        placed.extend(node.held.tolist())
    for sequence in holding:
        assert sequence.cached % config.page_size == 0
        assert sequence.held_pages * config.page_size >= sequence.computed
        row = memory.table[sequence.row, : sequence.held_pages].tolist()
        known = sequence.cached // config.page_size
        shared = [page for node in _path(sequence.node) for page in node.held.tolist()]
        assert row[:known] == shared, f"{sequence} reads pages {row[:known]}, its path holds {shared}"
        placed.extend(row[known:])
    assert sorted(placed) == list(range(config.pages)), "a page is lost, or in two places"
    rows = [memory.table[sequence.row, : sequence.held_pages].tolist() for sequence in holding]
    held = [page for row in rows for page in row]
    assert memory.shared_tokens(memory.available_pages) == (len(held) - len(set(held))) * config.page_size

    indices = [sequence.row for sequence in holding] + memory._free_rows
    assert sorted(indices) == list(range(config.max_running))


def audit_drained(scheduler: Scheduler) -> None:
    """Nothing is left of the requests but what the prefix cache may evict."""
    assert scheduler.unfinished() == []
    assert not scheduler._sequences
    assert (scheduler.waiting_sequences, scheduler.prefilling_sequences, scheduler.decoding_sequences) == (
        0,
        0,
        0,
    )
    assert scheduler.available_pages == scheduler.config.pages
    cache = scheduler.memory.cache
    if isinstance(cache, RadixCache):
        assert all(node.locks == 0 for node in _audit_tree(cache))
        assert len(cache.evict(cache.pages)) == scheduler.config.pages - scheduler.memory.pool.free
        assert not cache.root.children


def _audit_states(scheduler: Scheduler, sequences: list[Sequence]) -> None:
    for sequence in sequences:
        assert 0 <= sequence.cached <= sequence.computed <= sequence.total, sequence
        assert sequence.output_tokens <= sequence.total - sequence.prompt_tokens <= sequence.max_tokens
    running, leaving = scheduler._running, scheduler._leaving
    assert len(running) + len(leaving) <= scheduler.config.max_running
    assert _ids(running) == _ids(scheduler._prefilling) + _ids(scheduler._decoding)
    states = {State.WAITING: scheduler.waiting_sequences, State.RUNNING: len(running)}
    assert Counter(sequence.state for sequence in sequences) == Counter({**states, State.LEAVING: len(leaving)})
    for sequence in sequences:
        queued = sequence.state is State.WAITING
        assert queued == (sequence.row < 0)
        if queued:
            assert (sequence.held_pages, sequence.node) == (0, None)
    assert all(sequence.in_prefill for sequence in scheduler._prefilling)
    assert not any(sequence.in_prefill for sequence in scheduler._decoding)


def _ids(sequences: list[Sequence]) -> Counter[int]:
    return Counter(sequence.request_id for sequence in sequences)


def _audit_tree(cache: RadixCache) -> list[Node]:
    """Its nodes; the tree is sound."""
    nodes: list[Node] = []
    rest = [cache.root]
    while rest:
        node = rest.pop()
        for first, child in node.children.items():
            assert child.parent is node
            assert child.key[: cache._page_bytes] == first
            assert len(child.key) == len(child.held) * cache._page_bytes > 0
            assert child.end == node.end + len(child.key) // 4
            assert child.locks >= 0
            assert node is cache.root or child.locks <= node.locks
            nodes.append(child)
            rest.append(child)
    assert len({node.serial for node in nodes}) == len(nodes)
    assert cache.pages == sum(node.pages for node in nodes)
    assert cache.evictable_pages == sum(node.pages for node in nodes if not node.locks)
    if cache.evictable_pages:
        victim = cache._eviction.victim()
        assert any(node is victim for node in nodes), "the eviction policy names a node that is gone"
        assert victim.is_leaf
        assert victim.locks == 0
    return nodes


def _audit_locks(cache: object, nodes: list[Node], holding: list[Sequence]) -> None:
    readers = Counter(node.serial for sequence in holding for node in _path(sequence.node))
    assert {node.serial: node.locks for node in nodes if node.locks} == dict(readers)
    if isinstance(cache, RadixCache):
        for sequence in holding:
            raw = np.asarray(sequence.tokens[: sequence.cached], np.int32).tobytes()
            assert b"".join(node.key for node in _path(sequence.node)) == raw, "its path is of other tokens"


def _path(node: Node | None) -> list[Node]:
    """From the root's child down to the node."""
    path: list[Node] = []
    while node is not None and node.parent is not None:
        path.append(node)
        node = node.parent
    return path[::-1]
