"""Whom each order admits first."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from policies.errors import PolicyError
from policies.order import DynamicOrder, Edf, Hrrn, Las, LeastSlack, Lof, Mlfq, Priority, RoutingKey, Srpt
from policies.order.service import Service
from policies.registry import build
from runtime.scheduler import Scheduler, SchedulerConfig, Sequence
from tests.core.driver import Scenario


def sequence(ordinal: int, prompt: str = "aaaaaaaaaa", *, output: int = 0, **fields: Any) -> Sequence:
    """A sequence whose tokens are letters, with so much output that it has lost to a preemption."""
    late = {name: fields.pop(name) for name in ("queued_s", "predicted_tokens", "preemptions") if name in fields}
    made = Sequence(ordinal, len(prompt), np.array([ord(letter) for letter in prompt], np.int32), 100, **fields)
    made.ordinal = ordinal
    made.total += output
    for name, value in late.items():
        setattr(made, name, value)
    return made


def ranked(order: Any, *waiting: Sequence) -> list[int]:
    return [s.ordinal for s in sorted(waiting, key=lambda s: (order.key(s), s.ordinal))]


class Server:
    """A scheduler whose prefix cache holds some words, for orders that look into it."""

    def __init__(self, *words: str, prefix_cache: bool = True) -> None:
        config = SchedulerConfig(pages=512, page_size=1, max_running=8, max_context=64)
        self.scheduler: Scheduler = Scenario(config, {"prefix_cache": prefix_cache}, ()).scheduler()
        cache, pool = self.scheduler.memory.cache, self.scheduler.memory.pool
        for word in words:
            user = sequence(0, word)
            match = cache.match(user.tokens)
            node, _ = cache.lock(match, user)
            rest = user.tokens[match.tokens :]
            node, _ = cache.insert(node, rest, pool.take(len(rest)), user)
            cache.unlock(node)

    def arranged(self, order: DynamicOrder, *waiting: Sequence) -> list[int]:
        for s in waiting:
            self.scheduler._sequences[s.request_id] = s
        return [s.ordinal for s in order.arrange(waiting, self.scheduler, 0.0)]


def order(name: str, **parameters: Any) -> DynamicOrder:
    made = build("order", name, parameters)
    assert isinstance(made, DynamicOrder)
    return made


def told(order: Any, *waiting: Sequence) -> None:
    for s in waiting:
        order.queued(s)


# Ranks that are fixed while a sequence waits.


def test_srpt_ranks_a_preempted_sequence_by_what_is_left() -> None:
    long, short = sequence(0, predicted_tokens=60, output=50), sequence(1, predicted_tokens=20)
    assert ranked(Srpt(), long, short) == [0, 1]
    assert ranked(Srpt(prompt_weight=1.0), long, short) == [1, 0], "its output is to be prefilled again"
    assert Srpt().key(sequence(2, predicted_tokens=5, output=50)) == 1.0, "longer than predicted: about to end"


def test_lof_takes_the_longest_output() -> None:
    assert ranked(Lof(), *(sequence(i, predicted_tokens=n) for i, n in enumerate([5, 50, 20]))) == [1, 2, 0]


def test_ageing_lifts_a_level_for_so_many_seconds() -> None:
    waiting = sequence(0, queued_s=0.0), sequence(1, queued_s=25.0, priority=2), sequence(2, queued_s=15.0, priority=2)
    assert ranked(Priority(), *waiting) == [1, 2, 0]
    assert ranked(Priority(ageing_s=10.0), *waiting) == [2, 0, 1]


def test_edf_takes_the_earliest_deadline_and_those_without_last() -> None:
    deadlines = [math.nan, 9.0, 3.0, math.nan]
    assert ranked(Edf(), *(sequence(i, deadline_s=d) for i, d in enumerate(deadlines))) == [2, 1, 0, 3]


def test_least_slack_takes_the_work_off_the_deadline() -> None:
    quick = sequence(0, deadline_s=10.0, predicted_tokens=5)
    slow = sequence(1, deadline_s=11.0, predicted_tokens=50)
    assert ranked(LeastSlack(prefill_token_s=0.0, decode_token_s=0.1), quick, slow) == [1, 0]
    long = sequence(2, "a" * 60, deadline_s=10.5, predicted_tokens=5)
    assert ranked(LeastSlack(prefill_token_s=0.1, decode_token_s=0.0), quick, long, sequence(3)) == [2, 0, 3]


def test_las_counts_the_service_of_a_whole_session() -> None:
    las = Las()
    first = sequence(0, session_id=7)
    told(las, first)
    las.admitted(first)
    first.computed = 10
    assert ranked(las, sequence(1, session_id=7), sequence(2, session_id=8)) == [1, 2], "it runs, and nothing is known"
    las.left(first)
    assert ranked(las, sequence(1, session_id=7), sequence(2, session_id=8)) == [2, 1]
    assert ranked(las, sequence(3, output=5), sequence(4)) == [4, 3], "without a session, its own output"


def test_las_does_not_charge_what_the_cache_gave() -> None:
    las = Las()
    for session, cached in ((1, 0), (2, 6)):
        s = sequence(session, session_id=session)
        s.cached = s.computed = cached
        las.admitted(s)
        s.computed = 10
        las.left(s)
    assert ranked(las, sequence(3, session_id=1), sequence(4, session_id=2)) == [4, 3]


def test_mlfq_joins_where_the_prefill_fits_and_sinks_with_service() -> None:
    mlfq = Mlfq(quantum=4.0, prompt_weight=1.0, promote_s=0.0)
    prompts = [mlfq.key(sequence(0, "a" * length)) for length in (1, 4, 5, 8, 9, 17)]
    assert prompts == [0, 0, 1, 1, 2, 3]
    assert [mlfq.key(sequence(0, "a", output=output)) for output in (3, 4, 7, 8, 15, 16)] == [0, 1, 1, 2, 2, 3]
    rising = Mlfq(quantum=4.0, prompt_weight=1.0, promote_s=10.0)
    assert ranked(rising, sequence(0, "a" * 9, queued_s=0.0), sequence(1, "a", queued_s=19.0)) == [1, 0]
    assert ranked(rising, sequence(0, "a" * 9, queued_s=0.0), sequence(1, "a", queued_s=21.0)) == [0, 1]


# Ranks by what the prefix cache holds.


def test_lpm_puts_off_those_that_begin_like_one_before_them() -> None:
    server = Server("xxxx")
    waiting = [sequence(0, "abcd1"), sequence(1, "abcd2"), sequence(2, "xxx1"), sequence(3, "abce")]
    assert server.arranged(order("lpm", shared_tokens=0), *waiting) == [2, 0, 1, 3]
    assert server.arranged(order("lpm", shared_tokens=3), *waiting) == [2, 0, 1, 3], "1 and 3 wait for 0"
    assert server.arranged(order("lpm", shared_tokens=4), *waiting) == [2, 0, 3, 1]
    assert server.arranged(order("lpm", shared_tokens=4, limit=3), *waiting) == [0, 1, 2, 3]


def test_those_put_off_wait_for_no_more_than_the_prefix() -> None:
    waiting = [sequence(0, "abcd1"), sequence(1, "abcd2"), sequence(2, "yyy")]
    assert Server().arranged(order("lpm", shared_tokens=3), *waiting) == [0, 2, 1]
    assert Server("abcd").arranged(order("lpm", shared_tokens=3), *waiting) == [0, 1, 2]


def test_the_last_token_is_shared_with_no_one() -> None:
    twins = [sequence(0, "abc"), sequence(1, "abc"), sequence(2, "y")]
    assert Server().arranged(order("lpm", shared_tokens=3), *twins) == [0, 1, 2]
    assert Server().arranged(order("lpm", shared_tokens=2), *twins) == [0, 2, 1]


def test_k_lpm_takes_the_first_comer_after_k_matches() -> None:
    server = Server("abcdef")
    waiting = [sequence(0, "z"), sequence(1, "y"), *(sequence(i, "abcdef"[:i]) for i in range(2, 7))]
    k_lpm = order("k_lpm", k=2)
    assert server.arranged(k_lpm, *waiting) == [6, 5, 0, 4, 3, 1, 2]
    k_lpm.admitted(waiting[6])
    assert server.arranged(k_lpm, *waiting[:6]) == [5, 0, 4, 3, 1, 2], "the turn goes on"
    assert server.arranged(order("k_lpm", k=0), *waiting) == [0, 1, 2, 3, 4, 5, 6]


def test_dfs_weight_goes_where_most_wait_and_deepest_first() -> None:
    server = Server("abcc", "abdd", "xxxx")
    waiting = [
        sequence(0, "xxxx1"),
        sequence(1, "ab1"),
        sequence(2, "abdd1"),
        sequence(3, "abcc1"),
        sequence(4, "abcc2"),
        sequence(5, "q"),
        sequence(6, "abc1"),
    ]
    # Behind "ab" three go on by "cc" (two of them to its end) and one by "dd"; "xxxx" has one.
    assert server.arranged(order("dfs_weight"), *waiting) == [3, 4, 6, 2, 1, 0, 5]
    assert server.arranged(order("dfs_weight", limit=6), *waiting) == [0, 1, 2, 3, 4, 5, 6]
    assert Server(prefix_cache=False).arranged(order("dfs_weight"), *waiting) == [0, 1, 2, 3, 4, 5, 6]


def test_shortest_prefill_first_counts_what_is_not_cached() -> None:
    server = Server("abcdef")
    waiting = [sequence(0, "zzz"), sequence(1, "abcdefg"), sequence(2, "yy")]
    assert server.arranged(order("shortest_prefill_first"), *waiting) == [1, 2, 0]


def test_hrrn_weighs_waiting_against_work() -> None:
    server, hrrn = Server(), Hrrn()
    long, other = sequence(0, "l" * 20), sequence(9, "o" * 30)
    told(hrrn, long, other)
    hrrn.admitted(other)  # 30 tokens are prefilled while `long` waits: a ratio of 30 / 20
    short = sequence(1, "ss")
    told(hrrn, short)
    assert server.arranged(hrrn, long, short) == [0, 1]
    more = sequence(8, "m" * 4)
    told(hrrn, more)
    hrrn.admitted(more)  # 34 / 20 against 4 / 2
    assert server.arranged(hrrn, long, short) == [1, 0]
    victim = sequence(2, "v" * 40, preemptions=1)
    told(hrrn, victim)
    assert server.arranged(hrrn, long, short, victim) == [2, 1, 0]
    hrrn.left(victim)
    hrrn.left(short)
    assert server.arranged(hrrn, long) == [0]


# Ranks by who runs.


def test_routing_key_follows_those_who_run() -> None:
    server, keyed = Server(), RoutingKey()
    waiting = [sequence(i, client_id=client) for i, client in enumerate([-1, 3, 1, 2, 1])]
    assert server.arranged(keyed, *waiting) == [0, 1, 2, 3, 4], "no one runs"
    running = [sequence(10 + i, client_id=client) for i, client in enumerate([1, 2, 2, -1])]
    for s in running:
        keyed.queued(s)
        keyed.admitted(s)
    assert server.arranged(keyed, *waiting) == [3, 2, 4, 0, 1]
    keyed.left(running[1])
    keyed.left(running[2])
    keyed.left(waiting[3])  # it only waited
    assert server.arranged(keyed, *waiting) == [2, 4, 0, 1, 3]
    assert set(keyed._running) == {1}, "a tenant of whom no one runs is forgotten"


def run(order: Any, *sequences: Sequence) -> None:
    """Queue and admit."""
    for s in sequences:
        order.queued(s)
        order.admitted(s)


def test_vtc_takes_the_tenant_with_least_service() -> None:
    server, vtc = Server(), order("vtc", prefill_weight=1.0, decode_weight=2.0)
    waiting = [sequence(i, "aaaaa", client_id=client) for i, client in enumerate([0, 0, 0, 1, 1])]
    told(vtc, *waiting)
    assert server.arranged(vtc, *waiting) == [0, 3, 1, 4, 2], "each admission is foreseen"
    vtc.admitted(waiting[0])
    assert server.arranged(vtc, *waiting[1:]) == [3, 1, 4, 2]
    vtc.admitted(waiting[3])
    waiting[3].total += 3  # 5 + 2 * 3 against 5
    assert server.arranged(vtc, waiting[1], waiting[2], waiting[4]) == [1, 2, 4]
    vtc.left(waiting[3])
    assert server.arranged(vtc, waiting[1], waiting[2], waiting[4]) == [1, 2, 4], "an end changes nothing"


def test_a_tenant_not_heard_of_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of a server make up as many as they like; one who comes back has neither credit nor debt."""
    monkeypatch.setattr("policies.order.service.TENANTS", 3)
    service = Service(prefill_weight=1.0, decode_weight=2.0)
    for tenant in (0, 1, 2, 0, 3):
        asked = sequence(tenant, "aaaaa", client_id=tenant)
        service.grant(tenant, 7.0)
        service.admitted(asked, 5)
        asked.total += 4
        assert service.of([tenant])[tenant] in (13.0, 26.0)
        service.left(asked)
    assert service.of([0, 1, 2, 3]) == {0: 26.0, 1: 0.0, 2: 13.0, 3: 13.0}
    assert [service.granted(tenant) for tenant in range(4)] == [14.0, 0.0, 7.0, 7.0]


