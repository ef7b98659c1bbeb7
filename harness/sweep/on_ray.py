"""Cells on a Ray cluster, or on a Ray of this machine's own."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from harness.complaint import first_line
from harness.config import ConfigError
from harness.sweep.cell import CellTask, Status, run_cell, status_of

LOCAL = "local"
KNOCK_S = 5.0
HANDED_ON = ("SERVETWIN_TRACES", "SERVETWIN_CONF")


def run_on_ray(tasks: Sequence[CellTask], address: str) -> Iterator[Status]:
    """Run cells as Ray tasks, a core each, and as many GPUs as the tensor parallelism of a server on GPUs.

    Every machine of the cluster must see this installation, the traces and the sweep's directory under the same paths:
    a shared file system. Cells keep themselves, as on one machine; Ray carries nothing but configurations.

    Args:
        tasks: What to run.
        address: ``local`` starts a Ray on this machine for the time being, ``auto`` finds the cluster that this machine
            is part of; or a cluster's address.

    Yields:
        How a cell stands, as they end.

    Raises:
        ConfigError: No Ray answers, or its machines do not share the directory.
    """
    ray: Any = import_module("ray")
    environment = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
    try:
        _knock(address)
        ray.init(
            address=address,
            runtime_env={"env_vars": environment},
            include_dashboard=False if address == LOCAL else None,
            log_to_driver=False,
            logging_level="error",
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--ray {address}: no cluster answers ({first_line(error)}); `ray start --head` begins one, or --ray local"
        ) from None
    try:
        remote = ray.remote(run_cell)
        running = {remote.options(num_cpus=1, num_gpus=_gpus(task), max_retries=0).remote(task): task for task in tasks}
        while running:
            ended, _ = ray.wait(list(running))
            for reference in ended:
                yield _status(ray, reference, running.pop(reference), address)
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See whether somebody listens at an address; Ray itself would try for many minutes.

    Raises:
        OSError: Nobody does.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


def _status(ray: Any, reference: Any, task: CellTask, address: str) -> Status:
    try:
        status: Status = ray.get(reference)
    except ray.exceptions.RayError as error:
        raise ConfigError(f"--ray {address}: {first_line(error)}; what has ended is kept, run the same again") from None
    if status is not status_of(task.directory):
        raise ConfigError(
            f"--out {task.directory}: the machine that ran this cell has another; name one that all share"
        )
    return status


def _gpus(task: CellTask) -> int:
    return task.config.tp if task.config.backend.get("device") == "cuda" else 0
