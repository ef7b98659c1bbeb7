"""Triton kernels in a test: on the GPU where there is one, else in Triton's interpreter. Imported before any kernel."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")

DEVICE = "cuda" if ON_GPU else "cpu"
# Triton's interpreter rounds bfloat16 as NumPy can: float16 tests the same code.
DTYPE = torch.bfloat16 if ON_GPU else torch.float16

if not ON_GPU:
    from triton.runtime import interpreter

    _patch = interpreter._patch_lang_tensor

    def _patch_tensor(tensor: Any, scope: Any) -> None:
        """Its scalars are arrays of one element, which NumPy 2.4 no longer takes for an integer: loops' bounds."""
        _patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = _patch_tensor
