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
    the rooflines; the same hardware comes first, then the nearest ``tp``.

    Args:
        model: What is served.
        hardware: On what.
        tp: Tensor parallelism.
        weight_dtype: ``bf16``, ``fp8``, ``fp32``, or None for whichever was measured.
        kv_dtype: The same choices.
        path: A profile's directory, or None for those that come with the package.

    Raises:
        ProfileError: There is none for this model, or it cannot be read.
        CostConfigError: ``tp`` does not divide the model.
    """
    there = [Path(path).expanduser()] if path else directories()
    found = [MeasuredProfile.load(directory) for directory in there]
    suited = [
        profile
        for profile in found
        if weight_dtype in (None, profile.weight_dtype)
        and kv_dtype in (None, profile.kv_dtype)
        and _architecture(profile.model) == _architecture(model)
    ]
    if not suited:
        dtypes = f" with weights in {weight_dtype or 'any dtype'} and KV in {kv_dtype or 'any dtype'}"
        have = ", ".join(f"{profile.name} ({profile.weight_dtype}, {profile.kv_dtype})" for profile in found) or "none"
        raise ProfileError(
            f"{f'cost.path={path}' if path else 'cost=profile'}: no profile of {model.name}{dtypes}; there is: {have}. "
            f"Measure one: python -m harness calibrate model={model.name} hardware={hardware.name} tp={tp}, or take "
            "cost=roofline"
        )
    profile = min(suited, key=lambda profile: (_distance(profile, hardware, tp), profile.name))
    wanted = Roofline(model, hardware, tp, profile.weight_dtype, profile.kv_dtype)
    if _distance(profile, hardware, tp) == 0:
        return Found(profile, wanted, ())
    here = Roofline(profile.model, profile.hardware, profile.tp, profile.weight_dtype, profile.kv_dtype)
    note = (
        f"cost: no profile of {model.name} on {hardware.name} with tp={tp}: transferred from {profile.name} by the "
        "ratio of the rooflines"
    )
    return Found(transferred(profile, here, wanted), wanted, (note,))


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


def _distance(profile: MeasuredProfile, hardware: Hardware, tp: int) -> float:
    """How far a profile's device and ``tp`` are from what is wanted; 0 where they are the same."""
    return 100 * (profile.hardware.name != hardware.name) + max(profile.tp, tp) / min(profile.tp, tp) - 1
