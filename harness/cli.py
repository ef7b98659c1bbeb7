"""The command line: ``python -m harness COMMAND`` or ``harness COMMAND``."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from harness.complaint import complain
from harness.exit_code import ExitCode
from harness.extras import not_installed

_COMMANDS = {
    "run": ("harness.run", "replay a trace through a backend"),
    "sweep": ("harness.commands.sweep", "every combination of some knobs' values, and one table"),
    "capacity": ("harness.commands.capacity", "the highest rate that meets an SLO"),
    "compare": ("harness.commands.compare", "differences between runs, with intervals"),
    "report": ("harness.commands.report", "an HTML page of runs or of a sweep"),
    "trace": ("harness.commands.trace", "look at, convert, generate and fetch traces"),
    "cache": ("harness.commands.cache", "eviction policies compared, of the prefix cache alone"),
    "serve": ("harness.commands.serve", "an OpenAI-compatible server of our own"),
    "parity": ("harness.commands.parity", "whether simulator and real server decide alike"),
    "calibrate": ("harness.commands.calibrate", "measure the engine on this machine, into a profile for cost=profile"),
    "validate": ("harness.commands.validate", "the simulator held against the real server: its errors"),
    "bench": ("harness.commands.bench", "how fast the simulator is, and where its time goes"),
    "doctor": ("harness.commands.doctor", "what on this machine may stop a run, and what to do"),
}

_HELP = """\
ServeTwin replays a request trace through an LLM server, or through its simulated twin, and measures both alike.

usage: harness COMMAND ...

{commands}

examples:
  python -m harness run policy=radix tp=2
  python -m harness run -m policy=radix,naive tp=1,2
  python -m harness trace stats chat
  python -m harness compare runs/A runs/B

harness COMMAND --help says more. Tab completion in bash: eval "$(harness -sc install=bash)"
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The words after the program's name; without, those of this process.

    Returns:
        An :class:`~harness.exit_code.ExitCode`, or what ended the process otherwise.
    """
    words = sys.argv[1:] if argv is None else argv
    # A policy of the user's own is a module in the directory where the command is run.
    if "" not in sys.path and os.getcwd() not in sys.path:  # noqa: PTH109
        sys.path.insert(0, "")
    if words[:1] == ["-sc"]:
        return _complete(words)
    if not words or words[0] in ("-h", "--help", "help"):
        _print(_help())
        return ExitCode.OK
    if words[0] not in _COMMANDS:
        return _mistake([], f"{words[0]!r} is no command; choose from {', '.join(_COMMANDS)}")
    try:
        code: int = import_module(_COMMANDS[words[0]][0]).main(words[1:])
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except SystemExit as end:  # argparse, Hydra
        return end.code if isinstance(end.code, int) else ExitCode.OK
    except ModuleNotFoundError as error:
        if (said := not_installed(error)) is None:
            raise
        return _mistake(words, said)
    except _user_errors() as error:
        return _mistake(words, str(error))
    return code


def _user_errors() -> tuple[type[ValueError], ...]:
    """Imported when something was raised: --help and doctor answer sooner, and where a package is missing."""
    from harness.errors import USER_ERRORS

    return USER_ERRORS


def _mistake(words: list[str], why: str) -> ExitCode:
    """Say what the user did wrong in the command that the words begin with."""
    command = words[:2] if words[:1] == ["trace"] else words[:1]
    complain(" ".join(["harness", *command]), why)
    return ExitCode.MISTAKE


def _help() -> str:
    commands = "\n".join(f"  {name:<8} {meaning}" for name, (_, meaning) in _COMMANDS.items())
    return _HELP.format(commands=commands)


def _complete(words: list[str]) -> int:
    """Bash completion: commands here, overrides of ``run`` by Hydra."""
    line = os.environ.get("COMP_LINE", "").split(" ")
    if words[1:] == ["query=bash"] and line[1:2] != ["run"]:
        if len(line) == 2:
            _print(" ".join(_COMMANDS))
        return ExitCode.OK
    if line[1:2] == ["run"]:
        os.environ["COMP_LINE"] = " ".join([line[0], *line[2:]])
    from harness.run import main as run

    return run(words)


def _print(text: str) -> None:
    print(text)  # noqa: T201
