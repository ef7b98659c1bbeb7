"""Figures of a run as other tools count them: from sending, over the requests that ended ok."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.metrics.sample import Sample
from harness.metrics.schema import ended_ok, select
from harness.metrics.summary import describe

if TYPE_CHECKING:
    from harness.metrics.files import Run
    from harness.metrics.schema import Array
    from harness.metrics.summary import Json


@dataclass(frozen=True)
class Figures:
    """What every tool writes, under names of its own.

    Attributes:
        requests: The request table without its warm-up.
        done: Of these, the rows that ended ok.
        duration_s: First send to last token; None where nothing ended.
        ttft: Statistics in seconds, from sending; also ``tpot``, ``e2e``, and ``itl`` pooled over all gaps.
        model: Name of the model.
        concurrency_limit: Of a closed loop, or None.
    """

    requests: dict[str, Array]
    done: dict[str, Array]
    duration_s: float | None
    ttft: Json
    tpot: Json
    itl: Json
    e2e: Json
    model: str
    concurrency_limit: int | None

    @property
    def failed(self) -> int:
        """Requests that did not end ok."""
        return len(self.requests["status"]) - len(self.done["status"])

    @property
    def prompt_tokens(self) -> int:
        """Of the requests that ended ok."""
        return int(self.done["prompt_tokens"].sum())

    @property
    def output_tokens(self) -> int:
        """Of the requests that ended ok."""
        return int(self.done["output_tokens"].sum())

    def rate(self, count: float) -> float | None:
        """So many a second."""
        return count / self.duration_s if self.duration_s else None


def figures(run: Run) -> Figures:
    """A run's figures, from its from-send columns.

    Raises:
        RunError: Its request table cannot be read.
    """
    requests = select(run.columns, run.columns["warmup"] == 0)
    done = select(requests, ended_ok(requests))
    known = done["sent_s"][~np.isnan(done["sent_s"])]
    duration_s = float(done["client_last_token_s"].max() - known.min()) if len(known) else None
    model, workload = run.config.get("model") or {}, run.config.get("workload") or {}
    return Figures(
        requests=requests,
        done=done,
        duration_s=duration_s,
        ttft=describe(Sample(done["ttft_from_send_s"])),
        tpot=describe(Sample(done["tpot_s"])),
        itl=run.summary["metrics"]["itl_s"],
        e2e=describe(Sample(done["e2e_from_send_s"])),
        model=str(model.get("name")),
        concurrency_limit=workload.get("concurrency") or None,
    )


def scaled(value: float | None, scale: float = 1e3) -> float | None:
    """Seconds as milliseconds; None stays unknown."""
    return None if value is None else value * scale


def optional(values: Array) -> list[Any]:
    """Floats as a list, with None for NaN."""
    return [None if math.isnan(value) else value for value in values.tolist()]
