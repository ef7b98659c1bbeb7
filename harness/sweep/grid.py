"""The cells of a sweep: every combination of the values that the words of a command line give."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.compose import one_line, register, settled
from harness.config import ConfigError, ExperimentConfig, conf_dir


@dataclass(frozen=True)
class GridCell:
    """One experiment of a sweep, not run yet.

    Attributes:
        id: Of what is run: equal configurations have equal ids, whatever words led to them.
        words: The overrides that tell it from the others, ``knob=value``.
        config: What is run; its name is those words.
    """

    id: str
    words: tuple[str, ...]
    config: ExperimentConfig


def expand(words: Sequence[str]) -> list[GridCell]:
    """All combinations of the values of all knobs, in the order of the words; the last knob runs fastest.

    Args:
        words: Overrides in Hydra's syntax. A knob has several values by ``a,b``, ``range(1,5)``, ``choice(a,b)`` or
            ``glob(*)``; a knob that is named twice has the last ones.

    Returns:
        Cells whose configurations differ: of equal ones the first.

    Raises:
        ConfigError: A word cannot be read, or a combination is no configuration.
    """
    try:
        with _hydra() as loader:
            fixed, knobs = _parse(words, loader)
            composer = _Composer(loader, fixed)
            cells: dict[str, GridCell] = {}
            for chosen in itertools.product(*knobs):
                config = replace(composer.compose(chosen), name=" ".join(chosen) or "sweep")
                cell = GridCell(identity(config), chosen, config)
                cells.setdefault(cell.id, cell)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error)) from error
    return list(cells.values())


def identity(config: ExperimentConfig) -> str:
    """Sixteen hex digits that stand for everything that a configuration says but its name."""
    said = json.dumps(asdict(replace(config, name="")), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def distinct(words: Sequence[str]) -> str:
    """Eight hex digits that stand for the words of a sweep, in whatever order they come."""
    return hashlib.sha256("\n".join(sorted(words)).encode()).hexdigest()[:8]


@contextmanager
def _hydra() -> Iterator[ConfigLoader]:
    register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def _parse(words: Sequence[str], loader: ConfigLoader) -> tuple[list[str], list[list[str]]]:
    """The overrides of one value, and for each knob of several its overrides."""
    given: dict[str, list[str]] = {}
    parser = OverridesParser.create(config_loader=loader)
    for override in parser.parse_overrides([*_study(parser.parse_overrides(list(words)), loader), *words]):
        key = override.get_key_element()
        if key.startswith("hydra") or key == "name":
            raise ConfigError(f"{override.input_line}: a sweep sets this itself; --out DIR says where it goes")
        if not override.is_sweep_override():
            given[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            given[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(f"{override.input_line}: has no finite number of values; write choice(...) or range(...)")
        if not given[key]:
            raise ConfigError(f"{override.input_line}: has no value, so there is nothing to run")
    fixed = [values[0] for values in given.values() if len(values) == 1]
    return fixed, [values for values in given.values() if len(values) > 1]


def _study(overrides: Sequence[Override], loader: ConfigLoader) -> list[str]:
    """The words of ``experiment=NAME``: what ``harness run`` would sweep there; those of the command come behind."""
    studies = [override for override in overrides if override.get_key_element() == "experiment"]
    if not studies:
        return []
    chosen = studies[-1]
    if chosen.is_sweep_override():
        raise ConfigError(f"{chosen.input_line}: each sweeps knobs of its own; name one experiment")
    config = loader.load_configuration("config", [str(chosen.input_line)], RunMode.MULTIRUN)
    return [f"{knob}={values}" for knob, values in (config.hydra.sweeper.params or {}).items()]


class _Composer:
    """Configurations by their overrides.

    Hydra takes some 50 ms to compose one. So that a thousand cells need not wait for a minute, those that differ in
    plain values only share one composition, in which the values are then set as Hydra would set them.
    """

    def __init__(self, loader: ConfigLoader, fixed: Sequence[str]) -> None:
        self._loader = loader
        self._fixed = list(fixed)
        self._parser = OverridesParser.create()
        self._parsed: dict[str, Override] = {}
        self._plain: dict[str, bool] = {}
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, chosen: Sequence[str]) -> ExperimentConfig:
        """The configuration of the fixed overrides and these."""
        plain = [word for word in chosen if self._is_plain(word)]
        rest = tuple(word for word in chosen if word not in plain)
        try:
            if rest not in self._composed:
                self._composed[rest] = self._hydra([*rest, *plain])
            config = self._composed[rest]
            for word in plain:
                override = self._parsed[word]
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
            return settled(config)
        except OmegaConfBaseException:
            # Hydra's own words for what is wrong; every cell sets the same knobs, so nothing is left of this one.
            return settled(self._hydra(chosen))

    def _hydra(self, chosen: Sequence[str]) -> DictConfig:
        return hydra.compose("config", overrides=[*self._fixed, *chosen, "name=cell"])

    def _is_plain(self, word: str) -> bool:
        """Whether an override sets one value and chooses no file."""
        if word not in self._parsed:
            self._parsed[word] = self._parser.parse_override(word)
        override = self._parsed[word]
        key = override.get_key_element()
        if key not in self._plain:
            changes = not (override.is_add() or override.is_delete() or override.is_force_add())
            self._plain[key] = changes and override.package is None and not self._loader.get_group_options(key)
        value: Any = override.value()
        return self._plain[key] and not isinstance(value, dict | list)
