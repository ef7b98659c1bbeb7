"""What is written is read back the same: any trace in our own schema, and the real files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from traces import transforms
from traces.errors import TraceError
from traces.readers import read
from traces.schema import Blocks, Trace, fresh_ids, offsets
from traces.writers import write

REAL = Path(os.environ.get("SERVETWIN_TRACES") or Path(__file__).parents[3] / "shared" / "traces")
ENDINGS = ("jsonl", "csv", "parquet", "jsonl.gz", "csv.gz")
IDS = st.integers(-(2**63), 2**63 - 1).filter(lambda value: value != -1)
TIMES = st.floats(0, 1e9)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Any valid trace: regular blocks, blocks of any length, or none; links; hostile names."""
    n = draw(st.integers(1, 12))

    def column(values: st.SearchStrategy[Any], kind: str = "i8") -> Any:
        return draw(hnp.arrays(kind, n, elements=values))

    outputs = column(st.integers(1, 2**40))
    columns: dict[str, Any] = {
        "request_id": np.array(draw(st.lists(st.integers(0, 2**62), min_size=n, max_size=n, unique=True))),
        "max_tokens": outputs + column(st.integers(0, 9)),
        "session_id": column(st.integers(-1, 3)),
        "turn": column(st.integers(0, 9)),
        "think_s": column(TIMES, "f8"),
        "client_id": column(st.integers(-1, 3)),
        "priority": column(st.integers(-5, 5)),
        "deadline_s": column(st.one_of(st.just(float("nan")), st.floats(1e-9, 1e9)), "f8"),
        "output_id": column(IDS),
    }
    parent = np.arange(n) - 1 - column(st.integers(0, 11))
    columns["parent_id"] = np.where(parent < 0, -1, columns["request_id"][parent.clip(min=0)])
    kept = draw(st.sets(st.sampled_from(sorted(columns))))
    if "parent_id" in kept:
        kept.add("request_id")
    columns = {name: values for name, values in columns.items() if name in kept}

    layout = draw(st.sampled_from(["none", "regular", "free"]))
    block_size = draw(st.integers(1, 40)) if layout == "regular" else 0
    if layout == "free":
        counts = column(st.integers(1, 4))
        total = int(counts.sum())
        tokens = draw(hnp.arrays("i8", total, elements=st.integers(1, 99)))
        start = offsets(counts)
        prompts = np.add.reduceat(tokens, start[:-1])
        blocks = Blocks(start, draw(hnp.arrays("i8", total, elements=IDS)), tokens)
    else:
        prompts = column(st.integers(1, 200))
        blocks = None
        if layout == "regular":
            counts = -(-prompts // block_size)
            ids = draw(hnp.arrays("i8", int(counts.sum()), elements=IDS))
            blocks = Blocks.of_size(prompts, counts, ids, block_size)
    return Trace.build(
        draw(st.text(max_size=5)) or "t",
        arrival_s=np.sort(column(TIMES, "f8")),
        prompt_tokens=prompts,
        output_tokens=outputs,
        blocks=blocks,
        block_size=block_size,
        notes=tuple(draw(st.lists(st.text(max_size=5), max_size=2))),
        **columns,
    )


@given(trace=traces(), ending=st.sampled_from(ENDINGS))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_our_own_schema_loses_nothing(tmp_path, trace, ending):
    path = tmp_path / f"trace.{ending}"
    write(trace, path)
    assert read(path).equals(trace)


def test_a_name_may_hold_what_python_takes_for_a_line_end(tmp_path):
    hostile = "a\u2028b\x85c\nd\re"
    trace = Trace.build(hostile, arrival_s=[0.0], prompt_tokens=[5], output_tokens=[1], notes=(hostile,))
    for ending in ENDINGS:
        write(trace, tmp_path / f"t.{ending}")
        assert read(tmp_path / f"t.{ending}").equals(trace), ending


@given(trace=traces(), seed=st.integers(0, 3), data=st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_is_dropped_the_rest_stays_valid(trace, seed, data):
    keep = data.draw(st.sampled_from(["1/2", "1/3", "2/3"]))
    cap = data.draw(st.integers(1, 60))
    for make in (
        lambda: transforms.thin(trace, keep, seed),
        lambda: transforms.sample(trace, keep, seed),
        lambda: transforms.head(trace, 1 + len(trace) // 2),
        lambda: transforms.cap_lengths(trace, prompt=cap, output=cap, total=cap + 1),
        lambda: transforms.merge([trace, transforms.head(trace, 2)]),
    ):
        try:
            make().validate()
        except TraceError as error:
            if "is empty after" not in str(error):
                raise


@given(
    used=st.lists(st.one_of(IDS, st.integers(2**63 - 9, 2**63 - 1)), max_size=20),
    count=st.integers(1, 9),
)
def test_fresh_ids_are_fresh(used, count):
    fresh = fresh_ids(np.array(used, dtype=np.int64), count)
    assert len(set(fresh.tolist())) == count
    assert not set(fresh.tolist()) & {*used, -1}


@pytest.mark.parametrize(
    "source",
    [
        "mooncake/conversation_trace.jsonl",
        "azure_llm_2023/AzureLLMInferenceTrace_conv.csv",
        "vidur/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv",
        "agentic_claude_code",
        "llmservingsim/example_trace.jsonl",
    ],
)
def test_the_real_files_lose_nothing(tmp_path, source):
    if not (REAL / source).exists():
        pytest.skip(f"the real trace {source} is not under {REAL} (set SERVETWIN_TRACES)")
    trace = read(REAL / source)
    for ending in ("jsonl", "csv", "parquet"):
        write(trace, tmp_path / f"t.{ending}")
        assert read(tmp_path / f"t.{ending}").equals(trace), ending


def test_the_real_conversation_survives_as_mooncake(tmp_path):
    source = REAL / "mooncake" / "conversation_trace.jsonl"
    if not source.exists():
        pytest.skip(f"the real conversation trace is not under {REAL} (set SERVETWIN_TRACES)")
    trace = read(source, spread_ticks=False)
    write(trace, tmp_path / "conversation_trace.jsonl", "mooncake")
    again = read(tmp_path / "conversation_trace.jsonl", spread_ticks=False)
    assert again.equals(trace)
    assert (tmp_path / "conversation_trace.jsonl").read_text() == source.read_text().replace(" ", "")


def test_what_a_writer_refuses(tmp_path):
    trace = Trace.build("t", arrival_s=[0.0], prompt_tokens=[5], output_tokens=[1])
    with pytest.raises(TraceError, match="format 'xlsx' cannot be written, expected jsonl, csv"):
        write(trace, tmp_path / "t.xlsx")
    with pytest.raises(TraceError, match="cannot be written"):
        write(trace, tmp_path / "nowhere" / "t.csv")
    free = trace.with_columns(has_blocks=True, block_size=0)
    with pytest.raises(TraceError, match="vary in length"):
        write(free, tmp_path / "t.jsonl", "mooncake")
    assert not list(tmp_path.iterdir())
