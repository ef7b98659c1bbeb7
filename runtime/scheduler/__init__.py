"""The scheduler core: plain Python and NumPy, the same in the simulator and on the GPUs."""

from runtime.scheduler.batch import Ahead, Batch, Chunk, DecodeRun, Snapshot, StepOutputs
from runtime.scheduler.config import LimitError, SchedulerConfig
from runtime.scheduler.leap import LONGEST_LEAP, LeapingScheduler
from runtime.scheduler.rejection import RequestRejectedError
from runtime.scheduler.scheduler import Scheduler
from runtime.scheduler.sequence import Sequence, State

__all__ = [
    "LONGEST_LEAP",
    "Ahead",
    "Batch",
    "Chunk",
    "DecodeRun",
    "LeapingScheduler",
    "LimitError",
    "RequestRejectedError",
    "Scheduler",
    "SchedulerConfig",
    "Sequence",
    "Snapshot",
    "State",
    "StepOutputs",
]
