"""Limits of the machine: a port, shared memory, open files, disk."""

from __future__ import annotations

import os
import resource
import shutil
import socket
from pathlib import Path

from harness.doctor.finding import Finding, note, ok, problem

GIB = 1 << 30
_LISTEN = "0A"  # state of a socket in /proc/net/tcp
_FEW_FILES, _ENOUGH_FILES = 256, 4096
_SHARED_MEMORY = 256 << 20
_LITTLE_DISK, _ENOUGH_DISK = GIB // 4, 4 * GIB


def check_port(port: int, asked: bool) -> Finding:
    """A server can listen on it.

    Args:
        port: From 1 to 65535.
        asked: Whether the user named it: then that it is taken is a problem.
    """
    check = f"port {port}"
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a connection that lingers is no matter
    try:
        probe.bind(("127.0.0.1", port))
    except PermissionError:
        return problem(check, "ports under 1024 are the superuser's", "take one from 1024, e.g. --port 8000")
    except OSError as error:
        advice = f"end it, or take another: harness serve --port {port + 1 if port < 65535 else 8000}"
        return (problem if asked else note)(check, f"{error.strerror}: held by {port_owner(port)}", advice)
    finally:
        probe.close()
    return ok(check, "free")


def port_owner(port: int) -> str:
    """Who listens on a TCP port, for people: process id and command, as far as this user may know."""
    proc, inodes = Path("/proc"), set()
    for table in ("tcp", "tcp6"):
        file = proc / "net" / table
        for line in file.read_text().splitlines()[1:] if file.exists() else []:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for process in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            if any(os.readlink(fd) in inodes for fd in (process / "fd").iterdir()):  # noqa: PTH115
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"pid {process.name} ({command[:60]})"
        except OSError:  # another user's, or it has ended
            continue
    return "a process that this user may not see"


def check_shared_memory(gpus: int, folder: Path = Path("/dev/shm")) -> Finding:  # noqa: S108
    """NCCL, with which GPUs share a model, puts its buffers there."""
    if not folder.is_dir():
        return note("shared memory", f"{folder} is not there", "NCCL (tp=2 and more) needs it: mount a tmpfs there")
    usage = shutil.disk_usage(folder)
    said = f"{usage.free / GIB:.2f} of {usage.total / GIB:.2f} GiB free in {folder}"
    if usage.free < _SHARED_MEMORY:
        advice = (
            "tp=2 and more on GPUs needs 256 MiB: start the container with --shm-size=1g, or remove what lies there"
        )
        return (problem if gpus > 1 else note)("shared memory", said, advice)
    return ok("shared memory", said)


def check_open_files(limit: int | None = None) -> Finding:
    """A client and a server hold a socket each for every request in flight over HTTP."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    if soft == resource.RLIM_INFINITY or soft >= _ENOUGH_FILES:
        return ok("open files", "no limit" if soft == resource.RLIM_INFINITY else f"limit {soft:,}")
    said = f"limit {soft:,}: over HTTP a request in flight takes a socket at each end"
    return (problem if soft < _FEW_FILES else note)("open files", said, "ulimit -n 65536, in the shell you run from")


def check_disk(folder: Path = Path("runs")) -> Finding:
    """A run directory of 10,000 requests is some 10 MB; a sweep leaves many."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    said = f"{free / GIB:,.1f} GiB free at {there}"
    advice = "remove old runs, or write elsewhere: hydra.run.dir=/elsewhere/run"
    if not os.access(there, os.W_OK):
        return problem("disk", f"{there} is not writable", "run from another directory, or set hydra.run.dir")
    if free < _LITTLE_DISK:
        return problem("disk", said, advice)
    return note("disk", said, advice) if free < _ENOUGH_DISK else ok("disk", said)
