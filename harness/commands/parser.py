"""The parser of a command's words."""

import argparse


def command_parser(command: str, about: str | None, examples: str) -> argparse.ArgumentParser:
    """A parser without arguments yet; its ``--help`` ends with examples.

    Args:
        command: As it is called, such as ``sweep``.
        about: What it does.
        examples: Lines that are shown as they are.
    """
    return argparse.ArgumentParser(
        prog=f"harness {command}",
        description=about,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