def test_vtc_gives_no_credit_for_having_asked_for_nothing() -> None:
    server, vtc = Server(), order("vtc")
    run(vtc, sequence(0, "a" * 40, client_id=0))
    steady = [sequence(1, client_id=0), sequence(2, client_id=0)]
    told(vtc, *steady)
    late = [sequence(3, client_id=1), sequence(4, client_id=1)]
    told(vtc, *late)
    # Lifted to the other's counter, it takes turns from now on; its unused 40 tokens are gone.
    assert server.arranged(vtc, *steady, *late) == [1, 3, 2, 4]


def test_vtc_lifts_to_the_last_tenant_where_the_queue_was_empty() -> None:
    server, vtc = Server(), order("vtc")
    run(vtc, sequence(0, "a" * 40, client_id=0))
    told(vtc, sequence(1, client_id=1))
    other = sequence(2, client_id=0)
    told(vtc, other)
    assert server.arranged(vtc, sequence(1, client_id=1), other) == [1, 2]
    assert [vtc._service.granted(tenant) for tenant in (0, 1)] == [0.0, 40.0]  # type: ignore[attr-defined]


def test_dlpm_takes_the_longest_match_of_those_with_a_deficit_left() -> None:
    server, dlpm = Server("hhhhhhhh"), order("dlpm", quantum=10.0)
    waiting = [
        sequence(0, "aaaaaa", client_id=0),
        sequence(1, "hhhhhhhh1111", client_id=1),
        sequence(2, "hhhhhhhh2222", client_id=1),
        sequence(3, "hhhhhhhh3333", client_id=1),
        sequence(4, "hhhhhhhh4444", client_id=1),
    ]
    told(dlpm, *waiting)
    # Tenant 1's prompts cost 4 each: 10, 6, 2, -2. Then tenant 0 has its turn, and then there is another quantum.
    assert server.arranged(dlpm, *waiting) == [1, 2, 3, 0, 4]
    assert server.arranged(dlpm, *waiting) == [1, 2, 3, 0, 4], "a quantum is granted once"
    waiting[1].cached = 8
    dlpm.admitted(waiting[1])
    waiting[1].total += 3  # 2 each: 10 - 4 - 6 is nothing left
    assert server.arranged(dlpm, waiting[0], *waiting[2:]) == [0, 2, 3, 4]
    assert server.arranged(order("dlpm", quantum=10.0, limit=4), *waiting) == [0, 1, 2, 3, 4], "too many to look up"


