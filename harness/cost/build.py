"""The cost model that a configuration asks for: a roofline, a measured profile, or another simulator's profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.cost.errors import CostConfigError
from harness.cost.fields import Fields
from harness.cost.hardware import Hardware
from harness.cost.importers import import_profile
from harness.cost.model import DTYPE_BYTES, ModelShape
from harness.cost.profile import ProfileCost
from harness.cost.roofline import Roofline, build_roofline
from harness.cost.shipped import find_profile

if TYPE_CHECKING:
    from harness.cost.measured import HostPoint
    from harness.cost.shape import CostModel

_CHOICES = ("roofline", "profile", "imported")


@dataclass(frozen=True)
class BuiltCost:
    """A cost model and what belongs to it.

    Attributes:
        cost: Seconds of a step.
        roofline: Of the same model, hardware and dtypes.
        host: Measured stages of the host; none, where a cost model knows only the device.
        notes: What a reader of its figures has to know, a line each.
    """

    cost: CostModel
    roofline: Roofline
    host: Sequence[HostPoint] = ()
    notes: tuple[str, ...] = ()


def build_cost(model: Mapping[str, Any], hardware: Mapping[str, Any], tp: int, cost: Mapping[str, Any]) -> BuiltCost:
    """The cost model of a configuration.

    Args:
        model: ``conf/model``.
        hardware: ``conf/hardware``.
        tp: Tensor parallelism.
        cost: ``conf/cost``; its ``name`` is ``roofline``, ``profile`` or ``imported``.

    Raises:
        CostError: A knob is missing, unknown or out of range, or there is no profile to use.
    """
    fields = Fields(cost, "cost.")
    name = fields.choice("name", _CHOICES)
    if name == "roofline":
        roofline = build_roofline(model, hardware, tp, cost)
        return BuiltCost(roofline, roofline)
    fields.refuse_unknown(("name", "path", "weight_dtype", "kv_dtype"))
    shape, device = ModelShape.from_config(model), Hardware.from_config(hardware)
    path = fields.text("path") if fields.has("path") else None
    if name == "profile":
        weights, kv = (
            fields.choice(knob, DTYPE_BYTES) if fields.has(knob) else None for knob in ("weight_dtype", "kv_dtype")
        )
        found = find_profile(shape, device, tp, weights, kv, path)
        return BuiltCost(ProfileCost(found.profile, found.roofline), found.roofline, found.profile.host, found.notes)
    if path is None:
        raise CostConfigError("cost.path is missing: name the directory of the profile to import")
    weights, kv = (fields.choice(knob, DTYPE_BYTES) for knob in ("weight_dtype", "kv_dtype"))
    roofline = Roofline(shape, device, tp, weights, kv)
    profile = import_profile(path, shape, device, tp, weights, kv)
    return BuiltCost(ProfileCost(profile, roofline), roofline)
