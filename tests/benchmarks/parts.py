"""Parts of a measurement, each a process with a time limit: where one fails or takes too long, the others go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ENDS_S = 10.0  # a part that was told to
LOG = "log.txt"  # of all parts, each line with the part's seconds: what came back when is how a slow start is found
_MOST = 1.5  # of what a part takes about: then it is stopped
_SAID = 1200  # characters of a failed part that are shown


@dataclass(frozen=True)
class Part:
    """A command.

    Attributes:
        name: In the log.
        words: Behind ``python -m``.
        takes_s: Seconds, about; where there are fewer left it is not begun.
        leaves: The file that is there when it has come to its end, so that it need not run again.
    """

    name: str
    words: list[str]
    takes_s: float
    leaves: Path | None = None


def run_parts(parts: Iterable[Part], out: Path, budget_s: float, tell: Callable[[Part, str], str]) -> int:
    """Run the parts for which there is time.

    Args:
        parts: The most important first. What they leave is not made again.
        out: Gets the log.
        budget_s: Seconds of all.
        tell: What a part found, once it has run, from it and what it printed; it may have been stopped before its end.

    Returns:
        The worst exit code; 124 where a part ran out of time.
    """
    out.mkdir(parents=True, exist_ok=True)
    ends_s = time.monotonic() + budget_s
    codes, lines = [0], []
    for part in parts:
        left_s = ends_s - time.monotonic() - ENDS_S
        if part.leaves is not None and part.leaves.is_file():
            lines.append(f"{part.name}: there already")
        elif left_s < part.takes_s:
            lines.append(
                f"{part.name}: left out: it takes {part.takes_s:.0f} s, of the budget {left_s:.0f} s were left"
            )
        else:
            begun_s = time.monotonic()
            code, said = _run(part, out / LOG, min(left_s, _MOST * part.takes_s))
            codes.append(code)
            lines.append(f"{part.name}: exit code {code} after {time.monotonic() - begun_s:.0f} s")
            try:
                found = tell(part, said)
            except Exception as error:  # what it left may be half a file
                found = f"({type(error).__name__}: {error})"
            print(found, flush=True)
        print(f"--- {lines[-1]}", flush=True)
    print(*lines, sep="\n", flush=True)
    return max(codes)


def _run(part: Part, log: Path, limit_s: float) -> tuple[int, str]:
    """Run a part, its output into the log; returns its exit code, 124 out of time, and the output."""
    print(f"$ python -m {' '.join(part.words)}", flush=True)
    with log.open("a") as output:
        output.write(f"=== {part.name}: python -m {' '.join(part.words)}\n")
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", *part.words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        said: list[str] = []
        reader = threading.Thread(target=_copy, args=(process.stdout, output, said), daemon=True)
        reader.start()
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = 124
            process.send_signal(signal.SIGINT)  # what it measured so far is kept
            with suppress(subprocess.TimeoutExpired):
                process.wait(ENDS_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            reader.join(ENDS_S)
            if process.stdout is not None:
                process.stdout.close()
    text = "".join(said)
    if code:
        print(text[-_SAID:], flush=True)
    return code, text


def _copy(source: IO[str] | None, output: IO[str], said: list[str]) -> None:
    """Copy lines, each with the seconds since the first could come."""
    begun_s = time.monotonic()
    for line in source or ():
        said.append(line)
        output.write(f"{time.monotonic() - begun_s:7.1f} {line}")
        output.flush()
