"""What a backend hands over when a replay has ended, whatever kind of server it was."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.metrics.schema import Decisions, Gaps


@dataclass
class RunRecord:
    """One replay.

    Attributes:
        requests: Base columns of the request table.
        steps: Base columns of the step table, or None where the server does not tell.
        decisions: What each step ran, or None.
        gaps: Gaps between tokens, pooled, or None.
        tokens: Base columns of the token table, or None where nobody asked for it.
        complete: Whether every request ended; False after an interruption.
        failure: What the server died of, where it did.
        server: Facts about the server: pages, page size, limits.
        notes: What a reader of the figures has to know, a line each.
    """

    requests: dict[str, Any]
    steps: dict[str, Any] | None
    decisions: Decisions | None
    gaps: Gaps | None
    complete: bool
    failure: str | None = None
    tokens: dict[str, Any] | None = None
    server: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
