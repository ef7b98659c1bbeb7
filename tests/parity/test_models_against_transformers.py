"""Logits and greedy tokens are transformers', for every architecture and any number of ranks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.tiny.models import MODELS, all_logits, continued, make_model
from tests.tiny.rank import COUNT, PROMPT, PROMPTS
from tests.tiny.serving import Server, on_cpu
from tests.tiny.threads import on_ranks

ROOT = Path(__file__).parents[2]


@dataclass
class Reference:
    folder: Path
    logits: np.ndarray[Any, Any]
    tokens: list[list[int]]


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    """What transformers makes of every model."""
    references = {}
    for name in MODELS:
        folder = tmp_path_factory.mktemp("models") / name
        model = make_model(name, folder)
        tokens = [continued(model, prompt, COUNT) for prompt in PROMPTS]
        references[name] = Reference(folder, all_logits(model, PROMPT).numpy(), tokens)
    return references


@pytest.fixture(scope="module")
def two_ranks(references: dict[str, Reference], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two gloo processes makes of every model."""
    work = tmp_path_factory.mktemp("ranks")
    outs = [work / f"{rank}.npz" for rank in range(2)]
    folders = [str(reference.folder) for reference in references.values()]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.tiny.rank", str(rank), "2", str(work / "meeting"), str(out), *folders],
            cwd=ROOT,
        )
        for rank, out in enumerate(outs)
    ]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    return [dict(np.load(out)) for out in outs]


@pytest.fixture
def server(request: pytest.FixtureRequest, references: dict[str, Reference]) -> Iterator[Server]:
    server = Server(references[request.param].folder)
    yield server
    server.close()


def close_to(logits: np.ndarray[Any, Any], reference: Reference) -> bool:
    assert np.abs(reference.logits).max() > 1  # there is something to compare
    return bool(np.abs(logits - reference.logits).max() < 1e-4)


@pytest.mark.parametrize(("server", "name"), [(name, name) for name in MODELS], indirect=["server"])
def test_one_rank(server: Server, name: str, references: dict[str, Reference]) -> None:
    assert close_to(server.all_logits(PROMPT).numpy(), references[name])
    assert server.greedy(PROMPTS, COUNT) == references[name].tokens


@pytest.mark.parametrize("name", MODELS)
def test_two_ranks_over_gloo(name: str, two_ranks: list[dict[str, Any]], references: dict[str, Reference]) -> None:
    for rank in two_ranks:
        assert close_to(rank[f"{name}.logits"], references[name])
        assert rank[f"{name}.tokens"].tolist() == references[name].tokens
    # The gathered logits are the same bits everywhere, so that ranks choose alike.
    assert np.array_equal(two_ranks[0][f"{name}.logits"], two_ranks[1][f"{name}.logits"])


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3_moe"])
def test_more_ranks_than_kv_heads(name: str, references: dict[str, Reference]) -> None:
    reference = references[name]

    def work(communicator: Any) -> Any:
        server = Server(reference.folder, on_cpu(communicator))
        logits = server.all_logits(PROMPT).numpy()
        tokens = server.greedy(PROMPTS, COUNT)
        server.close()
        return logits, tokens

    for logits, tokens in on_ranks(4, work):
        assert close_to(logits, reference)
        assert tokens == reference.tokens
