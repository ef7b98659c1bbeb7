"""Triton kernels that are compiled already, launched without Triton's search for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from triton import JITFunction  # comes with the CUDA builds of torch alone
from triton.runtime import driver

_ALIGNMENT = 16  # bytes of an address: what Triton's code for NVIDIA GPUs is specialised on


def direct(kernel: Any) -> Any:
    """Decorates ``triton.jit``'s kernels; they are called as ever: ``kernel[grid](*arguments, **constants)``.

    Args:
        kernel: Its compile-time constants stand behind its arguments and are given by name. Those of Triton's
            interpreter, which compiles nothing, stay as they are.
    """
    return DirectKernel(kernel) if isinstance(kernel, JITFunction) else kernel


class DirectKernel:
    """A kernel of which the first launch of a kind goes through Triton, and later ones straight to the driver.

    Triton binds and specialises the arguments of every launch anew, writes the options out as text and calls hooks: for
    a small kernel several times what the launch itself takes. A kind is whatever Triton may compile apart: the device,
    each tensor's dtype and how its address is aligned, each number, each constant and option. Its kinds are
    specialisations of Triton's, or finer.

    The global variables that a kernel reads must not change, and Triton's launch hooks see the first launches alone.

    Args:
        kernel: As :func:`direct` wants it.

    Attributes:
        jitted: The same.

    Raises:
        ValueError: A constant stands before an argument.
    """

    def __init__(self, kernel: JITFunction) -> None:
        self.jitted = kernel
        constants, last = kernel.constexprs, len(kernel.arg_names)
        if constants != list(range(last - len(constants), last)):
            raise ValueError(f"{kernel.fn.__name__}: its compile-time constants must stand behind its arguments")
        self._places = (None,) * len(constants)  # what the launcher asks for where the code has constants
        self._compiled: dict[tuple[Any, ...], tuple[Callable[..., None], Any, Any]] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        """What launches so many programs, in one dimension to three."""
        return partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        active = driver.active
        device = active.get_current_device()
        kind: list[Any] = [device, *constants, *constants.values()]
        passed = []
        for argument in arguments:
            if isinstance(argument, Tensor):
                address = argument.data_ptr()  # the driver is asked about tensors, and not about addresses
                kind.append(argument.dtype)
                kind.append(address % _ALIGNMENT)
                passed.append(address)
            else:
                kind.append(type(argument))
                kind.append(argument)
                passed.append(argument)
        key = tuple(kind)
        found = self._compiled.get(key)
        if found is None:
            compiled = self.jitted[grid](*arguments, **constants)
            self._compiled[key] = compiled.run, compiled.function, compiled.packed_metadata
        else:
            run, function, metadata = found
            x, y, z = (*grid, 1, 1)[:3]
            stream = active.get_current_stream(device)
            run(x, y, z, stream, function, metadata, None, None, None, *passed, *self._places)


def power_of_2(least: int) -> int:
    """The smallest that is at least so large. Triton's own, made for compile-time constants too, takes 2 us."""
    return 1 << (least - 1).bit_length()
