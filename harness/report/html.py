"""The HTML report: one file that works without a network, of one run, several overlaid, or a sweep.

The page holds its data as JSON and draws it with a script of its own (``page/``). Whatever comes from a trace, a
configuration or a path is escaped here, or set as text by the script; a content security policy lets no other script
run and nothing load.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files as resources
from string import Template
from typing import TYPE_CHECKING

from harness.metrics.compare import CompareError, compare, run_names
from harness.metrics.files import CONFIG, RunError, at, load_run
from harness.report.console import remarks
from harness.report.series import page_series
from harness.report.sweep import Cell, failed_cells, flat, is_run, load_cells, varied
from harness.report.sweep_page import sweep_data
from harness.report.terminal import UNKNOWN, figure, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from harness.metrics.compare import Cell as Figure
    from harness.metrics.compare import Row as FigureRow
    from harness.metrics.files import Run
    from harness.metrics.summary import Json

MOST_OVERLAID = 8  # runs whose lines can still be told apart
SCRIPTS = ("chart.js", "waterfall.js", "sweep.js", "main.js")

# Label, keys in the summary, scale to the label's unit, format.
_SUMMARY: tuple[tuple[str, tuple[str, ...], float, str], ...] = (
    ("Requests ended ok", ("counts", "ok"), 1, ",.0f"),
    ("Requests", ("counts", "requests"), 1, ",.0f"),
    ("Rate offered (req/s)", ("load", "offered_requests_per_s"), 1, ",.2f"),
    ("Duration (s)", ("throughput", "duration_s"), 1, ",.1f"),
    ("Request throughput (req/s)", ("throughput", "requests_per_s"), 1, ",.2f"),
    ("Output throughput (tok/s)", ("throughput", "output_tokens_per_s"), 1, ",.0f"),
    ("Total throughput (tok/s)", ("throughput", "total_tokens_per_s"), 1, ",.0f"),
    *(
        (f"{label} {word} (ms)", ("metrics", name, key), 1e3, ",.2f")
        for label, name in (
            ("TTFT", "ttft_s"),
            ("TPOT", "tpot_s"),
            ("ITL", "itl_s"),
            ("E2E", "e2e_s"),
            ("Queue", "queue_s"),
        )
        for word, key in (("mean", "mean"), ("p50", "p50"), ("p99", "p99"))
    ),
    ("Cache hit ratio (%)", ("cache", "hit_ratio"), 100, ".2f"),
    ("Hit ratio of an unbounded cache (%)", ("cache", "ideal_hit_ratio"), 100, ".2f"),
    ("Evicted pages", ("cache", "evicted_pages"), 1, ",.0f"),
    ("Preemptions", ("cache", "preemptions"), 1, ",.0f"),
    ("Goodput (req/s)", ("goodput", "requests_per_s"), 1, ",.2f"),
    ("SLO attainment (%)", ("goodput", "attainment"), 100, ".2f"),
    ("Send lag p99 (ms)", ("load", "send_lag_s", "p99"), 1e3, ",.2f"),
)


def report_of_runs(runs: Sequence[Run]) -> str:
    """The page of one run, or of several overlaid.

    Raises:
        ValueError: There are too many to overlay, or a table of one cannot be read.
    """
    if len(runs) > MOST_OVERLAID:
        raise RunError(
            f"{len(runs)} runs are too many to overlay; give {MOST_OVERLAID} at most, or their sweep's directory"
        )
    names = run_names(runs)
    sections = [_summary(names, [run.summary for run in runs]), *_differences(runs)]
    sections += [*_charts(), _configuration(names, runs)]
    return _page(" and ".join(names), _about(runs), sections, {"runs": list(names), **page_series(runs)})


def report_of_sweep(directory: Path) -> str:
    """The page of all runs below a directory: heat maps, Pareto fronts, a table; few runs are overlaid too.

    Raises:
        ValueError: There is no run below it, or a file of one cannot be read.
    """
    cells = load_cells(directory)
    few = len(cells) <= MOST_OVERLAID and all(is_run(cell.path) for cell in cells)
    runs = [load_run(cell.path) for cell in cells] if few else []
    knobs = varied(cells)
    names = [", ".join(f"{knob}={words[row]}" for knob, words in knobs.items()) for row in range(len(cells))]
    data = {"sweep": sweep_data(cells, directory), "runs": names if runs else []}
    sections = [_SWEEP]
    if runs:
        sections += [_summary(names, [run.summary for run in runs]), *_charts()]
        data |= page_series(runs)
    sections.append(_common(cells))
    about = f"{len(cells)} runs over {', '.join(knobs) or 'nothing: they are configured alike'}"
    if failed := failed_cells(directory):
        about += f"; {len(failed)} failed, the first because {failed[0].error}"
    return _page(f"Sweep {directory.resolve().name}", about, sections, data)


_SWEEP = """\
<section id="sweep"><h2>Sweep</h2>
<div class="controls" id="heat-controls"></div><div class="scroll" id="heat" tabindex="0" role="region"
 aria-label="Heat map"></div><p class="note" id="heat-note"></p>
