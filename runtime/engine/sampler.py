"""Choosing the next tokens on the device: penalties, truncation, Gumbel noise from a stateless hash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from policies.hashing import mix_arrays
from runtime.engine.params import GREEDY, SamplingParams
from runtime.kernels.gumbel import gumbel, gumbel_argmax
from runtime.scheduler.batch import Batch
from runtime.scheduler.sequence import Sequence
from runtime.transfer import to_device

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

_COLDEST = 1e-5  # below this temperature, greedy
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Draws:
    """How the rows of a step draw their tokens.

    Attributes:
        temperature: (sampled,); 0 for rows that take the likeliest.
        keys: (sampled, 2) 32 random bits each, from the request's seed and the token's position.
    """

    temperature: FloatArray
    keys: npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Truncation:
    """The drawing rows that leave unlikely tokens out.

    Attributes:
        index: (truncated,) which of the step's sampled rows.
        top_p: (truncated,) 1 for all, and so the following.
        top_k: 0 for all.
        min_p: 0 for all.
    """

    index: IntArray
    top_p: FloatArray
    top_k: IntArray
    min_p: FloatArray


@dataclass(frozen=True, slots=True)
class Penalties:
    """The sampled rows whose logits depend on the tokens before.

    Attributes:
        index: (penalised,) which of the step's sampled rows.
        rows: (penalised,) their rows in the tables of counts.
        presence: (penalised,), and so the following.
        frequency: Of each token in the output.
        repetition: 1 for none.
        fresh: For those whose counts begin anew with this step: row, prompt ids, output ids so far.
    """

    index: IntArray
    rows: IntArray
    presence: FloatArray
    frequency: FloatArray
    repetition: FloatArray
    fresh: list[tuple[int, IntArray, IntArray]]


@dataclass(frozen=True, slots=True)
class Biases:
    """What is added to single logits.

    Attributes:
        index: (biases,) which of the step's sampled rows.
        tokens: (biases,) which token.
        values: (biases,) how much; minus infinity bans it.
    """

    index: IntArray
    tokens: IntArray
    values: FloatArray


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """How one step samples, on the host; a part is None where no row wants it.

    Attributes:
        forced: (sampled,) the tokens that a replay foretells, -1 where it does not.
        logprobs: (sampled,) how many likeliest tokens are wanted, -1 where not even the chosen one's log-probability.
    """

    draws: Draws | None
    truncation: Truncation | None
    penalties: Penalties | None
    biases: Biases | None
    forced: IntArray | None
    logprobs: list[int] | None


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was chosen, on the device.

    Attributes:
        tokens: (sampled,) int64.
        logprobs: (sampled,) of the chosen tokens, or None where no row wants any.
        top_ids: (sampled, most) the likeliest tokens, or None.
        top_logprobs: (sampled, most) theirs, or None.
    """

    tokens: Tensor
    logprobs: Tensor | None = None
    top_ids: Tensor | None = None
    top_logprobs: Tensor | None = None


