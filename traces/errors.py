"""What is wrong with a trace, said in one line."""

from __future__ import annotations


class TraceError(ValueError):
    """A trace that cannot be used: the message names the file, line and field, the value, and the way out."""