<h3>Pareto front</h3><div class="controls" id="pareto-controls"></div><div id="pareto"></div>
<details><summary>All runs</summary><div class="scroll" id="cells" tabindex="0" role="region" aria-label="All runs">
</div></details></section>
"""


def _charts() -> list[str]:
    return [
        '<section id="latency"><h2>Latency distributions</h2>'
        '<p class="note">Requests that ended ok, warm-up left out. From intended arrival.</p>'
        '<div class="charts" data-group="latency"></div></section>',
        '<section id="time"><h2>Over time</h2><div class="charts" data-group="time"></div></section>',
        '<section id="engine"><h2>Time of the engine</h2><div id="phases"></div></section>',
        '<section id="waterfall"><h2>Requests, moment by moment</h2>'
        '<div class="controls" id="waterfall-controls"></div><div id="waterfall-chart"></div></section>',
    ]


def _summary(names: Sequence[str], summaries: Sequence[Json]) -> str:
    rows = []
    for label, path, scale, form in _SUMMARY:
        values = [at(summary, path) for summary in summaries]
        if any(value is not None for value in values):
            rows.append([label, *(figure(value, form, scale) for value in values)])
    said: dict[str, list[str]] = {}
    for name, summary in zip(names, summaries, strict=True):
        of_trace = [f"Trace: {note}" for note in summary.get("trace", {}).get("notes", [])]
        for remark in [*remarks(summary), *of_trace]:
            said.setdefault(remark, []).append(name)
    notes = [
        remark if len(holders) == len(names) else f"{', '.join(holders)}: {remark}" for remark, holders in said.items()
    ]
    return _section("summary", "Summary", _table(["", *names], rows) + _paragraphs(notes))


def _differences(runs: Sequence[Run]) -> list[str]:
    if len(runs) < 2:
        return []
    try:
        comparison = compare(runs)
    except CompareError as error:
        return [_section("differences", "Differences to the first run", _paragraphs([str(error)]))]
    first, *others = comparison.names
    rows = [
        [f"{row.name} ({row.unit})", number(row.cells[0].value), *(_difference(row, cell) for cell in row.cells[1:])]
        for row in comparison.rows
    ]
    how = "Bootstrap intervals; ▲ better, ▼ worse, where the interval leaves out zero."
    notes = [comparison.pairing, how, *comparison.notes]
    table = _table(["", first, *(f"{name}: difference [95 % interval]" for name in others)], rows)
    return [_section("differences", "Differences to the first run", table + _paragraphs(notes))]


def _difference(row: FigureRow, cell: Figure) -> str:
    if cell.difference is None:
        return UNKNOWN
    text = number(cell.difference, "+")
    if cell.interval is not None:
        text += f" [{number(cell.interval[0], '+')}, {number(cell.interval[1], '+')}]"
    if not cell.significant:
        return text
    return text + (" ▲" if (cell.difference < 0) == row.smaller_is_better else " ▼")


def _configuration(names: Sequence[str], runs: Sequence[Run]) -> str:
    knobs = varied([Cell(run.path, flat(run.config), run.summary) for run in runs])
    parts = []
    if knobs:
        parts.append(_table(["differs in", *names], [[knob, *words] for knob, words in knobs.items()]))
    for name, run in zip(names, runs, strict=True):
        text = (run.path / CONFIG).read_text(encoding="utf-8", errors="replace")
        parts.append(_folded(name, text))
        parts.append(_folded(f"{name}: environment", json.dumps(run.summary.get("environment", {}), indent=2)))
    return _section("config", "Configuration", "".join(parts))


def _common(cells: Sequence[Cell]) -> str:
    """What all cells have in common."""
    first, *others = (cell.knobs for cell in cells)
    absent = object()
    same = {key: value for key, value in first.items() if all(other.get(key, absent) == value for other in others)}
    text = "\n".join(f"{key}: {value}" for key, value in same.items())
    return _section("config", "Configuration", _folded("The same in all runs", text))


def _folded(title: str, text: str) -> str:
    return f'<details><summary>{escape(title)}</summary><pre tabindex="0">{escape(text)}</pre></details>'


def _about(runs: Sequence[Run]) -> str:
    """What was run, where the runs agree on it."""
    facts = []
    for label, path in (
        ("trace", ("trace", "name")),
        ("policy", ("policy", "name")),
        ("backend", ("backend", "name")),
        ("model", ("model", "name")),
        ("hardware", ("hardware", "name")),
        ("tp", ("tp",)),
    ):
        values = list(dict.fromkeys(str(at(run.config, path)) for run in runs))
        facts.append(f"{label} {', '.join(values)}")
    return " · ".join(facts)


def _section(identity: str, title: str, content: str) -> str:
    return f'<section id="{identity}"><h2>{escape(title)}</h2>{content}</section>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names its rows; everything in it is escaped."""
    heads = "".join(f'<th scope="col">{escape(word)}</th>' for word in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(word)}</td>" for word in row[1:]) + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(head[1])}">{table}</div>'


def _paragraphs(lines: Iterable[str]) -> str:
    return "".join(f'<p class="note">{escape(text)}</p>' for text in lines)


def _page(title: str, about: str, sections: Sequence[str], data: Json) -> str:
    style = _asset("page.css")
    script = "".join(_asset(name) for name in SCRIPTS)
    rules = ("default-src 'none'", f"style-src '{_hash(style)}'", f"script-src '{_hash(script)}'", "base-uri 'none'")
    return Template(_asset("page.html")).substitute(
        title=escape(title),
        about=escape(about),
        policy="; ".join(rules),
        style=style,
        script=script,
        content="\n".join(sections),
        data=_inert(data),
    )


def _asset(name: str) -> str:
    return (resources("harness.report") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _inert(data: Json) -> str:
    """JSON that no parser of HTML can take for a tag."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
