"""Packages that only some commands need, and which extra of ours brings them; imports nothing that may be missing."""

from __future__ import annotations

# By the names that are imported, which metadata does not tell of a package that is not there.
EXTRAS: dict[str, tuple[str, ...]] = {
    "runtime": (
        *("aiohttp", "fastapi", "httptools", "jinja2", "prometheus_client", "safetensors", "tokenizers"),
        *("torch", "transformers", "uvicorn", "uvloop", "zmq"),
    ),
    "cuda": ("flashinfer",),
    "sweep": ("ray",),
}
_OURS = ("harness", "policies", "runtime", "traces")


def not_installed(error: ModuleNotFoundError) -> str | None:
    """What a user is told of a package that is missing, and how to get it; None where the module is one of ours."""
    name = (error.name or str(error)).partition(".")[0]
    if name in _OURS:
        return None
    extra = next((extra for extra, names in EXTRAS.items() if name in names), None)
    return f"{name} is not installed: pip install 'servetwin{f'[{extra}]' if extra else ''}'"
