"""How the ranks of a tensor-parallel group meet, and which way they talk then."""

from __future__ import annotations

import torch

from runtime.distributed.communicator import Communicator, SingleCommunicator, TorchCommunicator
from runtime.distributed.peer import PeerCommunicator, limits_for


def connect(
    rank: int,
    tp: int,
    rendezvous: str,
    device: torch.device,
    *,
    width: int,
    dtype: torch.dtype,
    all_reduce: str = "auto",
) -> Communicator:
    """Meet the other ranks.

    Args:
        rank: This one.
        tp: How many there are.
        rendezvous: URL where they meet, for ``torch.distributed``.
        device: This rank's.
        width: Of the rows that are summed over ranks: the model's ``hidden_size``.
        dtype: Theirs.
        all_reduce: ``nccl``, or ``auto``: on GPUs that reach each other, small sums through symmetric memory.

    Raises:
        ValueError: There is no such ``all_reduce``.
    """
    if all_reduce not in ("auto", "nccl"):
        raise ValueError(f"engine.options.all_reduce={all_reduce}: one of auto, nccl")
    if tp == 1:
        return SingleCommunicator()
    if device.type == "cpu":
        return TorchCommunicator(rank, tp, backend="gloo", init_method=rendezvous)
    group = TorchCommunicator(rank, tp, backend="nccl", init_method=rendezvous, device=device)
    limits = limits_for(tp, width, dtype)
    if all_reduce == "auto" and limits is not None and _peer_access(device, tp):
        from runtime.distributed.symmetric import SymmetricMemory  # Triton is not there on a machine without a GPU

        return PeerCommunicator(group, SymmetricMemory(group, device, width, limits), limits)
    return group


def gpu_of(rank: int, tp: int) -> torch.device:
    """This rank's GPU, made the current one.

    Raises:
        ValueError: There are too few.
    """
    count = torch.cuda.device_count()
    if count < tp:
        raise ValueError(f"tp={tp}: this machine has {count} GPUs; lower tp, or take backend.device=cpu")
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device


def _peer_access(device: torch.device, size: int) -> bool:
    """Whether a GPU reaches all others of its group, which are the machine's first ``size``."""
    others = (other for other in range(size) if other != device.index)
    return torch.cuda.device_count() >= size and all(
        torch.cuda.can_device_access_peer(device, other) for other in others
    )
