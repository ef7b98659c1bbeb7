"""What the session's outputs were like so far."""

from __future__ import annotations

from policies.prediction.base import Prediction
from policies.recent import SESSIONS, Recent
from policies.views import SequenceView


class History(Prediction):
    """The mean output of the session so far; of all sessions where it is new; ``max_tokens`` before the first ends."""

    def __init__(self) -> None:
        self._ended = self._tokens = 0
        self._by_session = Recent[tuple[int, int]](SESSIONS)  # sequences that ended, and their output tokens

    def output_tokens(self, sequence: SequenceView) -> int:
        ended, tokens = self._by_session.get(sequence.session_id, (self._ended, self._tokens))
        mean = round(tokens / ended) if ended else sequence.max_tokens
        return min(max(mean, 1), sequence.max_tokens)

    def ended(self, sequence: SequenceView) -> None:
        self._ended += 1
        self._tokens += sequence.output_tokens
        if sequence.session_id >= 0:
            ended, tokens = self._by_session.get(sequence.session_id, (0, 0))
            self._by_session[sequence.session_id] = ended + 1, tokens + sequence.output_tokens
