"""Other tools' result files: read into our columns, compared with our runs, and written in their key names."""

import json

import numpy as np
import pytest

from harness import cli
from harness.commands.compare import main as compare_main
from harness.commands.report import FORMATS
from harness.commands.report import main as report_main
from harness.metrics.compare import compare
from harness.metrics.files import load_run, write_requests, write_summary
from harness.metrics.importers.imported import ImportedRun, ResultError, identities
from harness.metrics.importers.load import TOOLS, load_runs
from harness.metrics.schema import STATUSES, Gaps, complete_requests, select
from harness.metrics.slo import Slo
from harness.metrics.summary import summarize

N = 120
FAILED = 7  # row of the one request that failed


@pytest.fixture
def run(tmp_path):
    """A run of ours whose client sent 20 ms late."""
    rng = np.random.default_rng(0)
    arrival_s = rng.exponential(size=N).cumsum()
    sent_s = arrival_s + 0.02
    ttft_s, output_tokens = rng.lognormal(-2, 0.5, N), rng.integers(2, 50, N)
    status = np.zeros(N, np.int8)
    status[FAILED] = STATUSES.index("error")
    ok = status == 0
    requests = complete_requests(
        {
            "request_id": np.arange(N),
            "arrival_s": arrival_s,
            "sent_s": sent_s,
            "client_first_token_s": np.where(ok, sent_s + ttft_s, np.nan),
            "client_last_token_s": np.where(ok, sent_s + ttft_s + 0.02 * (output_tokens - 1), np.nan),
            "prompt_tokens": rng.integers(10, 90, N),
            "output_tokens": np.where(ok, output_tokens, 0),
            "priority": np.zeros(N, np.int64),
            "status": status,
            "error": np.where(ok, None, "broken"),
            "warmup": np.zeros(N, bool),
        }
    )
    path = tmp_path / "ours"
    path.mkdir()
    (path / "config.yaml").write_text("model:\n  name: qwen3_8b\n")
    gaps = Gaps(np.array([0.02]), np.array([int((output_tokens - 1)[ok].sum())]))
    write_requests(path, requests)
    write_summary(path, summarize(requests, gaps=gaps, slo=Slo("none"), environment={}, complete=True))
    return load_run(path)


def vllm_document(run, *, detailed=True):
    """What ``vllm bench serve`` would have written of the same requests."""
    columns = run.columns
    ok = columns["status"] == 0
    document = json.loads(TOOLS["vllm"].write(run)["vllm.json"])
    if detailed:
        document |= {
            "input_lens": columns["prompt_tokens"].tolist(),
            "output_lens": columns["output_tokens"].tolist(),
            "ttfts": np.where(ok, columns["ttft_from_send_s"], 0.0).tolist(),
            "itls": [[0.02] * max(0, tokens - 1) for tokens in columns["output_tokens"].tolist()],
            "start_times": (columns["sent_s"] + 12345.0).tolist(),
            "errors": np.where(ok, "", "broken").tolist(),
        }
    return document


def save(path, document):
    path.write_text(json.dumps(document))
    return path


def values_of(comparison):
    return {row.name: [cell.value for cell in row.cells] for row in comparison.rows}


@pytest.mark.parametrize("tool", FORMATS)
def test_what_is_written_in_a_tools_keys_reads_back_as_the_same_figures(run, tool, capsys):
    assert report_main([str(run.path), "--format", tool, "--out", str(run.path.parent / tool)]) == 0
    written = [run.path.parent / tool / name for name in TOOLS[tool].write(run)]
    assert capsys.readouterr().out.split() == [str(path) for path in written]
    for path in written:
        (imported,) = load_runs(path)
        assert isinstance(imported, ImportedRun)
        assert imported.tool == TOOLS[tool].NAME
        comparison = compare([run, imported])
        values = values_of(comparison)
        origin = " from send" if imported.from_send else ""
        for metric in (f"TTFT{origin}", "TPOT", f"E2E{origin}"):
            for statistic in ("mean", "p50", "p99"):
                ours, theirs = values[f"{metric} {statistic}"]
                assert theirs == pytest.approx(ours, rel=1e-6), f"{path.name}: {metric} {statistic}"
        assert imported.summary["counts"]["ok"] == N - 1
        assert imported.summary["counts"]["error"] == (None if tool == "sglang" else 1)  # which SGLang does not write
        ours, theirs = values["output throughput"]
        assert theirs == pytest.approx(ours, rel=0.01)  # from the first send, not from the first arrival


