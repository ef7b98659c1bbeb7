"""A knob that is not there: which one was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_REFUSED = re.compile(r"Could not override '([^']+)'.*?To append to your config use \+(\S+?)(?::|$)")
_GENERATE = "trace.generate."


def no_such_knob(said: str) -> str | None:
    """What to say where Hydra knows no knob of a name; None where that is not what it says.

    Args:
        said: Hydra's words.
    """
    refused = _REFUSED.search(said)
    if refused is None:
        return None
    knob, word = refused[1], refused[2]
    if knob.startswith(_GENERATE):
        from dataclasses import fields

        from traces.generate import SyntheticWorkload

        known = {f"{_GENERATE}{field.name}" for field in fields(SyntheticWorkload)}
        if knob in known:
            return f"{word}: {knob} says how a workload is made; it goes with trace=generated"
    else:
        known = _known()
    meant = nearest(knob, known)
    hint = f"did you mean {meant}?" if meant else "`python -m harness run --cfg job` prints them all"
    return f"{word}: there is no knob {knob!r}; {hint}{_addable(knob, word, known)}"


def nearest(knob: str, known: Iterable[str]) -> str | None:
    """The known knob that is spelt most like one, or whose last part is; None where none is."""
    names, leaf = sorted(known), _leaf(knob)
    for name in get_close_matches(knob, names, n=5):  # what they share may be all but the last part
        if get_close_matches(leaf, [_leaf(name)]):
            return name
    leaves = {_leaf(name): name for name in names}
    near = get_close_matches(leaf, leaves, n=1, cutoff=0.75)
    return leaves[near[0]] if near else None


def _leaf(knob: str) -> str:
    return knob.rpartition(".")[2]


def _addable(knob: str, word: str, known: set[str]) -> str:
    """Parameters of a choice may be any: those that its file leaves out are added."""
    choice = knob.rpartition(".")[0]
    if choice not in known or choice in ("engine", "trace", "workload"):
        return ""
    return f"; a parameter that the choice of {choice} leaves out is added by +{word}"


def _known() -> set[str]:
    """Every knob of the configuration that a run without overrides has, and every group."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from harness.config import conf_dir

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose("config", overrides=["name=any"])
    found: set[str] = set()

    def walk(tree: object, prefix: str) -> None:
        if isinstance(tree, dict):
            for key, value in tree.items():
                found.add(prefix + str(key))
                walk(value, f"{prefix}{key}.")

    from omegaconf import OmegaConf

    walk(OmegaConf.to_container(config), "")
    return found
