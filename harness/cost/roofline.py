"""A roofline cost model: what a step computes and moves, over what the hardware achieves."""

from __future__ import annotations

from functools import lru_cache
from math import hypot
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.cost.errors import CostConfigError
from harness.cost.fields import Fields
from harness.cost.hardware import Hardware
from harness.cost.model import DTYPE_BYTES, ModelShape, component_bytes
from harness.cost.shape import CostModel, StepShape

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

_EDGE_KERNELS = 4  # embedding, final norm, LM head, sampling
_DENSE_MLP_KERNELS = 3  # gate and up, activation, down
_MOE_KERNELS = 7  # router, top-k, sort by expert, gate and up, activation, down, combine
_FLOAT32_BYTES = 4
_FUSED_SUM_ROWS = 2048  # in a step up to so many, sums over ranks are one kernel with the norms; beyond, NCCL sums


class Roofline(CostModel):
    """Seconds of a step from first principles (Williams et al., 2009), one term for each kind of kernel.

    A matrix product takes the root of the sum of squares of its compute time and its memory time: no less
    than the larger of them, 41 % more where they are equal. That is what cuBLAS shows near the ridge (the
    products of Qwen3-8B at batch 256 take 6.6 ms on an H200, where the plain maximum says 5.2), and it
    vanishes far from it. Weights are read once a step, of an MoE layer only the experts that the step's
    tokens are expected to touch if they route independently and evenly. A step is the sum of its kernels:
    nothing overlaps.

    Args:
        model: What is computed.
        hardware: One of ``tp`` equal devices.
        tp: Tensor parallelism (Megatron-LM's split, two all-reduces a layer).
        weight_dtype: ``bf16``, ``fp8`` or ``fp32``. With fp8, activations stay in 16 bits in memory, and
            products run at the fp8 peak where the hardware has one.
        kv_dtype: The same choices, of keys and values in memory.
        step_overhead_s: Seconds that the device spends on every step beside the model: copying in the batch's
            metadata, sampling, copying tokens out.
        graph_launch_s: Seconds of CPU time to launch a step as one CUDA graph.
        kernel_launch_s: Seconds of CPU time to launch one kernel.

    Raises:
        CostConfigError: ``tp`` does not divide the model, or a dtype is unknown to the hardware.
    """

    def __init__(
        self,
        model: ModelShape,
        hardware: Hardware,
        tp: int = 1,
        weight_dtype: str = "bf16",
        kv_dtype: str = "bf16",
        step_overhead_s: float = 30e-6,
        graph_launch_s: float = 0.9e-3,
        kernel_launch_s: float = 45e-6,
    ) -> None:
        model.check_tp(tp)
        for knob, dtype in (("weight_dtype", weight_dtype), ("kv_dtype", kv_dtype)):
            if dtype not in DTYPE_BYTES:
                raise CostConfigError(f"cost.{knob}={dtype!r} is unknown: choose among {', '.join(DTYPE_BYTES)}")
        self.model = model
        self.hardware = hardware
        self.tp = tp
        self.weight_dtype = weight_dtype
        self.kv_dtype = kv_dtype
        self._activation_bytes = max(2, DTYPE_BYTES[weight_dtype])

        attention_block = 7 if model.qk_norm else 6  # norm, QKV, (QK norm), rope, KV append, output, norm
        kernels = model.layers * attention_block + _EDGE_KERNELS
        kernels += model.dense_layers * _DENSE_MLP_KERNELS + model.moe_layers * _MOE_KERNELS
        reductions = 2 * model.layers + 1 if tp > 1 else 0  # the vocabulary-parallel embedding needs one too
        self._graph_launch_s = graph_launch_s
        # Eager ones, by the calls of attention in a layer: for decodes, for chunks, for both.
        eager_s = [kernel_launch_s * (kernels + reductions + calls * model.layers) for calls in range(3)]
        # The first kernel waits for the inputs: for what a graph's launch takes as well.
        self._eager_launch_s = [(cpu_s, max(0.0, cpu_s - graph_launch_s)) for cpu_s in eager_s]
        self._fixed_s = step_overhead_s + kernels * hardware.kernel_s

        self._set_matrix_products()
        self._set_elementwise()
        self._set_attention()
        link = hardware.link_bandwidth * hardware.link_fraction
        moved = 2 * (tp - 1) / tp * model.hidden_size * self._activation_bytes  # a ring's, or a two-shot's
        self._reduce_s = reductions * hardware.link_latency_s
        self._reduce_row_s = reductions * moved / link
        self._gather_row_s = (tp - 1) / tp * model.vocab_size * self._activation_bytes / link
        self._gather_s = hardware.link_latency_s if tp > 1 else 0.0
        # A replay asks for few numbers of rows, over and over: those of the captured graphs.
        self._rows_s = lru_cache(maxsize=4096)(self._seconds_of_rows)

    def step_s(self, shape: StepShape) -> float:
        """Seconds that the device is busy with this step."""
        seconds = self._rows_s(shape.prefill_tokens + shape.decode_rows, shape.sampled)
        if shape.decode_sequences:
            seconds += self.decode_attention_s(shape.decode_context)
        if shape.prefill_sequences:
            seconds += self.prefill_attention_s(shape.prefill_tokens, shape.prefill_pairs, shape.prefill_context)
        return seconds

    def decode_s(
        self, sequences: int, rows: int, context: npt.NDArray[np.int64], longest: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """``step_s`` of pure decode steps that differ in their context alone, bit for bit the same.

        Args:
            sequences: Sequences in every one of the steps (all are sampled).
            rows: Rows of the linear layers in every one of the steps.
            context: (steps,) KV tokens that each step reads.
            longest: (steps,) KV tokens that the longest sequence of each step reads; they cost no more than others.

        Returns:
            (steps,) seconds.
        """
        del longest
        attention_s = self._attention_s + self._decode_context_s * context
        return np.asarray(self._rows_s(rows, sequences) + attention_s, dtype=np.float64)

    def launch_s(self, shape: StepShape, graph: bool) -> tuple[float, float]:
        """Seconds of CPU time to enqueue the step's kernels, and how long before its end the device begins."""
        if graph:
            return self._graph_launch_s, 0.0
        return self._eager_launch_s[(shape.decode_sequences > 0) + (shape.prefill_sequences > 0)]

    def linear_s(self, rows: int, sampled: int) -> float:
        """Seconds of all matrix products of a step, less the fixed part of each kernel.

        Args:
            rows: Tokens that the layers compute, padding included.
            sampled: Rows of the LM head.
        """
        seconds = 0.0
        for row_flops_s, weights_s, row_bytes_s in self._products:
            seconds += hypot(row_flops_s * rows, weights_s + row_bytes_s * rows)
        if self.model.moe_layers:
            row_flops_s, weights_s, row_bytes_s = self._expert_product
            touched = 1.0 - self._untouched**rows
            seconds += hypot(row_flops_s * rows, weights_s * touched + row_bytes_s * rows)
        if sampled:
            row_flops_s, weights_s, row_bytes_s = self._lm_head
            seconds += hypot(row_flops_s * sampled, weights_s + row_bytes_s * sampled)
        return seconds

    def all_reduce_s(self, rows: int) -> float:
        """Seconds that all all-reduces add to a step of ``rows`` tokens: latency, and bytes over the link.

        Of a step of few tokens, a layer's norms are in the kernels that sum, which take as long without them.
        """
        if self.tp == 1:
            return 0.0
        seconds = self._reduce_s + self._reduce_row_s * rows
        if rows > _FUSED_SUM_ROWS:
            return seconds
        return max(0.0, seconds - self._norm_s - self._norm_row_s * rows)

    def decode_attention_s(self, context: int) -> float:
        """Seconds of decode attention in all layers, over ``context`` tokens of KV in all."""
        return self._attention_s + self._decode_context_s * context

    def prefill_attention_s(self, tokens: int, pairs: int, context: int) -> float:
        """Seconds of prefill attention in all layers.

        Compute and memory time add up here: a tile's queries are loaded before its first product and its
        output is stored after the last.

        Args:
            tokens: Prompt tokens computed.
            pairs: Query-key pairs.
            context: KV tokens read.
        """
        compute_s = self._prefill_pair_s * pairs
        return self._attention_s + compute_s + self._prefill_token_s * tokens + self._kv_read_s * context

    def _seconds_of_rows(self, rows: int, sampled: int) -> float:
        """Seconds of all that depends on the number of rows only."""
        seconds = self._fixed_s + self.linear_s(rows, sampled)
        seconds += self._elementwise_row_s * rows + self.all_reduce_s(rows)
        if sampled:
            seconds += self._gather_s + (self._sample_row_s + self._gather_row_s) * sampled
        return seconds

    def _product(self, component: str, layers: int, inner: float, outer: float) -> tuple[float, float, float]:
        """A matrix product of (rows, inner) by (inner, outer) in each of some layers.

        Returns:
            Seconds to compute a row, to read the weights, to move a row's activations.
        """
        size = component_bytes(component, self.weight_dtype)
        dtype = self.weight_dtype if size == DTYPE_BYTES[self.weight_dtype] else "bf16"
        flops = self.hardware.peak_for(dtype) * self.hardware.compute_fraction
        bandwidth = self.hardware.memory_bandwidth * self.hardware.bandwidth_fraction
        return (
            layers * 2 * inner * outer / flops,
            layers * inner * outer * size / bandwidth,
            layers * (inner + outer) * self._activation_bytes / bandwidth,
        )

    def _set_matrix_products(self) -> None:
        model, tp, h = self.model, self.tp, self.model.hidden_size
        query = model.query_size // tp
        kv = model.kv_heads_per_gpu(tp) * model.head_dim
        width = model.intermediate_size // tp
        products = [
            self._product("attention", model.layers, h, query + 2 * kv),
            self._product("attention", model.layers, query, h),
        ]
        if model.dense_layers:
            products.append(self._product("mlp", model.dense_layers, h, 2 * width))  # gate and up
            products.append(self._product("mlp", model.dense_layers, width, h))
        if model.moe_layers:
            products.append(self._product("router", model.moe_layers, h, model.experts))
            # Each row passes experts_per_token experts; all of them together are read in full.
            expert_width = model.moe_intermediate_size // tp
            gate_up = self._product("experts", model.moe_layers, h, 2 * expert_width)
            down = self._product("experts", model.moe_layers, expert_width, h)
            flops_s, weights_s, bytes_s = (a + b for a, b in zip(gate_up, down, strict=True))
            chosen = model.experts_per_token
            self._expert_product = (flops_s * chosen, weights_s * model.experts, bytes_s * chosen)
            self._untouched = 1.0 - chosen / model.experts
        self._products = tuple(products)
        self._lm_head = self._product("lm_head", 1, h, -(-model.vocab_size // tp))

    def _set_elementwise(self) -> None:
        """Seconds to move what norms, rope, the KV append, the activation and sampling read and write."""
        model, tp = self.model, self.tp
        query = model.query_size // tp
        kv = model.kv_heads_per_gpu(tp) * model.head_dim
        bandwidth = self.hardware.memory_bandwidth * self.hardware.bandwidth_fraction
        norms = 2 * 4 * model.hidden_size  # each adds the residual: two reads, two writes
        self._norm_s = model.layers * 2 * self.hardware.kernel_s
        self._norm_row_s = model.layers * norms * self._activation_bytes / bandwidth
        rope = (4 if model.qk_norm else 2) * (query + kv)
        moved = model.layers * (norms + rope + 2 * kv) * self._activation_bytes
        moved += model.layers * 2 * kv * DTYPE_BYTES[self.kv_dtype]
        moved += model.dense_layers * 3 * (model.intermediate_size // tp) * self._activation_bytes
        expert_widths = model.experts_per_token * (model.moe_intermediate_size // tp)
        combine = (model.experts_per_token + 1) * model.hidden_size
        moved += model.moe_layers * (3 * expert_widths + combine) * self._activation_bytes
        self._elementwise_row_s = moved / bandwidth
        # Logits are converted to float32 and scanned once.
        self._sample_row_s = model.vocab_size * (self._activation_bytes + 2 * _FLOAT32_BYTES) / bandwidth

    def _set_attention(self) -> None:
        """Products of attention run in 16 bits, whatever dtype KV is stored in (32 for an fp32 model)."""
        model, hardware = self.model, self.hardware
        query = model.query_size // self.tp
        peak = hardware.peak_for("fp32" if self.weight_dtype == "fp32" else "bf16")
        bandwidth = hardware.memory_bandwidth * hardware.attention_bandwidth_fraction
        pair_s = model.layers * 4 * query / (peak * hardware.attention_compute_fraction)
        self._attention_s = model.layers * hardware.attention_s
        self._kv_read_s = model.kv_bytes_per_token(self.tp, self.kv_dtype) / bandwidth
        self._decode_context_s = max(self._kv_read_s, pair_s)
        self._prefill_pair_s = pair_s
        self._prefill_token_s = model.layers * 2 * query * self._activation_bytes / bandwidth


def build_roofline(model: Mapping[str, Any], hardware: Mapping[str, Any], tp: int, cost: Mapping[str, Any]) -> Roofline:
    """A roofline from configuration.

    Args:
        model: ``conf/model``: a Hugging Face config's fields and ``name``, or ``path``.
        hardware: ``conf/hardware``: :class:`Hardware`'s fields.
        tp: Tensor parallelism.
        cost: ``conf/cost/roofline``: :class:`Roofline`'s remaining arguments, and ``name``.

    Raises:
        CostConfigError: A knob is missing, unknown or out of range.
    """
    fields = Fields(cost, "cost.")
    fields.refuse_unknown(("name", "weight_dtype", "kv_dtype", "step_overhead_s", "graph_launch_s", "kernel_launch_s"))
    return Roofline(
        ModelShape.from_config(model),
        Hardware.from_config(hardware),
        tp,
        weight_dtype=fields.choice("weight_dtype", DTYPE_BYTES),
        kv_dtype=fields.choice("kv_dtype", DTYPE_BYTES),
        step_overhead_s=fields.at_least_zero("step_overhead_s", "seconds"),
        graph_launch_s=fields.at_least_zero("graph_launch_s", "seconds"),
        kernel_launch_s=fields.at_least_zero("kernel_launch_s", "seconds"),
    )
