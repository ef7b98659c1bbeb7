"""All checks, in the order in which a mistake of an earlier one explains a later one."""

from __future__ import annotations

from harness.doctor import flashinfer, gpu, libstdcxx, machine, packages
from harness.doctor.finding import Finding
from harness.doctor.leftovers import check_leftovers
from harness.doctor.workloads import check_traces

DEFAULT_PORT = 8000


def examine(port: int | None = None) -> list[Finding]:
    """Look at this machine.

    Args:
        port: That a server is to listen on; None where the user named none.
    """
    # The library that the interpreter itself loads: before torch may bring another.
    loaded = libstdcxx.loaded_libstdcxx()
    driver, torch = gpu.read_driver(), gpu.read_torch()
    return [
        packages.check_python(),
        packages.check_hydra(),
        *packages.check_packages(),
        packages.check_imports(),
        libstdcxx.check_libstdcxx(loaded, libstdcxx.system_libstdcxx(), libstdcxx.compiled_libraries()),
        gpu.check_driver(driver),
        gpu.check_torch(torch, driver),
        *gpu.check_capability(driver, torch),
        *gpu.check_links(driver, torch),
        *flashinfer.check_flashinfer(driver, flashinfer.cache_dir(), flashinfer.find_nvcc()),
        machine.check_port(port or DEFAULT_PORT, asked=port is not None),
        machine.check_shared_memory(gpus=len(driver.gpus) if driver is not None else 0),
        machine.check_open_files(),
        machine.check_disk(),
        check_leftovers(),
        check_traces(),
    ]
