"""How Triton kernels are launched."""

from __future__ import annotations

OVERLAP_TOKENS = 64
"""Tokens of the largest step whose kernels overlap: waiting blocks take room from running ones, so it pays only where a
step does not fill the GPU."""


def overlap(wanted: bool) -> dict[str, bool]:
    """Triton's option for programmatic dependent launch, from compute capability 9 on; its interpreter knows none."""
    return {"launch_pdl": True} if wanted else {}
