"""Small sums go through peer memory, large ones do not, and every rank chooses alike."""

# ruff: noqa: E402 (what needs torch is imported once it is known to be there)
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from runtime.distributed import SingleCommunicator
from runtime.distributed.connect import connect
from runtime.distributed.symmetric import PeerCommunicator, Reduction, reduction_for


@pytest.mark.parametrize(
    ("tokens", "reduction"),
    [
        (1, Reduction.ONE_SHOT),
        (16, Reduction.ONE_SHOT),
        (64, Reduction.TWO_SHOT),
        (256, Reduction.TWO_SHOT),
        (2048, Reduction.TWO_SHOT),
        (8192, Reduction.NCCL),
    ],
)
def test_hidden_states_of_a_32b_model(tokens: int, reduction: Reduction) -> None:
    assert reduction_for(torch.empty(tokens, 5120, dtype=torch.bfloat16, device="meta")) is reduction


@given(st.integers(1, 1 << 26), st.sampled_from([torch.bfloat16, torch.float32, torch.float16, torch.int64]))
def test_larger_messages_never_go_back_to_what_smaller_ones_take(count: int, dtype: torch.dtype) -> None:
    order = [Reduction.ONE_SHOT, Reduction.TWO_SHOT, Reduction.NCCL]
    aligned = count * 8
    mine, twice = (reduction_for(torch.empty(n, dtype=dtype, device="meta")) for n in (aligned, 2 * aligned))
    assert order.index(mine) <= order.index(twice)
    if dtype not in (torch.bfloat16, torch.float32):
        assert mine is Reduction.NCCL


def test_what_the_kernels_cannot_read_in_whole_vectors_is_left_to_nccl() -> None:
    assert reduction_for(torch.empty(7, dtype=torch.bfloat16)) is Reduction.NCCL
    assert reduction_for(torch.empty(64, 128, dtype=torch.bfloat16)[:, :64]) is Reduction.NCCL


class Told(SingleCommunicator):
    """A group, and peer memory, that note what they are asked for."""

    size = 2

    def __init__(self) -> None:
        self.heard: list[str] = []

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        self.heard.append("group")
        return tensor

    def one_shot(self, tensor: torch.Tensor) -> torch.Tensor:
        self.heard.append("one_shot")
        return tensor.clone()

    def two_shot(self, tensor: torch.Tensor) -> torch.Tensor:
        self.heard.append("two_shot")
        return tensor


def test_each_message_takes_its_way() -> None:
    told = Told()
    communicator = PeerCommunicator(told, told)
    for tokens in (1, 64, 8192):
        communicator.all_reduce(torch.empty(tokens, 5120, dtype=torch.bfloat16))
    communicator.all_reduce(torch.empty(3, dtype=torch.int64))
    assert told.heard == ["one_shot", "two_shot", "group", "group"]
    assert (communicator.rank, communicator.size) == (0, 2)


def test_one_rank_talks_to_nobody_and_a_wrong_way_is_named() -> None:
    cpu = torch.device("cpu")
    assert isinstance(connect(0, 1, "", cpu), SingleCommunicator)
    with pytest.raises(ValueError, match=r"engine.options.all_reduce=mpi: one of auto, nccl"):
        connect(0, 2, "", cpu, all_reduce="mpi")
