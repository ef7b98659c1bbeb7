"""Faults in what the user brought, a policy of their own or a machine without a package: one line that says where."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.config import ConfigError
from harness.extras import not_installed
from harness.report.terminal import shortest
from policies.errors import PolicyError
from policies.registry import PARTS, find


class PolicyFault(PolicyError):  # noqa: N818 (a fault in it, not of how it was asked for)
    """A policy of the user's own raised something; the message names the policy, what it raised and where.

    Attributes:
        details: The traceback.
    """

    details: str = ""


def own_policies(config: Mapping[str, Any]) -> dict[str, type]:
    """The parts of a policy's configuration that are classes of the user's own, by what was written.

    Raises:
        PolicyError: One cannot be found.
        PolicyFault: Its module raises when it is imported.
    """
    found: dict[str, type] = {}
    for part, room in PARTS.items():
        name = (config.get(part) or {}).get("name")
        if isinstance(name, str) and name not in room.builtin:
            found |= own_policy(part, name, f"policy.{part}.name={name}")
    return found


def own_policy(part: str, name: str, written: str) -> dict[str, type]:
    """A class of the user's own by what was written, for :func:`explained`.

    Args:
        part: Of the policy.
        name: As :func:`policies.registry.find` takes it.
        written: How the user named it.

    Raises:
        PolicyError: It cannot be found.
        PolicyFault: Its module raises when it is imported.
    """
    try:
        return {written: find(part, name)}
    except PolicyError:
        raise
    except Exception as error:  # whatever a module does when it is imported
        raise _fault(f"{written}: {located(error)}", error) from error


@contextmanager
def explained(own: Mapping[str, type]) -> Iterator[None]:
    """While entered, what policies of the user's own raise becomes a :class:`PolicyFault`.

    Args:
        own: Their classes, by what the user wrote. Without any, a fault is ours and stays as it is.

    Raises:
        PolicyFault: One of them raised, or made the scheduler raise.
        ConfigError: A package is missing that an extra of ours brings.
    """
    from harness.errors import USER_ERRORS

    try:
        yield
    except USER_ERRORS:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (said := not_installed(error)) is not None:
            raise ConfigError(said) from error
        if not own:
            raise
        raise _fault(_blamed(error, own), error) from error


def located(error: BaseException) -> str:
    """What was raised, and the innermost place of it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({_place(error.filename, error.lineno)})"
    frames = traceback.extract_tb(_first(error).__traceback__)
    return f"{_said(error)} ({_place(frames[-1].filename, frames[-1].lineno)})" if frames else _said(error)


def in_one_line(failure: str, policy: Mapping[str, Any]) -> str:
    """How a process of the server died; of a traceback among its last words the place and the last line.

    Args:
        failure: Lines, as :class:`runtime.server.launch.ServerDiedError` has them.
        policy: The configuration of the policy that it ran, which is named where the place is in it.
    """
    places = re.findall(r'File "([^"]+)", line (\d+)', failure)
    if not places:
        return " ".join(failure.split())
    how, *_, last = failure.splitlines()
    own = own_policies(policy).items()
    blamed = "".join(f"{written}: " for written, kind in own if _file(kind) == places[-1][0])
    return f"{blamed}{how.removesuffix('; its last words:')}: {last.strip()} ({_place(*places[-1])})"


def _fault(line: str, error: Exception) -> PolicyFault:
    fault = PolicyFault(line)
    fault.details = "".join(traceback.format_exception(error))
    return fault


def _blamed(error: BaseException, own: Mapping[str, type]) -> str:
    """What was raised in the file of a policy; or else anywhere, since one of them has misled the scheduler."""
    for each in _chain(error):
        for frame in reversed(traceback.extract_tb(each.__traceback__)):
            for written, kind in own.items():
                if frame.filename == _file(kind):
                    return f"{written}: {_said(each)} ({_place(frame.filename, frame.lineno)})"
    return f"with {', '.join(own)}: {located(error)}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it was raised from: SimPy raises a copy of what a process raised."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__


def _first(error: BaseException) -> BaseException:
    """The exception that SimPy copied, where it is a copy."""
    return [each for each in _chain(error) if type(each) is type(error)][-1]


def _file(kind: type) -> str | None:
    return getattr(sys.modules.get(kind.__module__), "__file__", None)


def _said(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _place(file: str, line: int | str | None) -> str:
    return f"{shortest(Path(file))}:{line}"
