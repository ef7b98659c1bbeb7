"""The only place that names the columns of a run's tables: what they hold, and in which unit.

Tables are NumPy columns until they are written. A column's null is NaN in a float, -1 in an integer, a code
or a flag, None in a string; in Parquet and in DataFrames it is a true null. This module needs NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Array: TypeAlias = npt.NDArray[Any]
Columns: TypeAlias = "Mapping[str, Array]"
Derivations: TypeAlias = "Mapping[str, Callable[[Columns], Array]]"

NULL = -1  # in an integer, code or flag column: unknown
STATUSES = ("ok", "error", "timeout", "aborted", "rejected", "unfinished")
FINISH_REASONS = ("stop", "length", "abort", "error")
PHASES = ("prefill", "decode", "mixed")
MOMENTS = (  # of a request inside the server
    "received_s",
    "tokenized_s",
    "queued_s",
    "scheduled_s",
    "first_token_s",
    "last_token_s",
    "detokenized_s",
    "sent_back_s",
)


class SchemaError(ValueError):
    """Columns that are not those of the schema; the message names the column and what it should be."""


class Kind(Enum):
    """How a column is held in memory (NumPy) and, in its name, what it is in a file."""

    FLOAT = "float64"
    INT64 = "int64"
    INT32 = "int32"
    FLAG = "bool"  # in memory: int8 1, 0 and -1 for null
    CODE = "dictionary<string>"  # in memory: int8 index into Column.choices
    TEXT = "string"  # in memory: object array of str and None
    LIST_INT64 = "list<int64>"  # in memory: see Decisions
    LIST_INT32 = "list<int32>"


_NUMPY: dict[Kind, type] = {
    Kind.FLOAT: np.float64,
    Kind.INT64: np.int64,
    Kind.INT32: np.int32,
    Kind.FLAG: np.int8,
    Kind.CODE: np.int8,
    Kind.TEXT: np.object_,
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        name: Its name; ``_s`` ends a time in seconds.
        kind: How it is held.
        meaning: What it holds; times are seconds from the start of the run.
        nullable: Whether a backend may not know it.
        derived: Whether it is computed here from the other columns; nobody hands it over.
        choices: The words of a code.
    """

    name: str
    kind: Kind
    meaning: str
    nullable: bool = True
    derived: bool = False
    choices: tuple[str, ...] = ()


def _required(name: str, kind: Kind, meaning: str, choices: tuple[str, ...] = ()) -> Column:
    return Column(name, kind, meaning, nullable=False, choices=choices)


def _derived(name: str, meaning: str) -> Column:
    return Column(name, Kind.FLOAT, meaning, derived=True)


