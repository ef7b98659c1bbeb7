"""What servers that were killed have left: private directories whose sockets nobody listens on."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from harness.doctor.finding import Finding, note, ok

_PREFIX = "servetwin-"  # of runtime.server.launch


def check_leftovers(folder: Path | None = None, sockets: Path = Path("/proc/net/unix")) -> Finding:
    """Directories of servers, living and dead.

    Args:
        folder: Where servers make them; without, where ``tempfile`` does.
        sockets: The kernel's list of Unix sockets, the path of each at the end of its line.
    """
    folder = Path(tempfile.gettempdir()) if folder is None else folder
    bound = {line.split()[-1] for line in sockets.read_text().splitlines()} if sockets.exists() else set()
    dead, living = [], 0
    for directory in sorted(folder.glob(_PREFIX + "*")):
        try:
            if not directory.is_dir() or directory.stat().st_uid != os.getuid():
                continue
            files = list(directory.iterdir())
        except OSError:  # it went while we looked
            continue
        if any(str(file) in bound for file in files):
            living += 1
        else:
            dead.append(directory)
    running = f"{living} of a running server" if living else "no server is running"
    if dead:
        advice = f"rm -r {' '.join(map(str, dead[:3]))}{' ...' if len(dead) > 3 else ''}"
        return note("leftovers", f"{len(dead)} private directories of dead servers in {folder}; {running}", advice)
    return ok("leftovers", f"none in {folder}; {running}")
