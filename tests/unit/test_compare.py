"""Comparing runs: pairing, differences and their intervals, the command."""

from pathlib import Path

import numpy as np
import pytest

from harness import cli
from harness.commands.compare import main
from harness.metrics.compare import CompareError, compare, pair_rows
from harness.metrics.files import load_run, write_requests, write_summary
from harness.metrics.schema import Gaps, complete_requests
from harness.metrics.slo import Slo, hold_to
from harness.metrics.summary import summarize
from harness.report import latency_plot


def table(seed=0, slower=1.0, n=400, first_id=0, cached=20):
    """A trace of n requests, the same for every slowdown; each run adds a little of its own."""
    trace, noise = np.random.default_rng(0), np.random.default_rng(seed)
    arrival_s = trace.exponential(size=n).cumsum()
    ttft_s = slower * trace.lognormal(size=n) + 0.01 * noise.random(n)
    output_tokens = trace.integers(2, 100, size=n)
    first_s = arrival_s + ttft_s
    return complete_requests(
        {
            "request_id": np.arange(first_id, first_id + n),
            "arrival_s": arrival_s,
            "sent_s": arrival_s,
            "client_first_token_s": first_s,
            "client_last_token_s": first_s + 0.02 * output_tokens,
            "prompt_tokens": trace.integers(100, 200, size=n),
            "output_tokens": output_tokens,
            "cached_tokens": np.full(n, cached),
            "priority": np.zeros(n, dtype=np.int64),
            "status": np.zeros(n, dtype=np.int8),
            "warmup": np.zeros(n, dtype=bool),
        }
    )


def write_run(path, requests, *, complete=True, slo=Slo("chat", ttft_s=1.0)):  # noqa: B008 -- immutable
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("policy: radix\n")
    requests = hold_to(requests, slo)
    write_requests(path, requests)
    gaps = Gaps(np.array([0.02, 0.03]), np.array([500, 50]))
    write_summary(path, summarize(requests, gaps=gaps, slo=slo, environment={}, complete=complete))
    return path


@pytest.fixture
def runs(tmp_path):
    return [
        write_run(tmp_path / "fast", table(1)),
        write_run(tmp_path / "slow", table(2, slower=1.3, cached=10)),
    ]


def rows_of(paths):
    comparison = compare([load_run(path) for path in paths])
    return comparison, {row.name: row for row in comparison.rows}


def test_requests_of_the_same_trace_are_paired_whatever_their_order():
    first = table(n=5)
    shuffled = {name: values[[3, 0, 4, 1, 2]] for name, values in first.items()}
    in_first, in_other = pair_rows(first, shuffled)
    assert first["request_id"][in_first].tolist() == shuffled["request_id"][in_other].tolist()


@pytest.mark.parametrize("name", ["prompt_tokens", "output_tokens"])
def test_the_same_ids_with_other_lengths_are_another_trace(name):
    other = {**table(), name: table()[name] + 1}
    assert pair_rows(table(), other) is None


def test_other_ids_or_repeated_ids_are_not_paired():
    assert pair_rows(table(), table(first_id=1)) is None
    twice = {**table(), "request_id": np.zeros(400, dtype=np.int64)}
    assert pair_rows(twice, twice) is None


def test_a_failed_request_may_be_shorter_than_its_pair():
    failed = {name: values.copy() for name, values in table().items()}
    failed["status"][0], failed["output_tokens"][0] = 1, 0
    assert pair_rows(table(), failed) is not None


def test_values_are_the_summaries_and_differences_are_to_the_first(runs):
    comparison, rows = rows_of(runs)
    summaries = [load_run(path).summary for path in runs]
    assert comparison.names == ("fast", "slow")
    assert comparison.paired == (True, True)
    for statistic in ("mean", "p50", "p99"):
        for metric, key in (("TTFT", "ttft_s"), ("TPOT", "tpot_s"), ("ITL", "itl_s"), ("E2E", "e2e_s")):
            cells = rows[f"{metric} {statistic}"].cells
            expected = [summary["metrics"][key][statistic] * 1e3 for summary in summaries]
            assert [cell.value for cell in cells] == pytest.approx(expected)
            assert cells[1].difference == pytest.approx(expected[1] - expected[0])
    assert rows["TTFT p50"].cells[1].significant
    assert rows["TTFT p50"].cells[1].interval[0] > 0
    assert not rows["TPOT mean"].cells[1].significant
    hit = rows["cache hit ratio"].cells
    assert [cell.value / 100 for cell in hit] == pytest.approx([summary["cache"]["hit_ratio"] for summary in summaries])
    assert hit[1].significant
    attainment = rows["SLO attainment"].cells
    assert attainment[1].value / 100 == pytest.approx(summaries[1]["goodput"]["attainment"])
    assert rows["goodput"].cells[1].interval is None