def test_keys_are_the_tools_own(run):
    assert {"mean_ttft_ms", "median_tpot_ms", "p99_itl_ms", "total_token_throughput"} <= set(vllm_document(run))
    sglang = json.loads(TOOLS["sglang"].write(run)["sglang.jsonl"])
    assert {"mean_e2e_latency_ms", "median_ttft_ms", "concurrency", "total_throughput"} <= set(sglang)
    aiperf = json.loads(TOOLS["aiperf"].write(run)["profile_export_aiperf.json"])
    assert aiperf["time_to_first_token"]["unit"] == "ms"
    assert aiperf["request_count"]["avg"] == N - 1
    (benchmark,) = json.loads(TOOLS["guidellm"].write(run)["benchmarks.json"])["benchmarks"]
    assert benchmark["metrics"]["request_totals"] == {"successful": N - 1, "incomplete": 0, "errored": 1, "total": N}
    weighted = benchmark["metrics"]["inter_token_latency_ms"]["successful"]
    assert weighted["count"] == int((run.columns["output_tokens"][run.columns["status"] == 0] - 1).sum())


def test_figures_count_from_sending_as_the_tools_do(run):
    document = vllm_document(run, detailed=False)
    ours = run.summary["metrics"]["ttft_s"]["mean"] * 1e3
    assert document["mean_ttft_ms"] == pytest.approx(ours - 20)
    assert document["failed"] == 1


def test_a_detailed_file_is_paired_with_our_run_and_differs_in_nothing(run, tmp_path):
    (imported,) = load_runs(save(tmp_path / "vllm.json", vllm_document(run)))
    comparison = compare([run, imported])
    assert comparison.from_send
    assert comparison.paired == (True, True)
    rows = {row.name: row for row in comparison.rows}
    for name in ("TTFT from send p50", "TPOT mean", "E2E from send p99", "ITL mean"):
        assert rows[name].cells[1].difference == pytest.approx(0, abs=1e-6), name
    assert rows["TTFT from send mean"].cells[1].interval is not None
    assert rows["ITL mean"].cells[1].interval is None
    assert any("vLLM, which knows no intended arrivals" in note for note in comparison.notes)
    failed = select(imported.columns, np.array([FAILED]))
    assert STATUSES[failed["status"][0]] == "error"
    assert failed["error"][0] == "broken"
    assert imported.summary["throughput"]["duration_s"] == pytest.approx(
        np.nanmax(run.columns["client_last_token_s"]) - run.columns["sent_s"][0]
    )


def test_without_details_there_are_values_and_no_intervals(run, tmp_path):
    (imported,) = load_runs(save(tmp_path / "vllm.json", vllm_document(run, detailed=False)))
    assert imported.columns is None
    rows = {row.name: row for row in compare([imported, run]).rows}
    cell = rows["TTFT from send p99"].cells[1]
    assert cell.difference == pytest.approx(0, abs=1e-6)
    assert cell.interval is None
    assert all(cell.interval is None for row in rows.values() for cell in row.cells)


def test_times_of_day_that_a_tool_does_not_keep_stay_unknown(run, tmp_path):
    document = vllm_document(run)
    del document["start_times"]
    (imported,) = load_runs(save(tmp_path / "old.json", document))
    assert imported.summary["throughput"]["duration_s"] == document["duration"]
    assert imported.summary["throughput"]["output_tokens_per_s"] == document["output_throughput"]
    assert imported.summary["load"]["offered_requests_per_s"] is None
    assert imported.summary["metrics"]["ttft_s"]["mean"] * 1e3 == pytest.approx(document["mean_ttft_ms"])


