"""The cells of a sweep in worker processes of this machine."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait

from harness.config import ExperimentConfig
from harness.sweep.cell import CellTask, Status, keep_error, run_cell, status_of
from harness.workers import WorkerDied, worker_pool


def default_workers(configs: Iterable[ExperimentConfig]) -> int:
    """As many workers as this process may use cores; one where time is real, or they would slow one another."""
    if any(config.backend.get("name") != "sim" for config in configs):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_locally(tasks: Iterable[CellTask], workers: int) -> Iterator[Status]:
    """Run cells in worker processes.

    Where a worker dies, the cells that were under way have failed, since one of them may have killed it, and the others
    go on in new workers.

    Args:
        tasks: What to run, taken one at a time as workers become free: none waits where it could not be taken back.
        workers: Processes.

    Yields:
        How a cell stands, as they end.
    """
    waiting = deque(tasks)
    running: dict[Future[Status], CellTask] = {}
    ended = False
    while not ended:
        try:
            with worker_pool(workers) as pool:
                running = {}
                while waiting or running:
                    while waiting and len(running) < workers:
                        running[pool.submit(run_cell, waiting[0])] = waiting[0]
                        waiting.popleft()  # only now: where a worker has died, nothing can be submitted
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        status = future.result()
                        del running[future]
                        yield status
            ended = True
        except WorkerDied as error:
            for task in running.values():
                status = status_of(task.directory)
                yield keep_error(task.directory, str(error)) if status is Status.OPEN else status
