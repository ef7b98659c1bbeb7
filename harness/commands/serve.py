"""``harness serve``: an OpenAI-compatible server, in this terminal."""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.registry import PARTS
from runtime.scheduler import SchedulerConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from runtime.server.config import ServerConfig

_RADIX = {
    "order": "fcfs",
    "batching": "prefill_first",
    "reservation": "full",
    "preemption": "newest",
    "eviction": "lru",
    "prediction": "max_tokens",
}
_DRAIN_S = 30.0
_EXAMPLES = """\
examples:
  python -m harness serve
  python -m harness serve model=~/models/Qwen3-0.6B port=8000 pages=2048 batching=chunked
  python -m harness serve tp=2 --shell

and then, at the address that it prints:
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
      -d '{"model": "tiny", "prompt": "Once upon a time", "max_tokens": 20}'
"""


class ServeError(ValueError):
    """A setting that cannot be; the message names it and the way out."""


@dataclass(frozen=True)
class Settings:
    """What ``serve`` takes as ``key=value``, with what each means."""

    model: str = "tiny"  # the built-in one with random weights, or a Hugging Face model folder
    name: str = ""  # that clients ask for; without one, the model folder's
    seed: int = -1  # of random weights for a model folder that has none
    tp: int = 1  # tensor-parallel ranks
    device: str = "cpu"  # cpu or cuda
    dtype: str = ""  # float32, bfloat16 or float16; without one, the model's own
    threads: int = 1  # CPU threads of a rank
    host: str = "127.0.0.1"  # address to bind
    port: int = 0  # 0 for a free one
    tokenizers: int = 1  # tokenizer processes
    page_size: int = 16  # tokens of a page of KV
    pages: int = 1024  # of KV memory
    max_running: int = 64  # the most sequences admitted at once
    max_context: int = 0  # prompt and output tokens of the longest sequence; 0 for the model's own
    max_queued: int = 4096  # requests beyond max_running before new ones get 429
    api_key: str = ""  # what clients must send
    overlap: bool = True  # schedule a step while the one before runs
    prefix_cache: bool = True  # share KV of common prefixes


def main(argv: Sequence[str]) -> int:
    """Serve until interrupted.

    Args:
        argv: Arguments after ``serve``.

    Returns:
        The exit code: 0, 1 where the server died, or 2 where it cannot be started as asked.
    """
    arguments = _parser().parse_args(argv)
    from runtime.server.config import ServerError
    from runtime.server.launch import Server, ServerDiedError

    try:
        server = Server(_config(*_settings(arguments.settings)))
        signal.signal(signal.SIGTERM, _interrupt)
        server.start()
    except (ServerError, ValueError) as error:
        return _say(f"harness serve: {error}", 2)
    except ServerDiedError as error:
        return _say(f"harness serve: {error}", 1)
    except KeyboardInterrupt:
        return 130
    model = server.config.model
    _say(f"serving {model} at {server.url}/v1 (Ctrl-C ends it, after what is being answered)")
    try:
        if arguments.shell:
            from harness.commands.shell import chat

            chat(server.url, model, server.config.api_key, server.check)
        else:
            server.wait()
    except ServerDiedError as error:
        return _say(f"harness serve: {error}", 1)
    except KeyboardInterrupt:
        pass
    return _stop(server.stop)


def _stop(stop: Any) -> int:
    try:
        stop(_DRAIN_S)
    except KeyboardInterrupt:
        stop(0.0)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness serve",
        description="An OpenAI-compatible server: /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics",
        epilog=f"settings and what they are without being set:\n{_documented()}\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="see below")
    parser.add_argument("--shell", action="store_true", help="chat in this terminal")
    return parser


def _documented() -> str:
    lines = [f"  {field.name}={_shown(field.default)}" for field in fields(Settings)]
    lines += [f"  {part}={default} ({', '.join(PARTS[part].builtin)})" for part, default in _RADIX.items()]
    return "\n".join(lines) + "\n"


def _shown(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def _settings(words: Sequence[str]) -> tuple[Settings, dict[str, str]]:
    """The settings, and the names of the policy's parts.

    Raises:
        ServeError: A word is no setting, or its value is of the wrong kind.
    """
    kinds = {field.name: type(field.default) for field in fields(Settings) if field.default is not MISSING}
    values: dict[str, Any] = {}
    policy = dict(_RADIX)
    for word in words:
        key, equals, value = word.partition("=")
        if key in policy and equals:
            policy[key] = value
        elif key in kinds and equals:
            values[key] = _value(key, value, kinds[key])
        else:
            choices = ", ".join([*kinds, *policy])
            raise ServeError(f"{word}: no such setting; write KEY=VALUE with one of {choices}")
    return Settings(**values), policy


def _value(key: str, value: str, kind: type) -> Any:
    if kind is bool:
        if value not in ("true", "false"):
            raise ServeError(f"{key}={value}: true or false")
        return value == "true"
    if kind is int:
        try:
            return int(value)
        except ValueError:
            raise ServeError(f"{key}={value}: a whole number, e.g. {key}=1") from None
    return value


def _config(settings: Settings, parts: dict[str, str]) -> ServerConfig:
    from runtime.models.config import load_model_config
    from runtime.server.config import EngineSpec, ServerConfig
    from runtime.server.tiny import TINY, TINY_MODEL, TINY_SEED

    if settings.device not in ("cpu", "cuda"):
        raise ServeError(f"device={settings.device}: cpu or cuda")
    options: dict[str, Any] = {"device": settings.device, "threads": settings.threads}
    if settings.dtype:
        options["dtype"] = settings.dtype
    folder = None if settings.model == TINY else str(Path(settings.model).expanduser())
    if folder is None:
        options |= {"model": TINY_MODEL, "seed": TINY_SEED}
    else:
        options["model"] = folder
        if settings.seed >= 0:
            options["seed"] = settings.seed
    shape = load_model_config(options["model"])
    longest = shape.max_position_embeddings
    if settings.max_context > longest:
        raise ServeError(f"max_context={settings.max_context}: the model's positions end at {longest}")
    return ServerConfig(
        model=settings.name or (TINY if folder is None else Path(folder).name),
        vocab_size=shape.vocab_size,
        tokenizer=folder,
        scheduler=SchedulerConfig(
            settings.pages, settings.page_size, settings.max_running, settings.max_context or longest
        ),
        policy={
            **{part: {"name": name} for part, name in parts.items()},
            "prefix_cache": settings.prefix_cache,
        },
        engine=EngineSpec("runtime.engine.torch_engine.build", options),
        overlap=settings.overlap,
        tp=settings.tp,
        tokenizers=settings.tokenizers,
        host=settings.host,
        port=settings.port,
        api_key=settings.api_key or None,
        max_queued=settings.max_queued,
    )


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


def _say(line: str, code: int = 0) -> int:
    sys.stderr.write(line + "\n")
    return code
