"""The NVIDIA driver and torch, held against each other."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from harness.doctor.finding import Finding, note, ok, problem

Capability = tuple[int, int]

OLDEST_CAPABILITY = (8, 0)  # bfloat16, asynchronous copies, what FlashInfer's and our kernels are built of
_PRECOMPILED_CAPABILITY = (9, 0)  # sm_90a
_INSTALL = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/"
_WHEELS = {12: "cu126", 13: "cu130"}  # of a driver's major CUDA: any minor of it will do


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, as the driver knows it.

    Attributes:
        name: Of the product.
        capability: Compute capability, major and minor.
    """

    name: str
    capability: Capability


@dataclass(frozen=True, slots=True)
class Driver:
    """The NVIDIA driver of this machine.

    Attributes:
        version: Its own.
        cuda: The newest CUDA that it serves, major and minor; None where its library is not here.
        gpus: In its order.
        links: What ``nvidia-smi topo -m`` says lies between each pair of GPUs, such as NV18 or PHB.
    """

    version: str
    cuda: tuple[int, int] | None = None
    gpus: tuple[Gpu, ...] = ()
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Torch:
    """The torch that is installed.

    Attributes:
        version: Its own, empty where it does not import.
        failure: Why it does not import, one line.
        cuda: The CUDA it was built with, None for a build without.
        available: Whether it can use a GPU.
        warning: What it said when asked.
        architectures: It has kernels for these, such as ``sm_90``.
        peers: Whether each GPU reaches every other's memory; None where there is one, or none.
    """

    version: str
    failure: str = ""
    cuda: str | None = None
    available: bool = False
    warning: str = ""
    architectures: tuple[str, ...] = ()
    peers: bool | None = None


def read_driver(proc: Path = Path("/proc")) -> Driver | None:
    """The driver, None where there is none."""
    said = _nvidia_smi("--query-gpu=driver_version,name,compute_cap", "--format=csv,noheader")
    if said is None:
        file = proc / "driver" / "nvidia" / "version"
        found = re.search(r"\b\d{3}\.\d+(?:\.\d+)?\b", file.read_text()) if file.exists() else None
        return None if found is None else Driver(found[0], _driver_cuda())
    rows = re.findall(r"^([\d.]+), (.+), (\d+)\.(\d+)$", said, flags=re.MULTILINE)
    gpus = tuple(Gpu(name, (int(major), int(minor))) for _, name, major, minor in rows)
    return Driver(rows[0][0], _driver_cuda(), gpus, parse_links(_nvidia_smi("topo", "-m") or "")) if rows else None


