"""A prompt whose KV another engine computed: the same tokens as `transformers`, and only what is worth fetching."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.worker.kv.asking import (
    BLOCK,
    GREEDY,
    NEW_TOKENS,
    PROMPT,
    answer,
    blocks_read,
    hold_back,
    meddle,
    publish,
    tokens,
)
from tokenworks.contract.kv import BlockName, Tier, block_names, root_name
from tokenworks.contract.request import Sampling
from tokenworks.engine.engine import Engine
from tokenworks.kv.convert import convert

if TYPE_CHECKING:
    from tests.worker.kv.asking import Join
    from tests.worker.kv.conftest import Member


@pytest.mark.parametrize("name", ["llama3", "qwen2-sliding", "qwen3-tied", "mistral-sliding", "qwen3-moe"])
def test_what_one_engine_publishes_another_continues_token_for_token(name: str, references: Any, join: Join) -> None:
    reference = references(name)
    publish(join(reference.engine()), PROMPT)
    reader = join(reference.engine())
    outputs = reader.run("request", PROMPT, GREEDY)
    assert answer(reader) == reference.greedy(PROMPT, NEW_TOKENS)
    assert outputs[0].cached_tokens == 64
    assert outputs[0].fetched_tokens == {Tier.HOST: 64}
    assert reader.faults == {}


def test_the_block_of_the_last_token_is_computed_though_it_is_held(reader: Member, reference: Any) -> None:
    outputs = reader.run("request", PROMPT[:64], GREEDY)
    assert answer(reader) == reference.greedy(PROMPT[:64], NEW_TOKENS)
    assert outputs[0].cached_tokens == 56


def test_what_the_device_has_is_not_fetched_and_its_use_is_told(reader: Member, reference: Any) -> None:
    reader.run("request", PROMPT, GREEDY)
    outputs = reader.run("again", PROMPT, GREEDY)
    assert outputs[0].cached_tokens == 64
    assert outputs[0].fetched_tokens is None
    assert len(reader.client.words("get")) == 1
    (touched,) = reader.client.words("touch")
    assert len(touched[0]) == 8


def test_a_longer_prompt_fetches_only_what_the_device_lacks(reader: Member, reference: Any) -> None:
    reader.run("short", PROMPT[:30], GREEDY)
    outputs = reader.run("request", PROMPT, GREEDY)
    assert answer(reader) == reference.greedy(PROMPT, NEW_TOKENS)
    assert outputs[0].cached_tokens == 64
    assert outputs[0].fetched_tokens == {Tier.HOST: 40}


def test_equal_prompts_that_wait_together_fetch_once(reader: Member, reference: Any) -> None:
    for name in ("request", "twin", "third"):
        reader.add(name, PROMPT, GREEDY)
    reader.finish()
    assert {tuple(answer(reader, name)) for name in reader.outputs} == {tuple(reference.greedy(PROMPT, NEW_TOKENS))}
    assert len(reader.client.words("get")) == 1


def test_int8_kv_travels_with_its_scales(reference: Any, join: Join) -> None:
    publish(join(reference.engine(kv_dtype="int8")), PROMPT)
    reader, alone = join(reference.engine(kv_dtype="int8")), join(reference.engine(kv_dtype="int8"), is_alone=True)
    assert reader.run("request", PROMPT, GREEDY)[0].cached_tokens == 64
    alone.run("request", PROMPT, GREEDY)
    assert answer(reader) == answer(alone)


def test_blocks_of_another_kind_are_converted_where_any_kind_will_do(reference: Any, join: Join) -> None:
    theirs, ours = reference.engine(exchange="any"), reference.engine(kv_dtype="int8", exchange="any")
    publish(join(theirs), PROMPT)
    reader = join(ours)
    assert reader.run("request", PROMPT, GREEDY)[0].cached_tokens == 64
    assert reader.faults == {}
    for name in block_names(root_name(ours.spec.fingerprint), PROMPT, BLOCK):
        expected = memoryview(bytearray(ours.spec.bytes_per_block))
        convert(block_of(theirs, name), theirs.spec, ours.spec, expected)
        assert block_of(ours, name) == expected


def block_of(engine: Engine, name: BlockName) -> memoryview:
    payload = memoryview(bytearray(engine.spec.bytes_per_block))
    block = engine.block_of(name)
    assert block is not None
    engine.memory.read_block(block, payload)
    return payload


def test_another_numerics_class_is_not_found(reference: Any, join: Join) -> None:
    publish(join(reference.engine()), PROMPT)
    reader = join(reference.engine(kv_dtype="int8"))
    assert reader.run("request", PROMPT, GREEDY)[0].cached_tokens == 0


def test_after_preemption_it_is_looked_up_again(references: Any, join: Join) -> None:
    reference = references("qwen3-tied")
    prompts = {f"request {seed}": tokens(40 + seed, seed) for seed in range(6)}
    writer = join(reference.engine())
    for name, prompt in prompts.items():
        publish(writer, prompt, name)
    reader = join(reference.engine(num_blocks=17, max_step_tokens=40))
    for name, prompt in prompts.items():
        reader.add(name, prompt, Sampling(max_tokens=40, temperature=0))
    reader.finish()
    for name, prompt in prompts.items():
        assert answer(reader, name) == reference.greedy(prompt, 40), name
    assert reader.engine.load.preemptions > 0
    assert reader.engine.load.free_blocks == 17
    found = [request for request, *_ in reader.client.words("find")]
    assert len(found) > len(prompts)


# What is worth it


def test_where_computing_is_faster_nothing_is_fetched(reference: Any, join: Join) -> None:
    publish(join(reference.engine()), PROMPT)
    quick = join(reference.engine(), prefill_s_per_token=1e-12)
    assert quick.run("request", PROMPT, GREEDY)[0].cached_tokens == 0
    quick.turn()
    assert quick.exchange.load.kv.declined_blocks == 8
    assert not quick.client.words("get")


def test_a_slow_fetch_delays_nobody_else(reader: Member, reference: Any) -> None:
    """Others run, a step a turn, as if the waiting one were not there; it goes on when its blocks have come."""
    held = hold_back(reader, 0)
    reader.add("request", PROMPT, GREEDY)
    reader.turn_until(lambda: bool(held))
    other = tokens(20, seed=3)
    steps = reader.engine.steps
    reader.add("other", other, GREEDY)
    reader.turn_until(lambda: bool(reader.outputs["other"]))
    assert reader.engine.steps == steps + 1
    reader.turn_until(lambda: bool(reader.outputs["other"][-1].end))
    assert reader.engine.steps <= steps + NEW_TOKENS  # fewer where it ran ahead
    assert answer(reader, "other") == reference.greedy(other, NEW_TOKENS)
    assert reader.engine.load.arriving == 1
    assert reader.outputs["request"] == []
    meddle(reader, lambda event: [event])
    reader.client.pending += held
    reader.finish()
    assert answer(reader) == reference.greedy(PROMPT, NEW_TOKENS)
    assert blocks_read(reader) == 8


def test_the_heartbeat_says_what_was_fetched_and_what_that_took(reader: Member) -> None:
    reader.run("request", PROMPT, GREEDY)
    reader.turn()
    traffic = reader.exchange.load.kv
    fetched = traffic.fetched[Tier.HOST]
    assert traffic.is_attached
    assert fetched.blocks == 8
    assert fetched.num_bytes == 8 * (reader.engine.spec.bytes_per_block + 128)
    assert fetched.predicted_s > 0
    assert fetched.actual_s >= 0
    assert fetched.recompute_s == pytest.approx(64e6)
