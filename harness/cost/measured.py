"""A measured profile on disk: what an engine took for steps, host stages and all-reduces, and of what it is a profile.

A profile is a directory. ``profile.yaml`` says what was measured, ``steps.parquet`` and ``host.parquet`` hold a row for
each measured point, ``collectives.parquet`` is there where more than one device shared the model.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.complaint import first_line
from harness.cost.clocks import PowerLimit
from harness.cost.errors import CostConfigError, CostError
from harness.cost.fields import Fields
from harness.cost.hardware import Hardware
from harness.cost.model import DTYPE_BYTES, ModelShape
from harness.cost.shape import StepShape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMAT_VERSION = 1
META, STEPS, HOST, COLLECTIVES = "profile.yaml", "steps.parquet", "host.parquet", "collectives.parquet"

STAGES = ("receive", "tokenize", "hop", "schedule", "launch", "commit", "collect", "detokenize", "send")
"""The host's stages, in the order in which a request passes them.

``receive`` and ``tokenize`` are of one request with ``tokens`` prompt tokens; ``hop`` is a message from one process to
the next; ``schedule`` plans and ``launch`` enqueues a step of ``sequences`` sequences and ``tokens`` rows; ``collect``
is what passes between the end of a step on the device and its tokens in the host's hands; ``commit`` is of
``sequences`` sampled tokens; ``detokenize`` and ``send`` are of a step's message with ``tokens`` output tokens.
"""


class ProfileError(CostError):
    """A profile that cannot be read, written or used; the message names file and field, and the way out."""


@dataclass(frozen=True, slots=True)
class StepPoint:
    """One measured step.

    Attributes:
        shape: What was in it.
        graph: It replayed a CUDA graph.
        device_s: Seconds that the device was busy: the median.
        spread_s: Interquartile range of those seconds.
        repeats: How many times it was measured.
    """

    shape: StepShape
    graph: bool
    device_s: float
    spread_s: float
    repeats: int


@dataclass(frozen=True, slots=True)
class HostPoint:
    """One measured stage of the host.

    Attributes:
        stage: One of :data:`STAGES`, which says what the counts are.
        sequences: Sequences.
        tokens: Tokens.
        graph: Of a step that replays a CUDA graph.
        overlap: With overlap scheduling.
        seconds: CPU seconds: the median.
        spread_s: Interquartile range of those seconds.
        repeats: How many times it was measured.
    """

    stage: str
    sequences: int
    tokens: int
    graph: bool
    overlap: bool
    seconds: float
    spread_s: float
    repeats: int


@dataclass(frozen=True, slots=True)
class CollectivePoint:
    """One measured collective operation over all ``tp`` devices.

    Attributes:
        kind: ``all_reduce`` or ``all_gather``.
        algorithm: What ran it: ``nccl``, ``two_shot``, ``gloo``.
        bytes: Of each device's operand.
        seconds: The median.
        spread_s: Interquartile range of those seconds.
        repeats: How many times it was measured.
    """

    kind: str
    algorithm: str
    bytes: int
    seconds: float
    spread_s: float
    repeats: int


@dataclass(frozen=True)
class MeasuredProfile:
    """What was measured of one model on one kind of device.

    Attributes:
        model: The model.
        hardware: The device as a roofline knows it, which says how a step extrapolates.
        device: The device's own name, as its driver gives it.
        tp: Devices that shared the model.
        weight_dtype: ``bf16``, ``fp8`` or ``fp32``.
        kv_dtype: The same choices.
        page_size: Tokens of a KV page.
        pages: KV pages that the engine had.
        max_running: The most sequences it ran at once.
        max_context: The longest context, tokens.
        graph_sizes: Batch sizes for which a CUDA graph was captured, ascending; empty without graphs.
        overlap: A step was launched while the one before ran.
        attention: The attention backend's name.
        versions: Of the software: ``servetwin``, ``torch``, ``flashinfer`` and so on.
        date: Of the measurement, ISO 8601.
        command: What measured it.
        steps: Measured steps.
        host: Measured host stages.
        collectives: Measured collective operations.
        shared_saves: See :class:`harness.cost.shape.CostModel`; None where it was not measured.
        fused_kv_bytes: Of a layer's KV on one device, the most that a small decode read in one kernel (see
            :mod:`runtime.scheduler.graph_sizes`); 0 where none did.
        power_limit: See :class:`harness.cost.shape.CostModel`; None where it was not measured.
    """

    model: ModelShape
    hardware: Hardware
    device: str
    tp: int
    weight_dtype: str
    kv_dtype: str
    page_size: int
    pages: int
    max_running: int
    max_context: int
    graph_sizes: tuple[int, ...]
    overlap: bool
    attention: str
    versions: Mapping[str, str]
    date: str
    command: str
    steps: Sequence[StepPoint]
    host: Sequence[HostPoint] = field(default=())
    collectives: Sequence[CollectivePoint] = field(default=())
    shared_saves: float | None = None
    fused_kv_bytes: int = 0
    power_limit: PowerLimit | None = None

    @property
    def name(self) -> str:
        """What its directory is called among the shipped ones."""
        return profile_name(self.model.name, self.hardware.name, self.tp)

    def save(self, path: Path | str) -> None:
        """Write the profile into a directory, made where there is none.

        Raises:
            ProfileError: It cannot be written.
        """
        import yaml  # type: ignore[import-untyped]

        directory = Path(path)
        meta = {
            "format_version": FORMAT_VERSION,
            "model": dataclasses.asdict(self.model),
            "hardware": dataclasses.asdict(self.hardware),
            **{name: getattr(self, name) for name in _PLAIN},
            "graph_sizes": list(self.graph_sizes),
            "versions": dict(self.versions),
        }
        meta["hardware"]["peak_flops"] = dict(self.hardware.peak_flops)
        if self.power_limit is not None:
            meta["power_limit"] = dataclasses.asdict(self.power_limit)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / META).write_text(yaml.safe_dump(meta, sort_keys=False, width=120), encoding="utf-8")
            _write(directory / STEPS, self.steps, _STEP_COLUMNS)
            _write(directory / HOST, self.host, _HOST_COLUMNS)
            if self.collectives:
                _write(directory / COLLECTIVES, self.collectives, _COLLECTIVE_COLUMNS)
        except OSError as error:
            raise ProfileError(f"{directory}: the profile cannot be written ({error.strerror})") from None

    @classmethod
    def load(cls, path: Path | str) -> MeasuredProfile:
        """Read a profile's directory.

        Raises:
            ProfileError: There is none, or a file, field or column is missing or wrong.
        """
        directory = Path(path)
        if not (directory / META).is_file():
            raise ProfileError(
                f"{directory}: no {META} there; give a profile's directory, or measure one: python -m harness calibrate"
            )
        read = Fields(_meta(directory / META), "")
        sharing = (directory / COLLECTIVES).is_file()
        collectives = _read(directory / COLLECTIVES, _COLLECTIVE_COLUMNS) if sharing else []
        try:
            if (version := read.integer("format_version")) != FORMAT_VERSION:
                raise CostConfigError(
                    f"format_version={version}: this program reads {FORMAT_VERSION}; measure it again"
                )
            profile = cls(
                model=_model(read.section("model")),
                hardware=Hardware.from_config(read.section("hardware")),
                device=read.text("device"),
                tp=read.integer("tp"),
                weight_dtype=read.choice("weight_dtype", DTYPE_BYTES),
                kv_dtype=read.choice("kv_dtype", DTYPE_BYTES),
                page_size=read.integer("page_size"),
                pages=read.integer("pages"),
                max_running=read.integer("max_running"),
                max_context=read.integer("max_context"),
                graph_sizes=tuple(read.whole_numbers("graph_sizes")),
                overlap=read.boolean("overlap"),
                attention=read.text("attention"),
                versions={str(name): str(version) for name, version in read.section("versions").items()},
                date=read.text("date"),
                command=read.text("command"),
                steps=[_step(row) for row in _read(directory / STEPS, _STEP_COLUMNS)],
                host=[HostPoint(**row) for row in _read(directory / HOST, _HOST_COLUMNS)],
                collectives=[CollectivePoint(**row) for row in collectives],
                shared_saves=read.share("shared_saves") if read.has("shared_saves") else None,
                fused_kv_bytes=read.integer("fused_kv_bytes", 0, least=0),
                power_limit=_power_limit(read.section("power_limit")) if read.has("power_limit") else None,
            )
        except ProfileError:
            raise
        except CostError as error:
            raise ProfileError(f"{directory / META}: {error}") from None
        if not profile.steps:
            raise ProfileError(f"{directory / STEPS}: no steps; measure some: python -m harness calibrate")
        for row, point in enumerate(profile.host):
            if point.stage not in STAGES:
                raise ProfileError(
                    f"{directory / HOST}: row {row}: stage={point.stage!r}; choose from {', '.join(STAGES)}"
                )
        return profile


def profile_name(model: str, hardware: str, tp: int) -> str:
    """What the directory of a shipped profile is called."""
    return f"{hardware}_{model}_tp{tp}"


_PLAIN = (
    "device",
    "tp",
    "weight_dtype",
    "kv_dtype",
    "page_size",
    "pages",
    "max_running",
    "max_context",
    "overlap",
    "attention",
    "shared_saves",
    "fused_kv_bytes",
    "date",
    "command",
)


def _columns(point: type) -> dict[str, type]:
    """Name and kind of each column of a table of such points; a step's shape is spread over columns."""
    kinds = {"int": int, "float": float, "bool": bool, "str": str}
    columns: dict[str, type] = {}
    for part in dataclasses.fields(point):
        columns |= _columns(StepShape) if part.name == "shape" else {part.name: kinds[str(part.type)]}
    return columns


