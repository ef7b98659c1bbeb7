"""The simulator's clock: it is aimed at exactly, and skips to a time where nothing happens before."""

from __future__ import annotations

import pytest

from harness.simulator.environment import Environment


def test_the_clock_skips_over_nothing_that_is_due() -> None:
    env, happened = Environment(), list[float]()
    env.at(2.0, lambda: happened.append(env.now))
    assert env.skip_to(1.0)
    assert env.now == 1.0
    assert not env.skip_to(2.0), "what is due then comes first"
    assert not env.skip_to(3.0)
    assert (env.now, happened) == (1.0, [])
    env.run(env.until(2.5))
    assert (env.now, happened) == (2.5, [2.0])


def test_who_drives_the_events_sees_how_far_it_is_now_and_then() -> None:
    env = Environment()
    skips = [env.skip_to(float(time)) for time in range(200)]
    assert 0 < skips.count(False) < 10
    first = skips.index(False)
    assert skips[first + 1], "and then it skips again"


def test_the_clock_never_goes_back() -> None:
    env = Environment()
    assert env.skip_to(2.0)
    for back in (env.skip_to, env.until):
        with pytest.raises(ValueError, match=r"1\.0 s when it is 2\.0 s"):
            back(1.0)
    assert env.now == 2.0
