"""The fast tokenizer gives the ids of the other one, or steps aside."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import tokenizers
from tokenizers import AddedToken, normalizers, pre_tokenizers, processors

from tokenworks.text.byte_bpe import ByteBpe, Description, byte_bpe

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def describe(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(backend.to_str())
    return described


def twin_of(backend: tokenizers.Tokenizer, change: Callable[[dict[str, Any]], Any] = lambda d: None) -> ByteBpe | None:
    """The fast twin, of a description that a test may change."""
    described = describe(backend)
    change(described)
    return byte_bpe(msgspec.convert(described, Description), backend)


def texts(seed: int) -> list[str]:
    """Random mixtures of what vocabularies stumble over."""
    rng = random.Random(seed)
    parts = [
        "the quick",
        " dog",
        "你好",
        "🙂🙃",
        "\n\n",
        "   ",
        "don't",
        "42",
        "é",
        "e\u0301",
        "<|end|>",
        "<tool call>",
        "\x00",
    ]
    return ["".join(rng.choice(parts) for _ in range(rng.randrange(30))) for _ in range(200)]


def qwen_like(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same vocabulary behind the splitting and normalising of Qwen."""
    split = pre_tokenizers.Split(tokenizers.Regex(QWEN_PATTERN), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.normalizer = normalizers.NFC()
    return backend


@pytest.mark.parametrize("family", [lambda backend: backend, qwen_like], ids=["gpt2", "qwen"])
def test_both_give_the_same_ids(byte_level: tokenizers.Tokenizer, family: Callable[[Any], Any]) -> None:
    backend = family(byte_level)
    twin = twin_of(backend)
    assert twin is not None
    num_fast = 0
    for text in texts(1):
        ids = twin.encode(text, add_special_tokens=False)
        num_fast += ids is not None
        assert ids in (None, backend.encode(text, add_special_tokens=False).ids)
    assert num_fast > 20


def test_special_tokens_go_around_the_text(byte_level: tokenizers.Tokenizer) -> None:
    byte_level.post_processor = processors.TemplateProcessing(
        single="<|start|> $A <|end|>", special_tokens=[("<|start|>", 1), ("<|end|>", 0)]
    )
    twin = twin_of(byte_level)
    assert twin is not None
    bare = twin.encode("the dog", add_special_tokens=False)
    assert bare is not None
    assert twin.encode("the dog", add_special_tokens=True) == [1, *bare, 0]


def test_text_that_would_have_to_be_normalised_is_left_to_the_other(byte_level: tokenizers.Tokenizer) -> None:
    twin = twin_of(qwen_like(byte_level))
    assert twin is not None
    assert twin.encode("é", add_special_tokens=False) is not None
    assert twin.encode("e\u0301", add_special_tokens=False) is None


def test_text_that_the_splitter_cannot_take_is_left_to_the_other(byte_level: tokenizers.Tokenizer) -> None:
    twin = twin_of(byte_level)
    assert twin is not None
    assert twin.encode(" " * 1_000_000, add_special_tokens=False) is None


def is_prefix(described: dict[str, Any]) -> None:
    described["added_tokens"].append({"id": 9999, "content": "<|end|>more"})


DOUBTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another kind of model": lambda d: d["model"].update(type="WordPiece"),
    "dropout": lambda d: d["model"].update(dropout=0.1),
    "byte fallback": lambda d: d["model"].update(byte_fallback=True),
    "a prefix inside words": lambda d: d["model"].update(continuing_subword_prefix="##"),
    "a vocabulary that is no table": lambda d: d["model"].update(vocab=[["a", -1.0]]),
    "a token outside the alphabet": lambda d: d["model"]["vocab"].update({"你": 5000}),
    "a missing byte": lambda d: d["model"]["vocab"].pop("!"),
    "merges out of order": lambda d: d["model"]["merges"].reverse(),
    "a token that no merge makes": lambda d: d["model"]["merges"].pop(),
    "another normaliser": lambda d: d.update(normalizer={"type": "Lowercase"}),
    "another splitting": lambda d: d.update(pre_tokenizer={"type": "Whitespace"}),
    "no splitting": lambda d: d.update(pre_tokenizer=None),
    "an expression that is not one": lambda d: d.update(
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }
    ),
    "an expression that splits otherwise": lambda d: d.update(
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": r"\S"}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }
    ),
    "an added token that takes spaces along": lambda d: d["added_tokens"][0].update(lstrip=True),
    "an added token that another begins with": is_prefix,
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_in_doubt_there_is_no_twin(doubt: str, byte_level: tokenizers.Tokenizer) -> None:
    assert twin_of(byte_level) is not None
    assert twin_of(byte_level, DOUBTS[doubt]) is None


def test_other_families_have_no_twin(
    byte_fallback: tokenizers.Tokenizer, metaspace: tokenizers.Tokenizer, byte_level: tokenizers.Tokenizer
) -> None:
    assert twin_of(byte_fallback) is None
    assert twin_of(metaspace) is None
    byte_level.add_tokens([AddedToken("own word", single_word=True)])
    assert twin_of(byte_level) is None
