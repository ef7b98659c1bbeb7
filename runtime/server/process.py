"""The beginning of every process of the server, and its end when the launcher is gone.

The launcher starts it with ``python -m``, writes what it is to be as a line of JSON to its standard input, and keeps
that pipe open as long as it lives.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path
from threading import Thread
from typing import Protocol

import msgspec

from runtime.messages import API, DETOKENIZER, LAUNCHER, Failed, Ready
from runtime.server.config import Place
from runtime.server.mail import Outbox

_SAY_SO_THEMSELVES = (API, "worker")  # when they are ready: they have more to say than that


class Role(Protocol):
    """What a process does once it is ready."""

    def run(self) -> None:
        """Serve until told to stop."""


def build(place: Place) -> Role:
    """The process of that name."""
    kind = place.name.partition(".")[0]
    if kind == API:
        from runtime.server.api import ApiProcess

        return ApiProcess(place)
    if kind == DETOKENIZER:
        from runtime.server.detokenizer import DetokenizerProcess

        return DetokenizerProcess(place)
    if kind == "worker":
        from runtime.server.worker import WorkerProcess

        return WorkerProcess(place)
    from runtime.server.tokenizer import TokenizerProcess

    return TokenizerProcess(place)


def main() -> int:
    """Be the process that standard input says.

    Returns:
        Exit code: 0, or 2 where it cannot start for a reason that it told the launcher.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(message)s")
    place = msgspec.json.decode(sys.stdin.buffer.readline(), type=Place)
    Thread(target=_watch_launcher, args=(place.path,), daemon=True, name="launcher-watch").start()
    outbox = Outbox(place.path)
    try:
        role = build(place)
    except (ValueError, OSError) as error:
        outbox.send(LAUNCHER, Failed(place.name, " ".join(str(error).split())))
        outbox.close()
        return 2
    if place.name.partition(".")[0] not in _SAY_SO_THEMSELVES:
        outbox.send(LAUNCHER, Ready(place.name))
    role.run()
    outbox.close()
    return 0


def _watch_launcher(directory: Path) -> None:
    """Standard input ends when the launcher does, however it dies: then nobody is left to clean up but us."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
