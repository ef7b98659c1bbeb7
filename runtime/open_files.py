"""The limit on open files: a request in flight over HTTP holds a socket at each end, and shells allow 1,024."""

from __future__ import annotations

import resource
from contextlib import suppress

_ENOUGH = 65_536


def allow_many_files() -> int:
    """Raise this process's soft limit on open files as far as its hard limit lets it; returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = _ENOUGH if hard == unlimited else min(hard, _ENOUGH)
    if soft == unlimited or soft >= wanted:
        return _ENOUGH if soft == unlimited else soft
    with suppress(ValueError, OSError):  # the kernel has a lower one that no one is told of, as macOS does
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft
