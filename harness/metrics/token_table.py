"""The token table while a backend fills it: when the client saw each token."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from harness.metrics.schema import Array


def token_columns(times_s: Iterable[tuple[int, npt.NDArray[np.float64]]]) -> dict[str, Array]:
    """The columns of :data:`harness.metrics.schema.TOKEN_COLUMNS`.

    Args:
        times_s: Request id, and when the client saw each of its tokens, in order: float64 [tokens].
    """
    ids, times = [], []
    for request_id, seen_s in times_s:
        ids.append(request_id)
        times.append(seen_s)
    counts = [len(seen_s) for seen_s in times]
    return {
        "request_id": np.repeat(np.array(ids, np.int64), counts),
        "token": np.concatenate([np.empty(0, np.int32), *(np.arange(count, dtype=np.int32) for count in counts)]),
        "client_s": np.concatenate([np.empty(0), *times]),
    }
