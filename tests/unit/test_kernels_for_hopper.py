"""Our Triton kernels compile for Hopper, keep to its registers and shared memory, and use its matrix instructions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
# Not imported here: other tests say first that it is to interpret.
if find_spec("triton") is None:
    pytest.skip("the kernels are written in Triton, which is not installed", allow_module_level=True)

SHARED_BYTES = 227 << 10  # that a program can have


def test_kernels_compile_for_hopper() -> None:
    # In a process of its own: in this one kernels may be interpreted.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.tiny.hopper"],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    kernels: dict[str, dict[str, Any]] = {}
    for line in run.stdout.splitlines():
        kernel = json.loads(line)
        kernels[kernel["name"]] = kernel
    for name, kernel in kernels.items():
        assert kernel["local_bytes"] == 0, f"{name} spills registers"
        assert kernel["shared_bytes"] <= SHARED_BYTES, name
        assert not kernel["unwritten"], f"{name} reads registers that nothing has written: {kernel['unwritten']}"
        assert kernel["early"] is None, f"{name} does not wait for the kernel before it: {kernel['early']}"
        assert kernel["reads_early"] == name.startswith("whole decode"), name
        assert kernel["looks"] == name.startswith(("one-shot", "two-shot")), (
            f"{name}: of a peer's writes some are missed"
        )
    for name in ("prefill 64 *bf16", "prefill 128 *bf16", "prefill 256 *bf16", "prefill 128 *fp8e4nv"):
        assert kernels[name]["wgmma"], name
    for name in ("experts 64 *bf16", "experts 128 *bf16", "experts 128 *fp8e4nv"):
        assert kernels[name]["wgmma"], name
    for name in ("one-shot of 2, 5120", "one-shot of 2, 8192", "two-shot of 2, 5120", "two-shot of 2, 8192"):
        assert kernels[name]["registers"] <= 64, f"{name}: two programs of 16 warps do not find room on a processor"
    for name in kernels:
        if name.split()[0] in ("prefill", "decode", "experts", "skinny"):
            assert kernels[name]["copies"], f"{name} waits for each load"
