"""A user's own configuration files, beside ours."""

from __future__ import annotations

import os
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from harness.config import conf_dir


def user_directories() -> list[Path]:
    """Directories with configuration groups of the user's, those that exist: first found, first used."""
    candidates = [Path.cwd() / "conf", Path.home() / ".config" / "servetwin" / "conf"]
    if "SERVETWIN_CONF" in os.environ:
        candidates.insert(0, Path(os.environ["SERVETWIN_CONF"]))
    return [path for path in candidates if path.is_dir() and path.resolve() != conf_dir().resolve()]


class UserConfiguration(SearchPathPlugin):
    """Puts the user's directories on Hydra's search path, behind our own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for path in user_directories():
            search_path.append(provider="servetwin-user", path=f"file://{path}")
