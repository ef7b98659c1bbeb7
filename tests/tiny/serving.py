"""Our engine on a small model, driven through the serving loop in this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policies import build_policy
from runtime.attention.base import AttentionMetadata
from runtime.attention.torch import TorchAttention
from runtime.distributed import Communicator, SingleCommunicator
from runtime.engine.memory import kv_pool
from runtime.engine.offline import run_offline
from runtime.engine.params import SamplingParams
from runtime.engine.torch_engine import TorchEngine, load_model
from runtime.layers.parts import Placement
from runtime.models.config import load_model_config
from runtime.scheduler import Scheduler, SchedulerConfig, Sequence, StepOutputs

# A mixture of experts of Qwen3's kind, as a Hugging Face config; which layers are dense is the test's.
MIXTURE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "dtype": "float32",
}

POLICY: dict[str, Any] = {
    "order": {"name": "fcfs"},
    "batching": {"name": "chunked", "step_tokens": 2048},
    "reservation": {"name": "full"},
    "preemption": {"name": "newest"},
    "eviction": {"name": "lru"},
    "prediction": {"name": "max_tokens"},
}


def prompts(*lengths: int, vocab_size: int = 101, seed: int = 0) -> list[list[int]]:
    """Random prompts."""
    random = np.random.default_rng(seed)
    return [random.integers(0, vocab_size, length).tolist() for length in lengths]


def sequence(request_id: int, prompt: list[int], max_tokens: int, **options: Any) -> Sequence:
    """A request, with its foretold output behind the prompt if ``options`` say how long that is."""
    length = len(prompt) - (options.get("foretold_tokens") or 0)
    return Sequence(request_id, length, np.array(prompt, np.int32), max_tokens, **options)


def output(done: Sequence) -> list[int]:
    """The tokens it produced."""
    ids: list[int] = done.tokens[done.prompt_tokens : done.prompt_tokens + done.output_tokens].tolist()
    return ids


def on_cpu(communicator: Communicator | None = None) -> Placement:
    """A rank on the CPU, float32."""
    return Placement(communicator or SingleCommunicator(), torch.device("cpu"), torch.float32)


class Server:
    """A model, an engine and a scheduler in this process.

    Args:
        model: A checkpoint's folder, or the fields of a configuration for random weights.
        placement: Where it goes.
        policy: Parts other than :data:`POLICY`'s.
        overlap: One step in flight, or none.
        sizes: Fields of the scheduler's configuration other than the default.
    """

    def __init__(
        self,
        model: Path | Mapping[str, Any],
        placement: Placement | None = None,
        *,
        policy: Mapping[str, Any] | None = None,
        overlap: bool = True,
        **sizes: int,
    ) -> None:
        torch.set_num_threads(1)
        placement = placement or on_cpu()
        self.config = load_model_config(model)
        self.model = load_model(model, self.config, placement, 1 if isinstance(model, Mapping) else None)
        scheduler = SchedulerConfig(**{"pages": 64, "page_size": 16, "max_running": 8, "max_context": 512, **sizes})
        self.scheduler = Scheduler(scheduler, build_policy({**POLICY, **(policy or {})}))
        self.engine = TorchEngine(self.config, self.model, placement, scheduler, self.scheduler.memory.table)
        self.overlap = overlap
        self._placement = placement

    def run(
        self, sequences: Iterable[Sequence], params: Mapping[int, SamplingParams] | None = None
    ) -> list[StepOutputs]:
        """Run requests to their ends; returns the steps."""
        sequences = list(sequences)
        for request_id, wanted in (params or {}).items():
            self.engine.admit(request_id, wanted)
        steps = []
        for event in run_offline(self.scheduler, self.engine, sequences, overlap=self.overlap):
            assert isinstance(event, tuple), f"refused: {event}"
            steps.append(event[0])
        for done in sequences:
            self.engine.forget(done.request_id)
        return steps

    def greedy(self, asked: list[list[int]], count: int) -> list[list[int]]:
        """The greedy continuations of prompts."""
        sequences = [sequence(index, prompt, count) for index, prompt in enumerate(asked)]
        self.run(sequences)
        return [output(done) for done in sequences]

    @torch.inference_mode()
    def all_logits(self, prompt: list[int]) -> torch.Tensor:
        """Logits at every position of a prompt, run as one chunk: (tokens, vocab_size)."""
        length = len(prompt)
        pages = np.arange(length, dtype=np.int32)[None]
        kv = kv_pool(self.config, self._placement, pages=length, page_size=1)
        counts = np.array([length])
        slots = torch.arange(length)
        step = TorchAttention(kv, 1).plan(AttentionMetadata(counts, counts, pages, 1, slots))
        return self.model.logits(self.model(torch.tensor(prompt), slots, step))

    def close(self) -> None:
        """End the engine's thread."""
        self.engine.close()