def test_a_copy_of_a_run_differs_in_nothing(tmp_path, runs):
    copy = write_run(tmp_path / "copy", table(1))
    _, rows = rows_of([runs[0], copy])
    for row in rows.values():
        assert row.cells[1].difference == pytest.approx(0, abs=1e-9), row.name
        assert not row.cells[1].significant or max(map(abs, row.cells[1].interval)) < 1e-6, row.name


def test_other_traces_are_compared_unpaired_and_it_is_said(tmp_path, runs):
    other = write_run(tmp_path / "other", table(3, first_id=1000), complete=False, slo=Slo("fast", ttft_s=0.1))
    comparison, rows = rows_of([runs[0], other])
    assert comparison.paired == (True, False)
    paired_rows = rows_of(runs)[1]
    width = np.diff(rows["TTFT p50"].cells[1].interval)
    assert width > 3 * np.diff(paired_rows["TTFT p50"].cells[1].interval)
    for words in ("not the trace of the first run", "another SLO", "incomplete"):
        assert any(words in note for note in comparison.notes), words


def test_names_are_as_long_as_they_must_be(tmp_path):
    paths = [write_run(tmp_path / policy / "0", table()) for policy in ("radix", "naive")]
    assert compare([load_run(path) for path in paths]).names == ("radix/0", "naive/0")
    assert len(set(compare([load_run(paths[0])] * 2).names)) == 2


def test_a_run_without_a_completion_is_refused(tmp_path, runs):
    failed = {**table(), "status": np.full(400, 1, dtype=np.int8)}
    path = write_run(tmp_path / "failed", failed)
    with pytest.raises(CompareError, match="failed: no request of this run ended ok"):
        compare([load_run(runs[0]), load_run(path)])


def test_the_command_prints_a_table_and_leaves_a_plot(capsys, runs):
    assert main([str(path) for path in runs]) == 0
    out = capsys.readouterr().out
    assert "paired by request_id" in out
    for words in ("TTFT p99", "ITL mean", "E2E p50", "output throughput", "cache hit ratio", "goodput"):
        assert words in out
    assert (runs[0] / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_pattern_names_besides_runs_is_skipped_with_a_line(capsys, runs, tmp_path):
    for name in ("failed", "unended", "sweep"):
        (tmp_path / name).mkdir()
    for name in ("failed", "unended"):
        (tmp_path / name / "config.yaml").write_text("tp: 1\n")
    (tmp_path / "failed" / "error.txt").write_text("tp=3 does not divide\nTraceback ...\n")
    others = [str(tmp_path / name) for name in ("failed", "unended", "sweep")]
    assert cli.main(["compare", others[0], *map(str, runs), *others[1:], "--plot", str(tmp_path / "all.png")]) == 0
    said = capsys.readouterr().out
    for line in ("failed: it failed: tp=3 does not divide", "unended: the run did not end", "sweep: no run directory"):
        assert f"Skipped {tmp_path}/{line}\n" in said
    assert cli.main(["compare", others[0], str(runs[0])]) == 2
    assert "it failed: tp=3 does not divide" in capsys.readouterr().err


def test_curves_that_lie_on_one_another_are_told_apart_by_dashes_and_marks(monkeypatch):
    drawn = []
    monkeypatch.setattr(latency_plot, "save", lambda figure, _: drawn.append(figure))
    same = {column: np.linspace(1, 2, 50) for column in latency_plot.TITLES}
    latency_plot.plot_cdfs({f"run {number}": same for number in range(6)}, Path("x.png"))
    axes = drawn[0].axes[0]
    curves = axes.get_lines()[:6]
    assert len({(line.get_linestyle(), line.get_marker()) for line in curves}) == 6
    assert len({line.get_linestyle() for line in curves[:4]}) == 4
    assert len({line.get_markevery() for line in curves}) == 6
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "p25", "p50", "p75", "p90", "p99"]


def test_the_plot_goes_where_it_is_asked_to(capsys, runs, tmp_path):
    assert main([*map(str, runs), "--plot", str(tmp_path / "cdf.svg")]) == 0
    assert "<svg" in (tmp_path / "cdf.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{fast}"], "compare needs two runs or more"),
        (["{fast}", "nowhere"], "nowhere: no such file or directory"),
        (["{fast}", "{slow}", "--plot", "cdf.xyz"], "cannot save a plot as '.xyz'"),
        (["{fast}", "{slow}", "--plot", "no/such/place.png"], "place.png: cannot be written"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, runs, arguments, message):
    paths = {path.name: path for path in runs}
    assert cli.main(["compare", *(argument.format(**paths) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "python -m harness compare runs/radix runs/naive" in capsys.readouterr().out
