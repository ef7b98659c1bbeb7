"""A configuration without a command line: for benchmarks, notebooks and tests."""

from __future__ import annotations

from typing import cast

from harness.config import ExperimentConfig, conf_dir

QUOTING = """Quote a value with spaces or any of ~,=()[]{} twice: "trace.path='my file.csv'\""""


def register() -> None:
    """Tell Hydra our schema and where a user's own files are; twice is as good as once."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    from harness.user_conf import UserConfiguration

    ConfigStore.instance().store("schema", ExperimentConfig)
    Plugins.instance().register(UserConfiguration)


def compose(overrides: list[str]) -> ExperimentConfig:
    """The configuration that ``harness run`` would have with these overrides.

    Raises:
        ConfigError: An override is wrong.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from harness.config import ConfigError

    register()
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = hydra.compose("config", overrides=[*overrides, "name=composed"])
    except HydraException as error:
        raise ConfigError(one_line(error)) from error
    return cast("ExperimentConfig", OmegaConf.to_object(config))


def one_line(error: Exception) -> str:
    """What Hydra says of a mistake, in one line, without its search path and type names."""
    text = str(error)
    if error.__cause__ is not None and str(error.__cause__) not in text:
        text += ": " + str(error.__cause__)
    lines = text.split("Config search path")[0].split("\n")
    wanted = [line.strip() for line in lines if not line.strip().startswith(("full_key:", "object_type="))]
    said = " ".join(" ".join(wanted).split())
    if "override_grammar" in said:  # the parser's words help nobody, and the page that it names is of another version
        said = f"an override cannot be read: {said.split(' See http')[0]}. {QUOTING}"
    return said