REQUEST_COLUMNS: tuple[Column, ...] = (
    _required("request_id", Kind.INT64, "identity in the trace"),
    Column("session_id", Kind.INT64, "conversation it belongs to"),
    Column("turn", Kind.INT64, "position in the conversation, from 0"),
    Column("parent_id", Kind.INT64, "request that had to end before this one could arrive"),
    Column("client_id", Kind.INT64, "tenant"),
    _required("arrival_s", Kind.FLOAT, "intended arrival, after scaling and spreading"),
    Column("sent_s", Kind.FLOAT, "the client began to send"),
    _derived("send_lag_s", "sent - arrival: the client's own lateness"),
    Column("received_s", Kind.FLOAT, "the API server has the request"),
    Column("tokenized_s", Kind.FLOAT, "the prompt is token ids"),
    Column("queued_s", Kind.FLOAT, "the scheduler has it"),
    Column("scheduled_s", Kind.FLOAT, "first admitted to a step"),
    Column("first_token_s", Kind.FLOAT, "the engine has its first token"),
    Column("last_token_s", Kind.FLOAT, "the engine has its last token"),
    Column("detokenized_s", Kind.FLOAT, "the last token is text"),
    Column("sent_back_s", Kind.FLOAT, "the API server has sent the last token"),
    Column("client_first_token_s", Kind.FLOAT, "first token as the client saw it"),
    Column("client_last_token_s", Kind.FLOAT, "last token as the client saw it"),
    _required("prompt_tokens", Kind.INT64, "tokens of the prompt"),
    _required("output_tokens", Kind.INT64, "tokens produced"),
    Column("max_tokens", Kind.INT64, "tokens asked for at most"),
    Column("cached_tokens", Kind.INT64, "prompt tokens not recomputed, at first admission"),
    Column("cached_gpu_tokens", Kind.INT64, "those of cached_tokens found in GPU memory"),
    Column("cached_host_tokens", Kind.INT64, "those of cached_tokens found in host memory"),
    Column("ideal_cached_tokens", Kind.INT64, "the hit of an unbounded cache, same order"),
    _derived("ttft_s", "client first token - arrival"),
    _derived("ttft_from_send_s", "client first token - sent: vLLM's, SGLang's, AIPerf's TTFT"),
    _derived("tpot_s", "(client last - first token) / (output_tokens - 1), null under two tokens"),
    Column("itl_p50_s", Kind.FLOAT, "median of this request's gaps between tokens"),
    Column("itl_p99_s", Kind.FLOAT, "99th percentile of them"),
    Column("itl_max_s", Kind.FLOAT, "largest of them"),
    _derived("e2e_s", "client last token - arrival"),
    _derived("e2e_from_send_s", "client last token - sent: vLLM's E2EL"),
    _derived("queue_s", "scheduled - queued"),
    _derived("prefill_s", "first token - scheduled, in the engine"),
    _derived("decode_s", "last token - first token, in the engine"),
    Column("preempted_s", Kind.FLOAT, "time between a preemption and the next admission, summed"),
    Column("chunks", Kind.INT64, "steps that the prefill took"),
    Column("preemptions", Kind.INT64, "times it was preempted"),
    Column("recomputed_tokens", Kind.INT64, "tokens whose KV was computed again after a preemption"),
    _required("priority", Kind.INT64, "larger is more urgent"),
    Column("deadline_s", Kind.FLOAT, "seconds after arrival by which the last token is wanted"),
    Column("slo_class", Kind.TEXT, "name of the SLO it is held to"),
    Column("slo_met", Kind.FLAG, "it met every limit of its SLO"),
    _required("status", Kind.CODE, "how it ended, exactly one", STATUSES),
    Column("finish_reason", Kind.CODE, "why the output ended", choices=FINISH_REASONS),
    Column("error", Kind.TEXT, "message of a request that failed or was rejected"),
    _required("warmup", Kind.FLAG, "left out of the summary"),
)

STEP_COLUMNS: tuple[Column, ...] = (
    Column("step", Kind.INT64, "position in the run, from 0", nullable=False, derived=True),
    _required("start_s", Kind.FLOAT, "the engine began the step"),
    _required("duration_s", Kind.FLOAT, "seconds it took"),
    Column("phase", Kind.CODE, "what it ran", nullable=False, derived=True, choices=PHASES),
    _required("prefill_tokens", Kind.INT32, "prompt tokens computed"),
    _required("decode_tokens", Kind.INT32, "sequences that decoded, one token each"),
    _required("sequences", Kind.INT32, "sequences in the batch"),
    Column("padded_sequences", Kind.INT32, "sequences after padding to a CUDA graph's size"),
    Column("graph", Kind.FLAG, "replayed as a CUDA graph"),
    Column("waiting", Kind.INT32, "requests queued when it was scheduled"),
    Column("running", Kind.INT32, "requests admitted when it was scheduled"),
    Column("pages_used", Kind.INT64, "pages that running sequences hold, shared ones once"),
    Column("pages_cached", Kind.INT64, "pages that only the prefix cache holds"),
    Column("pages_free", Kind.INT64, "pages that nobody holds"),
    Column("evicted_pages", Kind.INT64, "pages evicted from the prefix cache to schedule it"),
    Column("preempted", Kind.INT32, "sequences preempted to schedule it"),
    Column("cpu_schedule_s", Kind.FLOAT, "seconds the scheduler took to form it"),
    Column("gpu_wait_s", Kind.FLOAT, "seconds the engine stood idle before it"),
    Column("planned_s", Kind.FLOAT, "the serving loop took in the requests that it was planned with"),
    Column("collected_s", Kind.FLOAT, "the serving loop had its tokens"),
    Column("prefill_ids", Kind.LIST_INT64, "request ids that prefilled, in batch order"),
    Column("prefill_counts", Kind.LIST_INT32, "prompt tokens of each of prefill_ids"),
    Column("joined_ids", Kind.LIST_INT64, "request ids that decode here and did not in the step before"),
    Column("left_ids", Kind.LIST_INT64, "request ids that decoded in the step before and do not here"),
)

