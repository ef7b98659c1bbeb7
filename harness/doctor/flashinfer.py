"""FlashInfer: the attention backend of half precision on a GPU, and the kernels that it compiles at first use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness.doctor.finding import Finding, note, ok, problem
from harness.doctor.gpu import Driver
from harness.doctor.packages import Installed, installed_version

_COMPANIONS = ("flashinfer-cubin", "flashinfer-jit-cache")  # kernels that come compiled
_CUDA_HOME = "/usr/local/cuda"


def cache_dir() -> Path:
    """Where FlashInfer keeps the kernels that it has compiled here."""
    return Path(os.environ.get("FLASHINFER_WORKSPACE_BASE") or Path.home()) / ".cache" / "flashinfer"


def find_nvcc() -> str | None:
    """The CUDA compiler, where FlashInfer looks for it."""
    home = os.environ.get("CUDA_HOME") or _CUDA_HOME
    return shutil.which("nvcc") or shutil.which("nvcc", path=str(Path(home) / "bin"))


def check_flashinfer(
    driver: Driver | None, cache: Path, nvcc: str | None, installed: Installed = installed_version
) -> list[Finding]:
    """It is there, its packages are of one version, and kernels come compiled or can be compiled.

    Args:
        driver: The NVIDIA driver; without a GPU, FlashInfer is not asked for.
        cache: As :func:`cache_dir` gives it.
        nvcc: As :func:`find_nvcc` gives it.
        installed: Versions of distributions.
    """
    version = installed("flashinfer-python")
    if version is None:
        if driver is None or not driver.gpus:
            return []
        advice = "pip install -e '.[cuda]'"
        return [note("FlashInfer", "not installed: excludes its attention on this machine's GPU", advice)]
    companions = {name: found for name in _COMPANIONS if (found := installed(name)) is not None}
    for name, found in companions.items():
        if _release(found) != _release(version):
            advice = f"it refuses to import: pip install '{name}=={_release(version)}', or pip uninstall {name}"
            return [problem("FlashInfer", f"flashinfer-python {version} beside {name} {found}", advice)]
    said = f"flashinfer-python {version}"
    if companions:
        return [ok("FlashInfer", f"{said} with {', '.join(companions)}"), *_cache(cache)]
    if nvcc is None and not any(cache.rglob("*.so")):
        advice = "for FlashInfer: pip install flashinfer-cubin flashinfer-jit-cache, or set CUDA_HOME to a CUDA toolkit"
        return [note("FlashInfer", f"{said} has no compiled kernels and no nvcc: attention will be Triton's", advice)]
    builds = f"compiles kernels at first use with {nvcc}" if nvcc is not None else "has the kernels in its cache only"
    return [ok("FlashInfer", f"{said} {builds}"), *_cache(cache)]


def _cache(cache: Path) -> list[Finding]:
    there = next(path for path in (cache, *cache.parents) if path.exists())
    if not os.access(there, os.W_OK):
        advice = "FlashInfer makes it at import: set FLASHINFER_WORKSPACE_BASE to a directory that you may write"
        return [problem("FlashInfer cache", f"{cache} is not writable", advice)]
    kernels = list(cache.rglob("*.so"))
    size = sum(file.stat().st_size for file in kernels)
    return [ok("FlashInfer cache", f"{len(kernels)} kernels, {size / 1e6:,.0f} MB in {cache}")]


def _release(version: str) -> str:
    """Without the local part that says for which CUDA it was built."""
    return version.partition("+")[0]
