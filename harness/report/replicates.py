"""Runs of a sweep that differ in their seeds alone: replicates of one setting, of which the mean counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.metrics.files import at
from harness.metrics.student import Estimate, estimate
from harness.report.sweep import Cell, is_seed, varied


@dataclass(frozen=True)
class Setting:
    """What a sweep tried.

    Attributes:
        knobs: Those that vary, but for seeds, and their values.
        replicates: Its runs that ended, by the values of the seeds.
    """

    knobs: dict[str, str]
    replicates: dict[tuple[str, ...], Cell] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The knobs as on a command line."""
        return " ".join(f"{knob}={value}" for knob, value in self.knobs.items())

    def figures(self, path: Sequence[str]) -> dict[tuple[str, ...], float]:
        """A figure of the summary in each replicate that knows it, by the seeds."""
        found = {seeds: at(cell.summary, path) for seeds, cell in self.replicates.items()}
        return {seeds: float(value) for seeds, value in found.items() if value is not None}

    def estimate(self, path: Sequence[str]) -> Estimate | None:
        """The mean of a figure over the seeds; None where it is unknown."""
        figures = self.figures(path)
        return estimate(list(figures.values())) if figures else None

    def difference(self, other: Setting, path: Sequence[str]) -> Estimate | None:
        """This figure minus another setting's, paired by seed: what both owe to the same requests cancels.

        Returns:
            The mean difference; None where no seed has both.
        """
        mine, theirs = self.figures(path), other.figures(path)
        paired = [value - theirs[seeds] for seeds, value in mine.items() if seeds in theirs]
        return estimate(paired) if paired else None


def settings_of(cells: Sequence[Cell]) -> tuple[list[Setting], list[str]]:
    """The settings of a sweep in the order of their first cells, and the seeds that vary within them."""
    words = varied(cells)
    seeds = [knob for knob in words if is_seed(knob)]
    found: dict[tuple[str, ...], Setting] = {}
    for row, cell in enumerate(cells):
        knobs = {knob: column[row] for knob, column in words.items() if knob not in seeds}
        setting = found.setdefault(tuple(knobs.values()), Setting(knobs))
        setting.replicates[tuple(words[seed][row] for seed in seeds)] = cell
    return list(found.values()), seeds


def method(settings: Sequence[Setting], seeds: Sequence[str]) -> str:
    """How the means and intervals of a table come about, for the reader."""
    counts = sorted({len(setting.replicates) for setting in settings})
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"mean over {many} seeds ({', '.join(seeds)}), ± its 95 % interval by Student's t"
