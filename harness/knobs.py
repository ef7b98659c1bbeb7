"""The page of knobs, from where each is defined: ``python -m harness.knobs > docs/knobs.md``."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from harness.config import EngineConfig, ExperimentConfig, TraceConfig, WorkloadConfig, conf_dir
from harness.metrics.slo import Slo
from policies.registry import PARTS
from traces.catalog import catalog
from traces.generate import Distribution, SyntheticWorkload

_SECTION = re.compile(r"^(Attributes|Args|Returns|Raises|Yields|Example|Examples|Note):\s*$")
_INTRODUCTION = """\
# Knobs

Every value of a run, what it does, and what it costs. Any of them can be set on the command line:
`python -m harness run engine.page_size=16 policy=vllm policy/eviction=lfu policy.batching.step_tokens=1024`.
`python -m harness run --cfg job` prints all values of a run without running it. [studies.md](studies.md) shows what the
chief ones buy, in one command each.

This page is made from the configuration's docstrings and comments by `python -m harness.knobs > docs/knobs.md`; a test
sees that it is current.
"""
_POLICY = """\
## `policy`: the scheduler's decisions

A bundle sets all six parts; each part can be set alone, as `policy/order=sjf` (a choice with its parameters) or
`policy.order.name=my_module.MyOrder` (a class of your own, see [adding-a-policy.md](adding-a-policy.md)).
"""
_PART = {
    "order": (
        "which waiting sequence is admitted next",
        "Matters while some wait. What helps the many may starve a few.",
    ),
    "batching": (
        "how prefill and decode share a step, and its token budget",
        "Large steps finish prompts soon (TTFT, throughput) and hold up those that decode (ITL); small ones do not.",
    ),
    "reservation": (
        "how much KV an admission must leave free",
        "Much kept free: fewer run at once, and none is thrown out. Little: more run, and some are computed twice.",
    ),
    "preemption": (
        "which running sequence is retracted when KV runs out",
        "Its KV is dropped and computed again later.",
    ),
    "eviction": (
        "which cached leaf of the prefix tree goes when pages are needed",
        "Matters while the cache holds less than what comes back. `harness cache` compares them all in seconds.",
    ),
    "prediction": (
        "what the other policies may know of output lengths",
        "For `sjf` and `predicted`; an oracle says how much a predictor could gain at most.",
    ),
}


class Knob(NamedTuple):
    """One line of a table.

    Attributes:
        name: As on the command line.
        value: Its default, as YAML.
        meaning: What it does.
    """

    name: str
    value: str
    meaning: str


def page() -> str:
    """The whole page, as Markdown."""
    of_experiment = attributes(ExperimentConfig)
    parts = [
        _INTRODUCTION,
        _table(
            "General",
            "",
            (
                Knob("tp", "1", of_experiment["tp"]),
                Knob("token_times", "false", of_experiment["token_times"]),
                Knob("name", "POLICY_TRACE", of_experiment["name"]),
            ),
        ),
        _table("`engine`: the server's sizes", "", _of_class(EngineConfig, "engine")),
        *_policy(),
        _table("`workload`: when the client sends", _choices("workload"), _of_class(WorkloadConfig, "workload")),
        _table("`trace`: what is replayed", _choices("trace"), _of_class(TraceConfig, "trace")),
        _table(
            "`trace.generate`: a synthetic workload",
            "With `trace=generated`.",
            _of_class(SyntheticWorkload, "trace.generate"),
        ),
        _table(
            "Distributions",
            "Lengths, turns and times of `trace.generate` are mappings of these, such as "
            "`trace.generate.input.mean=2000`.",
            _of_class(Distribution, "trace.generate.input"),
        ),
        *(_files("backend", "who plays the engine, and what time is")),
        *(_files("cost", "how the simulator finds a step's seconds")),
        _table(
            "`slo`: limits for goodput",
            _choices("slo"),
            (knob for knob in _of_class(Slo, "slo") if knob.name != "slo.name"),
        ),
        _list("model", "which model is served", "or `model.path=`, a Hugging Face `config.json` or its folder"),
        _list("hardware", "on which GPU", "each file says where its numbers are from"),
    ]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def attributes(kind: type) -> dict[str, str]:
    """What a class's docstring says of each attribute or argument, in one line each."""
    said: dict[str, str] = {}
    name, inside = "", False
    for line in (inspect.getdoc(kind) or "").splitlines():
        entry = re.match(r"    (\w+): (.*)", line)
        if _SECTION.match(line):
            inside = line.startswith(("Attributes", "Args"))
        elif inside and entry:
            name = entry[1]
            said[name] = entry[2]
        elif inside and name and line.strip():
            said[name] += " " + line.strip()
    return said


