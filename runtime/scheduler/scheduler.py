"""The scheduler: which tokens of which sequences the next step computes, and where their KV goes.

The same code runs in the simulator and in every worker of the real server. It knows no clock, no socket and no tensor,
asks a policy for each decision, and iterates in explicit orders only, so that all of them decide alike.
"""

from __future__ import annotations

from policies.batching import StepPlan
from policies.order import Order
from policies.policy import Policy
from policies.views import CacheNode, SequenceView
from runtime.scheduler.batch import Batch, Chunk, Snapshot, StepOutputs
from runtime.scheduler.config import SchedulerConfig
from runtime.scheduler.memory import KvMemory
from runtime.scheduler.prefix import Match, NoPrefixCache, PrefixCache, RadixCache
from runtime.scheduler.rejection import RequestRejectedError, check_limits
from runtime.scheduler.room import room_for
from runtime.scheduler.sequence import Sequence, State
from runtime.scheduler.waiting import waiting_queue


class Scheduler:
    """Admission, batching, prefix caching, preemption and retirement of sequences.

    Steps are numbered; batch ``n + 1`` may be scheduled before batch ``n`` is committed (overlap scheduling), one step
    in flight and not more. What a sequence holds is given back only when the last step that refers to it is committed.

    Args:
        config: Sizes.
        policy: Decisions. It belongs to this scheduler from now on.
    """

    def __init__(self, config: SchedulerConfig, policy: Policy) -> None:
        self.config = config
        self.policy = policy
        cache: PrefixCache = RadixCache(config.page_size, policy.eviction) if policy.prefix_cache else NoPrefixCache()
        self.memory = KvMemory(config, cache)
        self._waiting = waiting_queue(policy.order)
        self._sequences: dict[int, Sequence] = {}  # everyone who is not done, by request id
        self._running: list[Sequence] = []  # in the order they were admitted
        self._prefilling: list[Sequence] = []  # of those
        self._decoding: list[Sequence] = []  # of those
        self._leaving: list[Sequence] = []
        self._arrivals = 0
        self._step = 0
        self._committed = -1
        self._preempted = 0  # since the last batch
        self._admitted: list[Sequence] = []
        self._may_admit = True
        # Whether a decoding sequence sat out for want of pages: those on their way back are for it, not for new ones.
        self._starved = False
        # Whether a step planned now would admit no one, until something arrives, ends or is preempted.
        self._settled = True
        self._admission_settles = (
            isinstance(policy.order, Order) and policy.reservation.steady and policy.batching.fixed_budget
        )

    # What policies see (policies.views.SchedulerView).

    @property
    def waiting_sequences(self) -> int:
        """Sequences queued, not admitted."""
        return len(self._waiting)

    @property
    def prefilling_sequences(self) -> int:
        """Admitted sequences with prompt tokens left to compute."""
        return len(self._prefilling)

    @property
    def decoding_sequences(self) -> int:
        """Admitted sequences past their prompt."""
        return len(self._decoding)

    @property
    def prefilling_tokens(self) -> int:
        """What is computed of the admitted sequences with prompt tokens left, all together."""
        return sum([sequence.computed for sequence in self._prefilling])

    @property
    def decoding_tokens(self) -> int:
        """Context of the admitted sequences past their prompt, all together."""
        return sum([sequence.computed for sequence in self._decoding])

    @property
    def max_running(self) -> int:
        """The most sequences admitted at once."""
        return self.config.max_running

    @property
    def page_size(self) -> int:
        """Tokens a page."""
        return self.config.page_size

    @property
    def available_pages(self) -> int:
        """Pages free or held only by the cache."""
        return self.memory.available_pages

    def cached_prefix(self, sequence: SequenceView) -> int:
        """Tokens at the front of a waiting sequence that the prefix cache holds now."""
        return self._match(self._sequences[sequence.request_id]).tokens

    def cached_node(self, sequence: SequenceView) -> CacheNode | None:
        """The deepest node of the prefix tree that they reach into, the root where it holds none; None with no tree."""
        return self._match(self._sequences[sequence.request_id]).node

    def _match(self, sequence: Sequence) -> Match:
        """Of a waiting sequence: its last token is always computed."""
        return self.memory.cache.match(sequence.tokens[: sequence.total - 1])

    # Requests come and go.

    def add(self, sequence: Sequence, now: float) -> None:
        """Queue a sequence.

        Raises:
            RequestRejectedError: It has no tokens, asks for none, exceeds the context or the KV memory, or its id is in
                use. The scheduler is as it was.
        """
        if sequence.request_id in self._sequences:
            raise RequestRejectedError(f"request {sequence.request_id}: this request_id is already being served")
        check_limits(sequence, self.config)
        sequence.ordinal = self._arrivals
        sequence.queued_s = now
        sequence.predicted_tokens = self.policy.prediction.output_tokens(sequence)
        self._arrivals += 1
        self._sequences[sequence.request_id] = sequence
        self._queue(sequence)
        self._settled = False

    def abort(self, request_id: int) -> Sequence | None:
        """End a request at once, whatever it is doing; returns it, or None where no such request is in the server."""
        sequence = self._sequences.get(request_id)
        if sequence is None or sequence.finish_reason is not None:
            return None
        if sequence.state is State.WAITING:
            self._waiting.remove(sequence)
            self.policy.order.left(sequence)
            sequence.state = State.DONE
            sequence.finish_reason = "abort"
            del self._sequences[request_id]
        elif sequence.state is State.LEAVING:  # preempted in flight
            sequence.finish_reason = "abort"
        else:
            self._finish(sequence, "abort")
        self._settled = False
        return sequence

    def unfinished(self) -> list[Sequence]:
        """Sequences in the server that have not ended, in the order of their arrival."""
        return sorted(
            (sequence for sequence in self._sequences.values() if sequence.finish_reason is None),
            key=lambda sequence: sequence.ordinal,
        )

    # Steps.

    def schedule(self, now: float) -> Batch | None:
        """Plan the next step.

        Args:
            now: Seconds on the clock that sequences were added by.

        Returns:
            The batch, or None where there is nothing to run before a step in flight is committed or a request arrives.
        """
        self._settled = self.policy.batching.steady and not self._starved
        self.policy.eviction.tick(now)
        self._may_admit = not (self._starved and self._decoding)
        preempted = self._preempted
        for plan in self.policy.batching.plan(self, now):
            decodes = self._plan_decodes(plan, now) if plan.decode and self._decoding else []
            budget = plan.prefill_tokens - (len(decodes) if plan.shared else 0)
            chunks = self._plan_chunks(budget, now) if budget > 0 else []
            if decodes or chunks:
                return self._launch(chunks, decodes)
        if self._preempted > preempted and not self._leaving:
            return self.schedule(now)  # the only ones to decode were preempted: there is room for others now
        return None

    def commit(self, batch: Batch, tokens: list[int] | None, now: float) -> StepOutputs:
        """Take in what a step produced; steps are committed in the order they were scheduled.

        Args:
            batch: The oldest batch not yet committed.
            tokens: The tokens of ``batch.sampled()``, or None where the outputs of all of them were foretold.
            now: Seconds.

        Raises:
            ValueError: The batch is not the next to be committed.
        """
        del now
        if batch.step != self._committed + 1:
            raise ValueError(f"step {batch.step} committed after step {self._committed}")
        self._committed = batch.step
        for chunk in batch.chunks:
            if chunk.sequence.state is State.RUNNING:
                self.memory.remember(chunk.sequence, chunk.start + chunk.tokens)
                self._settled = False  # a waiting sequence may share what was computed
        # Those who have ended got a surplus token, launched before that was known.
        prefilled = [chunk.sequence for chunk in batch.chunks if chunk.samples and chunk.sequence.finish_reason is None]
        sequences = prefilled + [sequence for sequence in batch.decodes if sequence.finish_reason is None]
        stopped: list[Sequence] = []
        if tokens is not None:
            pairs = zip(batch.sampled(), tokens, strict=True)
            tokens = [token for sequence, token in pairs if sequence.finish_reason is None]
            for sequence, token in zip(sequences, tokens, strict=True):
                sequence.append(token)
            stopped = [s for s, token in zip(sequences, tokens, strict=True) if token in s.stop_ids]
        for sequence in sequences:
            sequence.output_tokens += 1
        finished = [s for s in sequences if s.output_tokens >= s.end_tokens or s in stopped]
        for sequence in finished:
            self._end(sequence, sequence in stopped)
        if self._leaving:
            self._retire()
        return StepOutputs(batch.step, sequences, len(prefilled), bool(batch.decodes), tokens, finished)

    def _launch(self, chunks: list[Chunk], decodes: list[Sequence]) -> Batch:
        """Advance what the step computes, and describe it."""
        step = self._step
        self._step += 1
        positions = []
        for sequence in decodes:
            positions.append(sequence.computed)
            sequence.computed += 1
            sequence.total += 1
            sequence.last_step = step
        for chunk in chunks:
            sequence = chunk.sequence
            sequence.last_step = step
            sequence.chunks += 1
            if chunk.samples:
                sequence.total += 1
                self._prefilling.remove(sequence)
                self._decoding.append(sequence)
        if decodes:
            self.policy.reservation.stepped(1)
        snapshot = self._snapshot()
        batch = Batch(step, chunks, decodes, positions, self._admitted, snapshot, self._shared_tokens(snapshot))
        self._admitted = []
        self._preempted = 0
        return batch

    def _snapshot(self) -> Snapshot:
        memory = self.memory
        return Snapshot(
            len(self._waiting),
            len(self._running),
            memory.pool.free,
            memory.cache.evictable_pages,
            memory.take_evicted(),
            self._preempted,
        )

    def _shared_tokens(self, snapshot: Snapshot) -> int:
        return self.memory.shared_tokens(snapshot.free_pages + snapshot.evictable_pages)

    def _plan_decodes(self, plan: StepPlan, now: float) -> list[Sequence]:
        """The decoding sequences that take part, with a page for their next token; preempts where KV has run out."""
        ready = [s for s in self._decoding if s.total - s.prompt_tokens < s.max_tokens]
        if plan.shared and len(ready) > plan.prefill_tokens:
            ready = ready[: plan.prefill_tokens]
        page_size = self.config.page_size
        growing = [s for s in ready if s.computed == s.held_pages * page_size]
        self._starved = False
        if not growing:
            return ready
        short = len(growing) - self.memory.obtain(len(growing))
        coming = 0  # pages of victims that a step in flight still refers to
        while short > coming and len(self._running) > 1:
            victim = self._preempt(self._running, now)
            if victim.state is State.LEAVING:
                coming += victim.held_pages
            if victim in ready:
                ready.remove(victim)
            if victim in growing:
                growing.remove(victim)
            short = len(growing) - self.memory.obtain(len(growing))
        if short > 0:  # the last ones sit this step out
            self._starved = True
            for sequence in growing[-short:]:
                ready.remove(sequence)
            del growing[-short:]
        self.memory.grow(growing)
        return ready

    def _plan_chunks(self, budget: int, now: float) -> list[Chunk]:
        """Chunks of admitted prompts in order of admission, then of newly admitted ones, up to ``budget`` tokens."""
        chunks: list[Chunk] = []
        for sequence in self._prefilling:
            if budget == 0:
                return chunks
            count = self._extend(sequence, min(sequence.prefill_end - sequence.computed, budget))
            if count:
                chunks.append(self._chunk(sequence, count))
                budget -= count
        if self._waiting and budget and self._may_admit:
            self._admit(budget, now, chunks)
        return chunks

    def _admit(self, budget: int, now: float, chunks: list[Chunk]) -> None:
        rows = self.config.max_running - len(self._leaving)
        if len(self._running) >= rows:
            return
        self._waiting.arrange(self, now)
        memory, page_size = self.memory, self.config.page_size
        room = room_for(self.policy.reservation, self._running, page_size)
        while self._waiting and budget and len(self._running) < rows:
            sequence = self._waiting.head()
            match = self._match(sequence)
            count = min(sequence.total - match.tokens, budget)
            end = match.tokens + count
            available = memory.available_pages - memory.cache.newly_pinned(match)
            held = match.tokens // page_size
            # Alone, it fits: nothing is kept for anyone.
            needed = room.wanted(sequence, end, held) if self._running else -(-end // page_size) - held
            if needed > available:
                # Pages on their way back from sequences that left may change this.
                self._settled = self._settled and self._admission_settles and not self._leaving
                return
            self._waiting.remove(sequence)
            memory.occupy(sequence, match)
            self.policy.order.admitted(sequence)
            sequence.state = State.RUNNING
            sequence.prefill_end = sequence.total
            self._running.append(sequence)
            self._prefilling.append(sequence)
            if sequence.preemptions:
                sequence.preempted_s += now - sequence.preempted_at_s
                sequence.recomputed_tokens += max(sequence.evicted_tokens - match.tokens, 0)
            else:
                sequence.hit_tokens = match.tokens
                self._admitted.append(sequence)
            if self._extend(sequence, count) != count:
                raise AssertionError(f"{sequence} was admitted without room for {count} tokens")
            chunks.append(self._chunk(sequence, count))
            budget -= count
            room.admitted(sequence)

    def _extend(self, sequence: Sequence, count: int) -> int:
        """Take pages for the next ``count`` tokens of a prompt; returns how many of them there is room for."""
        page_size = self.config.page_size
        needed = -(-(sequence.computed + count) // page_size) - sequence.held_pages
        if needed > 0:
            obtained = self.memory.obtain(needed)
            if obtained < needed:
                count = (sequence.held_pages + obtained) * page_size - sequence.computed
                needed = obtained
            self.memory.extend(sequence, needed)
        return count

    def _chunk(self, sequence: Sequence, count: int) -> Chunk:
        start = sequence.computed
        sequence.computed += count
        return Chunk(sequence, start, count, sequence.computed == sequence.prefill_end)

    # Leaving.

    def _preempt(self, candidates: list[Sequence], now: float) -> Sequence:
        victim: Sequence = self.policy.preemption.victim(candidates)  # type: ignore[assignment]
        self.policy.reservation.preempted()
        victim.preemptions += 1
        victim.preempted_at_s = now
        self._preempted += 1
        self._may_admit = False  # in this step: what it frees is for those who run
        self._leave(victim)
        return victim

    def _end(self, sequence: Sequence, stops: bool) -> None:
        """Its last token is committed; ``stops`` where that is one of its ``stop_ids``."""
        reason = "stop" if stops or sequence.output_tokens < sequence.max_tokens else "length"
        self.policy.prediction.ended(sequence)
        self.policy.reservation.ended(sequence)
        if sequence.state is State.LEAVING:  # preempted in flight, by its last token
            sequence.finish_reason = reason
        else:
            self._finish(sequence, reason)

    def _finish(self, sequence: Sequence, reason: str) -> None:
        sequence.finish_reason = reason
        self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        """Stop running; row and pages go back when no step in flight refers to them."""
        self._running.remove(sequence)
        (self._prefilling if sequence in self._prefilling else self._decoding).remove(sequence)
        sequence.state = State.LEAVING
        self.policy.order.left(sequence)
        self._settled = False
        if sequence.last_step <= self._committed:
            self._release(sequence)
        else:
            self._leaving.append(sequence)

    def _retire(self) -> None:
        due = [sequence for sequence in self._leaving if sequence.last_step <= self._committed]
        if due:
            self._leaving = [sequence for sequence in self._leaving if sequence.last_step > self._committed]
            for sequence in due:
                self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        """Give back what it holds: what it computed stays in the prefix cache, evictable."""
        known = sequence.prompt_tokens + sequence.output_tokens
        sequence.evicted_tokens = min(sequence.computed, known)
        self.memory.vacate(sequence, sequence.evicted_tokens)
        self._settled = False
        if sequence.finish_reason is not None:
            sequence.state = State.DONE
            del self._sequences[sequence.request_id]
        else:
            sequence.state = State.WAITING
            sequence.cached = sequence.computed = 0
            sequence.total = known
            self._queue(sequence)

    def _queue(self, sequence: Sequence) -> None:
        self.policy.order.queued(sequence)
        self._waiting.push(sequence)