TOKEN_COLUMNS: tuple[Column, ...] = (
    _required("request_id", Kind.INT64, "whose token it is"),
    _required("token", Kind.INT32, "position in the output, from 0"),
    _required("client_s", Kind.FLOAT, "the client saw it"),
)

LIST_KINDS = (Kind.LIST_INT64, Kind.LIST_INT32)


@dataclass(frozen=True, eq=False)
class Decisions:
    """What each step ran, compactly: prefills in full, the decode set as its difference to the step before.

    Row ``i`` of a list is ``values[offsets[i]:offsets[i + 1]]``.

    Attributes:
        prefill_offsets: int64 [steps + 1], of both ``prefill_ids`` and ``prefill_counts``.
        prefill_ids: int64, request ids in batch order.
        prefill_counts: int32, prompt tokens of each.
        joined_offsets: int64 [steps + 1].
        joined_ids: int64, request ids that started to decode.
        left_offsets: int64 [steps + 1].
        left_ids: int64, request ids that stopped.
    """

    prefill_offsets: Array
    prefill_ids: Array
    prefill_counts: Array
    joined_offsets: Array
    joined_ids: Array
    left_offsets: Array
    left_ids: Array

    def lists(self) -> dict[str, tuple[Array, Array]]:
        """Offsets and values of each list column, by its name."""
        return {
            "prefill_ids": (self.prefill_offsets, self.prefill_ids),
            "prefill_counts": (self.prefill_offsets, self.prefill_counts),
            "joined_ids": (self.joined_offsets, self.joined_ids),
            "left_ids": (self.left_offsets, self.left_ids),
        }


@dataclass(frozen=True, eq=False)
class Gaps:
    """Gaps between the tokens of one request, pooled over all requests of a run.

    An entry is one step and one length: the gaps that ended with that step and took that long. Entries are
    what the intervals of ITL resample, since the gaps of a step are one observation: do not merge steps.

    Attributes:
        gap_s: float64 [entries], seconds.
        weight: int64 [entries], how many gaps there were, positive.
    """

    gap_s: Array
    weight: Array


def ended_ok(requests: Columns) -> Array:
    """Which requests ended ok: bool [requests]."""
    ok: Array = requests["status"] == STATUSES.index("ok")
    return ok


def select(columns: Columns, rows: Array) -> dict[str, Array]:
    """The same columns with some rows, by mask or by index."""
    return {name: values[rows] for name, values in columns.items()}


def complete_requests(base: Columns) -> dict[str, Array]:
    """The whole request table from the columns a backend knows: checked, filled with nulls, derived.

    Args:
        base: Arrays of one length [requests] by the names of REQUEST_COLUMNS; no derived ones.

    Returns:
        Every column of REQUEST_COLUMNS in its order: float64, int64, int8 or object arrays [requests]. A
        column that was not given is a read-only view of one null.

    Raises:
        SchemaError: A column is unknown, derived, missing though it may not be null, of another length or
            type, or holds a code outside its choices; or a request ended ok and has no last token.
    """
    requests = _complete("requests", REQUEST_COLUMNS, base, _REQUEST_DERIVATIONS)
    endless = ended_ok(requests) & np.isnan(requests["ttft_s"] + requests["e2e_s"])
    if endless.any():
        row = int(np.argmax(endless))
        raise SchemaError(
            f"requests: request {requests['request_id'][row]} (row {row}) has status ok "
            "but no client_first_token_s or no client_last_token_s"
        )
    return requests


def complete_steps(base: Columns) -> dict[str, Array]:
    """The whole step table but the lists of :class:`Decisions`, as :func:`complete_requests` does it.

    Raises:
        SchemaError: As for :func:`complete_requests`.
    """
    scalar = tuple(column for column in STEP_COLUMNS if column.kind not in LIST_KINDS)
    return _complete("steps", scalar, base, _STEP_DERIVATIONS)


def complete_tokens(base: Columns) -> dict[str, Array]:
    """The whole token table, as :func:`complete_requests` does it.

    Raises:
        SchemaError: As for :func:`complete_requests`.
    """
    return _complete("tokens", TOKEN_COLUMNS, base, {})