def read_torch() -> Torch | None:
    """What is to be known of torch, None where it is not installed. Imports it."""
    if find_spec("torch") is None:
        return None
    try:
        import torch
    except (ImportError, OSError) as error:
        return Torch("", failure=" ".join(str(error).split()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
        count = torch.cuda.device_count() if available else 0
    pairs = [(one, other) for one in range(count) for other in range(count) if one != other]
    return Torch(
        version=torch.__version__,
        cuda=torch.version.cuda,
        available=available,
        warning=" ".join(str(caught[0].message).split()) if caught else "",
        architectures=tuple(torch.cuda.get_arch_list()) if available else (),
        peers=all(torch.cuda.can_device_access_peer(*pair) for pair in pairs) if pairs else None,
    )


def parse_links(topology: str) -> tuple[str, ...]:
    """The links between each pair of GPUs, from the matrix that ``nvidia-smi topo -m`` prints."""
    rows = [line.split() for line in re.sub(r"\x1b\[[0-9;]*m", "", topology).splitlines()]
    gpus = [row for row in rows if row and re.fullmatch(r"GPU\d+", row[0]) and not row[1].startswith("GPU")]
    return tuple(row[1 + other] for index, row in enumerate(gpus) for other in range(index + 1, len(gpus)))


def check_driver(driver: Driver | None) -> Finding:
    """There is a driver, and its library is where programs find it."""
    if driver is None:
        return note(
            "NVIDIA driver", "none: excludes backend.device=cuda", "nothing, for sim, emulate and runtime on the CPU"
        )
    if driver.cuda is None:
        advice = "in a container: docker run --gpus all, with nvidia-container-toolkit on the host; else reinstall it"
        return problem("NVIDIA driver", f"{driver.version} in the kernel, but libcuda.so.1 is not found here", advice)
    gpus = ", ".join(gpu.name for gpu in driver.gpus) or "no GPU visible"
    return ok("NVIDIA driver", f"{driver.version}, up to CUDA {_dotted(driver.cuda)}: {gpus}")


def check_torch(torch: Torch | None, driver: Driver | None) -> Finding:
    """Torch imports, and was built with a CUDA that the driver serves."""
    if torch is None:
        return note("torch", "not installed: excludes backend=runtime and harness serve", "pip install -e '.[runtime]'")
    if torch.failure:
        cxx = "GLIBCXX" in torch.failure
        advice = "see the C++ library, above" if cxx else f"{_INSTALL}{_WHEELS[13] if driver is not None else 'cpu'}"
        return problem("torch", f"installed, but does not import: {torch.failure}", advice)
    if driver is None or driver.cuda is None:
        built = "without CUDA" if torch.cuda is None else f"with CUDA {torch.cuda}, and no GPU to use"
        return ok("torch", f"{torch.version}, built {built}")
    serves = f"the driver serves CUDA {_dotted(driver.cuda)}"
    wheel = _WHEELS.get(driver.cuda[0])
    wheels = (
        f"{_INSTALL}{wheel}" if wheel else "take the wheel that pytorch.org/get-started names for the driver's CUDA"
    )
    if torch.cuda is None:
        return problem("torch", f"{torch.version} is built without CUDA, and {serves}", wheels)
    if int(torch.cuda.split(".")[0]) > driver.cuda[0]:
        advice = f"update the driver (CUDA 13 needs 580, CUDA 12 needs 525), or {wheels}"
        return problem("torch", f"{torch.version} is built with CUDA {torch.cuda}, and {serves}", advice)
    if not torch.available:
        said = f"{torch.version} with CUDA {torch.cuda} finds no GPU{': ' if torch.warning else ''}{torch.warning}"
        return problem("torch", said, "see that nvidia-smi works and that CUDA_VISIBLE_DEVICES is not empty")
    return ok("torch", f"{torch.version}, built with CUDA {torch.cuda}; {serves}")


def check_capability(driver: Driver | None, torch: Torch | None) -> list[Finding]:
    """Each kind of GPU can run the kernels, FlashInfer's, ours and torch's."""
    check = "compute capability"
    findings = []
    for gpu in dict.fromkeys(driver.gpus if driver is not None else ()):
        said = f"{gpu.name}: {_dotted(gpu.capability)}"
        architecture = f"sm_{gpu.capability[0]}{gpu.capability[1]}"
        if gpu.capability < OLDEST_CAPABILITY:
            advice = "the kernels need 8.0 (Ampere) or later: leave this GPU out with CUDA_VISIBLE_DEVICES"
            findings.append(problem(check, said, advice))
        elif torch is not None and torch.architectures and not _covered(gpu.capability, torch.architectures):
            advice = f"torch {torch.version} has no kernels for {architecture}: install a newer torch"
            findings.append(problem(check, said, advice))
        elif gpu.capability < _PRECOMPILED_CAPABILITY:
            advice = "FlashInfer's kernels that come compiled may leave it out: attention is then Triton's"
            findings.append(note(check, said, advice))
        else:
            findings.append(ok(check, said))
    return findings


def check_links(driver: Driver | None, torch: Torch | None) -> list[Finding]:
    """Several GPUs reach each other directly, for tensor parallelism."""
    if driver is None or len(driver.gpus) < 2:
        return []
    kinds = sorted(set(driver.links))
    said = f"{len(driver.gpus)} GPUs, linked by {', '.join(kinds) or 'what nvidia-smi does not tell'}"
    if torch is not None and torch.peers is False:
        advice = "tp=2 and more goes through the host's memory: check nvidia-smi topo -p2p r, and IOMMU in the BIOS"
        return [note("GPU links", f"{said}; no peer access between some", advice)]
    if any(not kind.startswith("NV") for kind in kinds):
        return [note("GPU links", said, "tp=2 and more is slower over PCIe (PHB, PIX, SYS) than over NVLink (NV...)")]
    return [ok("GPU links", said)]


def _covered(capability: Capability, architectures: tuple[str, ...]) -> bool:
    """Binary kernels run on a later minor of their major; ``compute_`` entries are compiled for any later GPU."""
    for architecture in architectures:
        kind, _, digits = architecture.partition("_")
        number = re.match(r"\d+", digits)
        if number is None:
            continue
        major, minor = divmod(int(number[0]), 10)
        if (kind == "sm" and major == capability[0] and minor <= capability[1]) or (
            kind == "compute" and (major, minor) <= capability
        ):
            return True
    return False


def _driver_cuda() -> tuple[int, int] | None:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return None
    return number.value // 1000, number.value % 1000 // 10


def _nvidia_smi(*words: str) -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        return subprocess.run([program, *words], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
