"""The server: scheduler core, processes, engine, models and kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.llm import LLM as LLM


def __getattr__(name: str) -> Any:
    """``from runtime import LLM`` imports torch; ``import runtime`` does not."""
    if name == "LLM":
        from runtime.llm import LLM

        return LLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
