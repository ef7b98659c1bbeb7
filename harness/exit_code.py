"""How a command ended, as the code that its process exits with."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a script may act upon; a mistake's is argparse's own, an interrupt's the shell's (128 + SIGINT).

    Attributes:
        OK: It did what was asked.
        FAILED: It did not: a server died, a cell of a sweep failed, no capacity was found, backends decide otherwise.
        MISTAKE: The user's, said in one line.
        DEGRADED: A run finished, but its client fell behind: see ``load`` in its summary.
        INTERRUPTED: What was measured until then is kept.
    """

    OK = 0
    FAILED = 1
    MISTAKE = 2
    DEGRADED = 3
    INTERRUPTED = 130
