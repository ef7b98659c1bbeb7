"""How a calibration runs a step on a GPU: behind a decode, and no longer than that takes."""

from __future__ import annotations

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

SIZES = SchedulerConfig(pages=4096, page_size=16, max_running=64, max_context=8192)
BEFORE = decoding(64, 128)


class Stopwatch:
    """An engine whose decodes take a minute, and steps with chunks so many seconds."""

    def __init__(self, chunks_s: float) -> None:
        self.launched: list[Batch] = []
        self._chunks_s = chunks_s

    def launch(self, batch: Batch) -> Batch:
        self.launched.append(batch)
        return batch

    def collect(self, batch: Batch) -> StepResult:
        return StepResult([], [], StepRun(0.0, self._chunks_s if batch.chunks else 60.0, 1, graph=False))


@pytest.mark.parametrize(("chunks_s", "waits"), [(0.0, 1), (2.0, 0)], ids=["bound by the host", "by the device"])
def test_on_a_gpu_every_step_measured_follows_a_decode(
    chunks_s: float, waits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the decode in front is not known to cover the launch the GPU waits, unless the step is slow anyway."""
    waited: list[int] = []
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "_sleep", waited.append)
    bench = Bench(
        EngineSpec("runtime.engine.emulated.build", {"vocab_size": 1000}),
        build_policy(compose([]).policy),
        EnginePlace(SIZES, 8192, 0, 1, ""),
    )
    watch = Stopwatch(chunks_s)
    monkeypatch.setattr(bench, "_on_gpu", True)
    monkeypatch.setattr(bench, "engine", watch)
    times = bench.run(Place(2, 100), BEFORE, 3)
    launched = [(len(batch.chunks), len(batch.decodes)) for batch in watch.launched]
    assert launched == [(2, 0), *[(0, BEFORE.decodes), (2, 0)] * 3]
    assert [one.run.duration_s for one in times] == [chunks_s] * 4, "of the steps, not of the decodes between"
    assert len(waited) == waits


@given(
    pages=st.integers(1, 5000),
    page_size=st.sampled_from([1, 16, 64]),
    max_running=st.integers(1, 300),
    max_context=st.integers(1, 50_000),
    token_s=st.floats(1e-10, 1e-3),
)
def test_the_decode_before_fits_a_server_of_any_size(
    pages: int, page_size: int, max_running: int, max_context: int, token_s: float
) -> None:
    sizes = SchedulerConfig(pages, page_size, max_running, max_context)

    def seconds(place: Place) -> float:
        return token_s * sum(place.contexts())

    decode = decode_before(sizes, seconds)
    assert decode.fits(sizes, 1)
    assert decode.kind == "decode"
    assert decode.decodes == min(max_running, pages)
    assert seconds(decode) <= 0.02 or decode.longest == 1
    longer = decoding(decode.decodes, 2 * decode.longest)
    assert seconds(longer) > 0.02 or not longer.fits(sizes, 1)
