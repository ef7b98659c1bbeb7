"""Loading: a rank reads its part, and a checkpoint that does not fit says why."""

# ruff: noqa: E402 (what needs torch is imported once it is known to be there)
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from runtime.distributed import Communicator, SingleCommunicator
from runtime.engine.torch_engine import load_model
from runtime.layers.parts import Placement
from runtime.models.config import load_model_config
from runtime.models.errors import ParallelError, WeightsError
from tests.tiny.serving import Server, on_cpu, prompts
from tests.tiny.threads import on_ranks

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "vocab_size": 37,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "mlp_only_layers": [0],
    "dtype": "float32",
}


def checkpoint(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda tensors: None) -> Path:
    """A checkpoint in a single file, changed."""
    model = load_model(CONFIG, load_model_config(CONFIG), on_cpu(), 3)
    tensors = {part.name: part.target.detach().clone() for part in model.parts()}
    change(tensors)
    folder.mkdir(exist_ok=True)
    safetensors_torch.save_file(tensors, folder / "model.safetensors")
    return folder


def load(folder: Path, config: dict[str, Any] = CONFIG) -> Any:
    return load_model(folder, load_model_config(config), on_cpu())


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    model = load(checkpoint(tmp_path))
    original = load_model(CONFIG, load_model_config(CONFIG), on_cpu(), 3)
    for mine, its in zip(model.parts(), original.parts(), strict=True):
        assert torch.equal(mine.target, its.target), mine.name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), r"model\.norm\.weight missing"),
        (
            lambda tensors: tensors.update({"model.extra.weight": torch.zeros(2)}),
            r"model\.extra\.weight in the checkpoint",
        ),
        (
            lambda tensors: tensors.update({"model.layers.1.mlp.gate.weight": torch.zeros(5, 32)}),
            r"mlp\.gate\.weight has shape \[5, 32\], by config\.json it is \[4, 32\]",
        ),
    ],
)
def test_wrong_tensors_are_named(tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load(checkpoint(tmp_path, change))


def test_leftovers_that_do_no_harm_are_ignored(tmp_path: Path) -> None:
    leftover = "model.layers.0.self_attn.rotary_emb.inv_freq"
    load(checkpoint(tmp_path, lambda tensors: tensors.update({leftover: torch.zeros(4)})))
    load(checkpoint(tmp_path), {**CONFIG, "tie_word_embeddings": True})


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no \*\.safetensors there"):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(WeightsError, match="convert them to safetensors"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        load(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("[]")
    with pytest.raises(WeightsError, match="not an index"):
        load(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(WeightsError, match="outside its folder"):
        load(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(WeightsError, match=r"gone\.safetensors"):
        load(tmp_path)


def test_random_weights_are_the_same_model_on_any_number_of_ranks() -> None:
    asked = prompts(9, 20, vocab_size=37)

    def work(communicator: Communicator) -> Any:
        server = Server(CONFIG, on_cpu(communicator))
        logits, tokens = server.all_logits(asked[0]), server.greedy(asked, 8)
        server.close()
        return logits, tokens

    alone = work(SingleCommunicator())
    for size in (2, 4):
        for logits, tokens in on_ranks(size, work):
            assert (logits - alone[0]).abs().max() < 1e-4
            assert tokens == alone[1]


def test_fields_without_a_seed_have_no_weights() -> None:
    with pytest.raises(WeightsError, match="seed=null"):
        load_model(CONFIG, load_model_config(CONFIG), on_cpu())


def test_another_seed_is_another_model() -> None:
    config = load_model_config(CONFIG)
    first, second = (load_model(CONFIG, config, on_cpu(), seed).lm_head.weight for seed in (1, 2))
    assert not torch.equal(first, second)


def test_dtype() -> None:
    placement = Placement(SingleCommunicator(), torch.device("cpu"), torch.bfloat16)
    model = load_model(CONFIG, load_model_config(CONFIG), placement, 1)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({"num_attention_heads": 6, "num_key_value_heads": 6}, 4, "num_attention_heads=6"),
        ({"num_attention_heads": 12, "num_key_value_heads": 3}, 2, "num_key_value_heads=3"),
        ({"intermediate_size": 50}, 4, "intermediate_size=50"),
        ({"moe_intermediate_size": 18}, 4, "moe_intermediate_size=18"),
    ],
)
def test_a_model_that_does_not_divide_is_refused(changes: dict[str, Any], size: int, message: str) -> None:
    config = load_model_config({**CONFIG, **changes})
    with pytest.raises(ParallelError, match=f"tp={size}.*{message}"):
        on_ranks(size, lambda communicator: load_model(CONFIG, config, on_cpu(communicator), 1))
