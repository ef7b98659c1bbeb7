"""The errors that are a user's mistake: their message is all that is shown, and the exit code is 2."""

from __future__ import annotations

from harness.cache.errors import CacheError
from harness.config import ConfigError
from harness.cost.errors import CostError
from harness.metrics.compare import CompareError
from harness.metrics.files import RunError
from harness.metrics.importers.imported import ResultError
from harness.metrics.slo import SloError
from harness.report.figure import PlotError
from harness.validate.errors import ValidationError
from harness.workload import WorkloadError
from policies import PolicyError
from runtime.scheduler import LimitError
from traces.errors import TraceError

USER_ERRORS = (
    CacheError,
    CompareError,
    ConfigError,
    CostError,
    LimitError,
    PlotError,
    PolicyError,
    ResultError,
    RunError,
    SloError,
    TraceError,
    ValidationError,
    WorkloadError,
)
