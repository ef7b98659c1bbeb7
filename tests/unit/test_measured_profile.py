"""A profile on disk: what is written is read back, and what is wrong is said by file, field and value."""

from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from omegaconf import OmegaConf

from harness.cost.clocks import PowerLimit
from harness.cost.hardware import Hardware
from harness.cost.measured import CollectivePoint, HostPoint, MeasuredProfile, ProfileError, StepPoint
from harness.cost.model import ModelShape
from harness.cost.profile import ProfileCost
from harness.cost.roofline import Roofline
from harness.cost.shape import CostModel, StepShape

CONF = Path(__file__).parents[2] / "conf"


def conf(group, name):
    return OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))


DECODE = StepShape(decode_sequences=3, decode_rows=4, decode_context=900, decode_max_context=500, sampled=3)
PROFILE = MeasuredProfile(
    model=ModelShape.from_config(conf("model", "qwen3_8b")),
    hardware=Hardware.from_config(conf("hardware", "h100")),
    device="NVIDIA H100 80GB HBM3",
    tp=2,
    weight_dtype="bf16",
    kv_dtype="bf16",
    page_size=16,
    pages=12345,
    max_running=256,
    max_context=40960,
    graph_sizes=(1, 2, 4, 8),
    overlap=True,
    attention="flashinfer",
    versions={"torch": "2.11.0"},
    date="2026-11-22",
    command="python -m harness calibrate model=qwen3_8b hardware=h100 tp=2",
    steps=[
        StepPoint(DECODE, True, 0.0041, 1e-5, 20),
        StepPoint(StepShape(1, 64, 64 * 65 // 2, 64, sampled=1), False, 0.005, 2e-5, 5),
    ],
    host=[HostPoint("schedule", 3, 4, True, True, 7.5e-5, 1e-6, 100)],
    collectives=[CollectivePoint("all_reduce", "nccl", 8192, 1.4e-5, 0.0, 50)],
    shared_saves=0.25,
    fused_kv_bytes=1 << 25,
    power_limit=PowerLimit(settles_s=0.0474, compute=0.1813, memory=0.0, pause_s=0.0175),
)
LIMIT = asdict(PROFILE.power_limit)


def test_what_is_saved_is_loaded(tmp_path):
    PROFILE.save(tmp_path / PROFILE.name)
    assert MeasuredProfile.load(tmp_path / "h100_qwen3_8b_tp2") == PROFILE


def test_collectives_are_there_only_if_measured(tmp_path):
    replace(PROFILE, tp=1, collectives=[]).save(tmp_path)
    assert not (tmp_path / "collectives.parquet").exists()
    assert MeasuredProfile.load(tmp_path).collectives == []


def test_a_profile_without_a_power_limit_has_none(tmp_path):
    without = replace(PROFILE, power_limit=None)
    without.save(tmp_path)
    assert "power_limit" not in (tmp_path / "profile.yaml").read_text()
    assert MeasuredProfile.load(tmp_path) == without


def test_no_profile_names_the_way_out(tmp_path):
    with pytest.raises(ProfileError, match=r"no profile\.yaml there; .*calibrate"):
        MeasuredProfile.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("shared_saves", 1.5, r"profile\.yaml: shared_saves=1\.5 must be a share from 0 to 1"),
        ("tp", "two", r"profile\.yaml: tp='two' must be a whole number of at least 1"),
        ("graph_sizes", [0], r"profile\.yaml: graph_sizes=\[0\] must be a list of whole numbers"),
        ("weight_dtype", "int3", r"profile\.yaml: weight_dtype='int3' must be one of bf16"),
        ("format_version", 99, r"format_version=99: this program reads 1"),
        ("model", {"name": "x"}, r"profile\.yaml: model\.hidden_size is missing"),
        ("versions", None, r"profile\.yaml: versions is missing"),
        ("power_limit", 0.18, r"profile\.yaml: power_limit=0\.18 must be a mapping"),
        (
            "power_limit",
            {**LIMIT, "settles_s": 0},
            r"profile\.yaml: power_limit\.settles_s=0 must be .* seconds above 0",
        ),
        ("power_limit", {**LIMIT, "pause_s": "short"}, r"profile\.yaml: power_limit\.pause_s='short' must be"),
        (
            "power_limit",
            {**LIMIT, "compute": 1.5},
            r"profile\.yaml: power_limit\.compute=1\.5 must be a share from 0 to 1",
        ),
        ("power_limit", {**LIMIT, "memory": -0.1}, r"profile\.yaml: power_limit\.memory=-0\.1 must be a share"),
        ("power_limit", {**LIMIT, "memory": None}, r"profile\.yaml: power_limit\.memory is missing"),
        (
            "power_limit",
            {**LIMIT, "watts": 700},
            r"profile\.yaml: power_limit\.watts is unknown: choose among compute, ",
        ),
    ],
)
def test_a_wrong_field_is_named(tmp_path, field, value, message):
    PROFILE.save(tmp_path)
    meta = yaml.safe_load((tmp_path / "profile.yaml").read_text())
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(meta | {field: value}))
    with pytest.raises(ProfileError, match=message):
        MeasuredProfile.load(tmp_path)