def test_intended_arrivals_are_kept_where_a_tool_knows_them(run, tmp_path):
    for tool, name in (("guidellm", "benchmarks.json"), ("aiperf", "profile_export.jsonl")):
        (tmp_path / name).write_text(TOOLS[tool].write(run)[name])
        (imported,) = load_runs(tmp_path / name)
        assert not imported.from_send
        assert np.nanmedian(imported.columns["send_lag_s"]) == pytest.approx(0.02)
        comparison = compare([run, imported])
        assert comparison.paired == (True, True)
        ours, theirs = values_of(comparison)["TTFT mean"]
        assert theirs == pytest.approx(ours, rel=1e-6)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((["7", "3"],), [7, 3]),
        ((["a", "b"], [5, 4]), [5, 4]),
        ((["1", "1"],), [0, 1]),
        (([None, 2], ["x", "2"]), [0, 1]),
        (([],), []),
    ],
)
def test_requests_are_numbered_by_their_names_or_else_by_their_order(names, expected):
    assert identities(*names).tolist() == expected


def test_requests_that_were_sent_in_another_order_are_still_paired(run, tmp_path):
    for tool, name in (("guidellm", "benchmarks.json"), ("aiperf", "profile_export.jsonl")):
        shuffled = select(run.columns, np.random.default_rng(1).permutation(N))
        path = tmp_path / tool
        path.mkdir()
        (path / "config.yaml").write_text("tp: 1\n")
        write_requests(path, shuffled)
        write_summary(path, run.summary)
        (path / name).write_text(TOOLS[tool].write(load_run(path))[name])
        (imported,) = load_runs(path / name)
        assert compare([run, imported]).paired == (True, True)


def test_a_file_may_hold_several_results(run, tmp_path):
    line = TOOLS["sglang"].write(run)["sglang.jsonl"]
    (tmp_path / "sglang.jsonl").write_text(line + line)
    assert [each.path.name for each in load_runs(tmp_path / "sglang.jsonl")] == ["sglang.jsonl#1", "sglang.jsonl#2"]
    report = json.loads(TOOLS["guidellm"].write(run)["benchmarks.json"])
    report["benchmarks"] *= 3
    assert len(load_runs(save(tmp_path / "benchmarks.json", report))) == 3


def test_aiperfs_directory_stands_for_its_records(run, tmp_path):
    for name, text in TOOLS["aiperf"].write(run).items():
        (tmp_path / name).write_text(text)
    (imported,) = load_runs(tmp_path)
    assert imported.columns is not None
    (tmp_path / "profile_export.jsonl").unlink()
    (imported,) = load_runs(tmp_path)
    assert imported.columns is None


def test_aiperfs_own_form_of_a_record(tmp_path):
    start = 1759813207532900363
    records = [
        {
            "metadata": {"session_num": i, "request_start_ns": start + i * 10**9, "benchmark_phase": phase},
            "metrics": {
                "input_sequence_length": {"value": 550, "unit": "tokens"},
                "time_to_first_token": {"value": 255.8, "unit": "ms"},
                "request_latency": {"value": 297.5, "unit": "ms"},
                "inter_chunk_latency": {"value": [4.9, 5.3], "unit": "ms"},
                "output_sequence_length": {"value": 9, "unit": "tokens"},
            },
            "error": None,
        }
        for i, phase in enumerate(["warmup", "profiling", "profiling"])
    ]
    cancelled = {
        "metadata": {"session_num": 3, "request_start_ns": start + 5 * 10**9, "was_cancelled": True},
        "metrics": {"error_isl": {"value": 550, "unit": "tokens"}},
        "error": {"code": 499, "type": "RequestCancellationError", "message": "cancelled"},
    }
    path = tmp_path / "profile_export.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in [*records, cancelled]))
    (imported,) = load_runs(path)
    assert imported.from_send
    assert imported.columns["sent_s"].tolist() == pytest.approx([0, 1, 4], abs=1e-9)
    assert [STATUSES[code] for code in imported.columns["status"]] == ["ok", "ok", "aborted"]
    assert imported.columns["prompt_tokens"].tolist() == [550] * 3
    assert imported.summary["metrics"]["itl_s"]["count"] == 4
    assert imported.summary["metrics"]["tpot_s"]["mean"] == pytest.approx((0.2975 - 0.2558) / 8)


