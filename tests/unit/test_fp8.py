"""Weights and KV in fp8: rounded as they should be, smaller, and close to what they stand for."""

# ruff: noqa: E402 (what needs Triton is imported once it is known to be there)
from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.tiny.interpreter import DEVICE, DTYPE, ON_GPU

# isort: split
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.attention.choose import AttentionChoice, AttentionError, choose_attention
from runtime.distributed import Communicator, SingleCommunicator
from runtime.engine.dtypes import DtypeError, placement_dtypes
from runtime.engine.memory import kv_pool, page_bytes
from runtime.engine.torch_engine import load_model
from runtime.kernels import TorchKernels, Weight
from runtime.kernels.fp8 import FP8, quantize
from runtime.kernels.fused import FusedKernels
from runtime.kernels.fused_fp8 import quantize_rows
from runtime.layers.parts import Placement
from runtime.models.config import load_model_config
from tests.tiny.serving import MIXTURE, Server, prompts
from tests.tiny.threads import on_ranks

CPU = torch.device("cpu")
FIELDS: dict[str, Any] = {**MIXTURE, "mlp_only_layers": [0]}


def placement(communicator: Communicator | None = None, **fp8: bool) -> Placement:
    return Placement(communicator or SingleCommunicator(), CPU, torch.float32, **fp8)


@given(st.integers(0, 1000), st.sampled_from([1e-6, 1.0, 1e4]))
@settings(max_examples=30)
def test_a_row_is_off_by_a_sixteenth_at_most(seed: int, size: float) -> None:
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed)) * size
    x[1] = 0
    rounded, scales = quantize(x)
    back = rounded.float() * scales.unsqueeze(-1)
    assert rounded.dtype == FP8
    assert ((back - x).abs() <= x.abs() / 16 + scales.unsqueeze(-1) * 2**-9).all()
    assert torch.allclose(back.abs().amax(-1), x.abs().amax(-1), rtol=1e-6)  # the largest is kept


