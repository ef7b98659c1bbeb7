"""Kernels that are launched directly: the code that Triton would take, with the same arguments, without asking it."""

# ruff: noqa: E402, N803 (what needs Triton is imported once it is known to be there; constants are in capitals)
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip(
    "tests.tiny.interpreter"
)  # for other tests of this process: Triton is to know before it is imported

import triton.language as tl
from triton import JITFunction
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from runtime.kernels.direct import DirectKernel, direct, power_of_2

Launch = tuple[Any, ...]  # device, grid, arguments, constants and options
MEMORY = torch.zeros(4096, dtype=torch.uint8)
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.int32, torch.float8_e4m3fn)


def written(x, out, table, rows, width, eps, BLOCK: tl.constexpr, NORM: tl.constexpr) -> None:  # type: ignore[no-untyped-def]
    """A kernel's signature: what is in it does not matter here."""


class Gpu:
    """A driver as Triton knows it, without a GPU."""

    device = 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 100 + device


class Compiled:
    """Code that notes its launches, named by the key that Triton finds it by."""

    def __init__(self, key: object, launches: list[Launch]) -> None:
        self.function, self.packed_metadata = key, ("packed", key)
        self._launches = launches

    def launch_metadata(self, *_: object) -> None:
        return None

    def run(self, x: int, y: int, z: int, stream: int, function: object, packed: object, *rest: Any) -> None:
        arguments = [value.data_ptr() if isinstance(value, torch.Tensor) else value for value in rest[3:]]
        self._launches.append((x, y, z, stream, function, packed, arguments[:6], len(arguments)))


class Kernel(JITFunction):  # type: ignore[misc]
    """Triton's search for a kernel, and its calls counted; nothing is compiled."""

    def __init__(self) -> None:
        # One that is not specialised at all, one that is not on its address.
        super().__init__(written, do_not_specialize=["rows"], do_not_specialize_on_alignment=["table"])
        self.searches = 0
        self.launches: list[Launch] = []

    def run(self, *arguments: Any, **options: Any) -> Any:
        self.searches += 1
        return super().run(*arguments, **options)

    def _do_compile(self, key: object, signature: object, device: int, *_: object) -> Compiled:
        compiled: Compiled = self.device_caches[device][0].setdefault(key, Compiled((device, key), self.launches))
        return compiled


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    monkeypatch.setattr(driver, "_active", gpu)
    return gpu


def tensor(dtype: torch.dtype, offset: int) -> torch.Tensor:
    return MEMORY[offset * 4 :][:64].view(dtype)


tensors = st.builds(tensor, st.sampled_from(DTYPES), st.integers(0, 8))
numbers = st.sampled_from([0, 1, 2, 15, 16, 17, 48, 1 << 20, (1 << 31) - 16, 1 << 31, 1 << 40, 1.0, True])
FIELDS: tuple[st.SearchStrategy[Any], ...] = (
    st.integers(0, 1),  # device
    st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    tensors,
    tensors,
    tensors,
    numbers,
    numbers,
    st.sampled_from([0.0, 1.0, 1e-6]),
    st.sampled_from([64, 128]),
    st.booleans(),
    st.sampled_from([{}, {"num_warps": 2}, {"num_stages": 2}, {"num_warps": 2, "launch_pdl": True}]),
)


@st.composite
def walks(draw: st.DrawFn) -> list[Launch]:
    """Launches each of which differs from the one before in one thing."""
    fields = [draw(field) for field in FIELDS]
    walk = []
    for changed in draw(st.lists(st.integers(0, len(FIELDS) - 1), max_size=30)):
        fields[changed] = draw(FIELDS[changed])
        device, grid, *arguments, block, norm, options = fields
        walk.append((device, grid, arguments, {"BLOCK": block, "NORM": norm, **options}))
    return walk


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(walks())
def test_it_is_the_code_that_triton_would_take(gpu: Gpu, asked: list[Launch]) -> None:
    searched, kernel = Kernel(), Kernel()
    found = DirectKernel(kernel)
    for device, grid, arguments, constants in asked:
        gpu.device = device
        searched[grid](*arguments, **constants)
        found[grid](*arguments, **constants)
    assert kernel.launches == searched.launches


def test_equal_numbers_of_other_types_are_others(gpu: Gpu) -> None:
    kernel = Kernel()
    found = DirectKernel(kernel)
    for width in (1, 1.0, True, 1):
        found[(1,)](MEMORY, MEMORY, MEMORY, 2, width, 0.5, BLOCK=64, NORM=True)
    ran = [launch[4] for launch in kernel.launches]
    assert len(set(ran)) == 3
    assert ran[0] == ran[3]


def test_triton_is_asked_once(gpu: Gpu) -> None:
    kernel = Kernel()
    found = DirectKernel(kernel)
    for grid in ((8,), (7,), (5, 3)):
        found[grid](MEMORY, MEMORY, MEMORY, 1, 16, 0.5, BLOCK=64, NORM=True, num_warps=4)
    assert kernel.searches == 1
    assert [launch[:3] for launch in kernel.launches] == [(8, 1, 1), (7, 1, 1), (5, 3, 1)]


def test_a_parameter_is_a_tensor(gpu: Gpu) -> None:
    kernel = Kernel()
    found = DirectKernel(kernel)
    weight = torch.nn.Parameter(torch.zeros(16))
    for _ in range(2):
        found[(1,)](weight, MEMORY, MEMORY, 1, 1, 0.0, BLOCK=64, NORM=True)
    assert kernel.launches[0] == kernel.launches[1]
    assert kernel.launches[1][6][0] == weight.data_ptr()


def test_an_unknown_option_is_refused_as_triton_does(gpu: Gpu) -> None:
    found = DirectKernel(Kernel())
    with pytest.raises(KeyError, match="warps"):
        found[(1,)](MEMORY, MEMORY, MEMORY, 1, 1, 0.0, BLOCK=64, NORM=True, warps=4)


def test_constants_stand_behind_arguments() -> None:
    def mixed(x, BLOCK: tl.constexpr, out) -> None:  # type: ignore[no-untyped-def]
        pass

    with pytest.raises(ValueError, match="mixed: its compile-time constants must stand behind"):
        DirectKernel(JITFunction(mixed))


def test_what_is_interpreted_stays_as_it_is() -> None:
    interpreted = object()
    assert direct(interpreted) is interpreted


@given(st.integers(1, 1 << 20))
def test_power_of_2(least: int) -> None:
    power = power_of_2(least)
    assert power >= least > power // 2
    assert power & (power - 1) == 0
