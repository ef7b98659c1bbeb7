"""The beginning of every process of the server, and its end when the launcher is gone.

The launcher starts it with ``python -m``, writes what it is to be as a line of JSON to its standard input, and keeps
that pipe open as long as it lives.
"""

from __future__ import annotations

import logging
import os
import select
import shutil
import sys
from threading import Thread
from typing import Protocol

import msgspec

from runtime.messages import API, DETOKENIZER, LAUNCHER, Failed, Ready
from runtime.server.config import Place
from runtime.server.mail import Outbox
from runtime.server.pulse import Pulse, beat_s

_SAY_SO_THEMSELVES = (API, "worker")  # when they are ready: they have more to say than that


class Role(Protocol):
    """What a process does once it is ready."""

    def run(self) -> None:
        """Serve until told to stop."""


def build(place: Place, pulse: Pulse) -> Role:
    """The process of that name; one that runs steps tells ``pulse`` of them."""
    kind = place.name.partition(".")[0]
    if kind == API:
        from runtime.server.api import ApiProcess

        return ApiProcess(place)
    if kind == DETOKENIZER:
        from runtime.server.detokenizer import DetokenizerProcess

        return DetokenizerProcess(place)
    if kind == "worker":
        from runtime.server.worker import WorkerProcess

        return WorkerProcess(place, pulse)
    from runtime.server.tokenizer import TokenizerProcess

    return TokenizerProcess(place)


def main() -> int:
    """Be the process that standard input says.

    Returns:
        Exit code: 0, or 2 where it cannot start for a reason that it told the launcher.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(message)s")
    place = msgspec.json.decode(sys.stdin.buffer.readline(), type=Place)
    pulse = Pulse(place.name)
    Thread(target=_watch_launcher, args=(place, pulse), daemon=True, name="launcher-watch").start()
    outbox = Outbox(place.path)
    try:
        role = build(place, pulse)
    except (ValueError, OSError) as error:
        outbox.send(LAUNCHER, Failed(place.name, " ".join(str(error).split())))
        outbox.close()
        return 2
    if place.name.partition(".")[0] not in _SAY_SO_THEMSELVES:
        outbox.send(LAUNCHER, Ready(place.name))
    role.run()
    outbox.close()
    return 0


def _watch_launcher(place: Place, pulse: Pulse) -> None:
    """Give signs of life until standard input ends: the launcher is gone, and nobody is left to clean up but us.

    They go to the launcher, which ends the server when a process hangs, and to the API server, which is asked.
    """
    outbox = Outbox(place.path)
    stdin = sys.stdin.fileno()
    every_s = beat_s(place.config.stall_s)
    listeners = [LAUNCHER, *([API] if place.config.http and place.name != API else [])]
    while not (select.select([stdin], [], [], every_s)[0] and not os.read(stdin, 4096)):
        sign = pulse.alive()
        for listener in listeners:
            outbox.send(listener, sign)
    shutil.rmtree(place.path, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
