"""The HTML report: what it shows is what the tables say, nothing of a trace becomes markup, and a browser draws it."""

import base64
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from harness import cli
from harness.commands.report import main
from harness.metrics.files import load_run
from harness.metrics.stages import STAGES
from harness.report.html import MOST_OVERLAID, report_of_runs, report_of_sweep
from harness.report.series import page_series
from harness.run import main as run_main

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")
NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of one small trace: enough memory, and too little."""
    root = tmp_path_factory.mktemp("runs")
    words = ["trace.head=120", "trace.rate=12", "slo=llama3_8b_interactive"]
    before = os.getcwd()  # noqa: PTH109
    os.chdir(root)
    try:
        assert run_main([*words, f"hydra.run.dir={root}/plenty"]) == 0
        assert run_main([*words, "engine.pages=6000", f"hydra.run.dir={root}/scarce"]) == 0
        sweep = ["-m", *words, "policy=radix,naive", "tp=1,2", f"hydra.sweep.dir={root}/sweep"]
        assert run_main(sweep) == 0
    finally:
        os.chdir(before)
    return root


class Page(HTMLParser):
    """The elements of a page, and the text of its scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], {"script": [], "style": []}
        self._open = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open = tag if tag in self.texts else None
        if self._open:
            self.texts[tag].append("")

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, text):
        if self._open:
            self.texts[self._open][-1] += text

    @property
    def data(self):
        return json.loads(self.texts["script"][0])


def test_the_command_leaves_one_small_file_that_loads_nothing(runs, tmp_path, capsys):
    assert main([str(runs / "plenty"), str(runs / "scarce"), "--out", str(tmp_path / "new" / "place")]) == 0
    path = tmp_path / "new" / "place" / "report.html"
    assert capsys.readouterr().out == f"{path}\n"
    text = path.read_text()
    assert len(text) < 2_000_000
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    for tag, attributes in Page(text).elements:
        assert not {"src", "onclick", "onload"} & set(attributes), tag
        assert attributes.get("href", "#").startswith("#")


def test_the_curves_are_the_tables(runs):
    run = load_run(runs / "scarce")
    data = page_series([run])
    ttft = next(chart for chart in data["latency"] if chart["title"] == "Time to first token")["lines"][0]
    metric = run.summary["metrics"]["ttft_s"]
    for share, statistic in ((0, "min"), (50, "p50"), (100, "max")):
        assert np.interp(share, ttft["y"], ttft["x"]) == pytest.approx(metric[statistic], rel=0.02)
    assert (np.diff(ttft["x"]) >= 0).all()
    assert (np.diff(ttft["y"]) > 0).all()

    charts = {chart["title"]: chart for chart in data["time"]}
    steps = run.steps
    queue = charts["Requests queued and running"]["lines"]
    assert [max(line["y"]) for line in queue] == [steps.waiting.max(), steps.running.max()]
    used, cached = (np.array(line["y"], dtype=float) for line in charts["KV memory"]["lines"])
    assert np.nanmax(cached) <= 100
    assert (cached[~np.isnan(used)] >= used[~np.isnan(used)] - 1e-3).all()
    bins = charts["Tokens computed"]["lines"]
    width_s = np.diff(bins[0]["x"])[0]
    assert sum(bins[0]["y"]) * width_s == pytest.approx(steps.decode_tokens.sum(), rel=0.01)
    assert sum(bins[1]["y"]) * width_s == pytest.approx(steps.prefill_tokens.sum(), rel=0.01)
    assert sum(data["phases"][0].values()) == pytest.approx(100, abs=0.1)


def test_a_waterfall_is_one_unbroken_life(runs):
    run = load_run(runs / "scarce")
    data = page_series([run])
    picks = data["waterfalls"][0]
    assert list(picks) == ["evenly spaced", "slowest to first token", "slowest end to end"]
    by_id = run.requests.set_index("request_id")
    for life in picks["slowest end to end"]:
        stages = life["stages"]
        assert len(stages) == len(STAGES) == len(data["stages"])
        assert stages[0][0] == 0
        for (_, end), (start, _) in itertools.pairwise(stages):
            assert start == end
        assert stages[-1][1] == pytest.approx(by_id.loc[life["request_id"]].e2e_s * 1e3, rel=1e-4)
    slowest = [life["request_id"] for life in picks["slowest to first token"]]
    assert slowest[0] == by_id.ttft_s.idxmax()


def test_nothing_of_a_run_becomes_markup(runs, tmp_path):
    path = tmp_path / "a<img src=x onerror=alert(3)>b"
    shutil.copytree(runs / "plenty", path)
    config = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(config.replace("name: chat", f"name: '{NASTY}'"))
    summary = json.loads((path / "summary.json").read_text())
    summary["trace"]["notes"], summary["environment"]["commit"] = [NASTY], NASTY
    (path / "summary.json").write_text(json.dumps(summary))
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    shutil.copytree(path, sweep / "<b>0")
    shutil.copytree(runs / "scarce", sweep / "1")
    pages = [report_of_runs([load_run(path), load_run(runs / "plenty")]), report_of_sweep(sweep)]
    for text in pages:
        page = Page(text)
        assert [tag for tag, _ in page.elements].count("script") == 2
        assert not {"img", "b", "iframe"} & {tag for tag, _ in page.elements}
        assert "alert(1)" in text
        assert page.data  # still JSON


