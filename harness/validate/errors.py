"""What can be wrong with runs that are to be held against each other."""

from __future__ import annotations


class ValidationError(ValueError):
    """Runs that cannot be held against each other; the message names what differs, both values and the way out."""
