"""Starts a server's processes, watches them, and leaves nothing behind."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import IO

import msgspec

from runtime.messages import LAUNCHER, WORKER, Alive, Failed, Ready, Stop, ToLauncher
from runtime.server.config import Place, ServerConfig, ServerError
from runtime.server.mail import Inbox, Outbox
from runtime.server.pulse import Vigil

_LAST_WORDS = 12  # lines
_WATCH_S = 0.2
_LONGEST_PATH = 85  # bytes; a socket file's address has room for 103 on macOS and 107 on Linux


class ServerDiedError(RuntimeError):
    """A process of the server died or hangs; the message names it, says how, and quotes what a dead one said last."""


class _Process:
    """A child process, and what it says on standard output and error."""

    def __init__(self, place: Place, heard: Callable[[str], None]) -> None:
        self.name = place.name
        self.last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._heard = heard
        # -P: a folder called runtime/ where the user stands is not ours. PYTHONPATH: it imports what we can.
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "runtime.server.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C in the terminal is the launcher's affair
        )
        self.pid = self._popen.pid
        self._reader = Thread(target=self._read, daemon=True, name=f"{place.name}-output")
        self._reader.start()
        try:
            stdin = self._pipe(self._popen.stdin)
            stdin.write(msgspec.json.encode(place) + b"\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # it died at once: the watch will say so

    @property
    def exit_code(self) -> int | None:
        """None while it lives; minus the signal that killed it."""
        return self._popen.poll()

    def epitaph(self) -> str:
        """How it died, with its last words."""
        self._reader.join(timeout=1.0)
        code = self.exit_code
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        words = "\n  ".join(self.last_words)
        return f"{self.name} (pid {self.pid}) died: {how}" + (f"; its last words:\n  {words}" if words else "")

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within that time."""
        try:
            self._popen.wait(max(timeout_s, 0.0))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End it now."""
        self._popen.kill()
        self._popen.wait()

    def close(self) -> None:
        """Forget it, after its end."""
        self._reader.join(timeout=1.0)
        self._pipe(self._popen.stdin).close()

    def _read(self) -> None:
        with self._pipe(self._popen.stdout) as output:
            for line in output:
                text = line.decode(errors="replace").rstrip()
                self.last_words.append(text)
                self._heard(f"[{self.name}] {text}")

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        if pipe is None:
            raise AssertionError("the process was started with pipes")
        return pipe


class Server:
    """A server's processes.

    Attributes:
        config: What it is.
        directory: Private directory with its sockets, removed in the end; made by :meth:`start`.
        url: Where its API server listens, e.g. ``http://127.0.0.1:8000``; empty without one.
        pages: Pages of its KV memory; 0 until it is started.

    Args:
        config: What it is.
        heard: Told every line that a process writes to its standard output or error; by default they go to ours.
    """

    def __init__(self, config: ServerConfig, heard: Callable[[str], None] | None = None) -> None:
        self.config = config
        self.directory = Path()
        self.url = ""
        self.pages = 0
        self._heard = heard or _to_stderr
        self._processes: list[_Process] = []
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._failure: ServerDiedError | None = None
        self._lock = threading.Lock()

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {process.name: process.pid for process in self._processes}

    def start(self, timeout_s: float = 600.0) -> None:
        """Start all processes and wait until each is ready.

        Raises:
            ServerError: It cannot be started as asked.
            ServerDiedError: A process died, or was not ready in time.
        """
        self.directory = _private_directory()
        atexit.register(self.stop, 0.0)
        inbox = Inbox(self.directory, LAUNCHER, ToLauncher)
        try:
            for name in self.config.processes:
                place = Place(name, str(self.directory), self.config)
                self._processes.append(_Process(place, self._heard))
            self._wait_ready(inbox, time.monotonic() + timeout_s)
        except BaseException:
            inbox.close()
            self.stop(0.0)
            raise
        # The inbox is the watch's from now on: a ZMQ socket belongs to one thread.
        Thread(target=self._watch_processes, args=(inbox,), daemon=True, name="server-watch").start()

    def check(self) -> None:
        """See that all is well.

        Raises:
            ServerDiedError: A process died or hangs; all were ended.
        """
        if self._failure is not None:
            raise self._failure

    def wait(self) -> None:
        """Wait until the server is stopped.

        Raises:
            ServerDiedError: A process died or hangs; all were ended.
        """
        while not self._ended.wait(_WATCH_S):  # in slices, so that signals are heard
            pass
        self.check()

    def stop(self, drain_s: float = 30.0) -> None:
        """End the server: no more requests, those in it are finished, then its processes end in the order of the flow.

        Args:
            drain_s: Seconds until what is left is killed.
        """
        with self._lock:
            if self._ended.is_set() or not self.directory.name:
                return
            self._stopping.set()
            if drain_s > 0:
                self._drain(time.monotonic() + drain_s)
            self._clean()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(0.0 if kind is not None else 30.0)

    def _wait_ready(self, inbox: Inbox, deadline_s: float) -> None:
        waited_for = dict.fromkeys(self.config.processes)
        while waited_for:
            for message in inbox.wait(_WATCH_S):
                self._heed(message, waited_for)
            dead = next((process for process in self._processes if process.exit_code is not None), None)
            if dead is not None:
                for message in inbox.wait(_WATCH_S):  # it may have said why
                    self._heed(message, waited_for)
                raise ServerDiedError(dead.epitaph())
            if time.monotonic() > deadline_s:
                raise ServerDiedError(f"not ready in time: {', '.join(waited_for)}")

    def _heed(self, message: Ready | Failed | Alive, waited_for: dict[str, None]) -> None:
        if isinstance(message, Alive):
            return
        if isinstance(message, Failed):
            raise ServerError(message.error)
        waited_for.pop(message.name, None)
        if message.address:
            self.url = message.address
        if message.pages:
            self.pages = message.pages

    def _watch_processes(self, inbox: Inbox) -> None:
        vigil = Vigil(self.config.processes, self.config.stall_s, time.monotonic())
        while not self._stopping.wait(_WATCH_S):
            trouble = self._trouble(inbox, vigil)
            if trouble is not None:
                with self._lock:
                    if not self._stopping.is_set():
                        self._stopping.set()
                        self._failure = ServerDiedError(trouble)
                        self._clean()
        inbox.close()

    def _trouble(self, inbox: Inbox, vigil: Vigil) -> str | None:
        """What is wrong with the processes, if anything is."""
        dead = [process for process in self._processes if process.exit_code is not None]
        if dead:
            return dead[0].epitaph()
        now = time.monotonic()
        for message in inbox.take():
            if isinstance(message, Alive):
                vigil.heard(message, now)
        hang = vigil.hang(now)
        if hang is None:
            return None
        named = [f"{name} (pid {pid})" for name, pid in self.pids.items() if name in hang.names]
        return f"{', '.join(named)} hang{'s' if len(named) == 1 else ''}: {hang.why}; the server was ended"

    def _drain(self, deadline_s: float) -> None:
        outbox = Outbox(self.directory)
        for process in self._processes:
            if process.name.startswith("worker.") and process.name != WORKER.format(0):
                continue  # rank 0 tells it
            outbox.send(process.name, Stop())
            if not process.wait(deadline_s - time.monotonic()):
                break
        for process in self._processes:
            process.wait(min(deadline_s - time.monotonic(), 5.0))
        outbox.close(linger_s=0.0)

    def _clean(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        atexit.unregister(self.stop)
        self._ended.set()


def _private_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="servetwin-"))  # 0700
    if len(os.fsencode(directory)) > _LONGEST_PATH:
        directory.rmdir()
        raise ServerError(
            f"TMPDIR={directory.parent}: too long a path for socket files; set TMPDIR to a shorter one, e.g. /tmp"
        )
    return directory


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
