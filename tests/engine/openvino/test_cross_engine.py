"""A prompt computed by one engine and continued by the other, on blocks that went over as neutral bytes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tokenworks.contract.kv import block_names, root_name
from tokenworks.contract.request import Sampling
from tokenworks.engine.engine import Engine

Run = Callable[..., dict[str, Any]]
NEW_TOKENS = 40
PROMPT = [random.Random(11).randrange(512) for _ in range(140)]  # four blocks of 32 tokens, and twelve more
GREEDY = Sampling(max_tokens=NEW_TOKENS, temperature=0)


def hand_over(source: Engine, target: Engine, prompt: list[int]) -> int:
    """Copy the full blocks of `prompt` from one engine's cache to the other's; how many."""
    assert source.spec == target.spec
    names = block_names(root_name(source.spec.fingerprint), prompt, source.spec.block_tokens)
    held = source._pool.match(names)
    places = target._pool.allocate(len(held))
    payload = bytearray(source.spec.bytes_per_block)
    for name, here, there in zip(names, held, places, strict=False):
        source._cache.read_block(here, memoryview(payload))
        target._cache.write_block(there, memoryview(payload))
        target._pool.give_name(there, name)
    target._pool.release(places)
    return len(held)


@pytest.mark.parametrize("prefill", ["ours", "openvino"])
def test_prefill_here_and_decode_there_give_the_same_tokens(
    prefill: str, dense: Any, own_engine: Any, openvino_engine: Any, run_requests: Run, tokens_of: Any
) -> None:
    engines = [own_engine(dense), openvino_engine(dense)]
    source, target = engines if prefill == "ours" else reversed(engines)
    run_requests(source, {"p": (PROMPT, Sampling(max_tokens=1, temperature=0))})
    assert hand_over(source, target, PROMPT) == 4
    outputs = run_requests(target, {"r": (PROMPT, GREEDY)})["r"]
    assert outputs[0].cached_tokens == 128
    assert tokens_of(outputs) == dense.greedy(PROMPT, NEW_TOKENS)


def test_a_wrong_block_changes_the_answer(
    references: Any, own_engine: Any, openvino_engine: Any, run_requests: Run, tokens_of: Any
) -> None:
    """The blocks handed over are what is read: else the test above would prove nothing."""
    reference = references("qwen2")
    source, target = own_engine(reference), openvino_engine(reference)
    run_requests(source, {"p": (PROMPT, Sampling(max_tokens=1, temperature=0))})
    source._cache.data.neg_()
    hand_over(source, target, PROMPT)
    assert tokens_of(run_requests(target, {"r": (PROMPT, GREEDY)})["r"]) != reference.greedy(PROMPT, NEW_TOKENS)
