"""``harness doctor`` with each trap set: what it says, and what to do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.cli import main
from harness.doctor import gpu, machine, packages
from harness.doctor.examine import examine
from harness.doctor.finding import Finding, Verdict, note, ok, problem
from harness.doctor.flashinfer import check_flashinfer
from harness.doctor.gpu import Driver, Gpu, Torch
from harness.doctor.leftovers import check_leftovers
from harness.doctor.libstdcxx import check_libstdcxx, compiled_libraries, loaded_libstdcxx, newest_symbol
from harness.doctor.workloads import check_traces

H100, V100, A100 = Gpu("H100", (9, 0)), Gpu("V100", (7, 0)), Gpu("A100", (8, 0))
DRIVER = Driver("580.82.07", (13, 0), (H100,))
CUDA_TORCH = Torch("2.11.0+cu130", cuda="13.0", available=True, architectures=("sm_80", "sm_90", "sm_100"))


def library(path: Path, *versions: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0" + b"\0".join(b"GLIBCXX_" + version.encode() for version in versions) + b"\0GLIBCXX_DEBUG\0")
    return path


def holds(finding: Finding, verdict: Verdict, *words: str) -> None:
    assert finding.verdict is verdict, finding
    for word in words:
        assert word in finding.said + " | " + finding.advice


# --- the C++ library


def test_the_newest_symbol_is_by_number_not_by_text(tmp_path: Path) -> None:
    assert newest_symbol(library(tmp_path / "a.so", "3.4.9", "3.4.30", "3.4.5")) == (3, 4, 30)
    assert newest_symbol(library(tmp_path / "none.so")) is None


def test_an_old_libstdcxx_in_anaconda_is_named_with_who_needs_more(tmp_path: Path) -> None:
    loaded = library(tmp_path / "anaconda" / "lib" / "libstdc++.so.6", "3.4.26")
    system = library(tmp_path / "usr" / "lib" / "libstdc++.so.6", "3.4.33")
    kernels = library(tmp_path / "cache" / "batch_decode.so", "3.4.32")
    found = check_libstdcxx(loaded, system, [library(tmp_path / "fine.so", "3.4.20"), kernels])
    holds(found, Verdict.PROBLEM, str(loaded), "GLIBCXX_3.4.26", str(kernels), "GLIBCXX_3.4.32", f"LD_PRELOAD={system}")
    assert "conda install -c conda-forge libstdcxx-ng" in found.advice


def test_an_old_libstdcxx_on_the_library_path_is_taken_off_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = library(tmp_path / "old" / "libstdc++.so.6", "3.4.19")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/elsewhere:{loaded.parent}")
    found = check_libstdcxx(loaded, None, [library(tmp_path / "wheel.so", "3.4.29")])
    holds(found, Verdict.PROBLEM, f"take {loaded.parent} out of LD_LIBRARY_PATH")


def test_a_system_compiler_newer_than_the_loaded_library_is_a_note(tmp_path: Path) -> None:
    loaded = library(tmp_path / "loaded.so", "3.4.30")
    system = library(tmp_path / "system.so", "3.4.33")
    holds(check_libstdcxx(loaded, system, []), Verdict.NOTE, "what this machine's compiler builds", "LD_PRELOAD")
    assert check_libstdcxx(system, loaded, []).verdict is Verdict.OK


@pytest.mark.skipif(sys.platform != "linux", reason="ELF files and /proc are Linux's")
def test_real_libraries_are_read_by_their_elf_tables() -> None:
    loaded = loaded_libstdcxx()
    if loaded is None:
        pytest.skip("this machine has no libstdc++.so.6")
    have = newest_symbol(loaded)
    assert have is not None
    assert have >= (3, 4, 20)
    needs = [need for file in compiled_libraries() if (need := newest_symbol(file)) is not None]
    assert needs, "no compiled package needs libstdc++: is the reader blind?"
    assert max(needs) <= have, "and yet the tests run"


# --- torch and the driver


@pytest.mark.parametrize(
    ("torch", "driver", "verdict", "words"),
    [
        (None, None, Verdict.NOTE, ("excludes backend=runtime", "pip install -e '.[runtime]'")),
        (Torch("2.13.0+cpu"), None, Verdict.OK, ("without CUDA",)),
        (Torch("2.13.0+cpu"), DRIVER, Verdict.PROBLEM, ("built without CUDA", "serves CUDA 13.0", "whl/cu130")),
        (
            CUDA_TORCH,
            Driver("535.1", (12, 2), (H100,)),
            Verdict.PROBLEM,
            ("CUDA 13.0", "CUDA 12.2", "update the driver"),
        ),
        (Torch("2.11", cuda="13.0", warning="no device"), DRIVER, Verdict.PROBLEM, ("finds no GPU: no device",)),
        (
            Torch("", failure="libstdc++.so.6: version `GLIBCXX_3.4.32' not found"),
            None,
            Verdict.PROBLEM,
            ("C++ library",),
        ),
        (Torch("", failure="libcudart.so.13: cannot open"), DRIVER, Verdict.PROBLEM, ("libcudart", "reinstall")),
        (CUDA_TORCH, DRIVER, Verdict.OK, ("2.11.0+cu130",)),
    ],
)
def test_torch_against_the_driver(
    torch: Torch | None, driver: Driver | None, verdict: Verdict, words: tuple[str, ...]
) -> None:
    holds(gpu.check_torch(torch, driver), verdict, *words)


def test_a_container_without_the_drivers_library() -> None:
    holds(gpu.check_driver(Driver("580.82.07")), Verdict.PROBLEM, "libcuda.so.1", "docker run --gpus all")
    holds(gpu.check_driver(None), Verdict.NOTE, "excludes backend.device=cuda")
    holds(gpu.check_driver(DRIVER), Verdict.OK, "580.82.07", "CUDA 13.0", "H100")


def test_the_driver_is_read_from_the_kernel_where_nvidia_smi_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.read_driver(tmp_path) is None
    (tmp_path / "driver" / "nvidia").mkdir(parents=True)
    (tmp_path / "driver" / "nvidia" / "version").write_text(
        "NVRM version: NVIDIA UNIX Module  580.82.07  Tue\nGCC 12\n"
    )
    assert (gpu.read_driver(tmp_path) or Driver("")).version == "580.82.07"


def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = topo ]; then\n'
        '  printf "\\tGPU0\\tGPU1\\tNIC0\\nGPU0\\t X \\tNV18\\tPXB\\nGPU1\\tNV18\\t X \\tPXB\\n"; exit\n'
        "fi\n"
        'printf "580.82.07, NVIDIA H100 80GB HBM3, 9.0\\n580.82.07, NVIDIA H100 80GB HBM3, 9.0\\n"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    driver = gpu.read_driver()
    assert driver is not None
    assert driver.version == "580.82.07"
    assert driver.gpus == (Gpu("NVIDIA H100 80GB HBM3", (9, 0)),) * 2
    assert driver.links == ("NV18",)


def test_compute_capability() -> None:
    old, precompiled, fine = gpu.check_capability(Driver("580", (13, 0), (V100, A100, H100)), CUDA_TORCH)
    holds(old, Verdict.PROBLEM, "V100: 7.0", "8.0 (Ampere) or later", "CUDA_VISIBLE_DEVICES")
    holds(precompiled, Verdict.NOTE, "A100: 8.0", "come compiled", "Triton")
    assert fine.verdict is Verdict.OK
    (newer,) = gpu.check_capability(Driver("590", (13, 1), (Gpu("RTX", (12, 0)),)), CUDA_TORCH)
    holds(newer, Verdict.PROBLEM, "no kernels for sm_120", "install a newer torch")
    assert gpu.check_capability(None, CUDA_TORCH) == []


def test_links_between_gpus() -> None:
    two = (H100, H100)
    assert gpu.check_links(DRIVER, CUDA_TORCH) == []
    (nvlink,) = gpu.check_links(Driver("580", (13, 0), two, ("NV18",)), CUDA_TORCH)
    assert nvlink.verdict is Verdict.OK
    (pcie,) = gpu.check_links(Driver("580", (13, 0), two, ("PHB",)), CUDA_TORCH)
    holds(pcie, Verdict.NOTE, "PHB", "slower over PCIe")
    (apart,) = gpu.check_links(Driver("580", (13, 0), two, ("SYS",)), Torch("2.11", cuda="13.0", peers=False))
    holds(apart, Verdict.NOTE, "no peer access", "IOMMU")


def test_flashinfer(tmp_path: Path) -> None:
    def versions(**found: str) -> packages.Installed:
        return lambda name: found.get(name.replace("-", "_"))

    assert check_flashinfer(None, tmp_path, None, versions()) == []
    (absent,) = check_flashinfer(DRIVER, tmp_path, None, versions())
    holds(absent, Verdict.NOTE, "pip install -e '.[cuda]'")
    (mixed,) = check_flashinfer(DRIVER, tmp_path, None, versions(flashinfer_python="0.6.18", flashinfer_cubin="0.6.14"))
    holds(mixed, Verdict.PROBLEM, "flashinfer-cubin==0.6.18")
    (bare,) = check_flashinfer(DRIVER, tmp_path, None, versions(flashinfer_python="0.6.18"))
    holds(bare, Verdict.NOTE, "no nvcc", "CUDA_HOME")
    built = versions(flashinfer_python="0.6.18", flashinfer_jit_cache="0.6.18+cu130")
    library(tmp_path / "0.6.18" / "decode.so", "3.4.30")
    fine, cache = check_flashinfer(DRIVER, tmp_path, None, built)
    assert (fine.verdict, cache.verdict) == (Verdict.OK, Verdict.OK)
    assert "1 kernels" in cache.said


# --- packages


def test_antlr_of_another_version_is_hydras_death() -> None:
    versions = {"hydra-core": "1.3.8", "antlr4-python3-runtime": "4.13.2"}
    holds(packages.check_hydra(versions.get), Verdict.PROBLEM, "4.13.2", "antlr4-python3-runtime==4.9.3")
    assert packages.check_hydra({**versions, "antlr4-python3-runtime": "4.9.3"}.get).verdict is Verdict.OK


def test_a_compiled_package_that_does_not_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_here.py").write_text("raise ImportError('version `GLIBCXX_3.4.32\\' not found')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    holds(
        packages.check_imports(("json", "broken_here")), Verdict.PROBLEM, "broken_here", "GLIBCXX_3.4.32", "C++ library"
    )
    assert packages.check_imports(("json",)).verdict is Verdict.OK


def test_python_too_old_or_in_no_environment() -> None:
    holds(packages.check_python((3, 10, 4), in_venv=True), Verdict.PROBLEM, "3.10.4", "python 3.11 or later")
    holds(packages.check_python((3, 12, 0), in_venv=False), Verdict.NOTE, "python -m venv")


def test_a_machine_for_the_simulator_alone() -> None:
    def simulator_only(name: str) -> str | None:
        extras = {"torch", "transformers", "tokenizers", "pyzmq", "fastapi", "uvicorn", "aiohttp", "flashinfer-python"}
        return None if name in extras else packages.installed_version(name)

    by_check = {finding.check: finding for finding in packages.check_packages(simulator_only)}
    assert by_check["packages"].verdict is Verdict.OK
    holds(by_check["extra runtime"], Verdict.NOTE, "torch is not installed", "excludes backend=runtime", ".[runtime]")
    assert "transformers" not in by_check


def test_a_torch_outside_our_range_is_a_problem() -> None:
    def old_torch(name: str) -> str | None:
        return "2.4.1+cu121" if name == "torch" else packages.installed_version(name)

    by_check = {finding.check: finding for finding in packages.check_packages(old_torch)}
    holds(by_check["extra runtime"], Verdict.PROBLEM, "torch 2.4.1+cu121 is not", ">=2.11")


@pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers")
def test_tokenizers_that_transformers_refuses() -> None:
    def old_tokenizers(name: str) -> str | None:
        return "0.10.0" if name == "tokenizers" else packages.installed_version(name)

    by_check = {finding.check: finding for finding in packages.check_packages(old_tokenizers)}
    holds(by_check["transformers"], Verdict.PROBLEM, "tokenizers 0.10.0", "pip install 'tokenizers")


# --- the machine


def test_a_busy_port_names_its_owner() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        asked, by_default = machine.check_port(port, asked=True), machine.check_port(port, asked=False)
        holds(asked, Verdict.PROBLEM, f"pid {os.getpid()}", f"--port {port + 1}")
        assert by_default.verdict is Verdict.NOTE
        assert main(["doctor", "--port", str(port)]) == 1
    assert machine.check_port(port, asked=True).verdict is Verdict.OK


def test_a_low_limit_of_open_files_says_how_to_raise_it() -> None:
    holds(machine.check_open_files(1024), Verdict.NOTE, "limit 1,024", "ulimit -n 65536")
    holds(machine.check_open_files(64), Verdict.PROBLEM, "ulimit -n 65536")
    assert machine.check_open_files(65536).verdict is Verdict.OK


def test_little_shared_memory_matters_to_several_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = machine.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage._replace(total=64 << 20, free=64 << 20))
    holds(machine.check_shared_memory(2, tmp_path), Verdict.PROBLEM, "0.06 of 0.06 GiB", "--shm-size=1g")
    assert machine.check_shared_memory(0, tmp_path).verdict is Verdict.NOTE
    holds(machine.check_shared_memory(2, tmp_path / "none"), Verdict.NOTE, "mount a tmpfs")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = machine.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage._replace(free=10 << 20))
    holds(machine.check_disk(tmp_path / "runs"), Verdict.PROBLEM, str(tmp_path), "hydra.run.dir")


def test_directories_of_dead_servers_are_told_from_those_of_the_living(tmp_path: Path) -> None:
    for name in ("servetwin-dead", "servetwin-alive"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "worker.0").touch()
    sockets = tmp_path / "unix"
    sockets.write_text(f"Num RefCount Path\n00: 00000002 00010000 0001 01 123 {tmp_path}/servetwin-alive/worker.0\n")
    found = check_leftovers(tmp_path, sockets)
    holds(found, Verdict.NOTE, "1 private directories of dead servers", "1 of a running server")
    assert found.advice == f"rm -r {tmp_path}/servetwin-dead"


def test_a_trace_directory_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVETWIN_TRACES", str(tmp_path / "gone"))
    holds(check_traces(), Verdict.NOTE, "SERVETWIN_TRACES", str(tmp_path / "gone"), "correct the path")
    monkeypatch.delenv("SERVETWIN_TRACES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    holds(check_traces(), Verdict.NOTE, "0 of", "trace fetch mooncake_conversation")


# --- the command


def test_it_ends_with_0_for_notes_and_1_for_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = [ok("a", "fine"), note("b", "slow", "wait")]
    monkeypatch.setattr("harness.doctor.examine.examine", lambda port: findings)
    assert main(["doctor"]) == 0
    assert "Nothing stops a run." in capsys.readouterr().out
    findings.append(problem("c", "[broken]", "mend it"))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "1 to mend: c" in said
    assert "[broken]" in said
    assert "mend it" in said


def test_json_is_a_list_of_findings(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert {"python", "hydra", "C++ library", "torch", "open files", "traces"} <= {
        finding["check"] for finding in findings
    }
    assert code == int(any(finding["verdict"] == "problem" for finding in findings))
    for finding in findings:
        assert set(finding) == {"check", "verdict", "said", "advice"}
        assert (finding["verdict"] == "ok") == (finding["advice"] == ""), "what is not well has a way out"


def test_it_works_where_hydra_and_torch_do_not(tmp_path: Path) -> None:
    for name in ("omegaconf", "hydra", "torch", "numpy", "msgspec"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('Could not deserialize ATN with version 3')\n")
    done = subprocess.run(
        [sys.executable, "-m", "harness", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    by_check = {finding["check"]: finding for finding in json.loads(done.stdout)}
    for check in ("torch", "imports"):
        assert "does not import: Could not deserialize ATN" in by_check[check]["said"]


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_is_none(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--port", port]) == 2
    assert "a port is from 1 to 65535" in capsys.readouterr().err


def test_every_check_of_this_machine_gives_a_verdict() -> None:
    findings = examine()
    assert len({finding.check for finding in findings}) == len(findings)
