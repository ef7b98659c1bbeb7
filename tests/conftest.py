"""Hypothesis profiles, and the real traces."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("default", deadline=None, max_examples=60, suppress_health_check=_quiet)
settings.register_profile("thorough", deadline=None, max_examples=2000, suppress_health_check=_quiet)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def real_traces() -> Path:
    """The folder of the real traces: ``$SERVETWIN_TRACES``, or ``shared/traces`` beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "traces"
    folder = Path(os.environ.get("SERVETWIN_TRACES") or beside)
    if not folder.is_dir():
        pytest.skip(f"the real traces are not in {folder} (SERVETWIN_TRACES names their folder)")
    return folder
