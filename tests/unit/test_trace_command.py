"""``harness trace``: what it prints and writes, and what a mistake gets."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from harness import cli
from harness.commands import trace as command
from harness.commands.trace import MOST_WINDOWS, _window_s, main
from traces import catalog
from traces.errors import TraceError
from traces.generate import Distribution, SyntheticWorkload, generate
from traces.load import bundled, load, locate
from traces.readers import read
from traces.schema import Trace
from traces.stats import describe
from traces.writers import write

BUNDLED = Path(__file__).parents[2] / "traces" / "bundled"


@pytest.fixture
def made(tmp_path: Path) -> tuple[Trace, str]:
    """A trace with prefixes and sessions, and the file it is in."""
    trace = generate(
        SyntheticWorkload(requests=300, rate=3, turns=Distribution("geometric", 3), prefixes=4), name="made"
    )
    path = tmp_path / "made.jsonl"
    write(trace, path)
    return trace, str(path)


def test_stats_prints_the_table_and_the_windows(made: tuple[Trace, str], capsys: pytest.CaptureFixture[str]) -> None:
    trace, path = made
    assert main(["stats", path, "--window-s", "50"]) == 0
    out = capsys.readouterr().out
    assert "Trace made" in out
    assert re.search(r"requests +│ 300 ", out)
    assert re.search(rf"max.*\n.*\n.*prompt .* {trace.prompt_tokens.max():,} .* {trace.prompt_tokens.sum():,} ", out)
    assert re.search(r"ideal prefix hit ratio +│ \d\d\.\d %", out)
    assert re.search(r"│ +50 │ +\d+ │ +\d\d\.\d % │", out)
    assert "Note: generated: requests=300" in out


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_stats_draws_a_plot(made: tuple[Trace, str], tmp_path: Path, suffix: str) -> None:
    plot = tmp_path / f"plot.{suffix}"
    assert main(["stats", made[1], "--plot", str(plot)]) == 0
    assert plot.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


@pytest.mark.parametrize("arrivals", ["all_at_once", "poisson"])
def test_stats_of_a_trace_without_prefixes_or_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arrivals: str
) -> None:
    trace = generate(SyntheticWorkload(requests=3, arrivals=arrivals))  # type: ignore[arg-type]
    plain = Trace.build(
        "plain",
        arrival_s=trace.arrival_s,
        prompt_tokens=trace.prompt_tokens,
        output_tokens=trace.output_tokens,
    )
    write(plain, tmp_path / "plain.csv")
    assert main(["stats", str(tmp_path / "plain.csv"), "--plot", str(tmp_path / "plain.png")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"prefixes +│ none named", out)
    assert ("rate (requests per second)       │ - " in out) == (arrivals == "all_at_once")


def test_convert_applies_the_changes_and_writes(made: tuple[Trace, str], tmp_path: Path) -> None:
    trace, path = made
    out = tmp_path / "out.parquet"
    changes = ["--window", "10:60", "--head", "40", "--rate-scale", "2", "--cap-prompt", "900"]
    assert main(["convert", path, str(out), *changes]) == 0
    changed = read(out)
    kept = (trace.arrival_s >= 10) & (trace.arrival_s < 60)
    assert changed.request_id.tolist() == trace.request_id[kept][:40].tolist()
    assert changed.arrival_s == pytest.approx((trace.arrival_s[kept][:40] - 10) / 2)
    assert changed.prompt_tokens.tolist() == trace.prompt_tokens[kept][:40].clip(max=900).tolist()


def test_convert_samples_whole_sessions(made: tuple[Trace, str], tmp_path: Path) -> None:
    trace, path = made
    assert main(["convert", path, str(tmp_path / "out.csv"), "--sample", "1/2"]) == 0
    sampled = read(tmp_path / "out.csv")
    assert 0 < len(sampled) < len(trace)
    for session in set(sampled.session_id.tolist()):
        assert (sampled.session_id == session).sum() == (trace.session_id == session).sum()


@pytest.mark.parametrize("change", [c.flag for c in command.CHANGES])
def test_every_change_can_be_asked_for(made: tuple[Trace, str], tmp_path: Path, change: str) -> None:
    value = {"window": "5:", "sample": "1/2", "thin": "0.5"}.get(change, "17")
    flag = "--" + change.replace("_", "-")
    assert main(["convert", made[1], str(tmp_path / "out.jsonl"), flag, value]) == 0
    assert not read(tmp_path / "out.jsonl").equals(made[0])


def test_generate_takes_every_knob_from_a_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    want = SyntheticWorkload(
        requests=50,
        arrivals="gamma",
        rate=3.5,
        rate_end=7.0,
        burstiness=0.5,
        concurrency=2,
        input=Distribution("uniform", low=10, high=90),
        output=Distribution("lognormal", mean=20, cv=0.5),
        turns=Distribution("geometric", mean=2),
        think_s=Distribution("fixed", mean=3),
        prefixes=3,
        prefix_tokens=Distribution("exponential", mean=40),
        prefix_skew=0.7,
        seed=11,
    )
    assert all(getattr(want, knob.name) != knob.default for knob in fields(SyntheticWorkload))
    flags = [
        part
        for knob in fields(SyntheticWorkload)
        for part in ("--" + knob.name.replace("_", "-"), str(getattr(want, knob.name)))
    ]
    assert main(["generate", str(tmp_path / "x.jsonl"), "--name", "mine", *flags]) == 0
    assert read(tmp_path / "x.jsonl").equals(generate(want, name="mine"))
    assert "50 requests" in capsys.readouterr().out


def test_generate_with_the_lengths_of_another_trace(made: tuple[Trace, str], tmp_path: Path) -> None:
    assert main(["generate", str(tmp_path / "x.jsonl"), "--lengths-from", made[1], "--requests", "99"]) == 0
    assert set(read(tmp_path / "x.jsonl").prompt_tokens.tolist()) <= set(made[0].prompt_tokens.tolist())


def test_the_command_beside_the_bundled_trace_makes_it_byte_for_byte(tmp_path: Path) -> None:
    text = (BUNDLED / "README.md").read_text()
    shown = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert shown is not None
    words = shlex.split(shown[1].replace("\\\n", " "))
    assert words[:5] == ["python", "-m", "harness", "trace", "generate"]
    assert words[5] == "traces/bundled/chat.jsonl"
    assert main(["generate", str(tmp_path / "chat.jsonl"), *words[6:]]) == 0
    assert (tmp_path / "chat.jsonl").read_bytes() == (BUNDLED / "chat.jsonl").read_bytes()


def test_a_name_is_a_file_a_bundled_trace_or_of_the_catalogue(
    made: tuple[Trace, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVETWIN_TRACES", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert locate(made[1]) == Path(made[1])
    assert locate("chat") == bundled()["chat"] == BUNDLED / "chat.jsonl"
    assert len(load("chat")) == 800
    with pytest.raises(TraceError, match="trace fetch mooncake_conversation"):
        locate("mooncake_conversation")
    there = tmp_path / catalog.lookup("mooncake_conversation").path
    there.parent.mkdir()
    there.write_text("{}")
    assert locate("mooncake_conversation") == there


def test_list_says_what_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVETWIN_TRACES", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    there = tmp_path / catalog.lookup("azure_conv_2023").path
    there.parent.mkdir()
    there.touch()
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"│ chat .* yes +│", out)
    assert re.search(r"│ azure_conv_2023 .* yes +│", out)
    assert re.search(r"│ azure_code_2023 .* no +│", out)
    assert str(tmp_path) in out


def test_fetch_shows_progress_and_says_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch(name: str, destination: Path | None = None, progress: catalog.Progress | None = None) -> Path:
        assert progress is not None
        progress("a/file", 0, None)
        progress("a/file", 7, 7)
        assert destination == tmp_path
        return tmp_path / name

    monkeypatch.setattr(catalog, "fetch", fetch)
    assert main(["fetch", "azure_conv_2023", "azure_code_2023", "--to", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"azure_conv_2023: {tmp_path}/azure_conv_2023\n" in out
    assert f"azure_code_2023: {tmp_path}/azure_code_2023\n" in out


@pytest.mark.parametrize(("lasts_s", "window_s"), [(0, 1), (23, 1), (180, 10), (3600, 300), (7 * 86400, 43200)])
def test_windows_are_round_and_as_many_as_a_person_reads(lasts_s: float, window_s: float) -> None:
    trace = Trace.build("t", arrival_s=[0, lasts_s], prompt_tokens=[1, 1], output_tokens=[1, 1])
    assert _window_s(trace) == window_s
    assert len(describe(trace, _window_s(trace)).window_start_s) <= MOST_WINDOWS


def test_the_longest_trace_too_has_few_windows() -> None:
    trace = Trace.build("t", arrival_s=[0, 1e9], prompt_tokens=[1, 1], output_tokens=[1, 1])
    assert len(describe(trace, _window_s(trace)).window_start_s) <= MOST_WINDOWS


def test_fetch_checks_all_names_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(catalog, "fetch", lambda *_: pytest.fail("downloaded before the names were checked"))
    assert cli.main(["trace", "fetch", "azure_conv_2023", "azure_conv_1999"]) == 2
    assert "azure_conv_1999" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stats", "nowhere"], "trace stats: trace 'nowhere' is no file"),
        (["stats", "chat", "--window-s", "0"], "window_s is 0.0"),
        (["stats", "chat", "--window-s", "1e-6"], "more than 1,000,000 windows"),
        (["stats", "chat", "--plot", "x.docx"], "'.docx'; end it in .png"),
        (["convert", "chat", "x.docx"], "'docx' cannot be written"),
        (["convert", "chat", "x.jsonl", "--sample", "3"], "fraction is '3'"),
        (["convert", "chat", "x.jsonl", "--window", "900:901"], "is empty after window"),
        (["generate", "x.jsonl", "--rate", "0"], "rate is 0.0"),
        (["generate", "x.jsonl", "--turns", "fixed:mean=x"], "--turns: distribution"),
        (["generate", "x.jsonl", "--arrivals", "weekly"], "weekly is unknown, choose from poisson"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["trace", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith(f"harness trace {words[0]}: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing half-made is left"


def test_a_wrong_line_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"arrival_s": 0, "prompt_tokens": 3, "output_tokens": 2}\n{"arrival_s": 1, "prompt_tokens": 0}\n')
    assert cli.main(["trace", "stats", str(bad)]) == 2
    assert re.search(r"bad\.jsonl.*2", capsys.readouterr().err)


@pytest.mark.parametrize("words", [["convert", "a", "b", "--head", "x"], ["convert", "a", "b", "--window", "3"], []])
def test_a_flag_that_cannot_be_read_is_exit_code_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2


@pytest.mark.parametrize("name", ["stats", "convert", "generate", "fetch", "list"])
def test_help_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    assert re.search(rf"example.*python -m harness trace {name}", capsys.readouterr().out, re.DOTALL)
