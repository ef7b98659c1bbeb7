"""Worker processes on this machine, which keep imports and traces warm and never outlive who began them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from itertools import islice

from harness.config import ConfigError, ExperimentConfig
from harness.sweep.cell import CellTask, Status, keep_error, run_cell, status_of


class WorkerDied(ConfigError):  # noqa: N818 (it says what happened)
    """A worker process died; the message says what to try."""


def default_workers(configs: Iterable[ExperimentConfig]) -> int:
    """As many workers as this process may use cores; one where time is real, or they would slow one another."""
    if any(config.backend.get("name") != "sim" for config in configs):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for a while.

    On an exception (Ctrl-C) the workers are sent SIGINT, so that a replay in them ends in order, and waited for.

    Args:
        workers: How many.

    Raises:
        ConfigError: Fewer than one is asked for.
        WorkerDied: One died.
    """
    if workers < 1:
        raise ConfigError(f"--workers {workers}: at least 1")
    # Forked workers would share the sweep's lock, and threads of libraries do not survive a fork.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin)
    try:
        yield pool
    except BrokenProcessPool:
        raise WorkerDied(f"a worker process died, for want of memory? Try fewer than --workers {workers}") from None
    except BaseException:
        for worker in multiprocessing.active_children():
            with suppress(ProcessLookupError):
                os.kill(worker.pid or 0, signal.SIGINT)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


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
    waiting = iter(tasks)
    running: dict[Future[Status], CellTask] = {}
    ended = False
    while not ended:
        try:
            with worker_pool(workers) as pool:
                running = {pool.submit(run_cell, task): task for task in islice(waiting, workers)}
                while running:
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        status = future.result()
                        del running[future]
                        yield status
                        running |= {pool.submit(run_cell, task): task for task in islice(waiting, 1)}
            ended = True
        except WorkerDied as error:
            for task in running.values():
                status = status_of(task.directory)
                yield keep_error(task.directory, str(error)) if status is Status.OPEN else status


def _begin() -> None:
    """In each worker, first of all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; only a replay under way cares
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End with the parent, also where that was killed: else a worker would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
