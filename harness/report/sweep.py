"""The cells of a sweep: what was varied, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.metrics.files import CONFIG, ERROR, REQUESTS, SUMMARY, RunError, read_summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from harness.metrics.summary import Json


@dataclass(frozen=True)
class Metric:
    """A figure of a run's summary.

    Attributes:
        label: With its unit.
        path: Keys that lead to it.
        smaller_is_better: Which way a Pareto front faces.
        scale: From the summary's unit to the label's.
    """

    label: str
    path: tuple[str, ...]
    smaller_is_better: bool
    scale: float = 1.0


METRICS = (
    Metric("TTFT p99 (ms)", ("metrics", "ttft_s", "p99"), smaller_is_better=True, scale=1e3),
    Metric("TTFT p50 (ms)", ("metrics", "ttft_s", "p50"), smaller_is_better=True, scale=1e3),
    Metric("TPOT p99 (ms)", ("metrics", "tpot_s", "p99"), smaller_is_better=True, scale=1e3),
    Metric("TPOT p50 (ms)", ("metrics", "tpot_s", "p50"), smaller_is_better=True, scale=1e3),
    Metric("E2E p50 (s)", ("metrics", "e2e_s", "p50"), smaller_is_better=True),
    Metric("E2E p99 (s)", ("metrics", "e2e_s", "p99"), smaller_is_better=True),
    Metric("requests per second", ("throughput", "requests_per_s"), smaller_is_better=False),
    Metric("output tokens per second", ("throughput", "output_tokens_per_s"), smaller_is_better=False),
    Metric("goodput (requests per second)", ("goodput", "requests_per_s"), smaller_is_better=False),
    Metric("SLO attainment (%)", ("goodput", "attainment"), smaller_is_better=False, scale=100),
    Metric("cache hit ratio (%)", ("cache", "hit_ratio"), smaller_is_better=False, scale=100),
    Metric("preemptions", ("cache", "preemptions"), smaller_is_better=True),
)


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        path: Its directory.
        knobs: Every value of its configuration, by dotted key.
        summary: Its ``summary.json``; empty where it failed.
        error: Why it failed, in one line; empty where it did not.
    """

    path: Path
    knobs: dict[str, Any]
    summary: Json
    error: str = ""


def is_run(directory: Path) -> bool:
    """Whether a directory holds one run."""
    return all((directory / name).is_file() for name in (CONFIG, SUMMARY, REQUESTS))


def load_cells(directory: Path) -> list[Cell]:
    """All finished runs below a directory, in the order of their paths.

    Raises:
        RunError: There is none, or a file of one cannot be read.
    """
    paths = _with(directory, SUMMARY)
    if not paths:
        raise RunError(
            f"{directory}: no run in it; give a run directory, or one that `harness sweep` or `harness run -m` wrote"
        )
    return [Cell(path, flat(_yaml(path / CONFIG)), read_summary(path / SUMMARY)) for path in paths]


def failed_cells(directory: Path) -> list[Cell]:
    """All cells below a directory that failed, in the order of their paths.

    Raises:
        RunError: A file of one cannot be read.
    """
    paths = [path for path in _with(directory, ERROR) if not (path / SUMMARY).is_file()]
    return [Cell(path, flat(_yaml(path / CONFIG)), {}, _first_line(path / ERROR)) for path in paths]


def _with(directory: Path, name: str) -> list[Path]:
    """Directories of runs that have a file of this name."""
    return sorted((found.parent for found in directory.rglob(name) if (found.parent / CONFIG).is_file()), key=_natural)


def _first_line(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] or "no reason was kept"


def varied(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """The knobs that differ between the cells, and each cell's value.

    A choice such as ``policy=vllm`` changes many values at once. Of knobs that split the cells alike, or more coarsely
    than another does, only one is kept: the name of a group's choice, or else the shortest.

    Returns:
        Words by knob, one a cell, in the cells' order; the knob with the most values first, seeds last.
    """
    keys = sorted({key for cell in cells for key in cell.knobs if key != "name"})
    columns = {key: [_word(cell.knobs.get(key)) for cell in cells] for key in keys}
    differing = {key: words for key, words in columns.items() if len(set(words)) > 1}
    # A finer knob may stand for a coarser one, so the finest come first; a seed never stands for a setting.
    order = sorted(
        differing,
        key=lambda key: (is_seed(key), -len(set(differing[key])), not key.endswith(".name"), key.count("."), key),
    )
    kept: dict[str, list[str]] = {}
    for key in order:
        if not any(_determines(words, differing[key]) for words in kept.values()):
            kept[key] = differing[key]
    return {key.removesuffix(".name"): words for key, words in kept.items()}


def is_seed(knob: str) -> bool:
    """Whether runs that differ in this knob alone are replicates: of arrivals and lengths, of a sample, of a policy."""
    return knob.endswith("seed")


def _determines(finer: Sequence[str], coarser: Sequence[str]) -> bool:
    """Whether a knob's value follows from another's."""
    return len(set(zip(finer, coarser, strict=True))) == len(set(finer))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration's leaves by dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _word(value: Any) -> str:
    return "null" if value is None else str(value)


def number_or_word(word: str) -> tuple[int, float, str]:
    """A key that sorts numbers by their value, and words behind them."""
    try:
        return (0, float(word), "")
    except ValueError:
        return (1, 0.0, word)


def _natural(path: Path) -> tuple[tuple[int, float, str], ...]:
    """Directories by the number that begins their name: 2_... before 10_..."""
    return tuple((*number_or_word(part.partition("_")[0])[:2], part) for part in path.parts)


def _yaml(path: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        # OmegaConf takes 15 ms a file where this takes 2; a sweep has a thousand.
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: not a configuration ({str(error).partition(chr(10))[0]})") from error
    if not isinstance(tree, dict):
        raise RunError(f"{path}: not a configuration (its top level is no mapping)")
    return tree
