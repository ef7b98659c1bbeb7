"""Other simulators' published kernel profiles, as measured profiles of ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.cost.importers import aisimulate, llmservingsim, vidur
from harness.cost.importers.layerwise import ImportProfileError, composed
from harness.cost.roofline import Roofline

if TYPE_CHECKING:
    from harness.cost.hardware import Hardware
    from harness.cost.measured import MeasuredProfile
    from harness.cost.model import ModelShape

_FORMATS = (vidur, llmservingsim, aisimulate)


def import_profile(
    path: str | Path,
    model: ModelShape,
    hardware: Hardware,
    tp: int,
    weight_dtype: str = "bf16",
    kv_dtype: str = "bf16",
) -> MeasuredProfile:
    """A measured profile whose steps are put together from the kernels of another simulator's profile.

    What its tables do not hold (the LM head in Vidur's, elementwise kernels in AISimulate's, all-reduces where there is
    no table of them) comes from the roofline. There are no host stages in it.

    Args:
        path: The directory: of Vidur's ``mlp.csv`` and ``attention.csv``, of LLMServingSim's ``dense.csv`` and its
            other files (or the ``meta.yaml`` above them), or one with AISimulate's Parquet tables somewhere in it.
        model: What was profiled.
        hardware: On what.
        tp: Tensor parallelism.
        weight_dtype: ``bf16``, ``fp8`` or ``fp32``.
        kv_dtype: The same choices.

    Raises:
        ImportProfileError: It is none of these, is of another model, or a file, column or value is wrong.
        CostConfigError: ``tp`` does not divide the model, or a dtype is unknown to the hardware.
    """
    roofline = Roofline(model, hardware, tp, weight_dtype, kv_dtype)
    directory = Path(path).expanduser()
    for known in _FORMATS:
        if known.recognises(directory):
            return composed(known.read(directory, roofline), roofline, str(path))
    raise ImportProfileError(
        f"{path}: no profile of another simulator there: give a directory with mlp.csv and attention.csv (Vidur), with "
        "dense.csv and attention.csv (LLMServingSim), or with gemm_perf.parquet somewhere in it (AISimulate)"
    )
