"""Loading: special tokens, windows, templates; and what a wrong checkpoint is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders

from tokenworks.contract.errors import CheckpointError, InvalidRequest
from tokenworks.text.model_files import read_model_files
from tokenworks.text.tokenizer import Tokenizer, load_tokenizer

Write = Callable[..., Path]
Load = Callable[..., Tokenizer]


def test_a_prompt_gets_the_tokenizers_own_special_tokens(load: Load, byte_fallback: tokenizers.Tokenizer) -> None:
    tokenizer = load(byte_fallback)
    bare = tokenizer.encode("ab", add_special_tokens=False)
    assert tokenizer.encode("ab") == [1, *bare]


def test_truncation_and_padding_of_the_file_are_off(load: Load, byte_level: tokenizers.Tokenizer) -> None:
    byte_level.enable_truncation(2)
    byte_level.enable_padding(length=50)
    tokenizer = load(byte_level)
    assert tokenizer.decode(tokenizer.encode("the quick brown fox")) == "the quick brown fox"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"config": {"eos_token_id": 7}}, (7,)),
        ({"config": {"eos_token_id": [7, 8]}}, (7, 8)),
        ({"config": {"eos_token_id": 7}, "generation_config": {"eos_token_id": [9, 8]}}, (8, 9)),
        ({"config": {"eos_token_id": 7}, "tokenizer_config": {"eos_token": "<|end|>"}}, (0, 7)),
        ({"tokenizer_config": {"eos_token": {"content": "<|end|>"}}}, (0,)),
        ({"tokenizer_config": {"eos_token": "not a token"}}, ()),
        ({}, ()),
    ],
)
def test_end_ids_come_from_every_place_that_names_them(
    load: Load, byte_level: tokenizers.Tokenizer, files: dict[str, object], expected: tuple[int, ...]
) -> None:
    assert load(byte_level, **files).eos_token_ids == expected


def test_what_config_says_of_sizes_and_sampling(load: Load, byte_level: tokenizers.Tokenizer) -> None:
    tokenizer = load(
        byte_level,
        config={"vocab_size": 512, "max_position_embeddings": 2048},
        generation_config={"temperature": 0.6, "top_k": 20, "do_sample": True},
    )
    assert tokenizer.vocab_size == 512
    assert tokenizer.files.max_context_tokens == 2048
    assert (tokenizer.files.generation.temperature, tokenizer.files.generation.top_p) == (0.6, None)


def test_ids_outside_the_vocabulary_are_refused(load: Load, byte_level: tokenizers.Tokenizer) -> None:
    tokenizer = load(byte_level, config={"vocab_size": 512})
    tokenizer.check_ids([0, 511], "prompt")
    tokenizer.check_ids([], "prompt")
    for wrong in ([0, 512], [-1]):
        with pytest.raises(InvalidRequest, match="0 to 511") as caught:
            tokenizer.check_ids(wrong, "prompt")
        assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("inline", "inline"),
        ([{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}], "d"),
        ([{"name": "only", "template": "o"}], "o"),
        ([{"name": "a", "template": "a"}, {"name": "b", "template": "b"}], None),
        (None, None),
    ],
)
def test_the_chat_template_in_each_of_its_forms(
    write_checkpoint: Write, template: object, expected: str | None
) -> None:
    path = write_checkpoint(None, tokenizer_config={"chat_template": template})
    assert read_model_files(path).chat_template == expected


def test_a_separate_template_file_wins(write_checkpoint: Write) -> None:
    path = write_checkpoint(None, tokenizer_config={"chat_template": "inline"})
    (path / "chat_template.jinja").write_text("separate")
    assert read_model_files(path).chat_template == "separate"


def test_a_missing_file_is_named(write_checkpoint: Write, byte_level: tokenizers.Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="config.json.*Hugging Face"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="tokenizer.json"):
        load_tokenizer(write_checkpoint(None))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"eos_token_id": "x"}', b"\xff\xfe", b"[" * 5000])
def test_a_malformed_file_is_named(write_checkpoint: Write, byte_level: tokenizers.Tokenizer, content: bytes) -> None:
    path = write_checkpoint(byte_level)
    (path / "generation_config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="generation_config.json is malformed"):
        load_tokenizer(path)


@pytest.mark.parametrize("content", [b"{}", b'{"decoder": 3}', b'{"model": {"type": "Nonsense"}}'])
def test_a_malformed_tokenizer_is_named(write_checkpoint: Write, content: bytes) -> None:
    path = write_checkpoint(None)
    (path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="tokenizer.json is malformed"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.WordPiece(),
        decoders.Strip("x", 1, 0),
        decoders.Strip(" ", 0, 1),
        decoders.Sequence([decoders.Fuse(), decoders.CTC()]),
    ],
)
def test_a_decoder_that_is_not_understood_is_refused(
    load: Load, byte_level: tokenizers.Tokenizer, decoder: decoders.Decoder
) -> None:
    byte_level.decoder = decoder
    with pytest.raises(CheckpointError, match="decoder.*not supported"):
        load(byte_level)


def test_a_metaspace_decoder_that_keeps_the_first_space(load: Load, metaspace: tokenizers.Tokenizer) -> None:
    metaspace.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer = load(metaspace)
    assert tokenizer.decode([3, 4]) == metaspace.decode([3, 4]) == " a b"