def _complete(table: str, schema: tuple[Column, ...], base: Columns, derivations: Derivations) -> dict[str, Array]:
    by_name = {column.name: column for column in schema}
    for name in base:
        if name not in by_name:
            raise SchemaError(f"{table}: unknown column {name!r}; the columns are {', '.join(by_name)}")
        if by_name[name].derived:
            raise SchemaError(f"{table}: column {name!r} is derived from the others; leave it out")
    rows = len(next(iter(base.values()))) if base else 0
    given = {name: _checked(table, by_name[name], values, rows) for name, values in base.items()}
    for column in schema:
        if column.name not in given and not column.derived:
            given[column.name] = _null(table, column, rows)
    return {column.name: derivations[column.name](given) if column.derived else given[column.name] for column in schema}


def _checked(table: str, column: Column, values: Array, rows: int) -> Array:
    where = f"{table}: column {column.name!r}"
    if values.ndim != 1 or len(values) != rows:
        raise SchemaError(f"{where} has shape {values.shape}, the first column has {rows} rows")
    wanted = np.dtype(_NUMPY[column.kind])
    if values.dtype != wanted and not _fits(values, wanted):
        raise SchemaError(f"{where} is {values.dtype}, give {wanted}")
    values = values.astype(wanted, copy=False)
    if column.kind is Kind.CODE and rows and not NULL <= int(values.min()) <= int(values.max()) < len(column.choices):
        raise SchemaError(f"{where} has a code outside 0..{len(column.choices) - 1}: {', '.join(column.choices)}")
    if not column.nullable:
        null = np.isnan(values) if column.kind is Kind.FLOAT else values == NULL
        # -1 is a fine priority or identity where nothing can be null
        if column.kind not in (Kind.INT64, Kind.INT32) and bool(null.any()):
            raise SchemaError(f"{where} is null in row {int(np.argmax(null))}, and may not be")
    return values


def _fits(values: Array, wanted: np.dtype[Any]) -> bool:
    """Whether a cast keeps every value: bools to flags, integers within range, anything to objects."""
    if wanted == np.object_ or np.can_cast(values.dtype, wanted, casting="safe"):
        return True
    if values.dtype.kind not in "iu" or wanted.kind != "i":
        return False
    limits = np.iinfo(wanted)
    return not len(values) or limits.min <= int(values.min()) <= int(values.max()) <= limits.max


def _null(table: str, column: Column, rows: int) -> Array:
    if not column.nullable:
        raise SchemaError(f"{table}: column {column.name!r} ({column.meaning}) is missing and may not be null")
    fill = {Kind.FLOAT: np.nan, Kind.TEXT: None}.get(column.kind, NULL)
    return np.broadcast_to(np.array(fill, dtype=_NUMPY[column.kind]), rows)


def _difference(later: str, earlier: str) -> Callable[[Columns], Array]:
    return lambda columns: columns[later] - columns[earlier]


def _tpot_s(columns: Columns) -> Array:
    gaps = columns["output_tokens"] - 1
    span_s = columns["client_last_token_s"] - columns["client_first_token_s"]
    tpot_s: Array = np.divide(span_s, gaps, out=np.full(len(gaps), np.nan), where=gaps > 0)
    return tpot_s


def _phase(columns: Columns) -> Array:
    code = np.where(columns["prefill_tokens"] > 0, PHASES.index("mixed"), PHASES.index("decode"))
    code[columns["decode_tokens"] == 0] = PHASES.index("prefill")
    phase: Array = code.astype(np.int8)
    return phase


_REQUEST_DERIVATIONS: Derivations = {
    "send_lag_s": _difference("sent_s", "arrival_s"),
    "ttft_s": _difference("client_first_token_s", "arrival_s"),
    "ttft_from_send_s": _difference("client_first_token_s", "sent_s"),
    "tpot_s": _tpot_s,
    "e2e_s": _difference("client_last_token_s", "arrival_s"),
    "e2e_from_send_s": _difference("client_last_token_s", "sent_s"),
    "queue_s": _difference("scheduled_s", "queued_s"),
    "prefill_s": _difference("first_token_s", "scheduled_s"),
    "decode_s": _difference("last_token_s", "first_token_s"),
}

_STEP_DERIVATIONS: Derivations = {
    "step": lambda columns: np.arange(len(columns["start_s"]), dtype=np.int64),
    "phase": _phase,
}
