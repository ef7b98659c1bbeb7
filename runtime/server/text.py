"""Text to token ids and back: Hugging Face's fast tokenizers with chat templates, and one of bytes without a file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from collections.abc import Sequence as Sequences
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from runtime.messages import ChatTurn
from runtime.server.config import ServerError

if TYPE_CHECKING:
    from jinja2 import Template

_UNKNOWN = "\ufffd"
_SPACE = "\u2581"  # SentencePiece's, in names
_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece's name of a byte
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
# GPT-2's printable stand-ins for bytes: themselves where printable, else from 256 up.
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + index): byte for index, byte in enumerate(_OTHERS)}
_BYTE_LEVEL_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
BYTE_LEVEL_VOCAB_SIZE = 256 + len(_BYTE_LEVEL_SPECIALS)
_CHAT_TEMPLATE = (  # ChatML
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class TemplateError(ValueError):
    """A conversation that the model's chat template does not take."""


class LongTextError(ValueError):
    """A text longer than so many tokens can be."""


class TextTokenizer:
    """A tokenizer and its chat template.

    Attributes:
        vocab_size: Token ids are below it.
        eos_ids: Tokens that end an output.
        longest_token: Characters of the longest token.

    Args:
        tokenizer: The tokenizer.
        eos_ids: See above.
        chat_template: Jinja template of conversations, or None.
        special_tokens: Names of special tokens that the template may use (``bos_token``, ...), to their text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        eos_ids: frozenset[int],
        chat_template: str | None,
        special_tokens: dict[str, str],
    ) -> None:
        self._tokenizer = tokenizer
        self._special_tokens = special_tokens
        self._template = None if chat_template is None else _compiled(chat_template)
        self._knows_developers = chat_template is not None and "developer" in chat_template
        self.eos_ids = eos_ids
        vocabulary = tokenizer.get_vocab()
        self.vocab_size: int = max(vocabulary.values()) + 1
        self.longest_token = max(map(len, vocabulary))

    def encode(self, text: str, most_tokens: int | None = None) -> list[int]:
        """Token ids of a prompt, with the special tokens that the model wants around it.

        Args:
            text: The prompt.
            most_tokens: A text that cannot be so few is refused at once: others wait while it is tokenized.

        Raises:
            LongTextError: It is too long.
        """
        self._check_length(text, most_tokens)
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def encode_chat(
        self,
        turns: Sequences[ChatTurn],
        options: Mapping[str, bool | str] | None = None,
        most_tokens: int | None = None,
    ) -> list[int]:
        """Token ids of a conversation, up to where the assistant's answer begins.

        Args:
            turns: The conversation.
            options: What else the template is told; it cannot say otherwise than the conversation.
            most_tokens: See :meth:`encode`.

        Raises:
            TemplateError: The model has no chat template, or its template refuses the conversation.
            LongTextError: It is too long.
        """
        from jinja2 import TemplateError as JinjaError

        if self._template is None:
            raise TemplateError("this model has no chat template: ask /v1/completions instead")
        renamed = {} if self._knows_developers else {"developer": "system"}  # else many leave the message out
        messages = [{"role": renamed.get(turn.role, turn.role), "content": turn.content} for turn in turns]
        ours = {**self._special_tokens, "messages": messages, "add_generation_prompt": True}
        try:
            text = self._template.render({**(options or {}), **ours})
        except JinjaError as error:
            raise TemplateError(f"the model's chat template refuses these messages: {error}") from error
        self._check_length(text, most_tokens)
        # The template has put the special tokens where they belong.
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _check_length(self, text: str, most_tokens: int | None) -> None:
        if most_tokens is not None and len(text) > most_tokens * self.longest_token:
            raise LongTextError(
                f"{len(text)} characters of prompt exceed the context of {most_tokens} tokens, "
                f"of which the longest has {self.longest_token}"
            )

    def decode(self, ids: Sequences[int]) -> str:
        """Text of tokens, special ones left out; a character whose bytes are not all there is U+FFFD."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def token_text(self, token: int) -> tuple[str, bytes]:
        """One token's text, special or not, and its bytes: part of a character is U+FFFD as text."""
        text: str = self._tokenizer.decode([token], skip_special_tokens=False)
        name = self._tokenizer.id_to_token(token) or ""
        if name.startswith(_SPACE) and not text.startswith(" "):
            text = " " + text  # which is stripped where a text begins
        if _UNKNOWN not in text:
            return text, text.encode()
        fallback = _BYTE_FALLBACK.fullmatch(name)
        if fallback is not None:
            return text, bytes.fromhex(fallback[1])
        if all(character in _BYTE_OF for character in name):
            return text, bytes([_BYTE_OF[character] for character in name])
        return text, text.encode()

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and what goes with it, as Hugging Face reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer.save(str(folder / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "chat_template": _CHAT_TEMPLATE,
            **self._special_tokens,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
        generation = {"eos_token_id": sorted(self.eos_ids)}
        (folder / "generation_config.json").write_text(json.dumps(generation, indent=2))


def load_tokenizer(folder: str | None) -> TextTokenizer:
    """The tokenizer of a Hugging Face model folder, or the built-in one.

    Raises:
        ServerError: The folder has no fast tokenizer, or a file in it cannot be read.
    """
    if folder is None:
        return byte_level_tokenizer()
    path = Path(folder)
    file = path / "tokenizer.json"
    if not file.is_file():
        raise ServerError(
            f"model={folder}: no tokenizer.json there. Save a fast tokenizer into it, e.g. "
            "transformers.AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)"
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing more special
        raise ServerError(f"model={folder}: tokenizer.json cannot be read: {error}") from error
    # Some files were saved as they were trained with; a prompt is never cut or filled up.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings = _read_json(path / "tokenizer_config.json")
    special_tokens = {
        name: token["content"] if isinstance(token, dict) else token
        for name, token in settings.items()
        if name.endswith("_token") and isinstance(token, (str, dict))
    }
    return TextTokenizer(
        tokenizer,
        _eos_ids(path, tokenizer, special_tokens.get("eos_token")),
        _chat_template(path, settings),
        special_tokens,
    )


def byte_level_tokenizer() -> TextTokenizer:
    """The built-in tokenizer: token id is byte value, then the special tokens of ChatML."""
    tokenizer = Tokenizer(models.BPE(vocab=_BYTE_OF, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _BYTE_LEVEL_SPECIALS])
    end_of_text, _, end_of_turn = (256 + index for index in range(len(_BYTE_LEVEL_SPECIALS)))
    return TextTokenizer(
        tokenizer,
        frozenset({end_of_text, end_of_turn}),
        _CHAT_TEMPLATE,
        {"eos_token": _BYTE_LEVEL_SPECIALS[2], "pad_token": _BYTE_LEVEL_SPECIALS[0]},
    )


def _eos_ids(path: Path, tokenizer: Tokenizer, eos_token: str | None) -> frozenset[int]:
    """All that may end an output: a chat model's generation_config often knows more than its tokenizer."""
    ids: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        found = _read_json(path / name).get("eos_token_id")
        ids.update([found] if isinstance(found, int) else found or [])
    if eos_token is not None and (token := tokenizer.token_to_id(eos_token)) is not None:
        ids.add(token)
    return frozenset(ids)


def _chat_template(path: Path, settings: dict[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text()
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template if isinstance(template, str) else None


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise ServerError(f"{file}: not JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _compiled(template: str) -> Template:
    """A chat template in the sandbox that transformers renders it in."""
    from jinja2 import TemplateError as JinjaError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise JinjaError(message)

    def strftime_now(form: str) -> str:
        from datetime import datetime

        return datetime.now().astimezone().strftime(form)

    def tojson(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    try:
        return environment.from_string(template)
    except JinjaError as error:
        raise ServerError(f"the model's chat template cannot be read: {error}") from error
