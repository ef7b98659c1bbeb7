"""Token ids for the blocks of a trace: a stateless hash, so that equal prefixes are equal everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from traces.paths import find_paths
from traces.schema import NONE, IntArray, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator

TokenArray = npt.NDArray[np.int32]
WordArray = npt.NDArray[np.uint64]

GAMMA = 0x9E3779B97F4A7C15  # SplitMix64's increment: 2**64 over the golden ratio
CHUNK = 16_384  # tokens hashed at a time: both scratch arrays stay in the second-level cache
ROUNDS = 64  # redraws of colliding first tokens; each places at least half of what is left
NAMED, UNNAMED, FIRST, REDRAW = range(4)  # independent streams of one seed
_MASK = 2**64 - 1
# Zero-dimensional arrays: NumPy takes them faster than scalars, which counts for short prompts.
_S27, _S30, _S31, _S33 = (np.array(shift, np.uint64) for shift in (27, 30, 31, 33))
_M1, _M2 = (np.array(word, np.uint64) for word in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class PromptMaker:
    """Makes the prompt and the answer of every request of a trace as token ids.

    Token ``j`` of block ``h`` depends on ``(seed, h, j)`` alone and is the same in every process, platform
    and version: it is output ``j`` of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
    generators, OOPSLA 2014) whose state starts at a mix of seed and id, its top 31 bits scaled to the
    vocabulary by multiply and shift.

    The first token of a block is drawn instead from a bijection of the id modulo the vocabulary, and where
    two blocks that follow the same prefix (an answer is one of them) still collide, the larger id draws
    again. So two prompts share tokens exactly as far as they share blocks: a prefix cache that compares
    tokens finds what one that compares blocks would. Sampling a trace keeps its tokens, but for the first
    token of such redrawn blocks. It cannot hold under a prefix that has more continuations than the
    vocabulary has tokens (they are left as drawn), and is not sure to where they are more than half of it.

    A different seed gives different tokens, so a seed isolates one run's prefix cache from another's. Special
    tokens mostly end a vocabulary: give the size without them to leave them out.

    Not safe to share between threads: scratch memory is reused.

    Args:
        trace: The requests. An answer without an ``output_id`` is a stream of its own, named by its
            ``request_id``.
        vocab_size: Tokens are in ``[0, vocab_size)``; from 1 to 2**31.
        seed: Any integer; taken modulo 2**64.

    Raises:
        ValueError: ``vocab_size`` is out of range.
    """

    def __init__(self, trace: Trace, vocab_size: int, seed: int = 0) -> None:
        if not 1 <= vocab_size <= 2**31:
            raise ValueError(f"vocab_size must be from 1 to {2**31}, got {vocab_size}")
        self._trace = trace
        self._vocab = np.array(vocab_size, np.uint64)
        self._ramp = np.arange(1, CHUNK + 1, dtype=np.uint64) * np.uint64(GAMMA)
        self._state = np.empty(CHUNK, np.uint64)
        self._shifted = np.empty(CHUNK, np.uint64)

        start, tokens = trace.block_start, trace.block_tokens
        begin = np.cumsum(tokens) - tokens
        row = np.repeat(np.arange(len(trace)), np.diff(start))
        self._begin = begin - begin[start[:-1][row]] if len(begin) else begin  # first position in the prompt
        # A block's stream runs from its own first token: set back by its position, one ramp serves the whole
        # prompt.
        self._base = _stream(seed, NAMED, trace.block_id) - self._begin.astype(np.uint64) * np.uint64(GAMMA)
        named = trace.output_id != NONE
        self._output_base = np.where(
            named, _stream(seed, NAMED, trace.output_id), _stream(seed, UNNAMED, trace.request_id)
        )
        # The same of an answer behind its prompt.
        self._answer_base = self._output_base - trace.prompt_tokens.astype(np.uint64) * np.uint64(GAMMA)
        self._first, self._output_first = _first_tokens(trace, vocab_size, seed)

    def prompt(self, row: int) -> TokenArray:
        """The prompt of a row: int32 of shape ``(prompt_tokens[row],)``, freshly allocated."""
        start = self._trace.block_start
        a, b = start.item(row), start.item(row + 1)
        out = np.empty(self._trace.prompt_tokens.item(row), np.int32)
        if b - a == 1:
            self._fill(out, self._base[a:b])
            out[0] = self._first[a]
        else:
            self._fill(out, np.repeat(self._base[a:b], self._trace.block_tokens[a:b]))
            out[self._begin[a:b]] = self._first[a:b]
        return out

    def output(self, row: int) -> TokenArray:
        """The answer to a row: int32 of shape ``(output_tokens[row],)``."""
        out = np.empty(self._trace.output_tokens.item(row), np.int32)
        if out.size:
            self._fill(out, self._output_base[row : row + 1])
            out[0] = self._output_first[row]
        return out

    def dialogue(self, row: int) -> TokenArray:
        """The prompt and the answer of a row in one: int32 of shape ``(prompt_tokens[row] + output_tokens[row],)``."""
        trace = self._trace
        a, b = trace.block_start.item(row), trace.block_start.item(row + 1)
        prompt, answer = trace.prompt_tokens.item(row), trace.output_tokens.item(row)
        out, base = np.empty(prompt + answer, np.int32), np.empty(prompt + answer, np.uint64)
        base[:prompt] = self._base[a] if b - a == 1 else np.repeat(self._base[a:b], trace.block_tokens[a:b])
        base[prompt:] = self._answer_base[row]
        self._fill(out, base)
        out[self._begin[a:b]] = self._first[a:b]
        if answer:
            out[prompt] = self._output_first[row]
        return out

    def prompts(self) -> Iterator[TokenArray]:
        """The prompts of all rows in order, one at a time: the trace's tokens are never held together."""
        return map(self.prompt, range(len(self._trace)))

    def _fill(self, out: TokenArray, base: WordArray) -> None:
        """Write the hash of every position; ``base`` holds one word, or one a position."""
        for lo in range(0, len(out), CHUNK):
            part = out[lo : lo + CHUNK]
            n = len(part)
            z, t = self._state[:n], self._shifted[:n]
            np.add(self._ramp[:n], base if len(base) == 1 else base[lo : lo + n], out=z)
            if lo:
                np.add(z, np.uint64(lo * GAMMA & _MASK), out=z)
            _finish(z, t)
            np.multiply(np.right_shift(z, _S33, out=z), self._vocab, out=z)
            part[:] = np.right_shift(z, _S31, out=z)


