"""A step padded to the tokens of a CUDA graph computes what it computed before, and reads nothing but its own."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from runtime.attention.base import AttentionMetadata  # noqa: E402
from runtime.attention.torch import TorchAttention  # noqa: E402
from runtime.engine.inputs import StepInputs, padded, step_inputs  # noqa: E402
from runtime.engine.memory import kv_pool  # noqa: E402
from runtime.engine.torch_engine import load_model  # noqa: E402
from runtime.models.config import load_model_config  # noqa: E402
from tests.tiny.serving import on_cpu, prompts  # noqa: E402
from tests.tiny.steps import batch_of  # noqa: E402

FIELDS = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "dtype": "float32",
}
_UNUSED = 100.0  # KV that nothing may read: far from what is computed
CASES = [
    ([(0, 5)], []),
    ([(0, 1)], []),
    ([(3, 9), (0, 2)], [4, 17, 30]),
    ([(33, 7)], [1, 50]),
]


def inputs_of(chunks: list[tuple[int, int]], decodes: list[int], page_size: int) -> StepInputs:
    """A step's inputs, each sequence on pages of its own."""
    batch = batch_of(chunks, decodes)
    sequences = [chunk.sequence for chunk in batch.chunks] + batch.decodes
    table = np.arange(len(sequences) * (64 // page_size), dtype=np.int32).reshape(len(sequences), -1)
    for row, sequence in enumerate(sequences):
        sequence.row = row
        sequence.tokens[:64] = prompts(64, seed=row)[0]
    return step_inputs(batch, table, page_size)


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("size", [21, 32, 128])
@pytest.mark.parametrize(("chunks", "decodes"), CASES)
@torch.inference_mode()
def test_sampled_hidden_states_stay_and_padding_keeps_to_its_page(
    chunks: list[tuple[int, int]], decodes: list[int], size: int, page_size: int
) -> None:
    config, placement = load_model_config(FIELDS), on_cpu()
    model = load_model(FIELDS, config, placement, 1)
    inputs = inputs_of(chunks, decodes, page_size)
    before = [(row, start) for row, (start, _) in enumerate(chunks)]
    before += [(len(chunks) + row, position) for row, position in enumerate(decodes)]
    pages = len(inputs.rows) * (64 // page_size)  # and one of no sequence
    random = torch.randn(config.num_hidden_layers, 2, (pages + 1) * page_size, 2, 16)
    last_token = torch.tensor(prompts(len(inputs.rows) + 1, seed=5)[0])

    def run(step: StepInputs) -> tuple[torch.Tensor, torch.Tensor]:
        pool = kv_pool(config, placement, pages=pages + 1, page_size=page_size).fill_(_UNUSED)
        for row, length in before:  # what earlier steps left
            first = row * 64
            pool[:, :, first : first + length] = random[:, :, first : first + length]
        slots, positions = torch.from_numpy(step.slots), torch.from_numpy(step.positions)
        attention = TorchAttention(pool, page_size).plan(
            AttentionMetadata(step.query_lengths, step.lengths, step.pages, step.prefills, slots)
        )
        tokens = torch.cat([torch.from_numpy(step.tokens), last_token[step.rows[step.prefills :]]])
        hidden = model(tokens, positions, attention)
        return hidden[torch.from_numpy(step.sampled_tokens)], pool[:, :, : pages * page_size]

    more = padded(inputs, size, row=len(inputs.rows), page=pages, page_size=page_size)
    assert len(more.positions) == size
    assert (more.rows[more.sampled] == inputs.rows[inputs.sampled]).all()
    (hidden, kv), (same_hidden, same_kv) = run(inputs), run(more)
    torch.testing.assert_close(same_hidden, hidden, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(same_kv, kv, rtol=1e-4, atol=1e-5)


def test_a_step_of_the_graphs_size_is_left_as_it_is() -> None:
    inputs = inputs_of([(0, 30)], [4, 9], 16)
    assert padded(inputs, 32, row=3, page=99, page_size=16) is inputs
