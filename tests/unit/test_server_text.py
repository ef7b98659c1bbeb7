"""Tokenizers: the built-in one, and model folders as Hugging Face saves them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tokenizers")

from tokenizers import Tokenizer, decoders, models, normalizers

from runtime.messages import ChatTurn
from runtime.server.config import ServerError
from runtime.server.text import LongTextError, TemplateError, TextTokenizer, byte_level_tokenizer, load_tokenizer

BYTES = byte_level_tokenizer()


@given(text=st.text().filter(lambda text: "<|" not in text))
def test_a_byte_is_a_token(text: str) -> None:
    assert BYTES.encode(text) == list(text.encode())
    assert BYTES.decode(list(text.encode())) == text


def test_a_saved_tokenizer_is_the_same_one(tmp_path: Path) -> None:
    BYTES.save(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    turns = [ChatTurn("system", "Be kind."), ChatTurn("user", "Hi <|im_end|> é")]
    assert loaded.encode_chat(turns) == BYTES.encode_chat(turns)
    assert (loaded.eos_ids, loaded.vocab_size) == (BYTES.eos_ids, BYTES.vocab_size) == (frozenset({256, 258}), 259)


def test_transformers_renders_and_tokenizes_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    BYTES.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    turns = [ChatTurn("system", "Be kind."), ChatTurn("user", "Hi, ¿qué tal?")]
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    rendered = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert BYTES.encode_chat(turns) == rendered
    assert BYTES.encode("Hello, ✓") == theirs("Hello, ✓")["input_ids"]
    assert BYTES.decode([72, 105, 256]) == theirs.decode([72, 105, 256], skip_special_tokens=True)


def test_a_text_too_long_for_the_context_is_refused_before_it_is_tokenized() -> None:
    longest = "<|endoftext|>"  # of all tokens
    assert BYTES.encode(longest * 5, most_tokens=5) == [256] * 5
    said = "66 characters of prompt exceed the context of 5 tokens, of which the longest has 13"
    with pytest.raises(LongTextError, match=said):
        BYTES.encode(longest * 5 + "x", most_tokens=5)
    with pytest.raises(LongTextError):
        BYTES.encode_chat([ChatTurn("user", "x" * 60)], most_tokens=5)


def test_all_end_tokens_of_a_folder_count(tmp_path: Path) -> None:
    BYTES.save(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 11}))
    assert load_tokenizer(str(tmp_path)).eos_ids == {7, 9, 11, 258}


def test_a_template_in_its_own_file_goes_first_and_may_refuse(tmp_path: Path) -> None:
    BYTES.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(
        "{% if messages[0].role != 'user' %}{{ raise_exception('begin with the user') }}{% endif %}"
        "{{ eos_token }}{{ messages[0].content }}"
    )
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.encode_chat([ChatTurn("user", "Hi")]) == [258, *b"Hi"]
    with pytest.raises(TemplateError, match="begin with the user"):
        tokenizer.encode_chat([ChatTurn("system", "Hi")])


def test_a_template_is_told_what_the_client_wants_and_keeps_the_conversation(tmp_path: Path) -> None:
    BYTES.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(
        "{{ messages[0].content }}{% if enable_thinking is defined and not enable_thinking %} no{% endif %}"
        "{{ eos_token }}"
    )
    tokenizer = load_tokenizer(str(tmp_path))
    turns = [ChatTurn("user", "Hi")]
    assert tokenizer.encode_chat(turns) == [*b"Hi", 258]
    assert tokenizer.encode_chat(turns, {"enable_thinking": False}) == [*b"Hi no", 258]
    assert tokenizer.encode_chat(turns, {"messages": "", "eos_token": "x"}) == [*b"Hi", 258]


@pytest.mark.parametrize(("known", "text"), [("", "[Be kind.]"), ("developer", "Be kind.")])
def test_what_a_developer_says_is_not_lost(tmp_path: Path, known: str, text: str) -> None:
    BYTES.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(
        "{% for message in messages %}{% if message.role == 'system' %}[{{ message.content }}]"
        "{% elif message.role == '" + known + "' %}{{ message.content }}{% endif %}{% endfor %}"
    )
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.encode_chat([ChatTurn("developer", "Be kind.")]) == list(text.encode())


def test_a_template_cannot_reach_out_of_its_sandbox(tmp_path: Path) -> None:
    BYTES.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(TemplateError, match="unsafe"):
        load_tokenizer(str(tmp_path)).encode_chat([ChatTurn("user", "Hi")])


def test_folders_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"no tokenizer\.json there"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ServerError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(str(tmp_path))
    BYTES.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ServerError, match=r"tokenizer_config\.json: not JSON"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(TemplateError, match="/v1/completions"):
        load_tokenizer(str(tmp_path)).encode_chat([ChatTurn("user", "Hi")])


def test_a_prompt_is_never_cut_or_filled_up(tmp_path: Path) -> None:
    BYTES.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 40},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 256,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    file.write_text(json.dumps(content))
    assert load_tokenizer(str(tmp_path)).encode("Once upon a time") == list(b"Once upon a time")


@pytest.mark.parametrize("character", ["a", "é", "🙂", "\ufffd"])
def test_part_of_a_character_has_its_own_bytes(character: str) -> None:
    """Their concatenation is the text: what OpenAI's logprobs promise."""
    assert b"".join(BYTES.token_text(token)[1] for token in BYTES.encode(character)) == character.encode()
    assert BYTES.token_text(258) == ("<|im_end|>", b"<|im_end|>")


def test_so_it_has_where_bytes_are_what_no_piece_covers() -> None:
    """As SentencePiece's tokenizers have it: Llama 2, Mistral."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"a": 256, "\u2581": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    text = TextTokenizer(tokenizer, frozenset(), None, {})
    ids = text.encode("a a é")
    assert b"".join(text.token_text(token)[1] for token in ids) == "a a é".encode()
