"""One table at the end of ``harness run -m``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from harness.report.terminal import table_console


class SweepTable(Callback):
    """A Hydra callback: when all jobs have ended, print what each was and what came of it, and keep it as a file."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table, as ``harness sweep`` does."""
        del kwargs

        from harness.sweep.table import conclude

        # The sweep's directory has a time stamp that was resolved when the sweep began.
        directory = Path(str(OmegaConf.select(config, "hydra.sweep.dir")))
        console = table_console()
        conclude(directory, console)
        console.print(f"Run directories: {directory}", markup=False, soft_wrap=True)