def broken(document, **changes):
    return json.dumps({**document, **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lambda d: "{", "line 1 is not JSON"),
        (lambda d: "[1]", "not a JSON object"),
        (lambda d: "", "not a JSON object"),
        (lambda d: '{"a": 1}', "not a result of vLLM, SGLang, AIPerf or GuideLLM (its keys: 'a'"),
        (lambda d: broken(d, ttfts=[1.0]), "'ttfts' has 1 entries for 120 requests"),
        (lambda d: broken(d, ttfts=["x"] * N), "ttfts[0] is 'x', not a number"),
        (lambda d: broken(d, itls=[["x"]] * N), "'itls' holds something"),
        (lambda d: broken(d, itls=3), "'itls' is not a list of 120 lists"),
        (lambda d: broken(d, errors=3), "'errors' is 3, not a list"),
        (lambda d: broken(d, duration="long"), "'duration' is 'long', not a number"),
        (lambda d: '{"benchmarks": []}', "'benchmarks' is empty"),
        (lambda d: '{"benchmarks": [{"requests": {"successful": [{"request_id": "r"}]}}]}', "has no info.timings"),
        (lambda d: '{"metadata": {"request_start_ns": "x"}}', "'request_start_ns' is 'x', not nanoseconds"),
        (
            lambda d: '{"metadata": {"request_start_ns": 1, "credit_issued_ns": [2]}}',
            "'credit_issued_ns' is [2], not nanoseconds",
        ),
        (lambda d: '{"request_latency": {"avg": 1, "unit": "ms"}}', "no request ended ok"),
        (lambda d: '{"request_latency": {"avg": 1, "unit": "ms"}, "benchmark_duration": 3}', "not an object with its"),
        (lambda d: '{"mean_ttft_ms": 1, "total_token_throughput": 1}', "no request ended ok"),
    ],
)
def test_a_broken_file_is_one_line_that_names_it(run, tmp_path, capsys, text, message):
    path = tmp_path / "result.json"
    path.write_text(text(vllm_document(run)))
    with pytest.raises(ResultError) as caught:
        load_runs(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert cli.main(["compare", str(run.path), str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_successful_request_without_a_first_token_asks_for_streaming(run, tmp_path):
    report = json.loads(TOOLS["guidellm"].write(run)["benchmarks.json"])
    report["benchmarks"][0]["requests"]["successful"][3]["info"]["timings"]["first_token_iteration"] = None
    with pytest.raises(ResultError, match="record it with streaming"):
        load_runs(save(tmp_path / "benchmarks.json", report))


def test_the_command_compares_across_tools_and_plots_what_it_can(run, tmp_path, capsys):
    detailed = save(tmp_path / "detailed.json", vllm_document(run))
    figures = save(tmp_path / "figures.json", vllm_document(run, detailed=False))
    assert compare_main([str(detailed), str(run.path), str(figures)]) == 0
    out = capsys.readouterr().out
    assert "TTFT from send p99" in out
    assert "its file holds figures only" in out
    assert (tmp_path / "compare.png").is_file()


def test_a_format_takes_one_run(run, capsys):
    assert cli.main(["report", str(run.path), str(run.path), "--format", "vllm"]) == 2
    assert "takes one run, not 2" in capsys.readouterr().err