def summary(kind: type) -> str:
    """The first paragraph of a class's docstring, in one line."""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def commented(file: Path) -> Iterator[Knob]:
    """The values of a YAML file by their dotted paths, each with the comment beside it."""
    path: list[tuple[int, str]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        found = re.match(r"( *)(\w+):\s*(.*?)\s*(?:#\s*(.*))?$", line)
        if found is None:
            continue
        indent, key, value, comment = len(found[1]), found[2], found[3], found[4] or ""
        path = [entry for entry in path if entry[0] < indent]
        path.append((indent, key))
        if value or comment:
            yield Knob(".".join(key for _, key in path), value, comment)


def heading(file: Path) -> str:
    """The comment that a YAML file begins with, in one line."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(line for line in lines if not line.startswith("@package"))


def _of_class(kind: type, prefix: str) -> Iterator[Knob]:
    said = attributes(kind)
    for field in fields(kind):
        yield Knob(f"{prefix}.{field.name}", _default(field), said.get(field.name, ""))


def _default(field: Field[Any]) -> str:
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    if value is None or value is MISSING:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _policy() -> Iterator[str]:
    bundles = [f"- `policy={file.stem}`: {heading(file)}" for file in _sources("policy")]
    yield (
        _POLICY
        + "\n"
        + "\n".join(bundles)
        + "\n\n`policy.prefix_cache`: whether KV is kept for prompts that begin alike.\n"
    )
    for part, (meaning, trade_off) in _PART.items():
        rows = []
        for file in _sources(f"policy/{part}"):
            values: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
            kind = PARTS[part].builtin[values.pop("name")]
            said = attributes(kind)
            knobs = "<br>".join(f"`{name}: {value}` {said.get(name, '')}" for name, value in values.items())
            rows.append(f"| `{file.stem}` | {_cell(summary(kind))} | {_cell(knobs)} |")
        table = "| choice | what it does | its parameters |\n|---|---|---|\n" + "\n".join(rows)
        yield f"### `policy/{part}`: {meaning}\n\n{trade_off}\n\n{table}\n"


def _files(group: str, meaning: str) -> Iterator[str]:
    yield f"## `{group}`: {meaning}\n"
    for file in _sources(group):
        knobs = (
            Knob(f"{group}.{knob.name}", knob.value, knob.meaning) for knob in commented(file) if knob.name != "name"
        )
        yield _table(f"`{group}={file.stem}`", heading(file), knobs, level=3)


def _table(title: str, text: str, knobs: Any, level: int = 2) -> str:
    rows = [f"| `{knob.name}` | {f'`{knob.value}`' if knob.value else ''} | {_cell(knob.meaning)} |" for knob in knobs]
    table = "| knob | default | what it does |\n|---|---|---|\n" + "\n".join(rows) if rows else ""
    return "\n\n".join(part for part in ("#" * level + f" {title}", text, table) if part) + "\n"


def _list(group: str, meaning: str, way_out: str) -> str:
    names = ", ".join(f"`{file.stem}`" for file in _sources(group))
    return f"## `{group}`: {meaning}\n\n{names}; {way_out}.\n"


def _choices(group: str) -> str:
    choices = []
    for file in _sources(group):
        known = catalog().get(file.stem) if group == "trace" else None
        said = heading(file) or (known.title if known is not None else "")
        choices.append(f"- `{group}={file.stem}`" + (f": {said}" if said else ""))
    return "\n".join(choices)


def _sources(group: str) -> list[Path]:
    return sorted((conf_dir() / group).glob("*.yaml"))


def _cell(text: str) -> str:
    """Text for a Markdown table, with code as Markdown has it."""
    return re.sub(r":\w+:`~?\.?([^`]+)`", r"`\1`", text).replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