@pytest.mark.parametrize(
    ("table", "column", "values", "message"),
    [
        (
            "steps",
            "device_s",
            [0.1, float("nan")],
            r"steps\.parquet: row 1: device_s=nan: expected a number, 0 or more",
        ),
        ("steps", "decode_rows", [-1, 4], r"steps\.parquet: row 0: decode_rows=-1: expected a count"),
        ("steps", "graph", None, r"steps\.parquet: no column graph; it has prefill_sequences"),
        ("host", "stage", ["lunch"], r"host\.parquet: row 0: stage='lunch'; choose from receive, tokenize"),
    ],
)
def test_a_wrong_column_is_named(tmp_path, table, column, values, message):
    PROFILE.save(tmp_path)
    file = tmp_path / f"{table}.parquet"
    read = pq.read_table(file).drop_columns([column])
    pq.write_table(read if values is None else read.append_column(column, pa.array(values)), file)
    with pytest.raises(ProfileError, match=message):
        MeasuredProfile.load(tmp_path)


def test_a_profile_from_before_the_longest_chunk_was_told_is_read(tmp_path):
    PROFILE.save(tmp_path)
    file = tmp_path / "steps.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["prefill_max_context"]), file)
    assert MeasuredProfile.load(tmp_path) == PROFILE


def test_a_file_that_is_no_table_is_named(tmp_path):
    PROFILE.save(tmp_path)
    (tmp_path / "host.parquet").write_text("stage,seconds\n")
    with pytest.raises(ProfileError, match=r"host\.parquet: cannot be read as Parquet"):
        MeasuredProfile.load(tmp_path)
    (tmp_path / "steps.parquet").unlink()
    with pytest.raises(ProfileError, match=r"steps\.parquet: cannot be read"):
        MeasuredProfile.load(tmp_path)


@pytest.mark.parametrize(("measured", "saves"), [(0.25, 0.25), (None, CostModel.shared_saves)])
def test_what_sharing_saves_is_the_profiles_where_it_was_measured(measured, saves):
    base = Roofline(PROFILE.model, PROFILE.hardware, 2, "bf16", "bf16")
    assert ProfileCost(replace(PROFILE, shared_saves=measured), base).shared_saves == saves


def test_its_steps_are_at_the_power_limit_at_which_they_were_measured():
    base = Roofline(PROFILE.model, PROFILE.hardware, 2, "bf16", "bf16")
    assert ProfileCost(PROFILE, base).power_limit == PROFILE.power_limit
    assert ProfileCost(replace(PROFILE, power_limit=None), base).power_limit is None
