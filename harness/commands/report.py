"""``harness report``: an HTML page of runs or of a sweep, or a run in another tool's key names."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.parser import command_parser
from harness.exit_code import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMATS = ("vllm", "sglang", "aiperf", "guidellm")
PAGE = "report.html"
EXAMPLE = """\
examples:
  python -m harness report runs/radix --open
  python -m harness report runs/radix runs/naive --out page
  python -m harness report runs/2026-11-22/12-00-00_sweep
  python -m harness report runs/radix --format vllm
"""


def main(argv: Sequence[str]) -> ExitCode:
    """Write a report and say where it is.

    Args:
        argv: Arguments after ``report``.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    directory = arguments.out or arguments.runs[0]
    files = _page(arguments.runs) if arguments.format is None else _exported(arguments.runs, arguments.format)
    paths = [_write(directory, name, text) for name, text in files.items()]
    for path in paths:
        sys.stdout.write(f"{path}\n")
    if arguments.open:
        import webbrowser

        webbrowser.open(paths[0].resolve().as_uri())
    return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "report", "Make one HTML page, which works offline, of a run, of several overlaid, or of a sweep.", EXAMPLE
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory, or the directory of a sweep")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"where {PAGE} goes (the first RUN)")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument(
        "--format", choices=FORMATS, help="instead of a page, the run's figures in this tool's key names"
    )
    return parser


def _page(paths: Sequence[Path]) -> dict[str, str]:
    from harness.metrics.files import load_run
    from harness.report.html import report_of_runs, report_of_sweep
    from harness.report.sweep import is_run

    if len(paths) == 1 and paths[0].is_dir() and not is_run(paths[0]):
        return {PAGE: report_of_sweep(paths[0])}
    return {PAGE: report_of_runs([load_run(path) for path in paths])}


def _exported(paths: Sequence[Path], tool: str) -> dict[str, str]:
    from harness.config import ConfigError
    from harness.metrics.files import load_run
    from harness.metrics.importers.load import TOOLS

    if len(paths) > 1:
        raise ConfigError(f"--format {tool} takes one run, not {len(paths)}")
    files: dict[str, str] = TOOLS[tool].write(load_run(paths[0]))
    return files


def _write(directory: Path, name: str, text: str) -> Path:
    from harness.config import ConfigError

    path = directory / name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error}); choose --out DIR") from error
    return path
