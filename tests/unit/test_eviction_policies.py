"""What each eviction policy keeps, of requests that come one after the other."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pytest

from harness.cache.accesses import Reader
from policies.errors import PolicyError
from policies.eviction import Eviction, Ghosts, Sieve, prefix_key
from policies.registry import build
from runtime.scheduler import SchedulerConfig, Sequence
from runtime.scheduler.memory import KvMemory
from runtime.scheduler.prefix import Node, RadixCache


class Reporting(RadixCache):
    """A tree that reports splits, whether or not the one of the server does."""

    def _split(self, node: Node, at: int) -> Node:
        upper = super()._split(node, at)
        self._eviction.split(upper, node)
        return upper


def policy(name: str, **parameters: float) -> Eviction:
    made: Eviction = build("eviction", name, parameters)
    return made


def tokens_of(word: str) -> npt.NDArray[np.int32]:
    return np.array([ord(letter) for letter in word], np.int32)


class Server:
    """A cache of some pages of one token; a request is a word, its letters are its tokens."""

    def __init__(self, eviction: Eviction, pages: int) -> None:
        self.cache = Reporting(1, eviction)
        self.free = pages
        self.asked = 0
        self.found = 0  # words that were cached whole when they were asked

    def ask(self, words: str, **who: int) -> None:
        for word in words.split():
            reader = Reader(self.asked, **who)
            self.asked += 1
            tokens = tokens_of(word)
            match = self.cache.match(tokens)
            node, _ = self.cache.lock(match, reader)
            rest = tokens[match.tokens :]
            self.found += not len(rest)
            if len(rest) > self.free:
                self.free += len(self.cache.evict(len(rest) - self.free))
            if len(rest):
                node, _ = self.cache.insert(node, rest, np.zeros(len(rest), np.int32), reader)
                self.free -= len(rest)
            self.cache.unlock(node)

    def has(self, words: str) -> str:
        """Those of the words that are cached whole."""
        asked = {word: tokens_of(word) for word in words.split()}
        return " ".join(word for word, tokens in asked.items() if self.cache.match(tokens).tokens == len(word))


def kept(eviction: Eviction, pages: int, asked: str) -> str:
    """The words of a run of requests that are cached at its end, in alphabetical order."""
    server = Server(eviction, pages)
    server.ask(asked)
    return server.has(" ".join(sorted(set(asked.split()))))


def test_mru_evicts_the_last_used_and_filo_the_last_come() -> None:
    assert kept(policy("mru"), 2, "a b a c") == "b c"
    assert kept(policy("filo"), 2, "a b a c") == "a c"
    assert kept(policy("lru"), 2, "a b a c") == "a c"
    assert kept(policy("fifo"), 2, "a b a c") == "b c"


def test_slru_protects_what_was_used_again_for_ever() -> None:
    assert kept(policy("slru"), 3, "a a b c d e f g h") == "a g h"
    assert kept(policy("slru", protect_after=3), 3, "a a b c d") == "b c d"


def test_lfuda_forgets_an_old_favourite_which_lfu_keeps() -> None:
    asked = "a a a a " + "b c d e f g h i j k l m n o p"
    assert "a" in kept(policy("lfu"), 2, asked)
    assert "a" not in kept(policy("lfuda"), 2, asked)
    assert "a" in kept(policy("lfuda"), 2, "a a a a b c d")


def test_gdsf_keeps_what_is_dear_to_compute_again() -> None:
    deep_then_flat = "xxxxxxxxa y z"  # 9 pages deep; two of one page
    assert kept(policy("gdsf", attention_tokens=2.0), 10, deep_then_flat) == "xxxxxxxxa z"
    assert kept(policy("gdsf", attention_tokens=float("inf")), 10, deep_then_flat) == "y z"


def test_lru_k_goes_by_the_use_before_the_last() -> None:
    asked = "a b b a c"  # a was used last, but its use before that is the older one
    assert kept(policy("lru_k"), 2, asked) == "b c"
    assert kept(policy("lru_k", k=1), 2, asked) == kept(policy("lru"), 2, asked) == "a c"


def test_lru_k_remembers_a_node_that_was_cut_in_two() -> None:
    server = Server(policy("lru_k"), 3)
    server.ask("ab c ab c a")  # uses before the last: of b the 1st, of c the 2nd, of a the 3rd
    server.ask("ef")
    assert server.has("a c ef") == "a ef"


def test_two_q_promotes_what_comes_back_after_its_queue() -> None:
    scan = "f g h i j k l m"
    assert "a" not in kept(policy("two_q"), 4, f"a a {scan}"), "uses while new are one burst"
    assert "a" in kept(policy("two_q"), 4, f"a b c d e a {scan}"), "its ghost was met"
    assert "a" not in kept(policy("two_q", ghost_share=0.0), 4, f"a b c d e a {scan}")


def test_arc_is_not_flushed_by_a_scan() -> None:
    scan = " ".join("bcdefghijklmnop")
    assert kept(policy("lru"), 4, f"a a {scan}") == "m n o p"
    assert kept(policy("arc"), 4, f"a a {scan}") == "a n o p"


def test_arc_grows_the_list_in_which_it_missed() -> None:
    arc = policy("arc")
    server = Server(arc, 4)
    server.ask("a a b b c c d d e e f")  # the list of what was used again is full, f is new
    server.ask("g f")  # f went for g, and is missed at once: what is used once needs more room
    assert arc._target > 0  # type: ignore[attr-defined]


def test_s3fifo_sheds_one_hit_wonders_and_remembers_them() -> None:
    scan = " ".join("bcdefghijklmnop")
    assert "a" in kept(policy("s3fifo"), 10, f"a a a {scan}")
    assert "a" not in kept(policy("s3fifo"), 10, f"a {scan}")
    back = kept(policy("s3fifo"), 10, f"a {scan} a qqqq rrrr ssss")
    assert "a" in back.split(), "its ghost brings it into the main queue"


def test_sieve_spares_the_visited_once() -> None:
    assert kept(policy("sieve"), 3, "a b c a d") == "a c d"
    assert kept(policy("fifo"), 3, "a b c a d") == "b c d"


def test_sieve_starts_again_when_its_hand_has_passed_the_newest() -> None:
    sieve = Sieve()
    server = Server(sieve, 2)
    server.ask("a b a b c")  # both visited: the hand clears a and b, comes round, and takes a
    assert server.has("a b c") == "b c"
    server.ask("d")
    assert server.has("b c d") == "c d", "it goes on behind a"
    assert kept(Sieve(), 2, "a b a c d") == "c d", "b was the newest when it went: the hand is at a again"


def test_wtinylfu_turns_away_what_is_used_less_than_what_it_would_displace() -> None:
    asked = "a a a b b b c c c d d d e f g h i"
    assert kept(policy("wtinylfu"), 4, asked) == "b c d i"
    assert kept(policy("lru"), 4, asked) == "f g h i"


def test_ttl_evicts_what_expires_first() -> None:
    def run(again_s: float, wait_s: float) -> str:
        eviction = policy("ttl", once_s=10.0, again_s=again_s)
        server = Server(eviction, 2)
        eviction.tick(0.0)
        server.ask("a a")
        eviction.tick(wait_s)
        server.ask("b c")
        return server.has("a b c")

    assert run(again_s=60.0, wait_s=30.0) == "a c"
    assert run(again_s=60.0, wait_s=55.0) == "b c", "by then the longer lifetime ends first"
    assert run(again_s=10.0, wait_s=1.0) == "b c", "equal lifetimes are LRU"


def test_tlru_evicts_first_what_the_next_turn_can_spare() -> None:
    # With 3 tokens to spare, x can be computed again within the budget, the long one not if it loses its tail.
    asked = "aaaaaaaa x yyyy"
    assert kept(policy("lru"), 12, asked) == "x yyyy"
    assert kept(policy("tlru", budget_tokens=4, next_tokens=1), 12, asked) == "aaaaaaaa yyyy"
    assert kept(policy("tlru", budget_tokens=9, next_tokens=1), 12, asked) == "x yyyy", "all can be spared: LRU"
    # A longer turn behind it changes what the conversation needs, even when that turn has gone.
    server = Server(policy("tlru", budget_tokens=5, next_tokens=1), 12)
    server.ask("aaaa aaaabbbb x")
    server.ask("cccccc")
    assert server.has("aaaab aaaabb x cccccc") == "aaaab x cccccc"
    server.ask("dd ee")
    assert server.has("aaaa aaaab x cccccc dd ee") == "aaaa cccccc ee"


def test_priority_keeps_what_an_urgent_request_used_for_ever() -> None:
    server = Server(policy("priority"), 3)
    server.ask("a", priority=1)
    server.ask("b c d e f", priority=0)
    assert server.has("a b c d e f") == "a e f"
    server.ask("e", priority=2)
    server.ask("g h", priority=1)
    assert server.has("a e f g h") == "e g h", (
        "the least recently used among equals, and the highest of all users counts"
    )


def test_priority_of_a_shared_path_is_that_of_its_most_urgent_user() -> None:
    server = Server(policy("priority"), 4)
    server.ask("abc", priority=5)
    server.ask("abd", priority=1)  # cuts the edge: a and b keep what they had
    server.ask("e f")
    assert server.has("abc abd e f") == "abc f"


def test_pgdsf_keeps_what_was_computed_in_small_pieces() -> None:
    flat = float("inf")
    asked = "aaaa b cccc d"  # four pages at once cost as much as one, so for each page the small ones are dear
    assert kept(policy("pgdsf", attention_tokens=flat, floor_tokens=4.0), 6, asked) == "b cccc d"
    assert kept(policy("pgdsf", attention_tokens=flat, floor_tokens=0.0), 6, asked) == "b cccc d"
    again = asked + " eeee"
    assert kept(policy("pgdsf", attention_tokens=flat, floor_tokens=4.0), 6, again) == "b d eeee"
    assert kept(policy("pgdsf", attention_tokens=flat, floor_tokens=0.0), 6, again) == "d eeee"


def test_pgdsf_remembers_the_cost_of_a_node_that_was_cut_in_two() -> None:
    flat = float("inf")
    server = Server(policy("pgdsf", attention_tokens=flat, floor_tokens=4.0), 5)
    server.ask("aaaa aax")  # the front pair was computed as four, x alone
    server.ask("b")
    assert server.has("aaaa aax aaa b") == "aax aaa b", "the tail of the four is the cheapest"


def turns(server: Server, asked: str) -> None:
    """Requests as SESSION.WORD."""
    for request in asked.split():
        session, word = request.split(".")
        server.ask(word, session_id=int(session))


def test_session_waits_the_longer_the_more_turns_there_were() -> None:
    asked = "1.a 2.b 1.aA 2.bB 1.aAA 2.bBB 3.c 4.d 5.e 6.f 7.g"
    for name, parameters, expected in (("lru", {}, "bB c d e f g"), ("session", {"patience": 2.0}, "aAA bB bBB g")):
        server = Server(policy(name, **parameters), 7)
        turns(server, asked)
        assert server.has("aAA bB bBB c d e f g") == expected


def test_session_gives_up_those_that_do_not_return() -> None:
    server = Server(policy("session", patience=1.0), 4)
    turns(server, "1.a 1.aA 1.aAA " + " ".join(f"{session}.{chr(96 + session)}" for session in range(2, 12)))
    assert server.has("a aA aAA") == ""


def test_session_without_sessions_or_patience_is_lru() -> None:
    asked = " ".join("abcadbaecbdfagbhac")
    assert kept(policy("session"), 4, asked) == kept(policy("lru"), 4, asked)
    for patience, expected in ((0.0, "c d"), (4.0, "a d")):
        server = Server(policy("session", patience=patience), 2)
        turns(server, "1.a 1.a 2.b 3.c 4.d")
        assert server.has("a b c d") == expected


def test_session_counts_a_request_that_comes_in_pieces_once() -> None:
    sessions = policy("session")
    server = Server(sessions, 8)
    requests = [Reader(0, session_id=1), Reader(1, session_id=1)]
    nodes = [server.cache.lock(server.cache.match(tokens_of("")), request)[0] for request in requests]
    for piece in ("ab", "cd"):
        for at, request in enumerate(requests):
            nodes[at], _ = server.cache.insert(nodes[at], tokens_of(piece), np.zeros(2, np.int32), request)
    assert sessions._sessions == {1: (2, 2)}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("session", {"patience": -1.0}, r"patience=-1\.0: expected 0 or more mean pauses"),
        ("session", {"turns": 0}, r"turns=0: expected at least 1"),
        ("pgdsf", {"floor_tokens": -1.0}, r"floor_tokens=-1\.0: expected 0 or more tokens"),
        ("lru_k", {"k": 0}, r"policy\.eviction\.k=0: expected at least 1"),
        ("gdsf", {"attention_tokens": 0.0}, r"attention_tokens=0\.0: expected a positive number"),
        ("flop_aware", {"weight": -1.0}, r"weight=-1\.0: expected 0 or more"),
        ("flop_aware", {"attention_tokens": -1.0}, r"attention_tokens=-1\.0: expected a positive number"),
        ("lhd", {"samples": 0}, r"samples=0: expected at least 1"),
        ("ttl", {"once_s": -1.0}, r"once_s=-1\.0: expected 0 or more seconds"),
        ("sieve", {"k": 2}, r"policy\.eviction=sieve: .*Parameters of Sieve: none"),
    ],
)
def test_a_wrong_parameter_is_named(name: str, parameters: dict[str, float], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        policy(name, **parameters)


def test_no_leaf_is_said() -> None:
    for name in ("lfu", "sieve", "s3fifo", "wtinylfu", "lhd"):
        with pytest.raises(LookupError, match="no leaf is released"):
            policy(name).victim()


def test_ghosts_forget_the_oldest() -> None:
    ghosts = Ghosts()
    for key, pages in ((b"a", 3), (b"b", 2), (b"c", 4)):
        ghosts.add(key, pages)
    ghosts.add(b"a", 1)
    assert ghosts.pages == 7
    ghosts.trim(5)
    assert (ghosts.pop(b"b"), ghosts.pop(b"c"), ghosts.pop(b"c"), ghosts.pop(b"a")) == (False, True, False, True)
    assert ghosts.pages == 0


def names(words: Iterable[str]) -> dict[str, bytes]:
    """The names of the nodes of a tree of these words, by the path to the end of their first page."""
    server = Server(policy("lru"), 100)
    server.ask(" ".join(words))
    found, rest = {}, [("", child) for child in server.cache.root.children.values()]
    while rest:
        above, node = rest.pop()
        text = above + "".join(map(chr, np.frombuffer(node.key, np.int32)))
        found[text[: len(above) + 1]] = prefix_key(node)
        rest.extend((text, child) for child in node.children.values())
    return found


def test_a_node_is_named_by_where_it_begins_however_the_tree_is_cut() -> None:
    once, again = names(["abcd", "abxy"]), names(["abxyz", "ab", "abc", "a"])
    assert once["abc"] == again["abc"]
    assert once["abx"] == again["abx"]
    assert once["a"] == again["a"]
    assert len(set(once.values()) | set(again.values())) == 4


def test_hyperbolic_lets_an_old_favourite_fade() -> None:
    assert kept(policy("hyperbolic"), 2, "a a a a b c") == "a c"
    assert kept(policy("hyperbolic"), 2, "a a a a b c d e f g h i j") == "i j"
    assert kept(policy("lfu"), 2, "a a a a b c d e f g h i j") == "a j"


def test_flop_aware_weighs_depth_against_recency() -> None:
    deep_then_flat = "xxxxxxxxa y z"
    deep = {"attention_tokens": 2.0}
    assert kept(policy("flop_aware", weight=2.0, **deep), 10, deep_then_flat) == "xxxxxxxxa z"
    assert kept(policy("flop_aware", weight=0.0, **deep), 10, deep_then_flat) == "y z"


def test_lhd_learns_what_comes_back() -> None:
    # One word comes back after 1 to 12 others that never do: too many for the cache, if it keeps those.
    others = iter(map(chr, range(1_000, 20_000)))
    gaps = np.random.default_rng(0).integers(1, 13, 800).tolist()
    asked = " ".join(" ".join(["a", *(next(others) for _ in range(gap))]) for gap in gaps)

    def found(name: str) -> int:
        server = Server(policy(name), 6)
        server.ask(asked)
        return server.found

    assert found("lru") < 0.5 * len(gaps) < 0.8 * len(gaps) < found("lhd")


def test_sampled_policies_draw_the_same_for_a_seed_only() -> None:
    asked = " ".join(f"{number * 7919 % 997:03d}" for number in range(300))
    one, again, other = (kept(policy("hyperbolic", samples=2, seed=seed), 60, asked) for seed in (0, 0, 1))
    assert one == again != other


def test_the_server_tells_who_used_what() -> None:
    """As the replay of the cache alone does: an urgent request's prompt stays, the others go by recency."""
    config = SchedulerConfig(pages=6, page_size=1, max_running=4, max_context=6)
    memory = KvMemory(config, RadixCache(1, policy("priority")))
    for number, (word, priority) in enumerate((("ab", 1), ("cd", 0), ("ef", 0), ("gh", 0))):
        asked = Sequence(number, 2, tokens_of(word), 1, priority=priority)
        memory.occupy(asked, memory.cache.match(asked.tokens))
        memory.extend(asked, memory.obtain(2))
        memory.vacate(asked, 2)
    assert [memory.cache.match(tokens_of(word)).tokens for word in ("ab", "cd", "ef", "gh")] == [2, 0, 2, 2]
