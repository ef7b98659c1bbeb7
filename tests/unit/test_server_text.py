"""Tokenizers: the built-in one, and model folders as Hugging Face saves them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tokenizers")

from runtime.messages import ChatTurn
from runtime.server.config import ServerError
from runtime.server.text import TemplateError, byte_level_tokenizer, load_tokenizer

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
