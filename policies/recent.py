"""What is remembered of those heard of last: clients of a server make up as many sessions as they like."""

from __future__ import annotations

from typing import TypeVar

ValueT = TypeVar("ValueT")
# What a policy remembers.
SESSIONS = TENANTS = 100_000
REQUESTS = 10_000  # more than ever run at once


class Recent(dict[int, ValueT]):
    """A dictionary that forgets the entry written longest ago where there would be too many.

    Args:
        most: Entries.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: int, value: ValueT) -> None:
        self.pop(key, None)  # so that it stands behind all others
        super().__setitem__(key, value)
        if len(self) > self._most:
            del self[next(iter(self))]
