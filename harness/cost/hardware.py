"""A GPU (or CPU) as a cost model sees it: peaks, and the fractions of them that kernels achieve."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from harness.cost.errors import CostConfigError
from harness.cost.fields import Fields
from harness.cost.model import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Hardware:
    """One device of ``tp`` equal ones.

    Attributes:
        name: What reports call it.
        peak_flops: Dense FLOP/s by dtype of the operands (``bf16``, ``fp32``, ``fp8`` where it exists).
        memory_bytes: Bytes that a process can allocate on an idle device.
        memory_bandwidth: Peak bytes/s between the device and its memory.
        link_bandwidth: Peak bytes/s to the other devices, per direction.
        link_latency_s: Seconds of an all-reduce of almost nothing.
        compute_fraction: What large matrix products achieve of ``peak_flops``.
        bandwidth_fraction: What weight-bound matrix products and elementwise kernels achieve of
            ``memory_bandwidth``.
        attention_compute_fraction: What prefill attention achieves of ``peak_flops``.
        attention_bandwidth_fraction: What decode attention achieves of ``memory_bandwidth``.
        link_fraction: What an all-reduce achieves of ``link_bandwidth``.
        kernel_s: Seconds that every kernel takes beside its roofline: the gap before it, ramp-up and drain.
        attention_s: The same for an attention call (work is split over the context and merged).
        processors: Streaming multiprocessors, over which a kernel's thread blocks are shared; 1 where there are none.
    """

    name: str
    peak_flops: Mapping[str, float]
    memory_bytes: int
    memory_bandwidth: float
    link_bandwidth: float
    link_latency_s: float
    compute_fraction: float
    bandwidth_fraction: float
    attention_compute_fraction: float
    attention_bandwidth_fraction: float
    link_fraction: float
    kernel_s: float
    attention_s: float
    processors: int = 132

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The device of a ``hardware`` configuration.

        Raises:
            CostConfigError: A field is missing, unknown or out of range.
        """
        read = Fields(config, "hardware.")
        read.refuse_unknown([field.name for field in fields(cls)])
        peaks = read.section("peak_flops")
        peak = Fields(peaks, "hardware.peak_flops.")
        peak.refuse_unknown(DTYPE_BYTES)
        return cls(
            name=read.text("name"),
            peak_flops={dtype: peak.positive(dtype, "FLOP/s") for dtype in peaks if peak.has(dtype)},
            memory_bytes=int(read.positive("memory_bytes", "bytes")),
            memory_bandwidth=read.positive("memory_bandwidth", "bytes/s"),
            link_bandwidth=read.positive("link_bandwidth", "bytes/s"),
            link_latency_s=read.at_least_zero("link_latency_s", "seconds"),
            compute_fraction=read.fraction("compute_fraction"),
            bandwidth_fraction=read.fraction("bandwidth_fraction"),
            attention_compute_fraction=read.fraction("attention_compute_fraction"),
            attention_bandwidth_fraction=read.fraction("attention_bandwidth_fraction"),
            link_fraction=read.fraction("link_fraction"),
            kernel_s=read.at_least_zero("kernel_s", "seconds"),
            attention_s=read.at_least_zero("attention_s", "seconds"),
            processors=read.integer("processors", default=132),  # of an H100: runs and profiles before do not say
        )

    def peak_for(self, dtype: str) -> float:
        """Peak FLOP/s of products of ``dtype`` weights (fp8 ones in bf16 where there are no fp8 units).

        Raises:
            CostConfigError: No peak is known for the dtype.
        """
        peak = self.peak_flops.get(dtype)
        if peak is None and dtype == "fp8":
            peak = self.peak_flops.get("bf16")
        if peak is None:
            raise CostConfigError(
                f"hardware.peak_flops of {self.name} has no {dtype}: give it, or choose among "
                f"{', '.join(self.peak_flops)}"
            )
        return peak
