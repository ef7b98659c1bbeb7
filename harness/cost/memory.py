"""How much KV a server holds: device memory, less the weights and the workspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.cost.errors import CostConfigError, ModelDoesNotFit

if TYPE_CHECKING:
    from harness.cost.hardware import Hardware
    from harness.cost.model import ModelShape

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class KvCapacity:
    """KV pages of a server, and where each GPU's memory goes.

    Attributes:
        pages: KV pages (every GPU holds its heads' share of each page).
        page_size: Tokens of a page.
        page_bytes: Bytes of a page on each GPU.
        weight_bytes: Bytes of weights on each GPU.
        workspace_bytes: Bytes kept free on each GPU for activations, graphs and communication.
        memory_bytes: Bytes of each GPU's memory.
    """

    pages: int
    page_size: int
    page_bytes: int
    weight_bytes: int
    workspace_bytes: int
    memory_bytes: int

    @property
    def tokens(self) -> int:
        """Tokens whose KV fits."""
        return self.pages * self.page_size

    @property
    def kv_bytes(self) -> int:
        """Bytes of KV on each GPU."""
        return self.pages * self.page_bytes


def kv_capacity(
    model: ModelShape,
    hardware: Hardware,
    *,
    tp: int = 1,
    weight_dtype: str = "bf16",
    kv_dtype: str = "bf16",
    memory_fraction: float = 0.9,
    workspace_bytes: int = 2 * GIB,
    page_size: int = 1,
    pages: int | None = None,
) -> KvCapacity:
    """KV pages that fit beside the weights, as vLLM's ``gpu_memory_utilization`` counts them.

    Args:
        model: The model, split over ``tp`` GPUs.
        hardware: One of the GPUs.
        tp: Tensor parallelism.
        weight_dtype: ``bf16``, ``fp8`` or ``fp32``.
        kv_dtype: The same choices.
        memory_fraction: Part of each GPU's memory that the server may take in all.
        workspace_bytes: Bytes on each GPU, within that part, for activations, graphs and communication.
        page_size: Tokens of a page.
        pages: KV pages where an engine's own number is known (or none should bind): taken as it is.

    Raises:
        ModelDoesNotFit: Not one page fits; the message has the numbers.
        CostConfigError: An argument is out of range, or ``tp`` does not divide the model.
    """
    if not 0.0 < memory_fraction <= 1.0:
        raise CostConfigError(f"engine.memory_fraction={memory_fraction!r} must be above 0 and at most 1")
    if page_size < 1:
        raise CostConfigError(f"engine.page_size={page_size!r} must be at least 1 token")
    if pages is not None and pages < 1:
        raise CostConfigError(f"engine.pages={pages!r} must be at least 1, or null to derive them from memory")
    if workspace_bytes < 0:
        raise CostConfigError(f"engine.workspace_bytes={workspace_bytes!r} must be 0 or more")
    weights = sum(model.weight_bytes(weight_dtype, tp).values())
    page_bytes = page_size * model.kv_bytes_per_token(tp, kv_dtype)
    usable = int(hardware.memory_bytes * memory_fraction)
    if pages is None:
        pages = (usable - weights - workspace_bytes) // page_bytes
    if pages < 1:
        larger = _smallest_fitting_tp(model, tp, weight_dtype, usable - workspace_bytes - page_bytes)
        raise ModelDoesNotFit(
            f"model {model.name} ({weight_dtype}) does not fit on hardware {hardware.name} with tp={tp}: "
            f"weights {weights / GIB:.1f} GiB + workspace {workspace_bytes / GIB:.1f} GiB of "
            f"{usable / GIB:.1f} GiB ({memory_fraction:g} of {hardware.memory_bytes / GIB:.1f} GiB) "
            f"leave no KV page: {larger}take a smaller dtype (cost.weight_dtype=fp8) "
            "or hardware with more memory"
        )
    return KvCapacity(pages, page_size, page_bytes, weights, workspace_bytes, hardware.memory_bytes)


def _smallest_fitting_tp(model: ModelShape, tp: int, weight_dtype: str, room: int) -> str:
    """Advice for the message above: the least ``tp`` whose weights fit into ``room`` bytes."""
    for larger in range(tp + 1, 65):
        if model.splits(larger) and sum(model.weight_bytes(weight_dtype, larger).values()) <= room:
            return f"set tp={larger}, "
    return ""
