"""What a run is called: in its first line and in its directory's name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

_PART = re.compile(r"policy[/.](\w+)(?:\.name)?=([\w.:]+)$")  # of a policy, set by itself


def run_name(policy: str, trace: str, backend: str, overrides: Sequence[str]) -> str:
    """``POLICY_TRACE``, with the parts of the policy that are set by themselves, and the backend where it is another.

    Args:
        policy: The choice of the group.
        trace: Likewise; a file's name stands for it where one is given.
        backend: Likewise.
        overrides: The words of the command.
    """
    paths = [word.partition("=")[2].strip("\"'") for word in overrides if word.startswith("trace.path=")]
    parts = [re.split("[.:]", name)[-1] for name in parts_set(overrides).values()]
    words = [policy, *parts, Path(paths[-1]).stem if paths else trace, *([] if backend == "sim" else [backend])]
    return "_".join(re.sub(r"[^\w.-]+", "-", word) for word in words)


def header(config: DictConfig, choices: Mapping[str, str], overrides: Sequence[str]) -> str:
    """A run's first line, with rich's markup.

    Args:
        config: What is run.
        choices: Of the groups.
        overrides: The words of the command.
    """
    parts = ", ".join(f"{part} [bold]{name}[/]" for part, name in parts_set(overrides).items())
    policy = f"[bold]{choices['policy']}[/]" + (f" with {parts}" if parts else "")
    return (
        f"ServeTwin: trace [bold]{config.trace.path or config.trace.name}[/] through backend [bold]"
        f"{choices['backend']}[/], policy {policy}, {config.model.name} on {config.tp}x {config.hardware.name}"
    )


def parts_set(overrides: Sequence[str]) -> dict[str, str]:
    """Parts of the policy that are set by themselves: the choice or the class, by part."""
    found = (_PART.fullmatch(word.lstrip("+")) for word in overrides)
    return {part[1]: part[2] for part in found if part is not None}