def _finish(z: WordArray, scratch: WordArray) -> None:
    """SplitMix64's output function, in place, less its last xor: that leaves the top 31 bits alone."""
    np.bitwise_xor(z, np.right_shift(z, _S30, out=scratch), out=z)
    np.multiply(z, _M1, out=z)
    np.bitwise_xor(z, np.right_shift(z, _S27, out=scratch), out=z)
    np.multiply(z, _M2, out=z)


def _mix(words: WordArray) -> WordArray:
    """One whole SplitMix64 step of each word: a bijection of 64 bits."""
    z = words + np.uint64(GAMMA)
    _finish(z, np.empty_like(z))
    return z ^ (z >> _S31)


def _stream(seed: int, purpose: int, ids: IntArray) -> WordArray:
    """A word for each id, distinct for distinct ids, unrelated for other seeds and purposes."""
    key = _mix(_mix(np.array([seed & _MASK], np.uint64)) + np.uint64(purpose))
    return _mix(ids.astype(np.uint64) + key)


def _first_tokens(trace: Trace, vocab: int, seed: int) -> tuple[TokenArray, TokenArray]:
    """First tokens of all blocks and of all answers, distinct among the continuations of one prefix."""
    paths = find_paths(trace)
    unnamed = np.flatnonzero(trace.output_id == NONE)
    parent = np.concatenate((paths.parent, paths.of_prompt[unnamed]))
    names, name = np.unique(paths.id, return_inverse=True)
    name = np.concatenate((name, len(names) + np.arange(len(unnamed))))

    first = np.concatenate(
        (_bijection(seed, names, vocab), _scaled(_stream(seed, UNNAMED, trace.request_id[unnamed]), vocab))
    )
    word = np.concatenate((_stream(seed, REDRAW, names), _stream(seed, REDRAW, ~trace.request_id[unnamed])))
    siblings = np.bincount(parent + 1)
    among = np.flatnonzero(((siblings > 1) & (siblings <= vocab))[parent + 1])
    group, member = (parent[among] + 1) * vocab, name[among]
    for _ in range(ROUNDS):
        order = np.lexsort((member, group + first[member]))
        taken = (group + first[member])[order]
        losers = np.unique(member[order[1:]][taken[1:] == taken[:-1]])
        if not len(losers):
            break
        word[losers] = _mix(word[losers])
        first[losers] = _scaled(word[losers], vocab)

    of_name = first.astype(np.int32)
    of_output = np.empty(len(trace), np.int32)
    of_output[unnamed] = of_name[len(names) :]
    named = np.flatnonzero(trace.output_id != NONE)
    of_output[named] = of_name[name[paths.of_output[named]]]
    return of_name[name[paths.of_block]], of_output


def _bijection(seed: int, ids: IntArray, vocab: int) -> IntArray:
    """``a * id + b`` modulo the vocabulary, ``a`` coprime to it: neighbouring ids never meet."""
    a, b = (int(word) % vocab for word in _stream(seed, FIRST, np.arange(2)))
    while np.gcd(a, vocab) != 1:
        a += 1
    return (ids % vocab * a + b) % vocab


def _scaled(words: WordArray, vocab: int) -> IntArray:
    return ((words >> _S33) * np.uint64(vocab) >> _S31).astype(np.int64)
