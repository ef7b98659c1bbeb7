"""How Triton kernels are launched: in turn, or each while the one before it ends."""

from __future__ import annotations

OVERLAP_TOKENS = 64
"""Tokens of the largest step whose kernels overlap: waiting blocks take room from running ones, so it pays only where a
step does not fill the GPU."""

# What a kernel that is launched early must do, so that the stream's order still holds.
#
# Each program of it executes `gdc_wait` (PTX: griddepcontrol.wait) before it reads what any kernel wrote and before it
# writes at all. That instruction waits until the grid before has ended, whole, and its writes are visible. It says
# nothing of the grids before that one, but their ends follow: a grid cannot end before its own waits have, so the grid
# before the grid before has ended too, and so on back to one that was launched in the plain way, at which all before it
# had ended. The chain would break at a kernel that is launched early and of which no program waits: none of ours may
# skip the wait (a test reads it in the code compiled for Hopper), and of FlashInfer's every block waits that has
# something to attend to.
#
# So after the wait everything before is done, and memory may be used again in the stream's order, as PyTorch's
# allocator does in a graph and outside: no kernel overwrites what an earlier one still reads, however early it is
# launched. Before the wait a program may ask for what no kernel writes, the weights.
#
# It may read then, too, what was there before the step's first kernel began: the tables of a step, which the host has
# copied, and the KV of earlier steps. That kernel, or the graph of the step, stands behind the copies in the stream and
# is launched in the plain way: it began when they, and all kernels before them, had ended. Each kernel of the step
# began after the one before it had, since its launch waits for a word from every program of that one.
#
# `gdc_launch_dependents` says only that the next grid may be launched; it stands first. There is no deadlock: the next
# grid's programs come once all of this one have said so, and are running; the running ones wait for earlier ones alone.


def row_warps(block: int) -> int:
    """Warps of a program that works on a row of ``block`` numbers: some 8 to 16 numbers a thread."""
    return min(max(block // 512, 1), 16)


def overlap(wanted: bool) -> dict[str, bool]:
    """Triton's option for programmatic dependent launch, from compute capability 9 on; its interpreter knows none."""
    return {"launch_pdl": True} if wanted else {}
