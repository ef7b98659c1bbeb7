"""Worker processes on this machine, which keep imports and traces warm and never outlive who began them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.context import SpawnContext, SpawnProcess

from harness.config import ConfigError


class WorkerDied(ConfigError):  # noqa: N818 (it says what happened)
    """A worker process died; the message says what to try."""


@contextmanager
def worker_pool(
    workers: int, *, option: str = "--workers", stop: signal.Signals = signal.SIGINT
) -> Iterator[ProcessPoolExecutor]:
    """Processes for a while.

    On an exception (Ctrl-C) the workers are sent a signal, and waited for.

    Args:
        workers: How many.
        option: What the user sets their number by.
        stop: The signal: on SIGINT a replay in a worker ends in order; SIGTERM ends what has nothing to keep.

    Raises:
        ConfigError: Fewer than one is asked for.
        WorkerDied: One died.
    """
    if workers < 1:
        raise ConfigError(f"{option} {workers}: at least 1")
    # Forked workers would share the locks of who began them, and threads of libraries do not survive a fork.
    pool = ProcessPoolExecutor(workers, _Context(), _begin)
    try:
        yield pool
    except BrokenProcessPool:
        raise WorkerDied(f"a worker process died, for want of memory? Try fewer than {option} {workers}") from None
    except BaseException:
        for worker in multiprocessing.active_children():
            with suppress(ProcessLookupError):
                os.kill(worker.pid or 0, stop)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker(SpawnProcess):
    """A process that Ctrl-C cannot reach before :func:`_begin`: it would say what it was importing at that moment."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which a child inherits
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Context(SpawnContext):
    Process = _Worker


def _begin() -> None:
    """In each worker, first of all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; only a replay under way cares
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End with the parent, also where that was killed: else a worker would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
