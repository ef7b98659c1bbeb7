"""By the session that is expected to return."""

from __future__ import annotations

from policies.errors import PolicyError
from policies.eviction.queues import Place, QueuedEviction
from policies.recent import REQUESTS, SESSIONS, Recent
from policies.views import CacheNode, RequestView


class SessionEviction(QueuedEviction):
    """The path whose session is overdue longest: the more turns a session has had, the longer it is waited for.

    A heuristic of ours. That a path outlives its request by a time to live which follows from the pauses between turns
    is Continuum's idea (Li et al., 2025, arXiv 2511.02230; there tool calls, and the path is pinned); that requests
    come in kinds, of which later turns return more likely, is that of Wang et al., KVCache Cache in the Wild (USENIX
    ATC 2025). Here a use is good for ``patience`` mean pauses for each turn so far. Nothing is freed before its pages
    are needed, and no one says that a session has ended: it becomes overdue.

    Pauses are counted in requests, not in seconds: the scale follows the load, and simulator and server decide alike. A
    request without a session is the first and last turn of its own. Where sessions have one turn, or the trace names
    none, this is LRU.

    Args:
        patience: Mean pauses of a session between two requests that it is waited for, for each turn so far.
        turns: The most turns that count.

    Raises:
        PolicyError: A parameter is out of range.
    """

    def __init__(self, patience: float = 0.5, turns: int = 8) -> None:
        super().__init__()
        if not patience >= 0:
            raise PolicyError(f"policy.eviction.patience={patience}: expected 0 or more mean pauses, e.g. 0.5")
        if turns < 1:
            raise PolicyError(f"policy.eviction.turns={turns}: expected at least 1, e.g. 8")
        self._patience, self._turns = patience, turns
        self._requests = 0  # so far
        self._pauses = self._pause_sum = 0  # between two requests of a session, and how many requests they lasted
        self._sessions = Recent[tuple[int, int]](SESSIONS)  # turns and the last request's number
        self._due = Recent[float](REQUESTS)  # until when its path is waited for
        self._node_due: dict[int, float] = {}  # by serial

    def used(self, node: CacheNode, request: RequestView) -> None:
        due = self._due.get(request.request_id)
        if due is None:
            due = self._due[request.request_id] = self._arrive(request.session_id)
        self._node_due[node.serial] = max(self._node_due.get(node.serial, 0.0), due)

    def put(self, node: CacheNode, place: Place) -> None:
        place.rank = (self._node_due[node.serial], self.clock)

    def gone(self, node: CacheNode, place: Place) -> None:
        del place
        del self._node_due[node.serial]

    def split(self, upper: CacheNode, lower: CacheNode) -> None:
        super().split(upper, lower)
        self._node_due[upper.serial] = self._node_due[lower.serial]

    def _arrive(self, session: int) -> float:
        """A request of a session comes; returns the number of the request at which it is overdue."""
        self._requests += 1
        turns = 1
        if session >= 0:
            before, last = self._sessions.get(session, (0, 0))
            if before:
                self._pauses += 1
                self._pause_sum += self._requests - last
            turns += before
            self._sessions[session] = (turns, self._requests)
        pause = self._pause_sum / self._pauses if self._pauses else 0.0
        return self._requests + self._patience * pause * min(turns, self._turns)
