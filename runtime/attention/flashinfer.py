"""Attention by FlashInfer's kernels (arXiv 2501.01005): FA3 prefill on Hopper, paged decode, in CUDA graphs or not."""

from __future__ import annotations

from typing import Any

import flashinfer
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from runtime.attention.base import Attention, AttentionMetadata, AttentionStep, IntArray
from runtime.transfer import to_device

_WORKSPACE_BYTES_A_HEAD = 8 << 20  # partial results of split KV: 128 MiB are too few for 64 heads


class FlashInferAttention(Attention):
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
        self._shape = (heads, kv_heads, head_dim, page_size)
        by_page = kv.view(len(kv), 2, -1, page_size, kv_heads, head_dim)
        self.pools = [(layer[0], layer[1]) for layer in by_page]
        # FlashInfer wants zeros there at first.
        self._workspace = torch.zeros(_WORKSPACE_BYTES_A_HEAD * heads, dtype=torch.uint8, device=kv.device)
        self._prefill: Any = flashinfer.BatchPrefillWithPagedKVCacheWrapper(self._workspace, "NHD")
        self._decode: Any = flashinfer.BatchDecodeWithPagedKVCacheWrapper(self._workspace, "NHD")
        self._copied = torch.cuda.Event()

    def plan(self, metadata: AttentionMetadata) -> AttentionStep:
        self._await_copies()
        prefills, prefilled = metadata.prefills, int(metadata.query_lengths[: metadata.prefills].sum())
        if prefills:
            starts = _indptr(metadata.query_lengths[:prefills])
            tables = self._tables(metadata.lengths[:prefills], metadata.pages[:prefills])
            self._prefill.plan(
                starts,
                *tables,
                *self._shape,
                causal=True,
                q_data_type=self.kv.dtype,
                max_token_per_sequence=int(metadata.query_lengths[:prefills].max()),
            )
        if prefills < len(metadata.lengths):
            tables = self._tables(metadata.lengths[prefills:], metadata.pages[prefills:])
            self._decode.plan(*tables, *self._shape, q_data_type=self.kv.dtype)
        self._copied.record()
        return _EagerStep(self, metadata.slots, self._prefill, self._decode, prefilled)

    def graph_step(self, size: int, slots: Tensor, indices: Tensor) -> FlashInferGraphStep:
        """A decode step of fixed size, to capture in a CUDA graph and to plan anew before each replay.

        Args:
            size: Sequences.
            slots: (size,) int64 on the device, at an address that stays.
            indices: int32 on the device: room for the pages of all sequences; steps of several sizes may share it.
        """
        indptr = torch.zeros(size + 1, dtype=torch.int32, device=self.kv.device)
        wrapper: Any = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            self._workspace,
            "NHD",
            use_cuda_graph=True,
            paged_kv_indptr_buffer=indptr,
            paged_kv_indices_buffer=indices,
            paged_kv_last_page_len_buffer=torch.ones(size, dtype=torch.int32, device=self.kv.device),
        )
        return FlashInferGraphStep(self, slots, wrapper)

    def plan_graph(self, wrapper: Any, lengths: IntArray, pages: npt.NDArray[np.int32]) -> None:
        """Plan a graph's decode: see :meth:`FlashInferGraphStep.plan`."""
        self._await_copies()
        wrapper.plan(*self._tables(lengths, pages), *self._shape, q_data_type=self.kv.dtype)
        self._copied.record()

    def _await_copies(self) -> None:
        """FlashInfer plans in pinned memory of its own: the copies of the plan before must have left it."""
        self._copied.synchronize()

    def _tables(self, lengths: IntArray, pages: npt.NDArray[np.int32]) -> tuple[Tensor, Tensor, Tensor]:
        """FlashInfer's page tables: starts (host), pages (device), tokens on the last page (host), all int32."""
        counts = -(-lengths // self.page_size)
        flat = pages[np.arange(pages.shape[1]) < counts[:, None]]
        (indices,) = to_device(self.kv.device, flat)
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


class FlashInferGraphStep(AttentionStep):
    """Decode of a fixed number of sequences; see :meth:`FlashInferAttention.graph_step`."""

    def __init__(self, attention: FlashInferAttention, slots: Tensor, wrapper: Any) -> None:
        super().__init__(attention.kv, slots)
        self._attention = attention
        self._wrapper = wrapper

    def plan(self, lengths: IntArray, pages: npt.NDArray[np.int32]) -> None:
        """Prepare the next run.

        Args:
            lengths: (size,) tokens that each sequence attends to.
            pages: (size, columns) pages of each one's row.
        """
        self._attention.plan_graph(self._wrapper, lengths, pages)

    def attend(self, layer: int, q: Tensor) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        self._wrapper.run(q, self._attention.pools[layer], out=out)
        return out


def _indptr(counts: IntArray) -> Tensor:
    """Where each run begins and the last ends, int32 on the host."""
    starts = torch.empty(len(counts) + 1, dtype=torch.int32, pin_memory=True)
    view = starts.numpy()
    view[0] = 0
    np.cumsum(counts, out=view[1:])
    return starts
