"""Page tables as kernels read them: int32, all sequences' pages one behind the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from runtime.attention.base import IntArray


def aligned(entries: int) -> int:
    """Rounded up to 16 bytes of int32, which kernels load at once."""
    return -(-entries // 4) * 4


def fill_starts(starts: npt.NDArray[np.int32], counts: IntArray) -> None:
    """Where each run begins and the last ends.

    Args:
        starts: (runs + 1,) to fill.
        counts: (runs,) lengths of the runs.
    """
    starts[0] = 0
    np.cumsum(counts, out=starts[1:])


def joined(
    pages: npt.NDArray[np.int32], counts: IntArray, out: npt.NDArray[np.int32] | None = None
) -> npt.NDArray[np.int32]:
    """The first ``counts[i]`` pages of row ``i``, all rows' in a row."""
    return np.concatenate([row[:count] for row, count in zip(pages, counts.tolist(), strict=True)], out=out)
