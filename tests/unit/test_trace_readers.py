"""Every reader on a hand-written sample of its format, and on the real files where they are present."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from traces.errors import TraceError
from traces.load import load
from traces.readers import FORMATS, read

if TYPE_CHECKING:
    from traces.schema import Trace

REAL = Path(os.environ.get("SERVETWIN_TRACES") or Path(__file__).parents[3] / "shared" / "traces")


def real(path: str) -> Path:
    if not (REAL / path).exists():
        pytest.skip(f"the real trace {path} is not under {REAL} (set SERVETWIN_TRACES)")
    return REAL / path


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def prompt(trace: Trace, row: int) -> list[tuple[int, int]]:
    part = slice(trace.block_start[row], trace.block_start[row + 1])
    return list(zip(trace.block_id[part].tolist(), trace.block_tokens[part].tolist(), strict=True))


def cv_of_gaps(trace: Trace) -> float:
    gaps = np.diff(trace.arrival_s)
    return float(gaps.std() / gaps.mean())


def mooncake(timestamp: float = 0, input_length: int = 600, output_length: int = 5, **more: object) -> dict:
    ids = list(range(-(-input_length // 512))) if input_length > 0 else []
    row = {"timestamp": timestamp, "input_length": input_length, "output_length": output_length}
    return {**row, "hash_ids": ids, **more}


# mooncake and AIPerf


def test_mooncake_sample(tmp_path):
    path = lines(tmp_path / "a.jsonl", mooncake(27), mooncake(1500, 512, 7, hash_ids=[9]))
    trace = read(path)
    assert trace.arrival_s.tolist() == [0.027, 1.5]
    assert prompt(trace, 0) == [(0, 512), (1, 88)]
    assert prompt(trace, 1) == [(9, 512)]
    assert trace.block_size == 512
    assert trace.has_blocks
    assert trace.notes == ()


def test_mooncake_real_figures():
    trace = read(real("mooncake/conversation_trace.jsonl"))
    assert len(trace) == 12_031
    assert trace.prompt_tokens.mean() == pytest.approx(12_035, abs=1)
    assert trace.output_tokens.mean() == pytest.approx(343, abs=1)
    assert (trace.prompt_tokens.max(), trace.output_tokens.max()) == (126_195, 2_000)
    assert len(trace) / trace.arrival_s[-1] == pytest.approx(3.40, abs=0.005)
    assert cv_of_gaps(trace) == pytest.approx(1.01, abs=0.01)
    assert "3 s tick" in trace.notes[0]

    raw = read(real("mooncake/conversation_trace.jsonl"), spread_ticks=False)
    assert cv_of_gaps(raw) == pytest.approx(3.03, abs=0.01)
    assert raw.notes == ()
    assert np.array_equal(raw.block_id, trace.block_id), "spreading keeps the file's order"
    offset = trace.arrival_s - np.round(raw.arrival_s / 3.0) * 3.0
    assert (offset >= 0).all()
    assert (offset < 3.0).all()


def test_spreading_is_seeded(tmp_path):
    path = lines(tmp_path / "a.jsonl", *(mooncake(3000 * (i // 10)) for i in range(100)))
    assert read(path).equals(read(path))
    assert not np.array_equal(read(path).arrival_s, read(path, seed=1).arrival_s)


def test_fine_timestamps_are_left_alone(tmp_path):
    stamps = (0, 0, 1003, 2711, 2711, 5555)
    path = lines(tmp_path / "a.jsonl", *(mooncake(stamp) for stamp in stamps))
    assert read(path).arrival_s.tolist() == [stamp / 1000 for stamp in stamps]


def test_64_bit_ids(tmp_path):
    top = 2**64 - 2
    path = lines(tmp_path / "a.jsonl", mooncake(0, 1024, hash_ids=[2**63 - 1, top]), mooncake(9, 1, hash_ids=[top]))
    trace = read(path)
    assert trace.block_id.astype(np.uint64).tolist() == [2**63 - 1, top, top]
    assert not set(trace.output_id.tolist()) & set(trace.block_id.tolist())


def test_aiperf_session_lines_hold_what_a_turn_adds(tmp_path):
    path = lines(
        tmp_path / "a.jsonl",
        {"session_id": "s", "input_length": 300, "output_length": 40, "hash_ids": [7]},
        {"input_length": 10, "output_length": 2, "timestamp": 5},
        {"session_id": "s", "delay": 2000, "input_length": 150, "output_length": 20},
    )
    trace = read(path)
    first, second = (int(np.flatnonzero(trace.request_id == i)[0]) for i in (0, 2))
    answer = int(trace.output_id[first])
    assert prompt(trace, first) == [(7, 300)]
    assert prompt(trace, second)[:2] == [(7, 300), (answer, 40)]
    assert trace.prompt_tokens[second] == 300 + 40 + 150
    assert trace.parent_id[second] == 0
    assert trace.think_s[second] == 2.0
    assert trace.arrival_s[second] == 2.0, "no earlier than the turn before plus the delay"
    assert trace.turn.tolist()[second] == 1
    assert trace.session_id.tolist() == [0, -1, 0]


def test_aiperf_whole_context_is_not_put_together_again(tmp_path):
    mode = {"context_mode": "message_array_with_responses", "session_id": 4}
    path = lines(tmp_path / "a.jsonl", mooncake(0, **mode), mooncake(10, 700, **mode))
    trace = read(path)
    assert trace.prompt_tokens.tolist() == [600, 700]
    assert trace.parent_id.tolist() == [-1, 0]


# the others


def test_bailian(tmp_path):
    rows = (
        {"chat_id": 5, "parent_chat_id": -1, "timestamp": 1.5, "input_length": 20, "output_length": 3,
         "type": "text", "turn": 1, "hash_ids": [8, 9]},
        {"chat_id": 6, "parent_chat_id": 5, "timestamp": 2.5, "input_length": 33, "output_length": 4,
         "type": "text", "turn": 2, "hash_ids": [8, 10, 9]},
        {"chat_id": 7, "parent_chat_id": 99, "timestamp": 3.0, "input_length": 16, "output_length": 0,
         "type": "search", "turn": 3, "hash_ids": [9]},
        {"chat_id": 8, "parent_chat_id": 6, "timestamp": 4.0, "input_length": 40, "output_length": 9,
         "type": "text", "turn": 3, "hash_ids": [8, 10]},
    )  # fmt: skip
    trace = read(lines(tmp_path / "a.jsonl", *rows))
    assert trace.arrival_s.tolist() == [1.5, 2.5, 4.0]
    assert prompt(trace, 1) == [(8, 16), (10, 16), (9, 1)]
    assert prompt(trace, 2)[:2] == [(8, 16), (10, 16)], "a tail that is not named is a block of its own"
    assert prompt(trace, 2)[2][1] == 8
    assert trace.session_id.tolist() == [0, 0, 0]
    assert trace.turn.tolist() == [0, 1, 2]
    assert trace.parent_id.tolist() == [-1, 0, 1]
    assert any("1 requests without output" in note for note in trace.notes)
    assert any("1 links to a parent" in note for note in trace.notes)


@pytest.mark.parametrize(
    ("text", "arrivals"),
    [
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:03.9799600,10,2\r\n"
            "2023-11-16 18:17:04.0319600,20,3",
            [0.0, 0.052],
        ),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,10,2\n"
            "2024-05-10 00:00:01+00:00,20,3\n",
            [0.0, 0.99007],
        ),
        (
            "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15 00:00:00,1,10,2\n"
            "2024-10-15 00:00:02,0,20,3\n",
            [0.0, 2.0],
        ),
    ],
)
def test_azure(tmp_path, text, arrivals):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    trace = read(path)
    assert trace.arrival_s == pytest.approx(arrivals, abs=1e-9)
    assert trace.prompt_tokens.tolist() == [10, 20]
    assert trace.output_tokens.tolist() == [2, 3]
    assert not trace.has_blocks


@pytest.mark.parametrize(
    ("name", "requests", "rate", "prompt_mean", "prompt_max", "output_mean", "output_max", "cv"),
    [
        ("code", 8_819, 2.57, 2_048, 7_437, 28, 1_899, 13.2),
        ("conv", 19_366, 5.53, 1_155, 14_050, 211, 1_000, 1.09),
    ],
)
def test_azure_real_figures(name, requests, rate, prompt_mean, prompt_max, output_mean, output_max, cv):
    trace = read(real(f"azure_llm_2023/AzureLLMInferenceTrace_{name}.csv"))
    assert len(trace) == requests
    assert len(trace) / trace.arrival_s[-1] == pytest.approx(rate, abs=0.005)
    assert trace.prompt_tokens.mean() == pytest.approx(prompt_mean, abs=0.5)
    assert trace.output_tokens.mean() == pytest.approx(output_mean, abs=0.5)
    assert (trace.prompt_tokens.max(), trace.output_tokens.max()) == (prompt_max, output_max)
    assert cv_of_gaps(trace) == pytest.approx(cv, rel=0.01)


@pytest.mark.parametrize("name", ["code", "conv"])
def test_vidur_has_the_same_requests_as_azure(name):
    vidur = read(real(f"vidur/splitwise_{name}.csv"))
    azure = read(real(f"azure_llm_2023/AzureLLMInferenceTrace_{name}.csv"))
    assert np.array_equal(vidur.prompt_tokens, azure.prompt_tokens)
    assert np.array_equal(vidur.output_tokens, azure.output_tokens)
    assert vidur.arrival_s == pytest.approx(azure.arrival_s, abs=1e-5)


def test_vidur_lengths_only(tmp_path):
    header = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio"
    trace = read(lines(tmp_path / "a.csv", header, "10,5,15,2.0", "7,7,14,1.0"))
    assert trace.arrival_s.tolist() == [0.0, 0.0]
    assert "every request arrives at 0 s" in trace.notes[0]


def test_burstgpt_first_version(tmp_path):
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    rows = (
        "5,ChatGPT,472,18,490,Conversation log",
        "45,GPT-4,1087,0,1087,API log",
        "118,GPT-4,417,276,693,API log",
    )
    trace = read(lines(tmp_path / "a.csv", header, *rows))
    assert trace.arrival_s.tolist() == [0.0, 113.0]
    assert trace.prompt_tokens.tolist() == [472, 417]
    assert trace.notes == ("1 failed requests (no Response tokens) left out",)


def test_burstgpt_second_version(tmp_path):
    header = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"
    rows = (
        "100.0,aa,4,GPT-4,10,2,12,Conversation log",
        "101.0,,1,GPT-4,10,2,12,API log",
        "110.0,aa,2,GPT-4,30,0,30,Conversation log",
        "130.0,aa,5,GPT-4,40,3,43,Conversation log",
        "133.0,bb,5,GPT-4,50,3,53,Conversation log",
    )
    trace = read(lines(tmp_path / "a.csv", header, *rows))
    assert trace.arrival_s.tolist() == [0.0, 1.0, 30.0, 33.0]
    assert trace.session_id.tolist() == [0, -1, 0, 1]
    assert trace.parent_id.tolist() == [-1, -1, 0, -1]
    assert trace.turn.tolist() == [0, 0, 1, 0]
    assert trace.think_s.tolist() == [0.0, 0.0, 26.0, 0.0], "the gap less the 4 s that the one before took"


def claude_session(base: int = 1) -> dict:
    def request(t: float, blocks: int, **more: object) -> dict:
        ids = list(range(base, base + blocks))
        return {
            "t": t,
            "type": "s",
            "in": 64 * blocks + 5,
            "out": 3,
            "hash_ids": ids,
            "api_time": 2.0,
            **more,
        }

    agent = {"t": 20.0, "type": "subagent", "duration_ms": 8000, "requests": [
        request(0.0, 2, think_time=0.0), request(3.0, 3, think_time=1.0)]}  # fmt: skip
    requests = [request(0.0, 2, think_time=0.0), request(9.0, 3, think_time=7.0), agent, request(30.0, 4)]
    return {"id": "x", "block_size": 64, "hash_id_scope": "local", "requests": requests}


def test_claude_code_session(tmp_path):
    trace = read(lines(tmp_path / "s.json", json.dumps(claude_session())))
    assert trace.arrival_s.tolist() == [0.0, 9.0, 12.0, 15.0, 30.0], "a sub-agent's t is when it had ended"
    assert trace.request_id.tolist() == [0, 1, 2, 3, 4]
    assert trace.parent_id.tolist() == [-1, 0, 1, 2, 1], "the sub-agent's chain waits for the request before it"
    assert trace.think_s.tolist() == [0.0, 7.0, 1.0, 1.0, 19.0]
    assert trace.session_id.tolist() == [0] * 5
    assert trace.turn.tolist() == [0, 1, 2, 3, 4]
    assert [tokens for _, tokens in prompt(trace, 0)] == [64, 64, 5]
    assert prompt(trace, 1)[:2] == prompt(trace, 0)[:2]


def test_claude_code_ids_of_two_files_never_meet(tmp_path):
    for name in ("a.json", "b.json"):
        lines(tmp_path / name, json.dumps(claude_session()))
    trace = read(tmp_path)
    blocks = [set(), set()]
    for row in range(len(trace)):
        blocks[trace.session_id[row]] |= {block for block, _ in prompt(trace, row)}
    assert not blocks[0] & blocks[1]
    assert len(trace) == 10


def test_claude_code_real_figures():
    trace = read(real("agentic_claude_code"))
    entries = subagents = 0
    for path in real("agentic_claude_code").glob("*.json"):
        requests = json.loads(path.read_text())["requests"]
        entries += len(requests)
        subagents += sum(request["type"] == "subagent" for request in requests)
    assert (entries, subagents) == (1_270, 4)
    assert len(trace) == 1_270 - 4 + 51, "the sub-agents' own requests count, the sub-agents do not"
    assert len(np.unique(trace.session_id)) == 25
    first = np.flatnonzero(trace.turn == 0)
    assert len(first) == 25
    assert (trace.parent_id == -1).sum() == 25
    assert (np.delete(trace.parent_id, first) >= 0).all()


def servegen(folder: Path, rate: float = 2.0) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [f"{600 * i},{rate},1.0,Gamma,1.0,{1 / rate}" if i % 2 else f"{600 * i},0,0,,0,0" for i in range(12)]
    lines(folder / "chunk-3-trace.csv", *rows)
    data = {
        "0": {
            "input_tokens": "{100: 0.5, 200: 0.5}",
            "output_tokens": "{0: 0.1, 7: 0.9}",
            "reason_ratio": "{}",
        }
    }
    lines(folder / "chunk-3-dataset.json", json.dumps(data))
    return folder


def test_servegen(tmp_path):
    folder = servegen(tmp_path / "clients")
    trace = read(folder, duration_s=7200.0)
    active = (trace.arrival_s // 600).astype(int) % 2 == 1
    assert active.all(), "an idle window is idle"
    assert len(trace) == pytest.approx(2.0 * 3600, rel=0.06)
    assert set(trace.prompt_tokens.tolist()) == {100, 200}
    assert set(trace.output_tokens.tolist()) == {1, 7}
    assert set(trace.client_id.tolist()) == {3}
    assert read(folder, duration_s=7200.0).equals(trace)
    busier = read(folder, duration_s=7200.0, rate_scale=4.0)
    assert len(busier) == pytest.approx(4 * len(trace), rel=0.06)
    later = read(folder, start_s=600.0, duration_s=600.0)
    assert later.arrival_s[0] < 30.0
    with pytest.raises(TraceError, match=r"rate_scale makes 2e\+06 requests/s of a client"):
        read(folder, start_s=600.0, rate_scale=1e6)
    with pytest.raises(TraceError, match="no request from 0 s for 600 s"):
        read(folder, duration_s=600.0)


def test_servegen_real_rate():
    folder = real("servegen_deepseek_r1")
    rate = sum(
        float(line.split(",")[1]) * 600
        for path in folder.glob("*-trace.csv")
        for line in path.read_text().splitlines()
        if int(line.split(",")[0]) < 3600
    )
    assert len(read(folder)) == pytest.approx(rate, rel=0.03)


BLIS = (
    "request_id,client_id,tenant_id,slo_class,session_id,round_index,prefix_group,prefix_length,streaming,input_tokens,"
    "output_tokens,text_tokens,image_tokens,audio_tokens,video_tokens,reason_ratio,model,deadline_us,"
    "server_input_tokens,arrival_time_us,send_time_us,first_chunk_time_us,last_chunk_time_us,num_chunks,status,"
    "error_message,finish_reason"
)


def blis_row(request: int, session: str, turn: int, group: str, tokens: int, arrival: int, deadline: int = 0) -> str:
    prefix = 100 if group else 0
    return (
        f"{request},c,t,batch,{session},{turn},{group},{prefix},false,{tokens},5,{tokens},0,0,0,0,,{deadline},"
        f"0,{arrival},{arrival},0,0,0,ok,,"
    )


def test_blis(tmp_path):
    rows = (blis_row(0, "s", 0, "g", 10, 0), blis_row(1, "", 0, "g", 20, 500_000, 2_500_000),
            blis_row(2, "s", 1, "g", 0, 1_000_000))  # fmt: skip
    path = lines(tmp_path / "t.csv", BLIS, *rows)
    trace = read(path)
    assert trace.prompt_tokens.tolist() == [110, 120, 100]
    assert [prompt(trace, row)[0] for row in range(3)] == [(0, 100)] * 3, "a group shares its prefix"
    assert trace.arrival_s.tolist() == [0.0, 0.5, 1.0]
    assert trace.deadline_s[1] == 2.0
    assert np.isnan(trace.deadline_s[0])
    assert trace.parent_id.tolist() == [-1, -1, 0]

    lines(tmp_path / "t.yaml", "trace_version: 3", "session_context_growth: accumulate")
    grown = read(path)
    assert prompt(grown, 2) == [*prompt(grown, 0), (int(grown.output_id[0]), 5)]


def test_llmservingsim_real_sample():
    trace = read(real("llmservingsim/example_trace.jsonl"))
    assert len(trace) == 10
    assert prompt(trace, 0) == [(token, 1) for token in range(1, 11)]
    assert trace.arrival_s[0] == pytest.approx(0.046926808)
    assert len(read(real("llmservingsim/workload_me2_01_mixed.jsonl"))) == 608


def test_native_by_hand(tmp_path):
    jsonl = lines(tmp_path / "a.jsonl", {"arrival_s": 1, "prompt_tokens": 5, "output_tokens": 2})
    csv = lines(tmp_path / "a.csv", "arrival_s,prompt_tokens,output_tokens,priority", "1.0,5,2,9")
    assert read(jsonl).equals(read(csv).with_columns(priority=np.array([0])))
    assert read(csv).priority.tolist() == [9]


# what all share


def test_who_waits_for_none_may_say_so_by_nothing(tmp_path):
    header = "arrival_s,prompt_tokens,output_tokens,request_id,parent_id,session_id"
    csv = read(lines(tmp_path / "a.csv", header, "0,5,2,7,,3", "1,5,2,8,7,3", "2,5,2,9, ,"))
    first = {
        "arrival_s": 0,
        "prompt_tokens": 5,
        "output_tokens": 2,
        "request_id": 7,
        "parent_id": None,
        "session_id": 3,
    }
    later = [{**first, "arrival_s": 1, "request_id": 8, "parent_id": 7}]
    later += [{**first, "arrival_s": 2, "request_id": 9, "session_id": None}]
    jsonl = read(lines(tmp_path / "a.jsonl", first, *later))
    pq.write_table(pa.Table.from_pylist([first, *later]), tmp_path / "a.parquet")
    for trace in (csv, jsonl, read(tmp_path / "a.parquet")):
        assert trace.parent_id.tolist() == [-1, 7, -1]
        assert trace.session_id.tolist() == [3, 3, -1]
    with pytest.raises(TraceError, match=r"line 2: parent_id is 'x', expected .* -1 or nothing where there is none"):
        read(lines(tmp_path / "b.csv", header, "0,5,2,7,x,3"))


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    lines(tmp_path / "mine.csv", "arrival_s,prompt_tokens,output_tokens", "0,5,2")
    assert len(load("~/mine.csv")) == 1


def test_unordered_arrivals_are_sorted_and_noted(tmp_path):
    path = lines(tmp_path / "a.jsonl", mooncake(20, 600), mooncake(10, 700), mooncake(10, 800))
    trace = read(path)
    assert trace.prompt_tokens.tolist() == [700, 800, 600]
    assert trace.request_id.tolist() == [1, 2, 0]
    assert prompt(trace, 2) == [(0, 512), (1, 88)]
    assert any("sorted by arrival" in note for note in trace.notes)


def test_gzip_and_names_do_not_matter(tmp_path):
    plain = lines(tmp_path / "a.jsonl", mooncake(5), mooncake(7))
    packed = tmp_path / "a.csv"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read(packed).with_columns(name="a").equals(read(plain))


GOOD = json.dumps(mooncake())
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
NATIVE_ROW = '{"arrival_s":0,"prompt_tokens":5,"output_tokens":1,"hash_ids":[1,2]}\n'
NATIVE = '{"servetwin_trace":1,"block_size":4}\n' + NATIVE_ROW


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:4\nsize 9\n",
            "is a Git LFS pointer, not the data: fetch",
        ),
        ("hello\n", "no known trace format .*: it starts with 'hello'"),
        (GOOD + "\n{\n", "line 2: bad JSON"),
        (GOOD + "\n\n" + GOOD[:-1] + "\n", "line 3: bad JSON"),
        (json.dumps(mooncake(timestamp=float("nan"))), "line 1: bad JSON: NaN is not a JSON number"),
        (GOOD + "\n[1]", "line 2: expected object, got array"),
        (GOOD + '\n{"timestamp": 3}', "line 2: .*input_length"),
        (
            GOOD + '\n{"timestamp":1,"input_length":"7","output_length":1}',
            "line 2: field input_length: expected int",
        ),
        (
            GOOD + '\n{"timestamp":1,"input_length":7,"output_length":1,"hash_ids":["x"]}',
            r"line 2: field hash_ids\[0\]",
        ),
        (
            GOOD + "\n" + json.dumps(mooncake(timestamp=-1)),
            "line 2: timestamp is -1.0, expected 0 ms or more",
        ),
        (
            GOOD + "\n" + json.dumps(mooncake(input_length=0)),
            "line 2: input_length is 0, expected at least 1",
        ),
        (
            GOOD + "\n" + json.dumps(mooncake(output_length=-3)),
            "line 2: output_length is -3, expected at least 1",
        ),
        (
            GOOD + "\n\n" + json.dumps(mooncake(hash_ids=[1, 2, 3])),
            "line 3: hash_ids has 3 ids, expected 2 .* 600",
        ),
        (
            GOOD + "\n" + json.dumps(mooncake(hash_ids=[1, 2**64])),
            f"line 2: hash_ids has {2**64}, .* 64 bits",
        ),
        (GOOD + "\n" + json.dumps(mooncake(output_length=2**63)), "line 2: .*64 bits"),
        (AZURE, None),
        (AZURE.splitlines()[0], "is empty: it has a header"),
        (AZURE.splitlines()[0] + "\n", "is empty: it has a header"),
        (NATIVE.splitlines()[0] + "\n", "is empty: it has a header"),
        (AZURE + "2023-11-16 18:15:47,5\n", "line 3: 2 cells, expected 3"),
        (AZURE + "2023-11-16 18:15:47,x,1\n", "line 3: ContextTokens is 'x', expected an integer"),
        (AZURE + "\nyesterday,5,1\n", "line 4: TIMESTAMP is 'yesterday', expected a time like"),
        (AZURE + f"2023-11-16 18:15:47,{2**64},1\n", "line 3: ContextTokens is '18446744073709551616'"),
        (AZURE + "2023-11-16 18:15:47,0,1\n", "line 3: ContextTokens is 0, expected at least 1 token"),
        (AZURE + "2023-11-16 18:15:47,,1\n", "line 3: ContextTokens is ''"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,1\nnan,1,1\n", "line 3: arrived_at is nan"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,1\n-2,1,1\n", "line 3: arrived_at is -2.0"),
        (NATIVE, None),
        (NATIVE + '{"arrival_s":0,"prompt_tokens":5,"output_tokens":1}', "line 3: .*hash_ids"),
        (
            NATIVE + '{"arrival_s":0,"prompt_tokens":5,"output_tokens":1,"hash_ids":[1]}',
            "line 3: hash_ids has 1 ids, expected 2",
        ),
        (
            NATIVE + '{"arrival_s":0,"prompt_tokens":5,"output_tokens":1,"hash_ids":[1,2],"x":0}',
            "line 3: .*unknown field x",
        ),
        (NATIVE.replace(":1,", ":2,", 1), "servetwin_trace is 2, expected 1"),
        ("arrival_s,prompt_tokens,output_tokens,colour\n0,1,1,red\n", "column colour is unknown"),
        (
            "arrival_s,prompt_tokens,output_tokens,parent_id\n0,1,1,7\n",
            "parent_id is 7, expected the id of a request",
        ),
        (
            '{"id":"x","requests":[{"t":0,"in":64,"out":1,"hash_ids":[]}]}',
            r"requests\[0\]: hash_ids has 0 ids, expected 1",
        ),
    ],
)
def test_what_bad_input_gets(tmp_path, text, said):
    path = tmp_path / "t.txt"
    path.write_text(text)
    if said is None:
        assert len(read(path)) == 1
        return
    with pytest.raises(TraceError, match=said) as caught:
        read(path)
    assert "t.txt" in str(caught.value) or "'t'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_calls(tmp_path):
    path = lines(tmp_path / "a.jsonl", mooncake())
    with pytest.raises(TraceError, match="there is no such file"):
        read(tmp_path / "b.jsonl")
    with pytest.raises(TraceError, match="format 'monocake' is unknown, expected one of native, mooncake"):
        read(path, format="monocake")
    with pytest.raises(TraceError, match="option spred_ticks is unknown to the mooncake reader, it has: spread_ticks"):
        read(path, spred_ticks=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TraceError, match="no known trace format"):
        read(tmp_path / "empty")
    torn = tmp_path / "torn.gz"
    packed = gzip.compress("".join(json.dumps(mooncake(i)) + "\n" for i in range(3000)).encode())
    torn.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(TraceError, match="cannot be read"):
        read(torn)


def test_every_format_says_whose_it_is():
    assert all(form.origin for form in FORMATS.values())
    assert FORMATS["servegen"].options == ("start_s", "duration_s", "rate_scale", "seed")
