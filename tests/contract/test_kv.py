"""Names of KV blocks: equal exactly where model, salt and every token up to the block's end are equal."""

from __future__ import annotations

from hashlib import blake2b

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.contract.kv import NAME_BYTES, KVSpec, block_names, child_name, root_name

tokens = st.lists(st.integers(0, 2**32 - 1), max_size=40)


def test_a_name_is_the_keyed_hash_of_little_endian_token_ids() -> None:
    """Written out by hand once, so that another machine or release cannot mean something else by a name."""
    root = blake2b(b"print\0salt", digest_size=16).digest()
    first = blake2b(bytes([1, 0, 0, 0, 2, 1, 0, 0]), digest_size=16, key=root).digest()
    assert root_name("print", "salt") == root
    assert block_names(root, [1, 258], 2) == [child_name(root, [1, 258])] == [first]
    assert len(first) == NAME_BYTES


def test_model_and_salt_separate_names() -> None:
    roots = {root_name("a"), root_name("b"), root_name("a", "x"), root_name("b", "x")}
    assert len(roots) == 4
    assert len({block_names(root, [1, 2], 2)[0] for root in roots}) == 4


@given(tokens, st.integers(1, 8))
def test_only_full_blocks_have_names(token_ids: list[int], block_tokens: int) -> None:
    assert len(block_names(root_name("m"), token_ids, block_tokens)) == len(token_ids) // block_tokens


@given(tokens, tokens, st.integers(1, 8))
def test_names_agree_exactly_as_far_as_the_tokens_do(left: list[int], right: list[int], block_tokens: int) -> None:
    root = root_name("m")
    names = [block_names(root, ids, block_tokens) for ids in (left, right)]
    for index, (one, other) in enumerate(zip(*names, strict=False)):
        end = (index + 1) * block_tokens
        assert (one == other) == (left[:end] == right[:end])


def test_kv_of_a_token_is_keys_and_values_of_every_layer_and_head() -> None:
    spec = KVSpec("m", num_layers=2, num_kv_heads=3, head_dim=5, block_tokens=7, dtype="float32")
    assert spec.bytes_per_token == 2 * 2 * 3 * 5 * 4
    assert spec.bytes_per_block == 7 * spec.bytes_per_token
    int8 = msgspec.structs.replace(spec, dtype="int8")
    assert int8.bytes_per_token == 2 * 2 * 3 * (5 + 4)  # a code an element, a float32 scale a head
