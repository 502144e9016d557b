"""A faster way to the same token ids, for tokenizers that are plain byte-level BPE: the tiktoken library.

Encoding is most of what a gateway does for a long prompt, and tiktoken is about five times as fast as `tokenizers` on
the vocabularies of Llama 3 and Qwen. It is used only where it computes the same function: the description in
`tokenizer.json` must be of the known form, and both must agree on a text made of the vocabulary itself. In any doubt,
at load or for a single text, `tokenizers` does the work, as it does for every other kind of tokenizer.
"""

from __future__ import annotations

import logging
import random
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec
import tiktoken
import tokenizers

from tokenworks.text.token_bytes import byte_level_alphabet

_log = logging.getLogger(__name__)

GPT2_PATTERN: Final = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What a ByteLevel pre-tokenizer splits by when it is not told otherwise."""
SAMPLE_TOKENS: Final = 20_000


class AddedToken(msgspec.Struct, frozen=True):
    """A token that is found in the text before anything else."""

    id: int
    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False


class Model(msgspec.Struct, frozen=True):
    """The `model` section; the defaults are those of a BPE without frills."""

    vocab: Any = None
    merges: Any = None
    type: str = "BPE"
    dropout: float | None = None
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    byte_fallback: bool = False
    ignore_merges: bool = False

    @property
    def is_plain_bpe(self) -> bool:
        """Whether nothing but merges decides."""
        frills = (self.dropout, self.continuing_subword_prefix, self.end_of_word_suffix, self.byte_fallback)
        return self.type == "BPE" and not any(frills) and isinstance(self.vocab, dict)


class Description(msgspec.Struct, frozen=True):
    """The sections of `tokenizer.json` that decide how text is split and merged."""

    model: Model
    added_tokens: list[AddedToken] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None


class ByteBpe:
    """Text to token ids, where it is sure to be right."""

    def __init__(self, encoding: tiktoken.Encoding, needs_nfc: bool, prefix: list[int], suffix: list[int]) -> None:
        self._encoding = encoding
        self._needs_nfc = needs_nfc
        self._prefix = prefix
        self._suffix = suffix

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int] | None:
        """The token ids, or None where the other library must be asked."""
        if self._needs_nfc and not (text.isascii() or unicodedata.is_normalized("NFC", text)):
            return None
        try:
            ids = self._encoding.encode(text, allowed_special="all")
        except ValueError:  # the splitting expression gave up, as it does on a million spaces
            return None
        return [*self._prefix, *ids, *self._suffix] if add_special_tokens else ids


def byte_bpe(description: Description, backend: tokenizers.Tokenizer) -> ByteBpe | None:
    """The fast twin of `backend`, or None where it has none."""
    pattern = _pattern(description.pre_tokenizer)
    ranks = _ranks(description)
    affixes = _affixes(backend)
    needs_nfc = description.normalizer == {"type": "NFC"}
    if pattern is None or ranks is None or affixes is None or not (needs_nfc or description.normalizer is None):
        return None
    added = {token.content: token.id for token in description.added_tokens}
    try:
        encoding = tiktoken.Encoding("model", pat_str=pattern, mergeable_ranks=ranks, special_tokens=added)
    except (ValueError, AssertionError) as error:
        _log.info("the fast tokenizer does not take this vocabulary: %s", error)
        return None
    fast = ByteBpe(encoding, needs_nfc, *affixes)
    return fast if _agree(fast, backend, list(ranks)) else None


def _pattern(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """The expression whose matches are merged apart from each other; None where splitting is anything else."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return GPT2_PATTERN
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern
    return None


def _ranks(description: Description) -> dict[bytes, int] | None:
    """Bytes of each ordinary token to its id; None where an id is not also the rank of the token's merge."""
    model, added = description.model, description.added_tokens
    if not model.is_plain_bpe or not _are_simple(added):
        return None
    byte_of = {char: byte for byte, char in enumerate(byte_level_alphabet())}
    contents = {token.content for token in added}
    ordinary = {token: rank for token, rank in model.vocab.items() if token not in contents}
    if not all(char in byte_of for token in ordinary for char in token) or not byte_of.keys() <= ordinary.keys():
        return None
    if not _merges_follow_ids(model, ordinary):
        return None
    return {bytes([byte_of[char] for char in token]): rank for token, rank in ordinary.items()}


def _are_simple(added: Sequence[AddedToken]) -> bool:
    """Found wherever they stand, and none the beginning of another, so that the order of looking does not matter."""
    if any(token.single_word or token.lstrip or token.rstrip for token in added):
        return False
    contents = sorted(token.content for token in added)
    return not any(longer.startswith(shorter) for shorter, longer in pairwise(contents))


def _merges_follow_ids(model: Model, ordinary: dict[str, int]) -> bool:
    """Whether earlier merges make smaller ids, and every token of several bytes is made by a merge."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model.merges or []]
    made = [ordinary.get("".join(pair), -1) for pair in pairs]
    is_ordered = all(earlier <= later for earlier, later in pairwise(made)) and -1 not in made
    is_complete = model.ignore_merges or set(made) >= {rank for token, rank in ordinary.items() if len(token) > 1}
    return is_ordered and is_complete


def _affixes(backend: tokenizers.Tokenizer) -> tuple[list[int], list[int]] | None:
    """The special tokens that the tokenizer puts before and after a text."""
    bare = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a", add_special_tokens=True).ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    return None


def _agree(fast: ByteBpe, backend: tokenizers.Tokenizer, tokens: list[bytes]) -> bool:
    """Whether both give the same ids for a text made of the vocabulary, in an order that has nothing to do with it."""
    rng = random.Random(0)
    sample = rng.sample(tokens, min(len(tokens), SAMPLE_TOKENS))
    text = b"".join(sample).decode(errors="ignore")
    for start in range(0, len(text), 4096):
        piece = text[start : start + 4096]
        ids = fast.encode(piece, add_special_tokens=True)
        if ids is not None and ids != backend.encode(piece).ids:
            _log.warning("the fast tokenizer disagrees on this vocabulary and is not used")
            return False
    return True
