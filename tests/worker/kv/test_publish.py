"""What an engine computes is put into the store; and the end of a prefill for somebody else waits for that."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tokenworks.contract.kv import block_names, root_name
from tokenworks.contract.request import Sampling
from tokenworks.kv.client import StoreEvent
from tokenworks.kv.format import verify
from tokenworks.kv.protocol import Found, Granted, Ready

if TYPE_CHECKING:
    from tests.worker.kv.conftest import Member, StoreProcess

    Join = Callable[..., Member]

GREEDY = Sampling(max_tokens=30, temperature=0)
PREFILL = Sampling(max_tokens=1, temperature=0)
PROMPT = [random.Random(5).randrange(512) for _ in range(64)]


@pytest.fixture
def writer(references: Any, join: Join) -> Member:
    return join(references("qwen3-tied").engine(max_step_tokens=24))


def held(member: Member, token_ids: list[int]) -> int:
    """How many of these tokens' blocks the store holds."""
    found: list[Found] = []
    alter = member.client.alter

    def catch(event: StoreEvent) -> list[StoreEvent]:
        if isinstance(event, Found) and event.request == "test":
            found.append(event)
            return []
        return alter(event)

    member.client.alter = catch
    spec = member.engine.spec
    member.client.find("test", block_names(root_name(spec.fingerprint), token_ids, spec.block_tokens))
    member.turn_until(lambda: bool(found))
    member.client.alter = alter
    return len(found[0].tiers)


def without_answers(event: StoreEvent) -> list[StoreEvent]:
    """Nothing that has to do with putting."""
    is_about_putting = isinstance(event, Granted) or (isinstance(event, Found) and event.request.startswith("publish"))
    return [] if is_about_putting else [event]


def test_every_block_that_is_filled_is_offered_once_and_put(writer: Member) -> None:
    outputs = writer.run("request", PROMPT, GREEDY)
    produced = [token for output in outputs for token in output.token_ids]
    writer.turn_until(lambda: writer.exchange.load.kv.published_blocks == 11)  # 64 + 29 tokens have been computed
    assert held(writer, PROMPT + produced) == 11
    offered = [block.name for (blocks,) in writer.client.words("offer") for block in blocks]
    assert len(offered) == len(set(offered)) == 11
    assert [len(blocks) for (blocks,) in writer.client.words("offer")][:3] == [3, 3, 2]  # one offer a step
    assert writer.exchange.load.kv.published_bytes == 11 * (writer.engine.spec.bytes_per_block + 128)


def test_what_is_put_can_be_verified_and_is_what_was_computed(writer: Member) -> None:
    writer.run("request", PROMPT, PREFILL, publishes=True)
    spec = writer.engine.spec
    names = block_names(root_name(spec.fingerprint), PROMPT, spec.block_tokens)
    places: list[Any] = []
    writer.client.alter = lambda event: places.extend(event.places) or [] if isinstance(event, Ready) else [event]  # type: ignore[func-returns-value]
    writer.client.get("test", names)
    writer.turn_until(lambda: len(places) == 8)
    for place, name, parent in zip(places, names, [root_name(spec.fingerprint), *names], strict=False):
        sealed = bytes(writer.client.memory(place))
        header = verify(sealed, name, spec.fingerprint)
        assert header.parent == parent
        own = bytearray(spec.bytes_per_block)
        block = writer.engine.block_of(name)
        assert block is not None
        writer.engine.memory.read_block(block, memoryview(own))
        assert sealed[128:] == bytes(own)


def test_the_end_of_a_request_that_publishes_is_told_when_its_blocks_are_there(writer: Member) -> None:
    granted: list[StoreEvent] = []

    def hold(event: StoreEvent) -> list[StoreEvent]:
        if isinstance(event, Granted):
            granted.append(event)
            return []
        return without_answers(event)

    writer.client.alter = hold
    writer.add("prefill", PROMPT, PREFILL, publishes=True)
    writer.turn_until(lambda: not writer.engine.has_work and len(granted) == 3)
    assert writer.outputs["prefill"] == []
    assert writer.exchange.is_holding
    writer.client.alter = lambda event: [event]
    writer.client.pending += [*granted, Found("publish prefill", [])]  # the store has answered in this order
    writer.finish()
    assert not writer.exchange.is_holding
    assert held(writer, PROMPT) == 8


def test_blocks_that_the_device_had_are_put_again_where_the_store_has_lost_them(references: Any, join: Join) -> None:
    engine = references("qwen3-tied").engine()
    join(engine, is_alone=True).run("before", [*PROMPT, 1], PREFILL)
    writer = join(engine)
    writer.run("prefill", PROMPT, PREFILL, publishes=True)
    assert held(writer, PROMPT) == 8


def test_a_request_that_publishes_waits_two_seconds_at_most(writer: Member) -> None:
    writer.client.alter = without_answers
    writer.add("prefill", PROMPT, PREFILL, publishes=True)
    writer.turn_until(lambda: not writer.engine.has_work)
    writer.turn()
    assert writer.outputs["prefill"] == []
    writer.skipped_s = 2.0
    writer.turn()
    assert writer.outputs["prefill"][-1].end


def test_a_store_that_wants_nothing_holds_nobody_back(references: Any, join: Join) -> None:
    writer = join(references("qwen3-tied").engine())
    writer.client.alter = lambda event: [] if isinstance(event, Granted) else [event]
    writer.run("prefill", PROMPT, PREFILL, publishes=True)
    assert held(writer, PROMPT) == 0


def test_a_store_that_dies_holds_nobody_back(writer: Member, store: StoreProcess) -> None:
    from tokenworks.kv.client import StoreLost

    writer.client.alter = without_answers
    writer.add("prefill", PROMPT, PREFILL, publishes=True)
    writer.turn_until(lambda: not writer.engine.has_work)
    store.kill()
    writer.client.pending.append(StoreLost("it was killed"))
    writer.turn()
    assert writer.outputs["prefill"][-1].end


def test_a_cancelled_request_is_not_held_back(writer: Member) -> None:
    writer.client.alter = without_answers
    writer.add("prefill", PROMPT, PREFILL, publishes=True)
    writer.turn_until(lambda: not writer.engine.has_work)
    writer.exchange.forget("prefill")
    assert not writer.exchange.is_holding


def test_a_place_for_a_block_that_is_gone_is_given_back(writer: Member) -> None:
    granted: list[Granted] = []
    writer.client.alter = lambda event: granted.append(event) or [] if isinstance(event, Granted) else [event]  # type: ignore[func-returns-value]
    writer.run("request", PROMPT, PREFILL)
    writer.turn_until(lambda: sum(len(each.places) for each in granted) == 8)
    writer.engine.reset_cache()
    writer.client.pending += granted
    writer.turn()
    (aborted,) = writer.client.words("abort")
    assert len(aborted[0]) == 8
    assert not writer.client.words("commit")
    assert held(writer, PROMPT) == 0


def test_a_large_grant_is_written_in_several_turns(writer: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is not held up for all of it."""
    writer.run("request", PROMPT, PREFILL)
    writes = []
    publisher = writer.exchange._publisher
    size = writer.engine.spec.bytes_per_block + 128
    original = publisher.write
    monkeypatch.setattr(publisher, "write", lambda: (writes.append(len(publisher._granted)), original(2 * size)))
    writer.turn_until(lambda: writer.exchange.load.kv.published_blocks == 8)
    assert all(before - after <= 2 for before, after in zip(writes, writes[1:], strict=False))