_STEP_COLUMNS = _columns(StepPoint)
_HOST_COLUMNS = _columns(HostPoint)
_COLLECTIVE_COLUMNS = _columns(CollectivePoint)
_SHAPE_COLUMNS = tuple(_columns(StepShape))
_ADDED = {"prefill_max_context": 0}  # columns that profiles measured before do not have


def _row(point: StepPoint | HostPoint | CollectivePoint) -> dict[str, Any]:
    row = dataclasses.asdict(point)
    shape: dict[str, Any] = row.pop("shape", {})
    return shape | row


def _step(row: dict[str, Any]) -> StepPoint:
    return StepPoint(StepShape(**{name: row.pop(name) for name in _SHAPE_COLUMNS}), **row)


def _write(path: Path, points: Sequence[StepPoint | HostPoint | CollectivePoint], columns: Mapping[str, type]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    pq.write_table(pa.Table.from_pylist([_row(point) for point in points], schema), path, compression="zstd")


def _read(path: Path, columns: Mapping[str, type]) -> list[dict[str, Any]]:
    """The rows of a table, each with exactly the columns asked for.

    Raises:
        ProfileError: The file, a column or a value is missing, or a value is not what its column holds.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ProfileError(f"{path}: cannot be read as Parquet ({first_line(error)})") from None
    missing = [name for name in columns if name not in table.column_names and name not in _ADDED]
    if missing:
        raise ProfileError(f"{path}: no column {missing[0]}; it has {', '.join(table.column_names)}")
    known = [name for name in columns if name in table.column_names]
    unknown = {name: _ADDED[name] for name in columns if name not in known}
    rows: list[dict[str, Any]] = [unknown | row for row in table.select(known).to_pylist()]
    for position, row in enumerate(rows):
        for name, kind in columns.items():
            if not _holds(row[name], kind):
                raise ProfileError(f"{path}: row {position}: {name}={row[name]!r}: {_WANTED[kind]}")
    return rows


_WANTED = {
    int: "expected a count, 0 or more",
    float: "expected a number, 0 or more",
    bool: "expected true or false",
    str: "expected a word",
}


def _holds(value: object, kind: type) -> bool:
    if kind in (int, float):
        return type(value) is kind and math.isfinite(value) and value >= 0
    return type(value) is kind


def _meta(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        meta = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProfileError(f"{path}: cannot be read as YAML ({first_line(error)})") from None
    if not isinstance(meta, dict):
        raise ProfileError(f"{path}: expected fields such as model, hardware and tp")
    return meta


def _power_limit(values: Mapping[str, Any]) -> PowerLimit:
    read = Fields(values, "power_limit.")
    read.refuse_unknown([part.name for part in dataclasses.fields(PowerLimit)])
    settles_s, pause_s = (read.positive(name, "seconds") for name in ("settles_s", "pause_s"))
    return PowerLimit(settles_s, read.share("compute"), read.share("memory"), pause_s)


def _model(values: Mapping[str, Any]) -> ModelShape:
    """The model whose attributes were written down."""
    read = Fields(values, "model.")
    kinds = {part.name: str(part.type) for part in dataclasses.fields(ModelShape)}
    read.refuse_unknown(kinds)
    model: dict[str, Any] = {}
    for name, kind in kinds.items():
        if kind == "int":
            model[name] = read.integer(name, least=0)
        else:
            model[name] = read.text(name) if kind == "str" else read.boolean(name)
    return ModelShape(**model)
