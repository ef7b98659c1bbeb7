"""A configuration without a command line: for benchmarks, notebooks and tests."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, cast

from harness.config import ConfigError, ExperimentConfig, conf_dir
from harness.knob_names import nearest, no_such_knob

if TYPE_CHECKING:
    from omegaconf import DictConfig

QUOTING = """Quote a value with spaces or any of ~,=()[]{} twice: "trace.path='my file.csv'\""""


def register() -> None:
    """Tell Hydra our schema and where a user's own files are; twice is as good as once."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    from harness.naming import run_name
    from harness.user_conf import UserConfiguration

    ConfigStore.instance().store("schema", ExperimentConfig)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    Plugins.instance().register(UserConfiguration)


def compose(overrides: list[str]) -> ExperimentConfig:
    """The configuration that ``harness run`` would have with these overrides.

    Raises:
        ConfigError: An override is wrong.
    """
    import hydra
    from hydra.errors import HydraException

    register()
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = hydra.compose("config", overrides=[*overrides, "name=composed"])
    except HydraException as error:
        raise ConfigError(one_line(error)) from error
    return settled(config)


def settled(config: DictConfig) -> ExperimentConfig:
    """A composed configuration as plain dataclasses.

    Raises:
        ConfigError: It has a knob that no part of ours reads: one that was added with a plus.
    """
    from omegaconf import OmegaConf

    found = cast("ExperimentConfig", OmegaConf.to_object(config))
    for prefix, part in (
        ("", found),
        ("trace.", found.trace),
        ("workload.", found.workload),
        ("engine.", found.engine),
    ):
        known = {field.name for field in fields(part)}
        for knob in vars(part).keys() - known:
            meant = nearest(prefix + knob, {prefix + name for name in known})
            raise ConfigError(
                f"+{prefix}{knob}: there is no such knob; " + (f"did you mean {meant}?" if meant else "leave it out")
            )
    return found


def one_line(error: Exception) -> str:
    """What Hydra says of a mistake, in one line, without its search path and type names."""
    text = str(error)
    if error.__cause__ is not None and str(error.__cause__) not in text:
        text += ": " + str(error.__cause__)
    lines = text.split("Config search path")[0].split("\n")
    wanted = [line.strip() for line in lines if not line.strip().startswith(("full_key:", "object_type="))]
    said = " ".join(" ".join(wanted).split())
    if (unknown := no_such_knob(said)) is not None:
        return unknown
    if "override_grammar" in said:  # the parser's words help nobody, and the page that it names is of another version
        said = f"an override cannot be read: {said.split(' See http')[0]}. {QUOTING}"
    return said
