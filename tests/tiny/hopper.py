"""Compiles our Triton kernels for Hopper, on any machine: ``python -m tests.tiny.hopper`` prints JSON, a line a kernel.

Triton brings its own assembler. What is compiled is what a GPU would run for Qwen3-8B and Qwen3-30B-A3B.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from runtime.kernels import fused, fused_decode, fused_fp8, fused_moe, paged_attention, reduce_norm, skinny
from runtime.kernels.fp8 import LARGEST
from runtime.kernels.paged_attention import AttentionShape
from tests.tiny.sass import read_unwritten

HALF, FP8, FLOAT, INT = "*bf16", "*fp8e4nv", "*fp32", "*i32"
_ASSEMBLED = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Compiled(NamedTuple):
    """A kernel's machine code.

    Attributes:
        name: Of the case.
        local_bytes: Of each thread's stack: registers spilled.
        shared_bytes: Of each program.
        registers: Of each thread.
        wgmma: Whether it has Hopper's matrix instructions.
        copies: Whether loads run ahead in shared memory.
        early: The first instruction that reads or writes global memory before the kernel has waited for the one before
            it, or only writes where it may read; None where there is none, or where the kernel is not launched early.
        reads_early: Whether many bytes at once are read before that wait.
        looks: Whether memory is looked at past the caches, 16 bytes at a time.
        unwritten: Of kernels with fp8, instructions that read a register before it is written.
    """

    name: str
    local_bytes: int
    shared_bytes: int
    registers: int
    wgmma: bool
    copies: bool
    early: str | None
    reads_early: bool
    looks: bool
    unwritten: list[str]


class Case(NamedTuple):
    """A kernel, the types of its arguments, its compile-time constants, how it is launched, what it may do early.

    Numbers that are not specialised are unaligned.
    """

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    warps: int
    stages: int
    may_read_early: bool = False
    unaligned: tuple[str, ...] = ()


def attention(head_dim: int, kv: str) -> Iterator[Case]:
    shape = AttentionShape(32, 8, head_dim, 16)
    types = dict.fromkeys(
        ("limits", "lengths", "query_starts", "page_starts", "item_sequences", "item_parts", "pages"), INT
    )
    types |= {"q": HALF, "keys": kv, "values": kv, "q_stride": "i32", "scale": "fp32"}
    for name, tiling, queries, out in (
        ("prefill", shape.prefill, shape.tile_queries, HALF),
        ("decode", shape.decode, 1, FLOAT),
    ):
        constants = {
            "KV_HEADS": 8,
            "GROUP": 4,
            "HEAD_DIM": head_dim,
            "BLOCK_D": triton.next_power_of_2(head_dim),
            "PAGE": 16,
            "QUERIES": queries,
            "BLOCK_M": tiling.rows,
            "BLOCK_N": tiling.tokens,
            "SPLIT": name == "decode",
            "PDL": name == "decode",
        }
        case = f"{name} {head_dim} {kv}"
        yield Case(
            case, paged_attention._attend, types | {"out": out, "weights": out}, constants, tiling.warps, tiling.stages
        )


def whole_decode(head_dim: int, group: int, kv: str, *, normed: bool) -> Iterator[Case]:
    tables = ("limits", "lengths", "page_starts", "item_starts", "item_sequences", "item_parts", "pages", "arrived")
    types = dict.fromkeys(tables, INT) | {"slots": "*i64", "partial": FLOAT, "weights": FLOAT}
    types |= dict.fromkeys(("qkv", "q_weight", "k_weight", "cos", "sin", "out"), HALF)
    types |= {"keys": kv, "values": kv, "eps": "fp32", "scale": "fp32"}
    shape = AttentionShape(8 * group, 8, head_dim, 16)
    tiling = fused_decode.tiling_for(shape)
    constants = fused_decode.constants(shape, tiling, 1 if kv == FP8 else 2) | {"NORM": normed, "PDL": True}
    case = f"whole decode {head_dim}, group of {group}, {kv}"
    yield Case(case, fused_decode._fused_decode, types, constants, tiling.warps, 1, may_read_early=True)


def experts(values: str) -> Iterator[Case]:
    types = {"x": values, "values": values, "out": HALF, "assignments": "i32"}
    types |= dict.fromkeys(("order", "block_experts", "used"), INT)
    types |= dict.fromkeys(("row_scales", "scales"), FLOAT if values == FP8 else HALF)
    for _, tiling in fused_moe.TILINGS:
        constants = {
            "SHARED": 8,
            "INPUTS": 2048,
            "OUTPUTS": 1536,
            "ROWS": tiling.rows,
            "COLUMNS": tiling.columns,
            "DEPTH": tiling.depth,
            "SCALED": values == FP8,
            "PDL": True,
        }
        case = f"experts {tiling.rows} {values}"
        yield Case(case, fused_moe._grouped_product, types, constants, tiling.warps, tiling.stages)


def products() -> Iterator[Case]:
    cuts = [(rows, tiling) for rows, tilings in skinny.TILINGS.items() for tiling in tilings]
    for (rows, tiling), bias in product(cuts, (False, True)):
        constants = {
            "INPUTS": 4096,
            "ROWS": rows,
            "OUTPUTS": tiling.outputs,
            "DEPTH": tiling.depth,
            "LINES": tiling.lines,
            "LINE": 64,
            "BIAS": bias,
            "PDL": True,
        }
        types = dict.fromkeys(("x", "weight", "bias", "out"), HALF) | dict.fromkeys(("rows", "outputs"), "i32")
        cut = f"{tiling.outputs} outputs, {tiling.stages} stages"
        case = f"skinny {rows} rows, {cut}, {'with' if bias else 'without'} bias"
        yield Case(case, skinny._skinny, types, constants, tiling.warps, tiling.stages)


def rows() -> Iterator[Case]:
    block = {"BLOCK": 4096, "PDL": True}
    norm = {"x": HALF, "weight": HALF, "width": "i32", "eps": "fp32"}
    yield Case("norm", fused._rms_norm, norm | {"out": HALF}, block, 8, 3)
    yield Case("add and norm", fused._add_rms_norm, norm | {"residual": HALF}, block, 8, 3)
    gate = {"x": HALF, "out": HALF, "width": "i32"}
    yield Case("gate", fused._silu_and_mul, gate, {"BLOCK": 1024, "PDL": True}, 4, 3)
    heads = dict.fromkeys(("qkv", "q_weight", "k_weight", "cos", "sin"), HALF) | {"slots": "*i64"}
    heads |= {"eps": "fp32", "heads": "i32", "kv_heads": "i32"}
    sizes = {"NORM": True, "HALF": 64, "BLOCK": 64, "HEADS": 4, "PDL": True}
    for kv in (HALF, FP8):
        yield Case(f"rotate {kv}", fused._rotate_and_store, heads | {"keys": kv, "values": kv}, sizes, 2, 3)


def sums() -> Iterator[Case]:
    types = dict.fromkeys(("part", "residual", "weight"), HALF) | {"inboxes": "*i64", "turns": INT, "eps": "fp32"}
    numbers = ("tokens", "rank", "pieces")
    types |= dict.fromkeys(numbers, "i32")
    ways = (("one-shot", reduce_norm._one_shot), ("two-shot", reduce_norm._two_shot))
    for (way, kernel), ranks, width in product(ways, (2, 4, 8), (5120, 8192)):
        constants = {"RANKS": ranks, "WIDTH": width, "BLOCK": 8192, "ADD": True, "PDL": True}
        yield Case(f"{way} of {ranks}, {width}", kernel, types, constants, 16, 3, unaligned=numbers)


def small() -> Iterator[Case]:
    pdl = {"PDL": True}
    yield Case(
        "merge",
        paged_attention._merge,
        {"partial": FLOAT, "weights": FLOAT, "out": HALF, "query_starts": INT, "item_starts": INT},
        {"HEADS": 32, "HEAD_DIM": 128, "BLOCK_D": 128, "BLOCK": 16, **pdl},
        2,
        3,
    )
    yield Case(
        "route",
        fused_moe._route,
        {"scores": HALF, "ids": INT, "weights": FLOAT},
        {"EXPERTS": 128, "BLOCK": 128, "CHOSEN": 8, "SLOTS": 8, "NORMALISE": True, **pdl},
        1,
        3,
    )
    yield Case(
        "sort",
        fused_moe._sort_by_expert,
        {"experts": INT, "order": INT, "block_experts": INT, "used": INT, "assignments": "i32"},
        {"BINS": 128, "ROWS": 16, "BLOCK": 1024, **pdl},
        4,
        3,
    )
    yield Case(
        "combine",
        fused_moe._combine,
        {"rows": HALF, "weights": FLOAT, "out": HALF},
        {"WIDTH": 2048, "CHOSEN": 8, "BLOCK": 1024, **pdl},
        4,
        3,
    )
    yield Case(
        "quantize",
        fused_fp8._quantize_rows,
        {"x": HALF, "rounded": FP8, "scales": FLOAT, "width": "i32"},
        {"LARGEST": LARGEST, "BLOCK": 16384, **pdl},
        16,
        3,
    )


def compiled(case: Case) -> Compiled:
    kernel = getattr(case.kernel, "jitted", case.kernel)  # of those launched directly
    names = kernel.arg_names
    signature = {name: case.types.get(name, "constexpr") for name in names}
    # As at a launch: memory, and numbers that are multiples of 16, are aligned.
    numbers = (name for name, kind in case.types.items() if kind != "fp32" and name not in case.unaligned)
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in numbers}
    source = ASTSource(fn=kernel, signature=signature, constexprs=case.constants, attrs=aligned)
    options = {"num_warps": case.warps, "num_stages": case.stages, "launch_pdl": bool(case.constants["PDL"])}
    made: Any = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = subprocess.run([_ASSEMBLED, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
        unwritten = read_unwritten(Path(file.name), _ASSEMBLED) if FP8 in case.types.values() else []
    used = ("STACK", "LOCAL", "REG")
    stack, local, registers = (int(re.search(rf"{what}:(\d+)", usage)[1]) for what in used)  # type: ignore[index]
    ptx = made.asm["ptx"]
    before = ptx.partition("griddepcontrol.wait")[0] if case.constants["PDL"] else ""
    forbidden = (
        r"st\.global|atom|red" if case.may_read_early else r"ld\.(?:volatile\.)?global|st\.global|cp\.async|atom|red"
    )
    early = re.search(rf"^.*\b(?:{forbidden})\b.*$", before, re.MULTILINE)
    return Compiled(
        case.name,
        stack + local,
        made.metadata.shared,
        registers,
        "wgmma.mma_async" in ptx,
        "cp.async.cg" in ptx,
        early and early[0].strip(),
        bool(re.search(r"\bld\.global\S*\.v[48]", before)),
        "ld.volatile.global.v4" in ptx,
        unwritten,
    )


def cases() -> Iterator[Case]:
    for head_dim in (64, 128, 256):
        yield from attention(head_dim, HALF)
    yield from attention(128, FP8)
    for head_dim, group in ((64, 4), (128, 4), (128, 5), (128, 8), (256, 2)):
        yield from whole_decode(head_dim, group, HALF, normed=head_dim == 128)
    for head_dim, group in ((64, 4), (128, 4)):
        yield from whole_decode(head_dim, group, FP8, normed=head_dim == 128)
    yield from experts(HALF)
    yield from experts(FP8)
    yield from products()
    yield from rows()
    yield from sums()
    yield from small()


if __name__ == "__main__":
    for case in cases():
        print(json.dumps(compiled(case)._asdict()), flush=True)
