"""The step table of a real server says how the device ran each step."""

from __future__ import annotations

import numpy as np

from harness.live.steps import StepTable
from runtime.messages import StepRecord


def ids(*values: int) -> bytes:
    return np.array(values, np.int64).tobytes()


def test_columns_are_those_of_the_records() -> None:
    table = StepTable(100, start_s=50.0, known_as={})
    tokens = np.array([300], np.int32).tobytes()
    table.take(StepRecord(0, 50.5, 0.25, 1, False, 0.0, 0.001, 50.25, 51.0, ids(7), tokens, b"", (0, 1, 80, 0, 0, 0)))
    table.take(
        StepRecord(1, 50.75, 0.125, 4, True, 0.0625, 0.002, 50.5, 51.0, b"", b"", ids(7, 8, 9), (2, 3, 70, 5, 1, 0))
    )
    columns = table.columns()
    expected = {
        "start_s": [0.5, 0.75],
        "duration_s": [0.25, 0.125],
        "gpu_wait_s": [0.0, 0.0625],
        "sequences": [1, 3],
        "padded_sequences": [1, 4],
        "graph": [0, 1],
        "prefill_tokens": [300, 0],
        "decode_tokens": [0, 3],
    }
    assert {name: columns[name].tolist() for name in expected} == expected
