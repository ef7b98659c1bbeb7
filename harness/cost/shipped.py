"""Which measured profile serves a configuration: the one named, the one that fits, or the nearest, transferred."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.cost.measured import META, MeasuredProfile, ProfileError
from harness.cost.profile import transferred
from harness.cost.roofline import Roofline

if TYPE_CHECKING:
    from harness.cost.hardware import Hardware
    from harness.cost.model import ModelShape

SHIPPED = Path(__file__).resolve().parent / "profiles"
"""Where the profiles that come with this package lie."""

_LIKE_SIZE = 16.0  # times: beyond, what is fixed in a step of the one outweighs what grows in the other


class Found(NamedTuple):
    """A profile for a configuration.

    Attributes:
        profile: What was measured, transferred where that was elsewhere.
        roofline: Of the model, device and ``tp`` that are wanted, with the profile's dtypes.
        notes: What is to be said of it, a line each.
    """

    profile: MeasuredProfile
    roofline: Roofline
    notes: tuple[str, ...]


def find_profile(
    model: ModelShape, hardware: Hardware, tp: int, weight_dtype: str | None, kv_dtype: str | None, path: str | None
) -> Found:
    """The profile for a model, a device and a ``tp``.

    One of the same model and dtypes, measured with another ``tp`` or on other hardware, is transferred by the ratio of
    the rooflines; the same hardware comes first, then the nearest ``tp``. So is that of another dense model, at most
    16 times as large or as small, where there is none of this one: the same hardware first, then the nearest size.

    Args:
        model: What is served.
        hardware: On what.
        tp: Tensor parallelism.
        weight_dtype: ``bf16``, ``fp8``, ``fp32``, or None for whichever was measured.
        kv_dtype: The same choices.
        path: A profile's directory, or None for those that come with the package.

    Raises:
        ProfileError: There is none for this model or one like it, or it cannot be read.
        CostConfigError: ``tp`` does not divide the model.
    """
    there = [Path(path).expanduser()] if path else directories()
    found = [MeasuredProfile.load(directory) for directory in there]
    suited = [
        profile
        for profile in found
        if weight_dtype in (None, profile.weight_dtype)
        and kv_dtype in (None, profile.kv_dtype)
        and transferable(profile, model, hardware)
    ]
    if not suited:
        dtypes = f" with weights in {weight_dtype or 'any dtype'} and KV in {kv_dtype or 'any dtype'}"
        have = ", ".join(f"{profile.name} ({profile.weight_dtype}, {profile.kv_dtype})" for profile in found) or "none"
        raise ProfileError(
            f"{f'cost.path={path}' if path else 'cost=profile'}: no profile of {model.name}{dtypes}, or of a model "
            f"like it on a device like {hardware.name}; there is: {have}. Measure one: python -m harness calibrate "
            f"model={model.name} hardware={hardware.name} tp={tp}, or take cost=roofline"
        )
    profile = min(suited, key=lambda profile: (_distance(profile, model, hardware, tp), profile.name))
    distance = _distance(profile, model, hardware, tp)
    wanted = Roofline(model, hardware, tp, profile.weight_dtype, profile.kv_dtype)
    if not any(distance):
        return Found(profile, wanted, ())
    other_model, *_ = distance
    other = ", another model's," if other_model else ""
    note = (
        f"cost: no profile of {model.name} on {hardware.name} with tp={tp}: transferred from {profile.name}{other} by "
        "the ratio of the rooflines"
    )
    return Found(transferred(profile, wanted), wanted, (note,))


def directories() -> list[Path]:
    """The directories of the profiles that come with this package."""
    return sorted(file.parent for file in SHIPPED.glob(f"*/{META}"))


def _architecture(model: ModelShape) -> tuple[int, ...]:
    """What a step's seconds depend on: the name does not matter, nor how long a context may get."""
    return (
        model.hidden_size,
        model.layers,
        model.heads,
        model.kv_heads,
        model.head_dim,
        model.intermediate_size,
        model.vocab_size,
        model.experts,
        model.experts_per_token,
        model.moe_intermediate_size,
        model.moe_layers,
    )


def transferable(profile: MeasuredProfile, model: ModelShape, hardware: Hardware) -> bool:
    """Whether a profile can be transferred: of the same model or one that runs the same kernels, GPU to GPU."""
    dense = not (profile.model.experts or model.experts)
    near = _apart(profile.model.parameters, model.parameters) < _LIKE_SIZE
    kernels = _architecture(profile.model) == _architecture(model) or (dense and near)
    return kernels and (profile.hardware.processors > 1) == (hardware.processors > 1)


def _distance(profile: MeasuredProfile, model: ModelShape, hardware: Hardware, tp: int) -> tuple[float, ...]:
    """How far a profile is from what is wanted, what matters most first; zeros where it is of that."""
    return (
        _architecture(profile.model) != _architecture(model),
        profile.hardware.name != hardware.name,
        _apart(profile.model.parameters, model.parameters),
        _apart(profile.tp, tp),
    )


def _apart(one: float, other: float) -> float:
    """How many times the smaller the larger is, beyond once."""
    return max(one, other) / min(one, other) - 1
