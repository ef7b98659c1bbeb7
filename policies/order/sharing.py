"""Waiting sequences that share a prefix with one before them in the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from policies.views import SequenceView


def waits_for_another(waiting: Sequence[SequenceView], cached: Mapping[int, int], shared_tokens: int) -> set[int]:
    """Those that had better wait until another's prefix is cached (SGLang's in-batch prefix caching).

    Of sequences with little in the cache that begin alike, all but the first are put off: once it is computed, they
    find its prefix.

    Args:
        waiting: By ``ordinal``.
        cached: Tokens that the prefix cache holds of each, by ordinal.
        shared_tokens: As many tokens in the cache are enough; as many in common are worth the wait. 0 to put off none.

    Returns:
        Ordinals of those that are put off.
    """
    put_off: set[int] = set()
    if not shared_tokens:
        return put_off
    begun: set[bytes] = set()
    for sequence in waiting:
        # The last token is always computed, so it is shared with no one.
        if cached[sequence.ordinal] > shared_tokens or sequence.total <= shared_tokens:
            continue
        begin = sequence.tokens[:shared_tokens].tobytes()
        if begin in begun:
            put_off.add(sequence.ordinal)
        begun.add(begin)
    return put_off
