"""Tables that a command saves with ``--out``, as CSV or Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.config import ConfigError

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".csv", ".parquet")


def check_out(path: Path | None) -> None:
    """See whether a table could be saved as this, before the work that fills it; None is no table.

    Raises:
        ConfigError: Its suffix says no format.
    """
    if path is not None and path.suffix not in FORMATS:
        raise ConfigError(f"--out {path}: end it in .csv or .parquet")


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Save a table in the format that the file's suffix says.

    Raises:
        ConfigError: The file cannot be written.
    """
    try:
        if path.suffix == ".csv":
            table.to_csv(path, index=False)
        else:
            table.to_parquet(path, index=False)
    except OSError as error:
        raise ConfigError(f"--out {path}: cannot be written ({error.strerror or error})") from error
