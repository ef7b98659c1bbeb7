"""Python and the installed packages, by their metadata: nothing is imported, so nothing that is broken can stop it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.version import Version

from harness.doctor.finding import Finding, note, ok, problem

Installed = Callable[[str], str | None]

OUR_NAME = "servetwin"
_OLDEST = (3, 11)
_COMPILED = ("numpy", "msgspec", "pyarrow", "pandas", "scipy")
_FOR_EXTRA = {
    "runtime": "backend=runtime, emulate and endpoint, harness serve",
    "cuda": "FlashInfer attention on a GPU",
}


def installed_version(name: str) -> str | None:
    """The version of a distribution, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def requirements(name: str, extra: str = "") -> list[Requirement]:
    """What a distribution asks for here: in general, or what an extra of it adds."""
    wanted = []
    for text in requires(name) or []:
        requirement = Requirement(text)
        marker = requirement.marker
        in_general = marker is None or marker.evaluate({"extra": ""})
        if in_general if not extra else not in_general and marker is not None and marker.evaluate({"extra": extra}):
            wanted.append(requirement)
    return wanted


def unmet(
    wanted: list[Requirement], installed: Installed = installed_version
) -> Iterator[tuple[Requirement, str | None]]:
    """The requirements that are not met, each with the version that is there instead, or None."""
    for requirement in wanted:
        found = installed(requirement.name)
        if found is None or not requirement.specifier.contains(Version(found), prereleases=True):
            yield requirement, found


def check_python(
    found: tuple[int, ...] = sys.version_info[:3], in_venv: bool = sys.prefix != sys.base_prefix
) -> Finding:
    """Python is new enough, and in an environment of its own."""
    said = f"{platform.python_implementation()} {'.'.join(map(str, found))} at {sys.executable}"
    if found < _OLDEST:
        return problem(
            "python", said, "python 3.11 or later is needed: python3.12 -m venv .venv && . .venv/bin/activate"
        )
    if not in_venv:
        advice = "packages of other programs may get in the way: python -m venv .venv && . .venv/bin/activate"
        return note("python", f"{said}, in no virtual environment", advice)
    return ok("python", f"{said}, in a virtual environment")


def check_hydra(installed: Installed = installed_version) -> Finding:
    """Hydra 1.3 and OmegaConf 2.3 read their grammar with antlr4 4.9 and die at import beside any other."""
    hydra, antlr = installed("hydra-core"), installed("antlr4-python3-runtime")
    said = f"hydra-core {hydra}, antlr4-python3-runtime {antlr}"
    if hydra is None:
        return problem("hydra", "hydra-core is not installed", "pip install -e .")
    if antlr is None or not antlr.startswith("4.9."):
        advice = "Hydra needs 4.9: pip install 'antlr4-python3-runtime==4.9.3', or use a fresh virtual environment"
        return problem("hydra", said, advice)
    return ok("hydra", said)


def check_packages(installed: Installed = installed_version) -> list[Finding]:
    """What this package asks for is there, and what each extra adds; transformers is content with its tokenizers."""
    try:
        core = requirements(OUR_NAME)
    except PackageNotFoundError:
        return [note("packages", f"{OUR_NAME} is not installed: versions were not checked", "pip install -e .")]
    findings = [_core(list(unmet(core, installed)), len(core))]
    for extra, use in _FOR_EXTRA.items():
        wanted = [requirement for requirement in requirements(OUR_NAME, extra) if requirement.name != OUR_NAME]
        findings.append(_extra(extra, use, list(unmet(wanted, installed)), len(wanted)))
    if installed("transformers") is not None:
        findings.append(_transformers(installed))
    return findings


def check_imports(names: tuple[str, ...] = _COMPILED) -> Finding:
    """What is compiled for this machine does import on it: the rest of the checks may rely on it."""
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            said = " ".join(str(error).split())
            advice = f"see the C++ library below, or reinstall it: pip install --force-reinstall {name}"
            return problem("imports", f"{name} is installed, but does not import: {said}", advice)
    return ok("imports", f"{', '.join(names)} import")


def _core(missing: list[tuple[Requirement, str | None]], count: int) -> Finding:
    if missing:
        return problem("packages", _named(missing), "pip install -e .")
    return ok("packages", f"all {count} that the simulator needs")


def _extra(extra: str, use: str, missing: list[tuple[Requirement, str | None]], count: int) -> Finding:
    check, advice = f"extra {extra}", f"pip install -e '.[{extra}]'"
    if any(found is not None for _, found in missing):
        return problem(check, f"{_named(missing)}: {use} may not work", advice)
    if missing:
        return note(check, f"{_named(missing)}: excludes {use}", advice)
    return ok(check, f"all {count} for {use}")


def _transformers(installed: Installed) -> Finding:
    said = f"transformers {installed('transformers')}, tokenizers {installed('tokenizers')}"
    wanted = [requirement for requirement in requirements("transformers") if requirement.name == "tokenizers"]
    wrong = list(unmet(wanted, installed))
    if wrong:
        advice = f"transformers does not import beside it: pip install '{wrong[0][0]}'"
        return problem("transformers", said, advice)
    return ok("transformers", said)


def _named(missing: list[tuple[Requirement, str | None]]) -> str:
    return ", ".join(
        f"{wanted.name} is not installed" if found is None else f"{wanted.name} {found} is not {wanted.specifier}"
        for wanted, found in missing
    )
