"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"  # worth knowing: something is slower, or is not there for those who want it
    PROBLEM = "problem"  # something that is installed, or was asked for, does not work


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table.

    Attributes:
        check: What was looked at.
        verdict: How bad it is.
        said: What was found.
        advice: What to do; empty where nothing is to be done.
    """

    check: str
    verdict: Verdict
    said: str
    advice: str = ""


def ok(check: str, said: str) -> Finding:
    """All is well."""
    return Finding(check, Verdict.OK, said)


def note(check: str, said: str, advice: str) -> Finding:
    """Worth knowing."""
    return Finding(check, Verdict.NOTE, said, advice)


def problem(check: str, said: str, advice: str) -> Finding:
    """It stops something."""
    return Finding(check, Verdict.PROBLEM, said, advice)