def test_the_security_policy_names_just_this_script_and_style(runs):
    page = Page(report_of_runs([load_run(runs / "plenty")]))
    policy = next(
        attributes["content"] for tag, attributes in page.elements if tag == "meta" and "content" in attributes
    )
    assert "default-src 'none'" in policy
    for rule, text in (("script-src", page.texts["script"][1]), ("style-src", page.texts["style"][0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy


def test_a_run_without_steps_has_a_page_without_their_charts(runs, tmp_path):
    path = tmp_path / "endpoint"
    shutil.copytree(runs / "plenty", path)
    (path / "steps.parquet").unlink()
    data = Page(report_of_runs([load_run(path)])).data
    assert data["phases"] == [None]
    titles = [chart["title"] for chart in data["time"]]
    assert titles == ["TTFT, by arrival", "Prefix cache hit ratio, by arrival", "SLO attainment, by arrival"]


def test_the_same_runs_give_the_same_page(runs):
    paths = [runs / "plenty", runs / "scarce"]
    assert report_of_runs([load_run(path) for path in paths]) == report_of_runs([load_run(path) for path in paths])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: no such directory"),
        (["."], "no run in it"),
        (["{runs}/plenty"] * (MOST_OVERLAID + 1), "too many to overlay"),
        (["{runs}/plenty", "--out", "{runs}/plenty/config.yaml"], "choose --out DIR"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(runs, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *(word.format(runs=runs) for word in words)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_a_steps_table_that_is_none_is_named(runs, tmp_path, capsys):
    shutil.copytree(runs / "plenty", tmp_path / "broken")
    (tmp_path / "broken" / "steps.parquet").write_text("no table")
    assert cli.main(["report", str(tmp_path / "broken")]) == 2
    assert "steps.parquet: not a table of steps" in capsys.readouterr().err


def browse(path, tmp_path, *flags):
    """A page as the browser made it, and what its console says."""
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--virtual-time-budget=4000",
            "--window-size=1280,900",
            *flags,
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@needs_chromium
@pytest.mark.parametrize("flags", [(), ("--force-dark-mode",)])
def test_a_browser_draws_every_chart_without_a_complaint(runs, tmp_path, flags):
    path = tmp_path / "report.html"
    path.write_text(report_of_runs([load_run(runs / "plenty"), load_run(runs / "scarce")]))
    dom, complaints = browse(path, tmp_path, *flags)
    assert complaints == []
    data = Page(path.read_text()).data
    lines = sum(len(chart["lines"]) for group in ("latency", "time") for chart in data[group])
    assert dom.count('<path class="line') == lines
    assert "NaN" not in re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)
    assert dom.count('aria-pressed="true"') == 2
    assert dom.count("<rect") > 30


@needs_chromium
def test_a_sweep_is_a_heat_map_and_a_front(runs, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(report_of_sweep(runs / "sweep"))
    dom, complaints = browse(path, tmp_path)
    assert complaints == []
    assert dom.count('<td class="cell"') == 4
    assert dom.count("★") >= 1
    cells = Page(path.read_text()).data["sweep"]
    labels = [metric["label"] for metric in cells["metrics"]]
    points = [
        (cell["values"][labels.index("output tokens per second")], cell["values"][labels.index("TTFT p99 (ms)")])
        for cell in cells["cells"]
    ]
    front = [a for a in points if not any(b != a and b[0] >= a[0] and b[1] <= a[1] for b in points)]
    assert dom.count('class="front"') == len(front)


@needs_chromium
def test_the_keyboard_reads_a_chart(runs, tmp_path):
    text = report_of_runs([load_run(runs / "plenty")])
    press = (
        "<script>for (const svg of document.querySelectorAll('figure svg'))"
        " for (const key of ['End', 'ArrowLeft']) svg.dispatchEvent(new KeyboardEvent('keydown', { key }));</script>"
    )
    path = tmp_path / "report.html"
    path.write_text(
        re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", text).replace("</body>", press + "</body>")
    )
    dom, complaints = browse(path, tmp_path)
    assert complaints == []
    readouts = re.findall(r'<p class="readout"[^>]*>(.*?)</p>', dom)
    assert len(readouts) == dom.count("<figure")
    assert all(re.search(r"\d", readout) for readout in readouts)


@needs_chromium
def test_a_complaint_of_the_browser_would_be_seen_and_foreign_scripts_do_not_run(runs, tmp_path):
    text = report_of_runs([load_run(runs / "plenty")])
    path = tmp_path / "report.html"
    path.write_text(text.replace("</main>", "<script>document.title = 'taken over'</script></main>"))
    dom, complaints = browse(path, tmp_path)
    assert "taken over</title>" not in dom
    assert any("Content Security Policy" in line for line in complaints)
