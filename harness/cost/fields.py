"""Reads single fields out of a configuration mapping, with errors that name the knob."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from harness.cost.errors import CostConfigError


class Fields:
    """Typed access to one configuration mapping.

    Args:
        values: The mapping, resolved to plain values.
        prefix: What a message puts before a key: ``hardware.``, or the file that was read and ``: ``.
    """

    def __init__(self, values: Mapping[str, Any], prefix: str) -> None:
        self._values = values
        self._prefix = prefix

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Raises :class:`CostConfigError` if the mapping has a key outside ``known``."""
        for key in self._values:
            if key not in known:
                raise CostConfigError(f"{self._name(key)} is unknown: choose among {', '.join(sorted(known))}")

    def has(self, key: str) -> bool:
        """True if the field is there and not null."""
        return self._values.get(key) is not None

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of at least ``least``; null counts as missing."""
        value = self._get(key, default, f"a whole number of at least {least}")
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._wrong(key, value, f"a whole number of at least {least}")
        return value

    def whole_numbers(self, key: str) -> list[int]:
        """A list, which may be empty, of whole numbers of at least 1."""
        wanted = "a list of whole numbers of at least 1"
        value = self._get(key, None, wanted)
        if not isinstance(value, list) or not all(type(number) is int and number >= 1 for number in value):
            raise self._wrong(key, value, wanted)
        return value

    def boolean(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._get(key, default, "true or false")
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A text that is not empty."""
        value = self._get(key, default, "a name")
        if not isinstance(value, str) or not value:
            raise self._wrong(key, value, "a name")
        return value

    def choice(self, key: str, choices: Collection[str]) -> str:
        """One of ``choices``."""
        wanted = f"one of {', '.join(choices)}"
        value = self._get(key, None, wanted)
        if not isinstance(value, str) or value not in choices:
            raise self._wrong(key, value, wanted)
        return value

    def positive(self, key: str, unit: str) -> float:
        """A finite number above 0, in ``unit``."""
        return self._number(key, f"a number of {unit} above 0", above=0.0)

    def at_least_zero(self, key: str, unit: str) -> float:
        """A finite number, 0 or more, in ``unit``."""
        return self._number(key, f"a number of {unit}, 0 or more")

    def fraction(self, key: str) -> float:
        """A number above 0 and at most 1."""
        return self._number(key, "a fraction above 0 and at most 1", above=0.0, most=1.0)

    def share(self, key: str) -> float:
        """A number from 0 to 1."""
        return self._number(key, "a share from 0 to 1", most=1.0)

    def section(self, key: str) -> Mapping[str, Any]:
        """A nested mapping."""
        value = self._get(key, None, "a mapping")
        if not isinstance(value, Mapping):
            raise self._wrong(key, value, "a mapping")
        return value

    def _number(self, key: str, wanted: str, above: float = -math.ulp(0.0), most: float = math.inf) -> float:
        value = self._get(key, None, wanted)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._wrong(key, value, wanted)
        if not (math.isfinite(value) and above < value <= most):
            raise self._wrong(key, value, wanted)
        return float(value)

    def _get(self, key: str, default: object, wanted: str) -> object:
        value = self._values.get(key)
        if value is None:
            value = default
        if value is None:
            raise CostConfigError(f"{self._name(key)} is missing: give {wanted}")
        return value

    def _name(self, key: str) -> str:
        return f"{self._prefix}{key}"

    def _wrong(self, key: str, value: object, wanted: str) -> CostConfigError:
        return CostConfigError(f"{self._name(key)}={value!r} must be {wanted}")
