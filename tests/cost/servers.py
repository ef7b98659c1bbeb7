"""Servers of any size, for tests of what a calibration runs on them."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from harness.calibrate.places import Place
from runtime.scheduler import SchedulerConfig

SERVERS = st.builds(
    SchedulerConfig,
    pages=st.integers(1, 5000),
    page_size=st.sampled_from([1, 16, 64]),
    max_running=st.integers(1, 300),
    max_context=st.integers(1, 50_000),
)
STEP_TOKENS = st.integers(1, 20_000)


def by_context(token_s: float) -> Callable[[Place], float]:
    """Seconds of a step: so many for each token of context."""
    return lambda place: token_s * sum(place.contexts())
