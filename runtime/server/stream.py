"""From tokens as they come to text as it may be shown: whole characters, nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Sequences

_UNKNOWN = "\ufffd"
_LONGEST_UNFINISHED = 3  # bytes of a character whose last one is missing
_WINDOW = 16  # tokens
_LONGEST_WINDOW = 64  # tokens, where none ends a character


class TextStream:
    """Incremental detokenization by difference of prefixes (Hugging Face TGI, vLLM).

    A token's text may depend on those before it, so that a window of tokens is decoded, and what is new at its end is
    shown; a character whose bytes have not all come, and which decodes to U+FFFD until then, is held back.

    Args:
        decode: Token ids to text.
        tail: The end of the prompt.
    """

    def __init__(self, decode: Callable[[Sequences[int]], str], tail: Sequences[int]) -> None:
        self._decode = decode
        self._window = list(tail)
        self._shown = len(decode(self._window))  # characters of the window's text
        self._clean = 0  # a token of the window at which a character begins

    def push(self, tokens: Sequences[int]) -> str:
        """New text, by more tokens."""
        self._window.extend(tokens)
        text = self._decode(self._window)
        safe = len(text)
        while safe and len(text) - safe < _LONGEST_UNFINISHED and text[safe - 1] == _UNKNOWN:
            safe -= 1
        new = text[self._shown : safe]
        self._shown = max(self._shown, safe)
        if safe == len(text):
            if len(self._window) > _WINDOW:
                del self._window[: self._clean]
                self._shown = len(self._decode(self._window))
            self._clean = len(self._window)
        elif len(self._window) > _LONGEST_WINDOW:
            self._shorten(text[safe:])
        return new

    def finish(self) -> str:
        """What was held back."""
        return self._decode(self._window)[self._shown :]

    def _shorten(self, held: str) -> None:
        """Forget tokens that came before the last few: bytes that are no text may come for ever.

        It does not matter if this cuts a character: what follows a byte that begins one is read alike.
        """
        window = self._window[-_WINDOW:]
        text = self._decode(window)
        if text.endswith(held):
            self._window, self._shown, self._clean = window, len(text) - len(held), 0


class StopStrings:
    """Finds where an output ends by one of its stop strings, across the borders of what is pushed.

    Attributes:
        found: Whether one was.

    Args:
        stops: The strings, none empty.
    """

    def __init__(self, stops: Sequences[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, text: str, *, look: bool = True) -> str:
        """Text that may be shown: up to the first stop string, or to where one may be beginning.

        Args:
            text: What is new.
            look: Whether a stop string that ends in it counts.
        """
        if self.found:
            return ""
        if not self._stops:
            return text
        held = len(self._held)
        text = self._held + text
        if look:
            # From where one must begin that ends in what is new: what was not looked for is not found later.
            found = [text.find(stop, max(held - len(stop) + 1, 0)) for stop in self._stops]
            begins = [position for position in found if position >= 0]
            if begins:
                self.found = True
                return text[: min(begins)]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back: no stop string came of it."""
        return "" if self.found else self._held


def _overlap(text: str, stop: str) -> int:
    """The longest end of ``text`` that is a beginning of ``stop``."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
