"""How a calibration runs a step on a GPU: behind a decode, and no longer than that takes; and many in a row."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.calibrate.bench import Bench, decode_before
from harness.calibrate.places import Place, decoding
from harness.compose import compose
from policies import build_policy
from runtime.engine.engine import StepResult, StepRun
from runtime.engine.place import EnginePlace
from runtime.scheduler import Batch, SchedulerConfig
from runtime.server.config import EngineSpec
from tests.cost.servers import SERVERS, by_context

SIZES = SchedulerConfig(pages=4096, page_size=16, max_running=64, max_context=8192)
BEFORE = decoding(64, 128)


class Stopwatch:
    """An engine whose decodes take a minute, and steps with chunks so many seconds; a second passes between two."""

    def __init__(self, chunks_s: float) -> None:
        self.launched: list[Batch] = []
        self.calls: list[tuple[str, int]] = []
        self._chunks_s = chunks_s
        self._free_s = 0.0

    def launch(self, batch: Batch) -> Batch:
        self.launched.append(batch)
        self.calls.append(("launch", batch.step))
        return batch

    def collect(self, batch: Batch) -> StepResult:
        self.calls.append(("collect", batch.step))
        run = StepRun(self._free_s + 1.0, self._chunks_s if batch.chunks else 60.0, 1, graph=False)
        self._free_s = run.start_s + run.duration_s
        return StepResult([], [], run)


@pytest.fixture
def bench() -> Bench:
    return Bench(
        EngineSpec("runtime.engine.emulated.build", {"vocab_size": 1000}),
        build_policy(compose([]).policy),
        EnginePlace(SIZES, 8192, 0, 1, ""),
    )


@pytest.mark.parametrize(("chunks_s", "waits"), [(0.0, 1), (2.0, 0)], ids=["bound by the host", "by the device"])
def test_on_a_gpu_every_step_measured_follows_a_decode(
    chunks_s: float, waits: int, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the decode in front is not known to cover the launch the GPU waits, unless the step is slow anyway."""
    waited: list[int] = []
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "_sleep", waited.append)
    watch = Stopwatch(chunks_s)
    monkeypatch.setattr(bench, "_on_gpu", True)
    monkeypatch.setattr(bench, "engine", watch)
    times = bench.run(Place(2, 100), BEFORE, 3)
    launched = [(len(batch.chunks), len(batch.decodes)) for batch in watch.launched]
    assert launched == [(2, 0), *[(0, BEFORE.decodes), (2, 0)] * 3]
    assert [one.run.duration_s for one in times] == [chunks_s] * 4, "of the steps, not of the decodes between"
    assert len(waited) == waits


@pytest.mark.parametrize("count", [0, 1, 4])
def test_steps_in_a_row_are_launched_while_the_one_before_runs(
    count: int, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Stopwatch(2.0)
    monkeypatch.setattr(bench, "engine", watch)
    times = bench.in_a_row([Place(1, 100), BEFORE, Place(2, 50), BEFORE][:count])
    assert [one.run.duration_s for one in times] == [2.0, 60.0, 2.0, 60.0][:count]
    assert [len(batch.chunks) for batch in watch.launched] == [1, 0, 2, 0][:count]
    steps = [batch.step for batch in watch.launched]
    turns = [("launch", step) for step in steps[:1]]
    for before, step in pairwise(steps):
        turns += [("launch", step), ("collect", before)]
    assert watch.calls == turns + [("collect", step) for step in steps[-1:]]


@given(SERVERS, st.floats(1e-10, 1e-3))
def test_the_decode_before_fits_a_server_of_any_size(sizes: SchedulerConfig, token_s: float) -> None:
    seconds = by_context(token_s)
    decode = decode_before(sizes, seconds)
    assert decode.fits(sizes, 1)
    assert decode.kind == "decode"
    assert decode.decodes == min(sizes.max_running, sizes.pages)
    assert seconds(decode) <= 0.02 or decode.longest == 1
    longer = decoding(decode.decodes, 2 * decode.longest)
    assert seconds(longer) > 0.02 or not longer.fits(sizes, 1)