@pytest.mark.parametrize("shape", [(1, 16), (5, 96), (2, 3, 1000)])
def test_rows_are_rounded_in_triton_as_in_torch(shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(DEVICE, DTYPE)
    rounded, scales = quantize_rows(x, overlap_launch=False)
    expected, expected_scales = quantize(x)
    assert torch.allclose(scales, expected_scales)
    same = (rounded.float() == expected.float()).float().mean()
    # Triton's interpreter drops the carry where a number rounds up to a power of two: the GPU does not.
    assert same > (0.999 if ON_GPU else 0.9)


@pytest.mark.parametrize("kernels", [TorchKernels(), FusedKernels(overlap_launch=False)], ids=["torch", "triton"])
def test_kv_is_stored_in_fp8(kernels: Any) -> None:
    heads, kv_heads, head_dim = 4, 2, 16
    numbers = torch.tensor([0.0, 1.0, -1.5, 0.015625, 240.0, -448.0])  # which fp8 has
    qkv = numbers[torch.arange(3 * 8 * head_dim) % 6].view(3, 8, head_dim).to(DEVICE, DTYPE)
    still = torch.ones(3, 1, head_dim // 2), torch.zeros(3, 1, head_dim // 2)
    cos, sin = (x.to(DEVICE, DTYPE) for x in still)
    keys, values = (torch.zeros(9, kv_heads, head_dim, device=DEVICE).to(FP8) for _ in range(2))
    slots = torch.tensor([4, 0, 7], device=DEVICE)
    expected = qkv.clone().float()
    kernels.rotate_and_store(qkv, None, cos, sin, keys, values, slots)
    assert torch.equal(keys.float()[slots], expected[:, heads : heads + kv_heads])
    assert torch.equal(values.float()[slots], expected[:, heads + kv_heads :])
    assert not keys.float()[[1, 2, 3, 5, 6, 8]].any()


def test_kv_beyond_the_largest_number_is_the_largest() -> None:
    keys, values = torch.zeros(1, 1, 4).to(FP8), torch.zeros(1, 1, 4).to(FP8)
    qkv = torch.tensor([0.0, 0.0, 0.0, 0.0, 500.0, -1e5, 1.0, 0.0, 9e9, 449.0, -600.0, 2.0]).view(1, 3, 4)
    still = torch.ones(1, 1, 2), torch.zeros(1, 1, 2)
    TorchKernels().rotate_and_store(qkv, None, *still, keys, values, torch.tensor([0]))
    assert keys.float().tolist() == [[[448.0, -448.0, 1.0, 0.0]]]
    assert values.float().tolist() == [[[448.0, 448.0, -448.0, 2.0]]]


def test_a_page_of_fp8_takes_a_quarter_of_a_page_of_float32() -> None:
    config = load_model_config(FIELDS)
    pools = [kv_pool(config, placement(fp8_kv=fp8), pages=3, page_size=4) for fp8 in (False, True)]
    sizes = [page_bytes(config, page_size=4, ranks=1, dtype=placement(fp8_kv=fp8).kv_dtype) for fp8 in (False, True)]
    assert [3 * size for size in sizes] == [pool.nbytes for pool in pools]
    assert sizes[0] == 4 * sizes[1]


def test_matrices_alone_are_held_in_fp8() -> None:
    config = load_model_config(FIELDS)
    whole, rounded = (load_model(FIELDS, config, placement(fp8_weights=fp8), 1) for fp8 in (False, True))
    names = {name for name, weight in rounded.named_parameters() if weight.dtype == FP8}
    kinds = {name.split(".", 3)[-1] for name in names}
    attention = {"self_attn.qkv_proj.weight", "self_attn.o_proj.weight"}
    mlps = {"mlp.gate_up_proj.weight", "mlp.down_proj.weight", "mlp.experts.gate_up", "mlp.experts.down"}
    assert kinds == attention | mlps  # not embedding, LM head, router and norms
    exact = dict(whole.named_parameters())
    scales = dict(rounded.named_parameters())
    for name in names:
        scale = scales[f"{name}_scales" if "experts" in name else name.replace("weight", "scales")]
        back = scales[name].float() * scale.unsqueeze(-1)
        assert (back - exact[name]).norm() < 0.04 * exact[name].norm(), name


@pytest.mark.parametrize(
    "fp8", [{"fp8_weights": True}, {"fp8_kv": True}, {"fp8_weights": True, "fp8_kv": True}], ids=str
)
def test_logits_are_close_to_those_of_float32(fp8: dict[str, bool]) -> None:
    (prompt,) = prompts(40)
    logits = []
    for options in ({}, fp8):
        server = Server(FIELDS, placement(**options))
        logits.append(server.all_logits(prompt))
        server.close()
    error = (logits[1] - logits[0]).norm() / logits[0].norm()
    assert 1e-4 < error < 0.15, error  # three bits behind the first, through two layers


def test_chunks_and_evicted_pages_do_not_matter_in_fp8() -> None:
    """KV read back from the pool is the same whoever wrote it: in one chunk, in many, or found in the prefix cache."""
    shared = prompts(60, seed=3)[0]
    asked = [[*shared, 1], [*shared, 2, 3], shared[:30]]
    outputs = []
    for step_tokens, pages in ((2048, 64), (7, 20)):
        policy = {"batching": {"name": "chunked", "step_tokens": step_tokens}}
        server = Server(FIELDS, placement(fp8_weights=True, fp8_kv=True), policy=policy, pages=pages)
        outputs.append(server.greedy(asked, 8))
        server.close()
    assert outputs[0] == outputs[1]


def test_ranks_together_compute_the_whole_model() -> None:
    (prompt,) = prompts(20)

    def work(communicator: Communicator) -> Any:
        server = Server(FIELDS, placement(communicator, fp8_weights=True, fp8_kv=True))
        logits = server.all_logits(prompt)
        server.close()
        return logits

    alone = work(SingleCommunicator())
    for logits in on_ranks(2, work):  # the columns of a row that a rank holds have a scale of their own
        assert (logits - alone).norm() < 0.15 * alone.norm()


def test_words_are_those_of_the_cost_model() -> None:
    from harness.cost.model import DTYPE_BYTES

    for word in DTYPE_BYTES:
        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}.get(word, torch.bfloat16)
        assert placement_dtypes(word, word, dtype, CPU) == {"fp8_weights": word == "fp8", "fp8_kv": word == "fp8"}
    assert placement_dtypes(None, None, torch.float32, CPU) == {"fp8_weights": False, "fp8_kv": False}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("int4", None), r"backend\.weight_dtype=int4: fp8, or null for backend\.dtype's bf16"),
        ((None, "fp32"), r"backend\.kv_dtype=fp32: fp8, or null for backend\.dtype's bf16"),
    ],
)
def test_other_words_are_refused(words: tuple[str | None, str | None], message: str) -> None:
    with pytest.raises(DtypeError, match=message):
        placement_dtypes(*words, torch.bfloat16, CPU)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flash", r"backend\.attention=flash: auto, flashinfer, triton, torch, or PREFILL\+DECODE"),
        ("triton+triton+torch", "PREFILL"),
        ("triton+torch", "for both or neither"),
        ("triton", "half precision on a GPU, not float32 on cpu; take auto"),
    ],
)
def test_attention_that_cannot_run_is_refused(name: str, message: str) -> None:
    with pytest.raises(AttentionError, match=message):
        choose_attention(name, placement(), 128)


def test_fp8_kv_is_not_for_flashinfer() -> None:
    on_gpu = Placement(SingleCommunicator(), torch.device("cuda"), torch.bfloat16, fp8_kv=True)
    with pytest.raises(AttentionError, match=r"take triton with backend\.kv_dtype=fp8"):
        choose_attention("flashinfer+triton", on_gpu, 128)
    assert choose_attention("auto", on_gpu, 128) == AttentionChoice("triton", "triton")
    assert choose_attention("auto", placement(fp8_kv=True), 128) == AttentionChoice("torch", "torch")


def test_bias_is_added_after_the_scales() -> None:
    x, w, bias = torch.randn(3, 8), torch.randn(5, 8), torch.randn(5)
    weight = Weight(*quantize(w))
    kernels = TorchKernels()
    assert torch.allclose(kernels.linear(x, weight, bias), kernels.linear(x, weight) + bias)
