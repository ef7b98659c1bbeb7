"""A request's stages: one after another from its arrival to its last token, and no moment left out."""

import itertools

import pytest

from harness.metrics.schema import MOMENTS, REQUEST_COLUMNS
from harness.metrics.stages import STAGES, Stage, span, stage
from harness.report import timeline
from harness.validate import sources


def test_stages_follow_one_another_and_make_up_the_latency():
    assert all(before.end == after.start for before, after in itertools.pairwise(STAGES))
    ends = [each.end for each in STAGES]
    assert ends == ["sent_s", *MOMENTS, "client_last_token_s"]
    assert STAGES[0].start == "arrival_s"
    assert {moment for each in STAGES for moment in each[1:]} <= {column.name for column in REQUEST_COLUMNS}
    assert len({each.name for each in STAGES}) == len(STAGES)


def test_stages_can_be_seen_as_one():
    assert span("run", "prefill", "decode") == Stage("run", stage("prefill").start, stage("decode").end)


def test_what_a_validation_tells_apart_makes_up_the_latency_too():
    parts = sources._STAGES
    assert all(before.end == after.start for before, after in itertools.pairwise(parts))
    assert (parts[0].start, parts[-1].end) == ("arrival_s", "client_last_token_s")


@pytest.mark.parametrize("process", timeline.INNER)
def test_parts_in_a_timeline_are_parts_of_what_is_drawn_above_them(process):
    outer, parts = timeline.OUTER[process], timeline.INNER[process]
    assert (parts[0].start, parts[-1].end) == (outer.start, outer.end)
    assert all(before.end == after.start for before, after in itertools.pairwise(parts))
