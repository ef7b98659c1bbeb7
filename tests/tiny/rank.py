"""A tensor-parallel rank over gloo: ``python -m tests.tiny.rank RANK SIZE MEETING OUT FOLDER...``.

Writes ``OUT``: for each folder's model the logits of :data:`PROMPT` and the greedy continuations of :data:`PROMPTS`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from runtime.distributed import TorchCommunicator
from tests.tiny.serving import Server, on_cpu, prompts

PROMPTS = prompts(5, 33, 40, 17)
PROMPT = PROMPTS[1]
COUNT = 12


def main(rank: int, size: int, meeting: str, out: str, *folders: str) -> None:
    communicator = TorchCommunicator(rank, size, backend="gloo", init_method=f"file://{meeting}", timeout_s=120)
    results: dict[str, Any] = {}
    for folder in folders:
        server = Server(Path(folder), on_cpu(communicator))
        results[f"{Path(folder).name}.logits"] = server.all_logits(PROMPT).numpy()
        results[f"{Path(folder).name}.tokens"] = np.array(server.greedy(PROMPTS, COUNT))
        server.close()
    communicator.barrier()
    communicator.close()
    np.savez(out, allow_pickle=False, **results)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
