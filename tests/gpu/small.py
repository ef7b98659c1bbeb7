"""Small models that every attention backend can run, in half precision and as an exact reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from policies import build_policy
from runtime.attention.base import AttentionMetadata
from runtime.attention.torch import TorchAttention
from runtime.distributed import SingleCommunicator
from runtime.engine.memory import kv_pool
from runtime.engine.offline import run_offline
from runtime.engine.torch_engine import make_engine
from runtime.layers.parts import Placement
from runtime.models.config import ModelConfig, load_model_config
from runtime.models.decoder import CausalLm
from runtime.models.registry import build_model
from runtime.scheduler import Scheduler, SchedulerConfig
from runtime.transfer import to_device
from runtime.weights import random_weights
from tests.core.owners import OwnedPages, PageIds
from tests.tiny.serving import POLICY, output, sequence

FIELDS: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "head_dim": 128,
    "intermediate_size": 1024,
    "vocab_size": 8192,
    "max_position_embeddings": 4096,
    "rope_theta": 1000000,
    "torch_dtype": "bfloat16",
}
MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 256,
    "norm_topk_prob": True,
}
TIE = 0.1  # root mean squares of the logits, by which a token may be behind the likeliest: bfloat16 tells no better
_NAN = 0xFF  # a byte of which bfloat16 and fp8 (e4m3) make NaN
HALF = Placement(SingleCommunicator(), torch.device("cuda"), torch.bfloat16)
EXACT = Placement(SingleCommunicator(), torch.device("cuda"), torch.float32)


class Small(NamedTuple):
    """The same weights in bfloat16 and in float32."""

    config: ModelConfig
    half: CausalLm
    exact: CausalLm


def small(kv_heads: int, **fields: Any) -> Small:
    """A model with so many KV heads to 8 query heads, and other fields."""
    config = load_model_config({**FIELDS, "num_key_value_heads": kv_heads, **fields})
    half, exact = build_model(config, HALF), build_model(config, EXACT)
    random_weights(half, 1)
    exact.load_state_dict({name: tensor.float() for name, tensor in half.state_dict().items()})
    return Small(config, half, exact)


@torch.inference_mode()
def exact_logits(model: Small, tokens: list[int]) -> torch.Tensor:
    """Reference logits at every position: (tokens, vocab_size) float32."""
    length = len(tokens)
    kv = kv_pool(model.config, EXACT, pages=length, page_size=1)
    counts, slots = np.array([length]), torch.arange(length, device="cuda")
    pages = np.arange(length, dtype=np.int32)[None]
    step = TorchAttention(kv, 1).plan(AttentionMetadata(counts, counts, pages, 1, slots))
    return model.exact.logits(model.exact(torch.tensor(tokens, device="cuda"), slots, step))


def behind_likeliest(model: Small, prompts: list[list[int]], continuations: list[list[int]]) -> torch.Tensor:
    """How far each token is behind the likeliest by the float32 reference, in root mean squares of the logits."""
    found = []
    for prompt, tokens in zip(prompts, continuations, strict=True):
        logits = exact_logits(model, prompt + tokens[:-1])[len(prompt) - 1 :]
        chosen = logits.gather(1, torch.tensor(tokens, device="cuda")[:, None])[:, 0]
        found.append((logits.amax(1) - chosen) / logits.norm(dim=1) * logits.shape[1] ** 0.5)
    return torch.cat(found)


def assert_likeliest(
    model: Small, prompts: list[list[int]], count: int, continuations: list[list[int]], share: float = 0.85
) -> None:
    """Each token is the likeliest by the reference, a share of them at least, or a tie for bfloat16."""
    assert [len(tokens) for tokens in continuations] == [count] * len(prompts)
    far = behind_likeliest(model, prompts, continuations)
    assert far.max() < TIE, far.max()
    assert (far == 0).float().mean() > share


def greedy(
    model: Small,
    prompts: list[list[int]],
    count: int,
    *,
    page_size: int = 16,
    overlap: bool = True,
    cuda_graph: bool = True,
    policy: Mapping[str, Any] | None = None,
    max_running: int = 8,
    pages: int | None = None,
    attention: str = "auto",
    placement: Placement = HALF,
) -> list[list[int]]:
    """Greedy continuations by the engine, of whose steps each uses pages of its own.

    The KV pool begins as NaN, and pages that are freed become NaN: what no step wrote for a sequence, it may not read.
    """
    sizes = SchedulerConfig(pages or 8192 // page_size, page_size, max_running, 1024)
    scheduler = Scheduler(sizes, build_policy({**POLICY, **(policy or {})}))
    table = scheduler.memory.table
    made: Any = make_engine(
        model.config, model.half, placement, sizes, table, attention=attention, cuda_graph=cuda_graph
    )
    pool = made._attention.kv.view(torch.uint8).fill_(_NAN).unflatten(2, (-1, page_size))

    def destroy(freed: PageIds) -> None:
        pool.index_fill_(2, to_device(placement.device, freed.astype(np.int64))[0], _NAN)

    engine = OwnedPages(made, scheduler, destroy)
    sequences = [sequence(index, prompt, count) for index, prompt in enumerate(prompts)]
    for _ in run_offline(scheduler, engine, sequences, overlap=overlap):
        pass
    engine.close()
    return [output(done) for done in sequences]
