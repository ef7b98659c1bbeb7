"""``harness serve``: an OpenAI-compatible server, in this terminal."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

from harness.commands.parser import command_parser
from harness.complaint import complain
from harness.exit_code import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from runtime.server.config import ServerConfig
    from runtime.server.launch import ServerDiedError

_DRAIN_S = 30.0
_DEFAULTS = ("backend=runtime", "model=tiny", "hardware=cpu", "policy=vllm", "engine.page_size=16")
_EXAMPLES = """\
examples:
  python -m harness serve --port 8000
  python -m harness serve model.path=$HOME/models/Qwen3-0.6B tp=2 --port 8000
  python -m harness serve policy=radix --max-queued 256
  python -m harness serve --shell

and then, at the address that it prints:
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
      -d '{"model": "tiny", "prompt": "Once upon a time", "max_tokens": 20}'

The policy is vllm: prompts are computed in chunks beside the decodes, and KV memory is taken as it is needed. With
policy=radix, the default of harness run, prompts go first, and each request has room for all of max_tokens reserved.

Overrides are those of harness run: policy, engine.pages, engine.max_context, backend.device=cuda and so on.
"""


def main(argv: list[str]) -> ExitCode:
    """Serve until interrupted.

    Args:
        argv: Arguments after ``serve``.

    Returns:
        The exit code: 0, or 1 where the server died.

    Raises:
        ConfigError: It cannot be started as asked.
    """
    arguments = _parser().parse_intermixed_args(argv)
    from harness.config import ConfigError
    from runtime.server.config import ServerError
    from runtime.server.launch import Server, ServerDiedError

    try:
        server = Server(_config(arguments))
        signal.signal(signal.SIGTERM, _interrupt)
        server.start()
    except ServerError as error:
        raise ConfigError(str(error)) from error
    except ServerDiedError as error:
        return _died(error)
    model = server.config.model
    sys.stderr.write(f"serving {model} at {server.url}/v1 (Ctrl-C ends it, after what is being answered)\n")
    try:
        if arguments.shell:
            from harness.commands.shell import chat

            chat(server.url, model, server.config.api_key, server.check)
        else:
            server.wait()
    except ServerDiedError as error:
        return _died(error)
    except KeyboardInterrupt:
        pass
    return _stop(server.stop)


def _stop(stop: Callable[[float], None]) -> ExitCode:
    try:
        stop(_DRAIN_S)
    except KeyboardInterrupt:
        stop(0.0)
        raise
    return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "serve",
        "An OpenAI-compatible server: /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics",
        _EXAMPLES,
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=f"besides {' '.join(_DEFAULTS)}")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, help="port to bind (a free one)")
    parser.add_argument("--name", help="that clients ask for (the model's)")
    parser.add_argument("--api-key", help="what clients must send as a bearer token")
    parser.add_argument(
        "--max-queued", type=int, default=4096, help="requests that wait before new ones get 429 (4096)"
    )
    parser.add_argument("--tokenizers", type=int, default=1, help="tokenizer processes (1)")
    parser.add_argument("--shell", action="store_true", help="chat in this terminal")
    return parser


def _config(arguments: argparse.Namespace) -> ServerConfig:
    from harness.backends.host_memory import check_host_memory
    from harness.backends.runtime import runtime_of
    from harness.compose import compose
    from runtime.server.config import ServerConfig

    config = compose([*_DEFAULTS, *arguments.overrides])
    runtime = runtime_of(config)
    check_host_memory(config, runtime.scheduler, random="seed" in runtime.engine.options)
    name = str(config.model["name"]) if runtime.folder is None else runtime.folder.name
    return ServerConfig(
        model=arguments.name or name,
        vocab_size=runtime.vocab_size,
        tokenizer=None if runtime.folder is None else str(runtime.folder),
        scheduler=runtime.scheduler,
        policy=config.policy,
        engine=runtime.engine,
        overlap=config.engine.overlap,
        tp=config.tp,
        tokenizers=arguments.tokenizers,
        host=arguments.host,
        port=arguments.port,
        api_key=arguments.api_key,
        max_queued=arguments.max_queued,
        stall_s=float(config.backend["stall_s"]),
    )


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


def _died(error: ServerDiedError) -> ExitCode:
    complain("harness serve", str(error))
    return ExitCode.FAILED