def test_what_is_computed_again_is_not_charged_again() -> None:
    for name in ("vtc", "dlpm"):
        fair = order(name)
        run(fair, sequence(0, "a" * 10, client_id=0))
        victim = sequence(1, "a" * 10, client_id=1)
        run(fair, victim)
        fair.left(victim)
        victim.preemptions = 1
        run(fair, victim)
        assert fair._service.of([0, 1]) == {0: 10.0, 1: 10.0}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("lpm", {"limit": -1}, "policy.order.limit=-1"),
        ("k_lpm", {"k": -1}, "policy.order.k=-1: how many longest matches"),
        ("mlfq", {"quantum": 0}, "policy.order.quantum=0: expected more than 0 output tokens"),
        ("mlfq", {"promote_s": -1}, "policy.order.promote_s=-1"),
        ("dlpm", {"quantum": 0.0}, "policy.order.quantum=0.0: expected more than 0 weighted tokens"),
        ("vtc", {"prefill_weight": 0, "decode_weight": 0}, "policy.order.prefill_weight=0, decode_weight=0"),
        ("vtc", {"decode_weight": -1}, "policy.order.prefill_weight=1.0, decode_weight=-1"),
        ("priority", {"ageing_s": -2.0}, "policy.order.ageing_s=-2.0"),
        ("priority", {"ageing_s": math.nan}, "policy.order.ageing_s=nan"),
        ("least_slack", {"decode_token_s": -2.0}, "policy.order.decode_token_s=-2.0"),
    ],
)
def test_a_parameter_out_of_range_is_named(name: str, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        build("order", name, parameters)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
