"""``harness doctor``: what on this machine may stop a run, and what to do about it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from harness.commands.parser import command_parser
from harness.exit_code import ExitCode
from harness.report.terminal import table_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.doctor.finding import Finding

_EXAMPLES = """\
examples:
  python -m harness doctor
  python -m harness doctor --port 8080
  python -m harness doctor --json

Exit code 1 where something has a problem, 0 where not: a note is worth knowing, and stops nothing.
"""
_COLOURS = {"ok": "green", "note": "yellow", "problem": "bold red"}


def main(argv: list[str]) -> ExitCode:
    """Examine this machine and print what was found.

    Args:
        argv: Arguments after ``doctor``.

    Returns:
        The exit code: 0, or 1 where there is a problem.
    """
    arguments = _parser().parse_args(argv)
    from rich.console import Console

    from harness.doctor.examine import examine

    with Console(stderr=True).status("looking (importing torch takes some seconds)"):
        findings = examine(arguments.port)
    if arguments.json:
        print(_as_json(findings))  # noqa: T201
    else:
        _show(findings)
    problem = any(finding.verdict == "problem" for finding in findings)
    return ExitCode.FAILED if problem else ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("doctor", "What on this machine may stop a run, and what to do about it.", _EXAMPLES)
    parser.add_argument("--port", type=_port, help="that a server is to listen on: a problem where it is taken (8000)")
    parser.add_argument("--json", action="store_true", help="a list of findings: check, verdict, said, advice")
    return parser


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text}: a port is from 1 to 65535, e.g. --port 8000")
    return int(text)


def _as_json(findings: Sequence[Finding]) -> str:
    import json
    from dataclasses import asdict

    return json.dumps([asdict(finding) for finding in findings], indent=2)


def _show(findings: Sequence[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = table_console()
    table = Table()
    for title in ("", "check", "found", "what to do"):
        table.add_column(title, no_wrap=title in ("", "check"), overflow="fold")
    for finding in findings:
        verdict = Text(finding.verdict.value, style=_COLOURS[finding.verdict])
        table.add_row(verdict, *(Text(cell) for cell in (finding.check, finding.said, finding.advice)))
    console.print(table)
    problems = [finding.check for finding in findings if finding.verdict == "problem"]
    said = f"{len(problems)} to mend: {', '.join(problems)}" if problems else "Nothing stops a run."
    console.print(said)
