"""A sweep as plain data, for the script of its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.report.replicates import Setting, method, settings_of
from harness.report.sweep import METRICS, Cell, Metric, number_or_word


def sweep_data(cells: Sequence[Cell], root: Path) -> dict[str, Any]:
    """A sweep as plain data for the page's script.

    Returns:
        knobs (name and values in order), metrics (label and direction), and cells: name, the index of each knob's
        value, each metric or None. Where seeds vary, a cell is the mean over them, with half of each metric's interval
        or None (halves), and method says so.
    """
    settings, seeds = settings_of(cells)
    knobs = [{"name": name, "values": values} for name, values in values_of(settings).items()]
    figures = [[_figures(setting, metric) for metric in METRICS] for setting in settings]
    shown = [i for i in range(len(METRICS)) if any(row[i][0] is not None for row in figures)]
    rows = []
    for setting, row in zip(settings, figures, strict=True):
        path = next(iter(setting.replicates.values())).path
        each: dict[str, Any] = {
            "name": setting.name if seeds else path.relative_to(root).as_posix(),
            "knobs": [knob["values"].index(setting.knobs[str(knob["name"])]) for knob in knobs],
            "values": [row[i][0] for i in shown],
        }
        rows.append(each | ({"halves": [row[i][1] for i in shown]} if seeds else {}))
    return {
        "knobs": knobs,
        "metrics": [{"label": METRICS[i].label, "smaller": METRICS[i].smaller_is_better} for i in shown],
        "cells": rows,
        **({"method": method(settings, seeds)} if seeds else {}),
    }


def values_of(settings: Sequence[Setting]) -> dict[str, list[str]]:
    """The knobs that vary, each with its values in order."""
    return {knob: sorted({each.knobs[knob] for each in settings}, key=number_or_word) for knob in settings[0].knobs}


def _figures(setting: Setting, metric: Metric) -> tuple[float | None, float | None]:
    """Mean and half of the interval, in the metric's unit."""
    found = setting.estimate(metric.path)
    if found is None:
        return None, None
    return _short(found.mean * metric.scale), None if found.half is None else _short(found.half * metric.scale)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
