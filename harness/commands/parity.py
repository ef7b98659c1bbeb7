"""``harness parity``: do simulator and real server decide alike, step by step?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.commands.parser import command_parser
from harness.exit_code import ExitCode
from harness.report.terminal import UNKNOWN, table_console

if TYPE_CHECKING:
    from harness.record import RunRecord

_EXAMPLE = """\
example:
  python -m harness parity
  python -m harness parity --policies radix,vllm --backends sim,emulate,runtime,runtime:2 trace=mooncake_conversation
  python -m harness parity --policies order=vtc,eviction=arc,all --backends sim,runtime
  python -m harness parity --policies order=my_orders.Longest --backends sim,runtime

Everything arrives at once and outputs are the trace's, so that time plays no part; KV is small enough to force
evictions and preemptions. Overrides are those of harness run. runtime:2 is the runtime with tp=2. A policy is a bundle,
or vllm's with one part replaced, by a choice (order=vtc) or a class of your own; all: every built-in part so. Exit code
1 where a backend decides otherwise than the first.
"""
_POLICIES = "radix,naive,sglang,vllm,sarathi"
_BASE = "vllm"  # of which one part is replaced: it evicts and preempts
_BACKENDS = "sim,emulate,runtime,runtime:2"
_DEFAULTS = (
    "model=tiny",
    "hardware=cpu",
    "workload=all_at_once",
    "trace.head=500",
    "trace.cap_prompt_tokens=600",
    "trace.cap_output_tokens=40",
    "engine.max_context=1024",
    "engine.max_running=32",
    "engine.pages=4000",
    "policy.batching.step_tokens=512",
)


def main(argv: list[str]) -> ExitCode:
    """Replay through each backend under each policy and compare.

    Returns:
        0 where all decide alike, 1 where not.
    """
    parser = command_parser("parity", __doc__, _EXAMPLE)
    parser.add_argument("--policies", default=_POLICIES, help=f"bundles or parts to try, or all ({_POLICIES})")
    parser.add_argument("--backends", default=_BACKENDS, help=f"backends, the first is the measure ({_BACKENDS})")
    parser.add_argument("overrides", nargs="*", help="of the configuration, as for harness run")
    arguments = parser.parse_intermixed_args(argv)

    from rich.table import Table

    console = table_console()
    table = Table(title="decisions, step by step")
    for column in ("policy", "backend", "steps", "cached tokens", "evicted pages", "preemptions", "decisions"):
        table.add_column(column)
    equal = True
    for policy in _policies(arguments.policies):
        first: RunRecord | None = None
        for backend in arguments.backends.split(","):
            console.print(f"{policy} through {backend} ...", style="dim")
            record = _replay(policy, backend, arguments.overrides)
            verdict = "the measure" if first is None else _verdict(first, record)
            equal = equal and verdict in ("the measure", "identical")
            table.add_row(policy, backend, *_counts(record), verdict)
            first = first or record
    console.print(table)
    return ExitCode.OK if equal else ExitCode.FAILED


def _policies(asked: str) -> list[str]:
    """Bundles, and parts as part=name."""
    from policies.registry import PARTS

    parts = [f"{part}={name}" for part, room in PARTS.items() for name in room.builtin]
    return [policy for word in asked.split(",") for policy in (parts if word == "all" else [word])]


def _replay(policy: str, backend: str, overrides: list[str]) -> RunRecord:
    import numpy as np

    from harness.compose import compose
    from harness.experiment import load_trace, replay
    from traces.schema import NONE

    name, _, tp = backend.partition(":")
    chosen = [f"policy={_BASE}", _part(policy)] if "=" in policy else [f"policy={policy}"]
    config = compose([*chosen, f"backend={name}", f"tp={tp or 1}", *_DEFAULTS, *overrides])
    trace = load_trace(config.trace)
    # A later turn would wait for the end of the one before, and so for a clock.
    alone = trace.with_columns(parent_id=np.full(len(trace), NONE), think_s=np.zeros(len(trace)))
    return replay(config, alone, lambda _: True)


def _part(word: str) -> str:
    """The override that sets one part of the policy: a choice by its file, a class of the user's own by its path."""
    part, _, name = word.partition("=")
    return f"policy.{part}.name={name}" if "." in name else f"policy/{part}={name}"


def _verdict(first: RunRecord, other: RunRecord) -> str:
    from harness.decisions import first_difference

    if other.failure is not None:
        return other.failure
    difference = first_difference(first, other)
    return "identical" if difference is None else str(difference)


def _counts(record: RunRecord) -> tuple[str, ...]:
    steps = record.steps
    if steps is None:
        return (UNKNOWN,) * 4
    cached = record.requests["cached_tokens"]
    return (
        f"{len(steps['start_s']):,}",
        f"{int(cached[cached > 0].sum()):,}",
        f"{int(steps['evicted_pages'].sum()):,}",
        f"{int(steps['preempted'].sum()):,}",
    )
