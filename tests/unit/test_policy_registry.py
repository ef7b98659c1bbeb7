"""Finding policies: by name, by dotted path, by entry point; and what a mistake is told."""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import yaml

from harness.config import conf_dir
from policies import PolicyError, build_policy
from policies.order import Fcfs
from policies.registry import PARTS, build, find
from tests.core.own_policies import ErraticOrder, MostRecentlyUsed

OWN = "tests.core.own_policies"
CONFIG: dict[str, Any] = {part: {"name": next(iter(room.builtin))} for part, room in PARTS.items()}


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, room in PARTS.items() for name in room.builtin])
def test_every_built_in_is_built_without_parameters(part: str, name: str) -> None:
    assert isinstance(build(part, name, {}), PARTS[part].bases)


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, room in PARTS.items() for name in room.builtin])
def test_every_built_in_has_its_configuration_with_its_defaults(part: str, name: str) -> None:
    settings = yaml.safe_load((conf_dir() / "policy" / part / f"{name}.yaml").read_text())
    assert settings.pop("name") == name
    built_in = PARTS[part].builtin[name]
    parameters = inspect.signature(built_in).parameters if "__init__" in vars(built_in) or settings else {}
    assert settings == {key: parameter.default for key, parameter in parameters.items()}


@pytest.mark.parametrize("part", PARTS)
def test_an_unknown_name_names_the_choices(part: str) -> None:
    with pytest.raises(PolicyError) as caught:
        find(part, "lruu")
    message = str(caught.value)
    assert message.startswith(f"policy.{part}.name=lruu: no such policy. Choose one of ")
    assert all(name in message for name in PARTS[part].builtin)
    assert "\n" not in message


@pytest.mark.parametrize("path", [f"{OWN}.ErraticOrder", f"{OWN}:ErraticOrder"])
def test_a_class_of_ones_own_by_its_path(path: str) -> None:
    assert find("order", path) is ErraticOrder
    policy = build_policy({**CONFIG, "order": {"name": path, "seed": 3}})
    assert isinstance(policy.order, ErraticOrder)


def test_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(group: str) -> list[EntryPoint]:
        return [EntryPoint("own_mru", f"{OWN}:MostRecentlyUsed", group)] if group == "servetwin.eviction" else []

    monkeypatch.setattr("policies.registry.entry_points", points)
    assert find("eviction", "own_mru") is MostRecentlyUsed
    with pytest.raises(PolicyError, match=r"Choose one of lru, .*, own_mru,"):
        find("eviction", "own_mruu")
    with pytest.raises(PolicyError, match="no such policy"):
        find("order", "own_mru")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module.Mine", "policy.order.name=no_such_module.Mine: cannot import 'no_such_module'"),
        (f"{OWN}.Missing", f"policy.order.name={OWN}.Missing: {OWN} has no 'Missing'"),
        (f"{OWN}.NotAPolicy", "not a subclass of policies.order.Order or policies.order.DynamicOrder"),
        (f"{OWN}.ErraticBatching", "not a subclass of policies.order.Order"),
        ("policies.order.random.uniform", "not a subclass of policies.order.Order"),
        (".Mine", "policy.order.name=.Mine: "),
        ("Mine.", "policy.order.name=Mine.: "),
    ],
)
def test_a_path_that_leads_nowhere(name: str, said: str) -> None:
    with pytest.raises(PolicyError, match=said.replace(".", r"\.").replace("(", r"\(")):
        find("order", name)


def test_parameters_that_a_policy_does_not_take() -> None:
    with pytest.raises(PolicyError, match=r"policy\.batching=chunked: .*'step_token'.* Chunked: step_tokens"):
        build("batching", "chunked", {"step_token": 5})
    with pytest.raises(PolicyError, match=r"policy\.order=fcfs: .*'seed'.* Parameters of Fcfs: none"):
        build("order", "fcfs", {"seed": 5})


def test_an_abstract_class_is_no_policy() -> None:
    with pytest.raises(PolicyError, match=r"policy\.order=policies\.order\.Order: .*abstract"):
        build("order", "policies.order.Order", {})


@pytest.mark.parametrize("settings", [None, {}, {"name": None}, {"name": 3}])
def test_a_part_without_a_name(settings: Any) -> None:
    with pytest.raises(PolicyError, match=r"policy\.eviction\.name=.*e\.g\. policy/eviction=lru"):
        build_policy({**CONFIG, "eviction": settings})


def test_the_configuration_is_left_as_it_was() -> None:
    config = {**CONFIG, "batching": {"name": "chunked", "step_tokens": 7}}
    assert isinstance(build_policy(config).order, Fcfs)
    assert build_policy(config).batching.step_tokens == 7
    assert build_policy(config).prefix_cache
    assert not build_policy({**config, "prefix_cache": False}).prefix_cache
