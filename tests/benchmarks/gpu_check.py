"""Is the engine right on this GPU? ``python -m tests.benchmarks.gpu_check [--out FILE]`` prints a table.

Logits against float32: a decode of four layers of Qwen3-8B in CUDA graphs, a prompt through a small model. Greedy
tokens of that small model, whatever runs its steps: graphs, overlap, page sizes, chunks, preemption, attention. Where
two ways first part, both were at the same tokens, and each took one that float32 finds the likeliest, or behind it by
less than bfloat16 can tell: a tie. No step may read a page that it does not own: pages are NaN until it is written.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from runtime.attention.base import AttentionMetadata
from runtime.attention.choose import AttentionChoice, gpu_attention
from runtime.engine.memory import kv_pool
from tests.benchmarks.gpu_steps import BATCHES, LOGIT_ERROR, VARIANTS, logit_errors
from tests.gpu.small import HALF, TIE, Small, behind_likeliest, exact_logits, greedy, small
from tests.tiny.serving import prompts

COUNT = 40
_SHARED = prompts(200, vocab_size=8192, seed=9)[0]
ASKED = [
    *prompts(5, 70, 33, 300, 1, vocab_size=8192),
    _SHARED + prompts(9, vocab_size=8192)[0],
    _SHARED[:140],
    _SHARED,
    _SHARED,
]
_CHUNKED = {"batching": {"name": "chunked", "step_tokens": 37}}
WAYS: dict[str, dict[str, Any]] = {
    "graphs, overlap, page 16": {},
    "no graphs": {"cuda_graph": False},
    "no overlap": {"overlap": False},
    "neither": {"cuda_graph": False, "overlap": False},
    "page 1": {"page_size": 1},
    "page 64": {"page_size": 64},
    "chunks of 37 tokens": {"policy": _CHUNKED},
    "chunks, no graphs": {"policy": _CHUNKED, "cuda_graph": False},
    "60 pages, preempted": {"policy": {"reservation": {"name": "none"}}, "pages": 60},
    "Triton attention": {"attention": "triton"},
    "Triton, no graphs": {"attention": "triton", "cuda_graph": False},
}


class Check(NamedTuple):
    """A line of the table."""

    what: str
    found: str
    holds: bool


def prompt_error(model: Small, attention: AttentionChoice) -> float:
    """Relative error of a prompt's logits."""
    tokens = prompts(700, vocab_size=8192, seed=3)[0]
    page_size, pages = 16, 44
    pool = kv_pool(model.config, HALF, pages=pages, page_size=page_size)
    counts, slots = np.array([len(tokens)]), torch.arange(len(tokens), device="cuda")
    metadata = AttentionMetadata(counts, counts, np.arange(pages, dtype=np.int32)[None], 1, slots)
    with torch.inference_mode():
        step = gpu_attention(attention, pool, page_size, model.config.num_attention_heads).plan(metadata)
        logits = model.half.logits(model.half(torch.tensor(tokens, device="cuda"), slots, step))
    exact = exact_logits(model, tokens)
    return float((logits - exact).norm() / exact.norm())


def logits_of_prompts(model: Small) -> list[Check]:
    checks = []
    for name in ("flashinfer", "triton"):
        error = prompt_error(model, AttentionChoice(name, name))
        checks.append(Check(f"logits of a prompt of 700, {name}", f"relative error {error:.1e}", error < LOGIT_ERROR))
    return checks


def logits_of_decodes(_: Small) -> list[Check]:
    checks = []
    for variant, errors in logit_errors("qwen3_8b", VARIANTS, BATCHES).items():
        figures = " / ".join(f"{error:.1e}" for error in errors)
        batches = " / ".join(map(str, BATCHES))
        holds = max(errors) < LOGIT_ERROR
        checks.append(Check(f"logits of a decode at batch {batches}, {variant}", f"relative error {figures}", holds))
    return checks


def greedy_tokens(model: Small) -> list[Check]:
    checks: list[Check] = []
    first: list[list[int]] | None = None
    for way, options in WAYS.items():
        try:
            continuations = greedy(model, ASKED, COUNT, **options)
        except Exception as error:  # the other ways are still worth knowing
            traceback.print_exc()
            checks.append(Check(f"greedy tokens, {way}", f"{type(error).__name__}: {str(error)[:80]}", False))
            continue
        first = first or continuations
        equal = sum(mine == other for mine, other in zip(continuations, first, strict=True))
        far = behind_likeliest(model, ASKED, continuations)
        figures = f"{equal} of {len(ASKED)} answers equal; {int((far == 0).sum())} of {len(far)} tokens the likeliest, "
        figures += f"the others at most {float(far.max()):.3f} behind"
        checks.append(Check(f"greedy tokens, {way}", figures, bool(far.max() < TIE)))
    return checks


PARTS: tuple[Callable[[Small], list[Check]], ...] = (logits_of_decodes, logits_of_prompts, greedy_tokens)


def main() -> int:
    """Check and print; returns 1 where something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file")
    arguments = parser.parse_args()
    checks: list[Check] = []
    model = small(2)  # groups of four heads, as Qwen3-8B's
    for part in PARTS:
        try:
            checks += part(model)
        except Exception as error:  # the other parts are still worth knowing
            traceback.print_exc()
            checks.append(Check(part.__name__, f"{type(error).__name__}: {str(error)[:80]}", False))
        lines = ["| check | found | holds |", "|---|---|---|"]
        lines += [f"| {what} | {found} | {'yes' if holds else '**no**'} |" for what, found, holds in checks]
        if arguments.out is not None:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text("\n".join(lines) + "\n")
    print(*lines, sep="\n", flush=True)
    return 0 if all(check.holds for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
