"""Steps that properties of cost models are asked about, and the one that all models share: more work, no less time."""

from hypothesis import strategies as st

from harness.cost.shape import StepShape

LONGEST = 131_072

chunks = st.tuples(st.integers(1, LONGEST), st.integers(0, LONGEST)).map(
    lambda pair: (pair[0], min(pair[1], LONGEST - pair[0]))
)  # (tokens, context before them)
batches = st.tuples(st.lists(chunks, max_size=4), st.lists(st.integers(1, LONGEST), max_size=64))


def step(batch, padding=0):
    """The shape of a step: chunks of prompts, and one token each for sequences of the given contexts."""
    chunked, contexts = batch
    return StepShape(
        prefill_sequences=len(chunked),
        prefill_tokens=sum(q for q, _ in chunked),
        prefill_pairs=sum(q * c + q * (q + 1) // 2 for q, c in chunked),
        prefill_context=sum(q + c for q, c in chunked),
        decode_sequences=len(contexts),
        decode_rows=len(contexts) + (padding if contexts else 0),
        decode_context=sum(contexts),
        decode_max_context=max(contexts, default=0),
        sampled=len(chunked) + len(contexts),
        prefill_max_context=max((q + c for q, c in chunked), default=0),
    )


def assert_more_work_takes_no_less(cost, batch, data, rounding):
    """One sequence more, padding, longer chunks and longer contexts."""
    seconds = cost.step_s(step(batch)) * (1 - rounding)
    chunked, contexts = batch
    another = data.draw(st.integers(1, LONGEST), label="context of one more sequence")
    assert cost.step_s(step((chunked, [*contexts, another]))) >= seconds
    assert cost.step_s(step(([*chunked, (1, another - 1)], contexts))) >= seconds
    assert cost.step_s(step(batch, padding=8)) >= seconds
    if chunked:
        tokens, before = chunked[0]
        more = data.draw(st.integers(1, 4096), label="more tokens")
        assert cost.step_s(step(([(tokens + more, before), *chunked[1:]], contexts))) >= seconds
        assert cost.step_s(step(([(tokens, before + more), *chunked[1:]], contexts))) >= seconds
    if contexts:
        assert cost.step_s(step((chunked, [contexts[0] + another, *contexts[1:]]))) >= seconds
