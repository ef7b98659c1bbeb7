"""The limits that a scheduler keeps."""

from __future__ import annotations

from dataclasses import dataclass


class LimitError(ValueError):
    """A size that a server cannot have; the message names the knob."""


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Sizes of the server.

    Attributes:
        pages: Pages of KV memory.
        page_size: Tokens a page.
        max_running: The most sequences admitted at once (rows of the page table).
        max_context: The longest sequence, prompt and output tokens together.

    Raises:
        LimitError: A size is not positive.
    """

    pages: int
    page_size: int
    max_running: int
    max_context: int

    def __post_init__(self) -> None:
        for name in ("pages", "page_size", "max_running", "max_context"):
            if getattr(self, name) < 1:
                raise LimitError(f"engine.{name}={getattr(self, name)}: at least 1")

    @property
    def max_row_pages(self) -> int:
        """Pages that the longest sequence can take."""
        return min(self.pages, -(-self.max_context // self.page_size))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that there is room for: KV of its last one is never needed."""
        return min(self.max_context, self.pages * self.page_size + 1)
