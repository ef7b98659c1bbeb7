"""The synthetic workload that a configuration asks for: ``trace.generate``."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from harness.config import ConfigError
from traces.errors import TraceError
from traces.load import load

if TYPE_CHECKING:
    from traces.generate import Distribution
    from traces.schema import Trace


def generated(knobs: dict[str, Any]) -> Trace:
    """A trace drawn as the knobs below ``trace.generate`` say.

    Raises:
        ConfigError: One of them is wrong; the message names it.
    """
    from traces.generate import Distribution, SyntheticWorkload, generate

    given = dict(knobs)
    lengths_from = given.pop("lengths_from", None)
    known = {field.name: field.default for field in fields(SyntheticWorkload)}
    for knob, value in given.items():
        if knob not in known:
            raise ConfigError(f"trace.generate.{knob}: no such knob; choose from {', '.join(known)}")
        if isinstance(known[knob], Distribution):
            given[knob] = _distribution(knob, value)
        elif value is not None and not isinstance(known[knob], str):
            _require_number(knob, value, whole=isinstance(known[knob], int))
    try:
        return generate(SyntheticWorkload(**given), lengths_from=None if lengths_from is None else load(lengths_from))
    except TraceError as error:  # its own messages begin with the knob
        raise ConfigError(f"trace.generate.{error}" if lengths_from is None else f"trace.generate: {error}") from None


def _distribution(knob: str, value: Any) -> Distribution:
    from traces.generate import Distribution

    try:
        if not isinstance(value, dict):
            return Distribution.parse(str(value))
        known = [field.name for field in fields(Distribution)]
        for name, part in value.items():
            if name not in known:
                raise ConfigError(f"trace.generate.{knob}.{name}: no such knob; choose from {', '.join(known)}")
            if name != "shape":
                _require_number(f"{knob}.{name}", part, whole=False)
        return Distribution(**value)
    except TraceError as error:
        raise ConfigError(f"trace.generate.{knob}: {error}") from None


def _require_number(knob: str, value: Any, *, whole: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ConfigError(f"trace.generate.{knob}={value}: expected a {'whole ' if whole else ''}number")
