"""What the real server takes of this machine's memory where it runs on the CPU, said before it begins."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from harness.config import ConfigError, ExperimentConfig
from harness.cost.model import ModelShape
from runtime.scheduler import SchedulerConfig

GB = 1e9
WORTH_SAYING = 1 * GB
_DTYPES = {
    "float32": "fp32",
    "bfloat16": "bf16",
    "float16": "bf16",
    "fp8": "fp8",
}  # of torch, as the cost model has them


def check_host_memory(config: ExperimentConfig, scheduler: SchedulerConfig, *, random: bool) -> None:
    """Say on standard error what weights and KV take, where that is much; nothing where a GPU holds them.

    Args:
        config: What is to be served.
        scheduler: Its sizes.
        random: Whether the weights are made, not read.

    Raises:
        ConfigError: The machine has no room for them.
    """
    if config.backend["device"] != "cpu":
        return
    shape = ModelShape.from_config(config.model)
    own = config.backend["dtype"] or config.model.get("torch_dtype") or config.model.get("dtype") or "bfloat16"
    weight_dtype, kv_dtype = (_DTYPES.get(config.backend[name] or own, "bf16") for name in ("weight_dtype", "kv_dtype"))
    weights = config.tp * sum(shape.weight_bytes(weight_dtype, config.tp).values())
    kv = config.tp * scheduler.pages * scheduler.page_size * shape.kv_bytes_per_token(config.tp, kv_dtype)
    takes = f"{shape.name} on the CPU takes {weights / GB:.1f} GB of {'random ' if random else ''}weights and "
    takes += f"{kv / GB:.1f} GB of KV"
    free = available_bytes()
    if free is not None and weights + kv > free:
        raise ConfigError(
            f"backend=runtime backend.device=cpu: {takes}, this machine has {free / GB:.1f} GB free; "
            "take model=tiny, a smaller backend.kv_tokens or engine.pages, or backend.device=cuda"
        )
    if weights + kv > WORTH_SAYING:
        print(f"{takes}, and its steps are slow; model=tiny hardware=cpu is ready at once", file=sys.stderr)  # noqa: T201


def available_bytes(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that programs may still take, within the container's limit; None where the kernel does not say."""
    try:
        said = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), flags=re.MULTILINE)
    except OSError:
        return None
    if said is None:
        return None
    free = int(said[1]) * 1024
    try:
        return min(free, int((group / "memory.max").read_text()))
    except (OSError, ValueError):  # no such group, or no limit ("max")
        return free
