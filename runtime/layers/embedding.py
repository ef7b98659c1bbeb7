"""Token embeddings and the LM head, divided over ranks by vocabulary."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from runtime.kernels import Weight
from runtime.layers.parts import Layer, Part, Placement


class VocabularyLayer(Layer):
    """A row for each token id; each rank holds as many, the last ones padding where the vocabulary does not divide.

    Args:
        vocab_size: Token ids.
        hidden_size: Width of a row.
    """

    def __init__(self, placement: Placement, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self._communicator = placement.communicator
        self._vocab_size = vocab_size
        rows = -(-vocab_size // placement.communicator.size)
        self._start = min(placement.communicator.rank * rows, vocab_size)
        self._count = min(rows, vocab_size - self._start)
        self.weight = placement.weight(rows, hidden_size)

    def parts(self, name: str) -> Iterator[Part]:
        """This rank's rows."""
        width = self.weight.shape[1]
        rows = slice(self._start, self._start + self._count)
        target = self.weight[: self._count]
        yield Part(f"{name}.weight", (self._vocab_size, width), (rows, slice(0, width)), target)


class VocabularyEmbedding(VocabularyLayer):
    """Token embeddings."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(tokens,) ids to (tokens, hidden_size), this rank's part of the sum: zeros for what other ranks hold."""
        if self._communicator.size == 1:
            return F.embedding(tokens, self.weight)
        local = tokens - self._start
        elsewhere = (local < 0) | (local >= self._count)
        rows = F.embedding(local.masked_fill(elsewhere, 0), self.weight)
        return rows.masked_fill_(elsewhere.unsqueeze(-1), 0)


class LmHead(VocabularyLayer):
    """Scores of all token ids.

    Args:
        tied: Where the checkpoint has one matrix for both: the embedding whose weight this is.
    """

    def __init__(
        self,
        placement: Placement,
        vocab_size: int,
        hidden_size: int,
        tied: VocabularyEmbedding | None,
    ) -> None:
        if tied is None:
            super().__init__(placement, vocab_size, hidden_size)
        else:
            Layer.__init__(self)
            self._communicator, self._vocab_size = placement.communicator, vocab_size
            self.weight = tied.weight
        self._kernels = placement.kernels
        self._tied = tied is not None

    def forward(self, x: Tensor) -> Tensor:
        """(rows, hidden_size) to (rows, vocab_size), the same on every rank."""
        logits = self._communicator.all_gather(self._kernels.linear(x, Weight(self.weight, None)))
        return logits[:, : self._vocab_size]

    def parts(self, name: str) -> Iterator[Part]:
        """This rank's rows, or nothing where the embedding is filled with them."""
        return iter(()) if self._tied else super().parts(name)