class Sampler:
    """Requests' sampling parameters on the host, counts of their tokens on the device.

    Noise depends on a request's seed and the token's position alone: a request with a seed gets the same tokens in any
    batch, chunked or preempted, up to the rounding of its logits. Ranks that sample the same logits draw the same.

    Args:
        rows: Rows of the page table.
        vocab_size: Token ids are below it.
        device: Where logits are.
    """

    def __init__(self, rows: int, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._params: dict[int, SamplingParams] = {}
        self._gumbel_argmax = _gumbel_argmax_on(device)
        # Here from the start: a first request with penalties must not run a full device out of memory.
        self._in_prompt = torch.zeros(rows, vocab_size, dtype=torch.bool, device=device)
        self._in_output = torch.zeros(rows, vocab_size, dtype=torch.int32, device=device)

    def admit(self, request_id: int, params: SamplingParams) -> None:
        """A request came."""
        if params != GREEDY:
            self._params[request_id] = params

    def forget(self, request_id: int) -> None:
        """A request has ended."""
        self._params.pop(request_id, None)

    # On the host.

    def plan(self, batch: Batch, positions: IntArray) -> SamplingPlan:
        """Read from the requests what a step needs.

        Args:
            batch: Just scheduled.
            positions: (sampled,) position in its sequence of each token to be sampled.
        """
        sampled = batch.sampled()
        forced = _forced(sampled, positions)
        if not self._params:
            return SamplingPlan(None, None, None, None, forced, None)
        params = [self._params.get(sequence.request_id, GREEDY) for sequence in sampled]
        wanted = [-1 if p.logprobs is None else p.logprobs for p in params]
        draws = _draws(sampled, params, positions)
        return SamplingPlan(
            draws=draws,
            truncation=None if draws is None else _truncation(params, draws),
            penalties=_penalties(sampled, params, positions, len(sampled) - len(batch.decodes)),
            biases=self._biases(sampled, params, positions),
            forced=forced,
            logprobs=wanted if max(wanted, default=-1) >= 0 else None,
        )

    def _biases(self, sampled: list[Sequence], params: list[SamplingParams], positions: IntArray) -> Biases | None:
        entries: list[tuple[int, int, float]] = []
        for i, (sequence, p) in enumerate(zip(sampled, params, strict=True)):
            entries.extend((i, token, bias) for token, bias in p.logit_bias.items() if token < self._vocab_size)
            if positions[i] - sequence.prompt_tokens < p.min_tokens:
                banned = sorted(token for token in sequence.stop_ids if 0 <= token < self._vocab_size)
                entries.extend((i, token, -np.inf) for token in banned)
        if not entries:
            return None
        index, tokens, values = zip(*entries, strict=True)
        return Biases(np.array(index), np.array(tokens), np.array(values, np.float32))

    # On the device.

    def sample(self, logits: Tensor, plan: SamplingPlan) -> Sampled:
        """Choose.

        Args:
            logits: (sampled, vocab_size).
            plan: The step's.
        """
        if plan.draws is None and plan.penalties is None and plan.biases is None and plan.logprobs is None:
            return Sampled(self._forced(logits.argmax(dim=-1), plan))
        scores = logits
        if plan.biases is not None or plan.penalties is not None:
            scores = logits.to(torch.float32, copy=True)
        if plan.biases is not None:
            index, tokens, values = self._put(plan.biases.index, plan.biases.tokens, plan.biases.values)
            scores.index_put_((index, tokens), values, accumulate=True)
        if plan.penalties is not None:
            self._penalise(scores, plan.penalties)
        chosen = scores.argmax(dim=-1) if plan.draws is None else self._draw(scores, plan.draws, plan.truncation)
        chosen = self._forced(chosen, plan)
        if plan.penalties is not None:
            index, rows = self._put(plan.penalties.index, plan.penalties.rows)
            self._in_output[rows, chosen[index]] += 1
        if plan.logprobs is None:
            return Sampled(chosen)
        return _with_logprobs(logits.float(), chosen, max(plan.logprobs))

    def _draw(self, scores: Tensor, draws: Draws, truncation: Truncation | None) -> Tensor:
        bits, keys = to_device(self._device, draws.temperature.view(np.int32), draws.keys.view(np.int32))
        temperature = bits.view(torch.float32)
        chosen = self._gumbel_argmax(scores, temperature, keys)
        if truncation is not None:
            index, top_p, top_k, min_p = self._put(
                truncation.index, truncation.top_p, truncation.top_k, truncation.min_p
            )
            truncates = bool((truncation.top_p < 1).any() or (truncation.top_k > 0).any())
            some, warmth = scores[index].float(), temperature[index]
            chosen[index] = draw(some, warmth, top_p, top_k, min_p, keys[index], truncates=truncates)
        return chosen

    def _forced(self, chosen: Tensor, plan: SamplingPlan) -> Tensor:
        if plan.forced is None:
            return chosen
        (forced,) = self._put(plan.forced)
        return torch.where(forced >= 0, forced, chosen)

    def _penalise(self, scores: Tensor, penalties: Penalties) -> None:
        for row, prompt, output in penalties.fresh:
            prompt_ids, output_ids = self._put(prompt, output)
            self._in_prompt[row].zero_()[prompt_ids] = True
            self._in_output[row] = output_ids.bincount(minlength=self._vocab_size)
        index, rows = self._put(penalties.index, penalties.rows)
        presence, frequency, repetition = (
            x.unsqueeze(-1) for x in self._put(penalties.presence, penalties.frequency, penalties.repetition)
        )
        counts, penalised = self._in_output[rows], scores[index]
        repeated = torch.where(penalised > 0, penalised / repetition, penalised * repetition)
        penalised = torch.where(self._in_prompt[rows] | (counts > 0), repeated, penalised)
        scores[index] = penalised - frequency * counts - presence * (counts > 0)

    def _put(self, *arrays: npt.NDArray[np.generic]) -> list[Tensor]:
        return [to_device(self._device, array)[0] for array in arrays]


def draw(
    scores: Tensor, temperature: Tensor, top_p: Tensor, top_k: Tensor, min_p: Tensor, keys: Tensor, *, truncates: bool
) -> Tensor:
    """Draw from softmax(scores / temperature), truncated, by the Gumbel-max trick.

    Args:
        scores: (rows, vocab_size).
        temperature: (rows,), over 0, and so the following.
        top_p: In (0, 1].
        top_k: 0 for all.
        min_p: In [0, 1].
        keys: (rows, 2), see :func:`gumbel`.
        truncates: Whether any row has a ``top_p`` or a ``top_k``.

    Returns:
        (rows,) token ids.
    """
    scaled = scores / temperature.unsqueeze(-1)
    floor = scaled.amax(dim=-1, keepdim=True) + min_p.unsqueeze(-1).log()
    scaled = scaled.masked_fill(scaled < floor, -torch.inf)
    if truncates:
        ranked, order = scaled.sort(dim=-1, descending=True, stable=True)
        rank = torch.arange(scores.shape[-1], device=scores.device)
        top_k = torch.where(top_k > 0, top_k, scores.shape[-1]).unsqueeze(-1)
        ranked = ranked.masked_fill(rank >= top_k, -torch.inf)
        likely = ranked.softmax(dim=-1)
        # Kept: those before which the sum is still short of top_p, so the likeliest always.
        before = likely.cumsum(dim=-1) - likely
        beyond = (before >= top_p.unsqueeze(-1)) & (top_p < 1).unsqueeze(-1) & (rank > 0)
        scaled = scaled.scatter(-1, order, ranked.masked_fill(beyond, -torch.inf))
    return (scaled + gumbel(keys, scores.shape[-1])).argmax(dim=-1)


def _gumbel_argmax_on(device: torch.device) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Fused on a GPU, else the reference."""
    if device.type == "cuda":
        from runtime.kernels.fused_sampling import fused_gumbel_argmax  # Triton is not there without a GPU

        return fused_gumbel_argmax
    return gumbel_argmax


def _draws(sampled: list[Sequence], params: list[SamplingParams], positions: IntArray) -> Draws | None:
    temperature = np.array([p.temperature for p in params], np.float32)
    temperature[temperature < _COLDEST] = 0.0
    if not temperature.any():
        return None
    # The second name keeps a request without a seed apart from one whose seed is its number.
    seeds = [(s.request_id, 1) if p.seed is None else (p.seed, 0) for s, p in zip(sampled, params, strict=True)]
    names = np.array([(seed & _MASK, kind) for seed, kind in seeds], np.uint64)
    keys = mix_arrays(0, names[:, 0], names[:, 1], positions.astype(np.uint64))
    halves = np.stack([keys >> np.uint64(32), keys & np.uint64(0xFFFFFFFF)], axis=1)
    return Draws(temperature, halves.astype(np.uint32))


def _truncation(params: list[SamplingParams], draws: Draws) -> Truncation | None:
    warm = (draws.temperature > 0).tolist()
    index = [i for i, p in enumerate(params) if warm[i] and (p.top_p < 1 or p.top_k > 0 or p.min_p > 0)]
    if not index:
        return None
    chosen = [params[i] for i in index]
    return Truncation(
        index=np.array(index),
        top_p=np.array([p.top_p for p in chosen], np.float32),
        top_k=np.array([p.top_k for p in chosen]),
        min_p=np.array([p.min_p for p in chosen], np.float32),
    )


def _forced(sampled: list[Sequence], positions: IntArray) -> IntArray | None:
    if all(sequence.foretold_tokens is None for sequence in sampled):
        return None
    forced = np.full(len(sampled), -1)
    for i, sequence in enumerate(sampled):
        if sequence.foretold_tokens is not None:
            # A token behind the foretold ones is surplus: launched before the end was known, read by no one.
            surplus = positions[i] >= sequence.prompt_tokens + sequence.foretold_tokens
            forced[i] = 0 if surplus else sequence.tokens[positions[i]]
    return forced


def _penalties(
    sampled: list[Sequence], params: list[SamplingParams], positions: IntArray, prefilled: int
) -> Penalties | None:
    index = [i for i, p in enumerate(params) if p.penalised]
    if not index:
        return None
    fresh = []
    for i in index:
        if i < prefilled:  # all its tokens are known here; later ones are counted as they are sampled
            tokens = sampled[i].tokens.astype(np.int64)
            prompt = sampled[i].prompt_tokens
            fresh.append((sampled[i].row, tokens[:prompt], tokens[prompt : positions[i]]))
    return Penalties(
        index=np.array(index),
        rows=np.array([sampled[i].row for i in index]),
        presence=np.array([params[i].presence_penalty for i in index], np.float32),
        frequency=np.array([params[i].frequency_penalty for i in index], np.float32),
        repetition=np.array([params[i].repetition_penalty for i in index], np.float32),
        fresh=fresh,
    )


def _with_logprobs(logits: Tensor, chosen: Tensor, most: int) -> Sampled:
    logprobs = logits.log_softmax(dim=-1)
    mine = logprobs.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
    top = logprobs.topk(min(most, logits.shape[-1]), dim=-1)
    return Sampled(chosen, mine, top.indices, top.values)
