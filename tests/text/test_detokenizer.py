"""Incremental output equals the tokenizer's own decoding, for any tokens, however they are cut."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
import tokenizers

from tokenworks.text.tokenizer import Tokenizer

Load = Callable[..., Tokenizer]
REAL_TEXT = "Grüße: 你好世界 こんにちは 안녕 🙂👩‍👩‍👧🏳️‍🌈 naïve\n\ttab  two spaces"


def stream(tokenizer: Tokenizer, token_ids: list[int], sizes: Iterator[int], **options: bool) -> list[str]:
    """The pieces that come out when tokens arrive in runs of these sizes, flush last."""
    detokenizer = tokenizer.detokenizer(**options)
    pieces, at = [], 0
    while at < len(token_ids):
        size = next(sizes)
        pieces.append(detokenizer.push(token_ids[at : at + size]))
        at += size
    return [*pieces, detokenizer.flush()]


def sizes(seed: int) -> Iterator[int]:
    """Run lengths of 0 to 4 tokens."""
    random_ = random.Random(seed)
    while True:
        yield random_.randrange(5)


def ones() -> Iterator[int]:
    """One token at a time."""
    while True:
        yield 1


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_random_byte_level_tokens_stream_to_what_decode_gives(
    load: Load, byte_level: tokenizers.Tokenizer, seed: int, skip: bool
) -> None:
    tokenizer = load(byte_level)
    random_ = random.Random(seed)
    beyond = byte_level.get_vocab_size() + 5  # ids that only the model's padded embedding has
    token_ids = [random_.randrange(beyond) for _ in range(random_.randrange(1, 120))]
    expected = byte_level.decode(token_ids, skip_special_tokens=skip)
    assert "".join(stream(tokenizer, token_ids, sizes(seed), skip_special_tokens=skip)) == expected
    assert tokenizer.decode(token_ids, skip_special_tokens=skip) == expected


@pytest.mark.parametrize("seed", range(20))
def test_single_bytes_stream_to_what_decode_gives(load: Load, byte_level: tokenizers.Tokenizer, seed: int) -> None:
    """Only one-byte tokens: nearly all garbage, with a character here and there."""
    tokenizer = load(byte_level)
    random_ = random.Random(seed)
    single = [token for token in range(byte_level.get_vocab_size()) if len(tokenizer.token_bytes[token]) == 1]
    token_ids = random_.choices(single, k=300)
    pieces = stream(tokenizer, token_ids, ones())
    assert "".join(pieces) == byte_level.decode(token_ids)
    lag = 3  # bytes held back at most: garbage is not kept for ever
    for shown in range(lag, len(token_ids)):
        assert len("".join(pieces[:shown]).encode()) >= shown - lag


def test_no_piece_shows_a_character_before_it_is_whole(load: Load, byte_level: tokenizers.Tokenizer) -> None:
    tokenizer = load(byte_level)
    token_ids = byte_level.encode(REAL_TEXT).ids
    pieces = stream(tokenizer, token_ids, ones())
    assert "".join(pieces) == REAL_TEXT
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_that_never_completes_is_replaced_at_the_end(load: Load, byte_level: tokenizers.Tokenizer) -> None:
    tokenizer = load(byte_level)
    smile = [token for byte in "🙂".encode() for token in range(400) if tokenizer.token_bytes[token] == bytes([byte])]
    detokenizer = tokenizer.detokenizer()
    assert [detokenizer.push([token]) for token in smile[:3]] == ["", "", ""]
    assert detokenizer.flush() == "\ufffd"


def test_an_added_token_outside_the_byte_alphabet_stands_for_itself(
    load: Load, byte_level: tokenizers.Tokenizer
) -> None:
    tokenizer = load(byte_level)
    token = byte_level.token_to_id("<tool call>")
    assert tokenizer.decode([token]) == byte_level.decode([token]) == "<tool call>"


def is_exact(tokenizer: Tokenizer, token_ids: list[int]) -> bool:
    """Whether every run of byte tokens is UTF-8 as a whole: there the tokenizer's decode keeps good characters."""
    run = b""
    for token in [*token_ids, None]:
        if token is not None and 3 <= token < 259:
            run += tokenizer.token_bytes[token]
        elif token is None or token not in tokenizer.special_ids:
            if run.decode("utf-8", "ignore").encode() != run:
                return False
            run = b""
    return True


def byte_fallback_tokens(tokenizer: Tokenizer, random_: random.Random) -> list[int]:
    """Words, special tokens, and characters spelt in bytes."""
    words = [*range(259, 270), 1, 2]
    token_ids: list[int] = []
    for _ in range(random_.randrange(1, 40)):
        if random_.random() < 0.4:
            char = random_.choice("é你🙂 ~\n")
            token_ids += [3 + byte for byte in char.encode()]
        else:
            token_ids.append(random_.choice(words))
    return token_ids


@pytest.mark.parametrize("seed", range(40))
def test_byte_fallback_tokens_stream_to_what_decode_gives(
    load: Load, byte_fallback: tokenizers.Tokenizer, seed: int
) -> None:
    tokenizer = load(byte_fallback)
    token_ids = byte_fallback_tokens(tokenizer, random.Random(seed))
    assert is_exact(tokenizer, token_ids)
    pieces = stream(tokenizer, token_ids, sizes(seed))
    assert "".join(pieces) == byte_fallback.decode(token_ids)


@pytest.mark.parametrize("seed", range(20))
def test_byte_fallback_garbage_keeps_the_good_characters(
    load: Load, byte_fallback: tokenizers.Tokenizer, seed: int
) -> None:
    """The stated exception: decode would replace every byte of a run that is not UTF-8 as a whole."""
    tokenizer = load(byte_fallback)
    token_ids = random.Random(seed).choices(range(byte_fallback.get_vocab_size()), k=80)
    pieces = stream(tokenizer, token_ids, ones(), is_continuation=True)
    shown = [token for token in token_ids if token not in tokenizer.special_ids]
    assert "".join(pieces) == tokenizer.token_bytes.join(shown).decode("utf-8", "replace")


def test_a_continuation_keeps_its_first_space(load: Load, byte_fallback: tokenizers.Tokenizer) -> None:
    tokenizer = load(byte_fallback)
    token_ids = byte_fallback.encode("ab ab", add_special_tokens=False).ids
    assert "".join(stream(tokenizer, token_ids, ones())) == "ab ab"
    assert "".join(stream(tokenizer, token_ids, ones(), is_continuation=True)) == " ab ab"


@pytest.mark.parametrize("seed", range(20))
def test_metaspace_tokens_stream_to_what_decode_gives(load: Load, metaspace: tokenizers.Tokenizer, seed: int) -> None:
    tokenizer = load(metaspace)
    token_ids = random.Random(seed).choices(range(1, 9), k=12)
    assert "".join(stream(tokenizer, token_ids, sizes(seed))) == metaspace.decode(token_ids)


def test_without_a_decoder_tokens_are_words(load: Load, metaspace: tokenizers.Tokenizer) -> None:
    metaspace.decoder = None
    tokenizer = load(metaspace)
    assert "".join(stream(tokenizer, [2, 5, 2], ones())) == metaspace.decode([2, 5, 2]) == "a é a"
