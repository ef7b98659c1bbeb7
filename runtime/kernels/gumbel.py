"""Drawing from a softmax by the Gumbel-max trick, with noise out of a stateless hash: in PyTorch, the reference."""

from __future__ import annotations

import torch
from torch import Tensor


def gumbel_argmax(scores: Tensor, temperature: Tensor, keys: Tensor) -> Tensor:
    """Draw each row's token from softmax(scores / temperature).

    Args:
        scores: (rows, vocab_size).
        temperature: (rows,) float32; 0 for the likeliest token.
        keys: (rows, 2), see :func:`gumbel`.

    Returns:
        (rows,) int64.
    """
    scores, warm = scores.float(), temperature.unsqueeze(-1)
    drawn = scores / warm + gumbel(keys, scores.shape[-1])
    return torch.where(warm > 0, drawn, scores).argmax(dim=-1)


def gumbel(keys: Tensor, width: int) -> Tensor:
    """Gumbel noise, a function of its key and nothing else.

    Args:
        keys: (rows, 2) integers, of which the low 32 bits count.
        width: Draws a row.

    Returns:
        (rows, width) float32.
    """
    keys = keys.long()
    counter = torch.arange(width, device=keys.device) * 0x9E3779B9
    bits = _mix32(_mix32(counter + keys[:, :1]) ^ keys[:, 1:])
    uniform = ((bits.float() + 0.5) * 2.0**-32).clamp_(max=1 - 2.0**-24)
    # -log of an exponential variate, which is fine-grained where it matters: near 0.
    return -torch.log(-torch.log1p(-uniform))


def _mix32(x: Tensor) -> Tensor:
    """32 well mixed bits of the low 32 (C. Wellons' lowbias32); products may wrap, their low bits are right."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)
