"""Attention by FlashInfer's kernels (arXiv 2501.01005): FA3 prefill on Hopper, paged decode, in CUDA graphs or not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import flashinfer  # not there without a GPU
import numpy as np
import numpy.typing as npt
import torch
from flashinfer.decode import fast_decode_plan
from flashinfer.jit.attention.modules import get_batch_decode_uri, get_batch_prefill_uri
from flashinfer.jit.env import FLASHINFER_AOT_DIR, FLASHINFER_JIT_DIR
from torch import Tensor

from runtime.attention.base import AttentionMetadata, AttentionStep, GpuAttention, GraphStep, IntArray
from runtime.attention.tables import aligned, fill_starts, joined
from runtime.scheduler.decode_split import (
    BLOCKS_A_PROCESSOR,
    WORKSPACE_BYTES_A_HEAD,
    decode_parts,
    decodes_on_tensor_cores,
    parts_at_once,
)
from runtime.transfer import to_device


def is_compiled(dtype: torch.dtype, head_dim: int) -> bool:
    """Whether the kernels for activations and KV of a dtype are here, ahead of time or from an earlier run."""
    paths = (FLASHINFER_AOT_DIR, FLASHINFER_JIT_DIR)
    kinds = (dtype, dtype, dtype, torch.int32, head_dim, head_dim, 0, False, False)
    names = (get_batch_decode_uri(*kinds), get_batch_prefill_uri("fa2", *kinds, False))
    return all(any((path / name / f"{name}.so").exists() for path in paths) for name in names)


class _Decode(flashinfer.BatchDecodeWithPagedKVCacheWrapper):  # type: ignore[misc]  # it has no types
    """FlashInfer's paged decode, on tensor cores cut into :func:`runtime.scheduler.decode_split.decode_parts`.

    Its plan can be told of blocks that another kernel takes from it; here of fewer than none.
    """

    @property
    def _cached_module(self) -> Any:
        return self._module

    @_cached_module.setter
    def _cached_module(self, module: Any) -> None:
        if self.use_tensor_cores:
            module = SimpleNamespace(**{**vars(module), "plan": partial(_plan, module.plan)})
        self._module = module


def _plan(plan: Callable[..., Any], *arguments: Any) -> Any:
    """FlashInfer's plan of the kernel on tensor cores, as of 0.6.18, but for how many parts it cuts.

    It is told that each sequence has one query, too: a captured decode else leaves room for some more.
    """
    *known, taken, queries = arguments
    workspace, sequences, kv_heads = known[0], known[7], known[9]
    if taken or queries:
        raise AssertionError(f"FlashInfer plans a decode for {taken} other blocks and {queries} queries: not as 0.6.18")
    processors = torch.cuda.get_device_properties(workspace.device).multi_processor_count
    parts = decode_parts(sequences, parts_at_once(processors, kv_heads))
    return plan(*known, BLOCKS_A_PROCESSOR * processors - parts * kv_heads, 1)


class FlashInferAttention(GpuAttention):
    """Plans prefill and decode once a step, on the host; the layers only launch.

    Args:
        kv: (layers, 2, slots, KV heads, head_dim): the KV pool, keys at 0 and values at 1; half precision, on a GPU.
        page_size: Tokens a page.
        heads: Query heads of this rank.
    """

    def __init__(self, kv: Tensor, page_size: int, heads: int) -> None:
        self.kv = kv
        self.page_size = page_size
        kv_heads, head_dim = kv.shape[-2:]
        self.shape = (heads, kv_heads, head_dim, page_size)
        by_page = kv.view(len(kv), 2, -1, page_size, kv_heads, head_dim)
        self.pools = [(layer[0], layer[1]) for layer in by_page]
        # FlashInfer wants zeros there at first.
        self._workspace = torch.zeros(WORKSPACE_BYTES_A_HEAD * heads, dtype=torch.uint8, device=kv.device)
        self._prefill: Any = flashinfer.BatchPrefillWithPagedKVCacheWrapper(self._workspace, "NHD")
        self._tensor_cores = decodes_on_tensor_cores(heads, kv_heads)
        self._decode = self.decode_wrapper()
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def plan(self, metadata: AttentionMetadata) -> AttentionStep:
        self.await_copies()
        prefills, prefilled = metadata.prefills, int(metadata.query_lengths[: metadata.prefills].sum())
        if prefills:
            starts = _indptr(metadata.query_lengths[:prefills])
            tables = self._tables(metadata.lengths[:prefills], metadata.pages[:prefills])
            self._prefill.plan(
                starts,
                *tables,
                *self.shape,
                causal=True,
                q_data_type=self.kv.dtype,
                max_token_per_sequence=int(metadata.query_lengths[:prefills].max()),
            )
        if prefills < len(metadata.lengths):
            tables = self._tables(metadata.lengths[prefills:], metadata.pages[prefills:])
            self._decode.plan(*tables, *self.shape, q_data_type=self.kv.dtype)
        self.copied()
        return _EagerStep(self, metadata.slots, self._prefill, self._decode, prefilled)

    def graph_step(self, size: int, slots: Tensor, tables: Tensor) -> FlashInferGraphStep:
        return FlashInferGraphStep(self, size, slots, tables)

    def table_entries(self, size: int, columns: int) -> int:
        return aligned(size + 1) + aligned(size) + size * columns

    def decode_wrapper(self, **buffers: Any) -> Any:
        """FlashInfer's decode over this pool; with buffers of its own for a CUDA graph."""
        return _Decode(self._workspace, "NHD", use_tensor_cores=self._tensor_cores, **buffers)

    def await_copies(self) -> None:
        """FlashInfer plans in pinned memory of its own: the copies of the plan before must have left it."""
        self._copied.synchronize()

    def copied(self) -> None:
        """A plan's copies are in the stream."""
        self._copied.record()

    def _tables(self, lengths: IntArray, pages: npt.NDArray[np.int32]) -> tuple[Tensor, Tensor, Tensor]:
        """FlashInfer's page tables: starts (host), pages (device), tokens on the last page (host), all int32."""
        counts = -(-lengths // self.page_size)
        (indices,) = to_device(self.kv.device, joined(pages, counts))
        last = lengths - (counts - 1) * self.page_size
        return _indptr(counts), indices, torch.from_numpy(last.astype(np.int32)).pin_memory()


class _EagerStep(AttentionStep):
    def __init__(
        self, attention: FlashInferAttention, slots: Tensor, prefill: Any, decode: Any, prefilled: int
    ) -> None:
        super().__init__(attention.kv, slots)
        self._pools = attention.pools
        self._prefill = prefill
        self._decode = decode
        self._prefilled = prefilled  # tokens of chunks, which stand first

    def attend(self, layer: int, q: Tensor) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        split, pool = self._prefilled, self._pools[layer]
        if split:
            self._prefill.run(q[:split], pool, out=out[:split])
        if split < len(q):
            self._decode.run(q[split:], pool, out=out[split:])
        return out


class FlashInferGraphStep(GraphStep):
    """Decode of a fixed number of sequences; see :meth:`FlashInferAttention.graph_step`."""

    def __init__(self, attention: FlashInferAttention, size: int, slots: Tensor, tables: Tensor) -> None:
        super().__init__(attention.kv, slots)
        self._attention = attention
        self._size = size
        self._tables = tables
        self._last_at, self._indices_at = aligned(size + 1), aligned(size + 1) + aligned(size)
        indptr, last, indices = self._split(tables)
        indptr.copy_(torch.arange(size + 1))
        last.fill_(1)
        self._wrapper = attention.decode_wrapper(
            use_cuda_graph=True,
            paged_kv_indptr_buffer=indptr,
            paged_kv_indices_buffer=indices,
            paged_kv_last_page_len_buffer=last,
        )
        # The first plan finds the kernels; later ones only plan.
        attention.await_copies()
        self._wrapper.plan(indptr.cpu(), indices[:size], last.cpu(), *attention.shape, q_data_type=attention.kv.dtype)
        attention.copied()

    def plan(self, lengths: IntArray, pages: npt.NDArray[np.int32]) -> None:
        attention = self._attention
        counts = -(-lengths // attention.page_size)
        used = self._indices_at + int(counts.sum())
        host = torch.empty(used, dtype=torch.int32, pin_memory=True)
        indptr, last, indices = self._split(host)
        fill_starts(indptr.numpy(), counts)
        last.numpy()[:] = lengths - (counts - 1) * attention.page_size
        joined(pages, counts, out=indices.numpy())
        self._tables[:used].copy_(host, non_blocking=True)
        attention.await_copies()
        fast_decode_plan(self._wrapper, indptr, indices, last, *attention.shape, q_data_type=attention.kv.dtype)
        attention.copied()

    def attend(self, layer: int, q: Tensor) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        self._wrapper.run(q, self._attention.pools[layer], out=out)
        return out

    def _split(self, tables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Starts, lengths of last pages, pages."""
        last = tables[self._last_at : self._last_at + self._size]
        return tables[: self._size + 1], last, tables[self._indices_at :]


def _indptr(counts: IntArray) -> Tensor:
    """Where each run begins and the last ends, int32 on the host."""
    starts = torch.empty(len(counts) + 1, dtype=torch.int32, pin_memory=True)
    fill_starts(starts.numpy(), counts)
    return starts
