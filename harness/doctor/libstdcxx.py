"""A C++ standard library too old for a compiled package: ``version `GLIBCXX_3.4.32' not found``.

The trap of Anaconda environments: their interpreter loads their own libstdc++, and what the system's newer compiler has
built (a wheel, or FlashInfer's kernels at first use) asks for symbols that it does not have.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import struct
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from harness.doctor.finding import Finding, note, ok, problem
from harness.doctor.packages import OUR_NAME, requirements

SymbolVersion = tuple[int, ...]

_GLIBCXX = re.compile(rb"GLIBCXX_(\d+(?:\.\d+)+)")
_NAME = "libstdc++.so.6"
_SYSTEM = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
_VERSION_SECTIONS = (0x6FFFFFFD, 0x6FFFFFFE)  # ELF: symbol versions that the file defines, and that it needs


def loaded_libstdcxx() -> Path | None:
    """The file that this interpreter loads as the C++ standard library, None where there is none."""
    try:
        ctypes.CDLL(_NAME)
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    return next((Path(line.split(maxsplit=5)[5]) for line in lines if "libstdc++.so" in line), None)


def system_libstdcxx() -> Path | None:
    """The system's own, which its compiler links to."""
    return next((file for folder in _SYSTEM if (file := Path(folder) / _NAME).exists()), None)


def newest_symbol(file: Path) -> SymbolVersion | None:
    """The newest GLIBCXX version that a shared library defines or needs, None where it has none."""
    with file.open("rb") as stream:
        if not file.stat().st_size:
            return None
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start, end = _version_names(data)
            found = [tuple(map(int, match[1].split(b"."))) for match in _GLIBCXX.finditer(data, start, end)]
    return max(found, default=None)


def _version_names(data: mmap.mmap) -> tuple[int, int]:
    """Where in a 64-bit ELF file the names of symbol versions are; the whole of any other file."""
    try:
        if data[:6] != b"\x7fELF\x02\x01":
            return 0, len(data)
        (table,) = struct.unpack_from("<Q", data, 0x28)
        size, count = struct.unpack_from("<HH", data, 0x3A)
        sections = [struct.unpack_from("<IIQQQQI", data, table + index * size) for index in range(count)]
        names = next((sections[link] for _, kind, *_, link in sections if kind in _VERSION_SECTIONS), None)
    except (struct.error, IndexError):
        return 0, len(data)
    return (0, 0) if names is None else (names[4], names[4] + names[5])


def compiled_libraries() -> Iterator[Path]:
    """Shared libraries of the packages that we ask for, and FlashInfer's kernels built here."""
    from harness.doctor.flashinfer import cache_dir

    try:
        wanted = [*requirements(OUR_NAME), *requirements(OUR_NAME, "runtime"), *requirements(OUR_NAME, "cuda")]
    except PackageNotFoundError:
        wanted = []
    for name in sorted({requirement.name for requirement in wanted} - {OUR_NAME}):
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:
            continue
        for file in files:
            if ".so" in file.suffixes and (path := Path(str(file.locate()))).is_file():
                yield path
    yield from sorted(cache_dir().rglob("*.so"))


def check_libstdcxx(loaded: Path | None, system: Path | None, libraries: Iterable[Path]) -> Finding:
    """What is loaded is new enough for every compiled package.

    Args:
        loaded: As :func:`loaded_libstdcxx` gives it.
        system: As :func:`system_libstdcxx` gives it.
        libraries: Those that will be loaded beside it.
    """
    check = "C++ library"
    if loaded is None:
        return note(check, f"{_NAME} cannot be loaded", "compiled packages may need it: apt install libstdc++6")
    have = newest_symbol(loaded) or (0,)
    said = f"{loaded} (GLIBCXX_{_text(have)})"
    needs = [(need, library) for library in libraries if (need := newest_symbol(library)) is not None]
    most, library = max(needs, default=(have, loaded))
    theirs = (newest_symbol(system) if system is not None else None) or (0,)
    way_out = _way_out(loaded, system if theirs > have else None)
    if most > have:
        return problem(check, f"{said} is loaded, and {library} needs GLIBCXX_{_text(most)}", way_out)
    if theirs > have:
        built = f"what this machine's compiler builds may need GLIBCXX_{_text(theirs)} of {system}"
        return note(check, f"{said} is loaded, and {built}", way_out)
    return ok(check, f"{said}, {len(needs)} libraries need no newer")


def _way_out(loaded: Path, newer: Path | None) -> str:
    searched = [entry for entry in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if entry]
    holder = next((entry for entry in searched if Path(entry).resolve() == loaded.resolve().parent), None)
    if holder is not None:
        return f"take {holder} out of LD_LIBRARY_PATH"
    if newer is not None:
        return f"export LD_PRELOAD={newer}, or in conda: conda install -c conda-forge libstdcxx-ng"
    return "a newer one is needed: conda install -c conda-forge libstdcxx-ng, or upgrade the system's libstdc++6"


def _text(version: SymbolVersion) -> str:
    return ".".join(map(str, version))
