"""What goes wrong between store and engine: the same text as `transformers`, and a counter that says what happened."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

from tests.worker.kv.asking import (
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
from tests.worker.kv.reseal import reseal
from tokenworks.contract.kv import BlockName, Tier
from tokenworks.kv.client import StoreEvent, StoreLost
from tokenworks.kv.format import BlockFault, Header, block_bytes, verify
from tokenworks.kv.protocol import Found, Missing, Place, Ready
from tokenworks.worker import kv_intake

if TYPE_CHECKING:
    from tests.worker.kv.asking import Join
    from tests.worker.kv.conftest import Member, StoreProcess


def test_a_block_that_is_missing_half_way(reader: Member, reference: Any) -> None:
    def lose(event: StoreEvent) -> list[StoreEvent]:
        if not isinstance(event, Ready):
            return [event]
        lost = event.places[3]
        rest = [place for place in event.places if place is not lost]
        return [Missing(event.request, [lost.name], "missing"), Ready(event.request, rest)]

    meddle(reader, lose)
    reader.run("request", PROMPT, GREEDY)
    assert answer(reader) == reference.greedy(PROMPT, NEW_TOKENS)
    assert blocks_read(reader) == 3
    assert reader.faults == {"missing": 1}


@pytest.mark.parametrize("fault", ["missing", "late"])
def test_what_came_behind_a_gap_is_not_used(fault: str, reader: Member, reference: Any) -> None:
    """All but one block are in place before it is known that this one will not come."""
    held: list[Missing] = []

    def leave_out(event: StoreEvent) -> list[StoreEvent]:
        if not isinstance(event, Ready):
            return [event]
        lost = event.places[3]
        held.append(Missing(event.request, [lost.name], "missing"))
        return [Ready(event.request, [place for place in event.places if place is not lost])]

    meddle(reader, leave_out)
    reader.add("request", PROMPT, GREEDY)
    reader.turn_until(lambda: bool(held) and not reader.exchange.has_backlog)
    assert reader.exchange.load.arriving == 1
    if fault == "late":
        reader.skipped_s = 1e9
    else:
        reader.client.pending += held
    reader.finish()
    assert answer(reader) == reference.greedy(PROMPT, NEW_TOKENS)
    assert blocks_read(reader) == 3
    assert reader.faults == {fault: 1 if fault == "missing" else 5}


@pytest.mark.parametrize(("at", "fault"), [(0, "torn"), (4, "version"), (50, "checksum"), (5000, "checksum")])
def test_a_bit_that_has_changed(at: int, fault: str, reader: Member, reference: Any) -> None:
    def spoil(event: StoreEvent) -> list[StoreEvent]:
        if isinstance(event, Ready):
            reader.client.memory(event.places[5])[at] ^= 16
        return [event]

    meddle(reader, spoil)
    reader.run("request", PROMPT, GREEDY)
    assert answer(reader) == reference.greedy(PROMPT, NEW_TOKENS)
    assert blocks_read(reader) == 5
    assert reader.faults == {fault: 1}


def test_a_place_that_holds_another_block(reader: Member, reference: Any) -> None:
    def swap(event: StoreEvent) -> list[StoreEvent]:
        if isinstance(event, Ready):
            first, second = event.places[:2]
            reader.client.memory(second)[:] = bytes(reader.client.memory(first))
        return [event]

    meddle(reader, swap)
    reader.run("request", PROMPT, GREEDY)
    assert answer(reader) == reference.greedy(PROMPT, NEW_TOKENS)
    assert blocks_read(reader) == 1
    assert reader.faults == {"name": 1}


@pytest.mark.parametrize("kind", ["model", "version", "spec"])
def test_a_sound_block_that_is_of_no_use(kind: str, reader: Member, reference: Any) -> None:
    """It bears the name, and its checksums agree: another model's, another release's, or of heads that are not ours."""

    def put_another(event: StoreEvent) -> list[StoreEvent]:
        if isinstance(event, Ready):
            reseal(reader.client.memory(event.places[5]), reader.engine.spec, kind)
        return [event]

    meddle(reader, put_another)
    reader.run("request", PROMPT, GREEDY)
    assert answer(reader) == reference.greedy(PROMPT, NEW_TOKENS)
    assert blocks_read(reader) == 5
    assert reader.faults == {kind: 1}


def test_what_changes_in_shared_memory_after_it_was_verified_changes_nothing(
    reader: Member, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place may be another block's at any moment: what is written to the engine is the copy that was verified."""
    places: dict[BlockName, Place] = {}

    def note(event: StoreEvent) -> list[StoreEvent]:
        places.update({place.name: place for place in event.places} if isinstance(event, Ready) else {})
        return [event]

    def verify_and_scribble(block: memoryview, name: BlockName, fingerprint: str) -> Header:
        header = verify(block, name, fingerprint)
        reader.client.memory(places[name])[:] = bytes([0x3F]) * places[name].num_bytes
        return header

    meddle(reader, note)
    monkeypatch.setattr(kv_intake, "verify", verify_and_scribble)
    reader.run("request", PROMPT, GREEDY)
    assert answer(reader) == reference.greedy(PROMPT, NEW_TOKENS)
    assert blocks_read(reader) == len(places) == 8
    assert reader.faults == {}


def test_a_place_that_does_not_exist(reader: Member, reference: Any) -> None:
    def misplace(event: StoreEvent) -> list[StoreEvent]:
        if not isinstance(event, Ready):
            return [event]
        first, second, *_ = event.places
        return [Ready(event.request, [first, type(second)(second.name, 1 << 40, second.num_bytes)])]

    meddle(reader, misplace)
    reader.run("request", PROMPT, GREEDY)
    assert answer(reader) == reference.greedy(PROMPT, NEW_TOKENS)
    assert blocks_read(reader) == 1
    assert reader.faults == {"unreachable": 1}


def test_blocks_that_come_too_late(reader: Member, reference: Any) -> None:
    held = hold_back(reader, 2)
    reader.add("request", PROMPT, GREEDY)
    reader.turn_until(lambda: bool(held))
    reader.turn()
    assert reader.exchange.load.arriving == 1
    assert reader.exchange.patience_s(0.1) == 0.1
    reader.skipped_s = 1e9
    assert reader.exchange.patience_s(0.1) == 0
    reader.finish()
    reader.client.pending += held  # of use to nobody now
    reader.turn()
    assert answer(reader) == reference.greedy(PROMPT, NEW_TOKENS)
    assert blocks_read(reader) == 2
    assert reader.faults == {"late": 6}
    [wait] = reader.exchange.take_waits()
    assert wait.fetched_bytes == {Tier.HOST: 2 * block_bytes(reader.engine.spec)}
    assert wait.by_tier_ns[Tier.HOST] > 1e17
    assert len(reader.client.words("done")) == 1


def test_a_look_up_that_is_not_answered(reader: Member, reference: Any) -> None:
    meddle(reader, lambda event: [] if isinstance(event, Found) else [event])
    reader.add("request", PROMPT, GREEDY)
    reader.turn()
    reader.skipped_s = 1e9
    reader.finish()
    assert answer(reader) == reference.greedy(PROMPT, NEW_TOKENS)
    assert blocks_read(reader) == 0
    assert reader.faults == {"late": 1}


def test_a_look_up_that_is_answered_too_late(reader: Member, reference: Any) -> None:
    """In the very turn in which it is given up: nothing is asked for that nobody could wait for."""
    held: list[StoreEvent] = []

    def hold(event: StoreEvent) -> list[StoreEvent]:
        if not isinstance(event, Found):
            return [event]
        held.append(event)
        return []

    meddle(reader, hold)
    reader.add("request", PROMPT, GREEDY)
    reader.turn_until(lambda: bool(held))
    reader.skipped_s = 1e9
    reader.client.pending += held
    reader.finish()
    assert answer(reader) == reference.greedy(PROMPT, NEW_TOKENS)
    assert reader.faults == {"late": 1}
    assert not reader.client.words("get")


def test_what_the_look_up_took_counts_as_a_wait_for_the_first_tier(reader: Member) -> None:
    def hold(event: StoreEvent) -> list[StoreEvent]:
        reader.skipped_s += 1000.0 * isinstance(event, Found)
        return [event]

    meddle(reader, hold)
    reader.run("request", PROMPT, GREEDY)
    assert blocks_read(reader) == 8
    [wait] = reader.exchange.take_waits()
    assert 1000e9 <= wait.by_tier_ns[Tier.HOST] < 1100e9
    assert reader.exchange.load.kv.fetched[Tier.HOST].actual_s < 100.0  # the tier's own


def test_a_store_that_dies_half_way(reader: Member, reference: Any, store: StoreProcess) -> None:
    held = hold_back(reader, 2)
    reader.add("request", PROMPT, GREEDY)
    reader.turn_until(lambda: bool(held))
    reader.turn()
    store.kill()
    reader.client.pending.append(StoreLost("it was killed"))
    reader.finish()
    assert answer(reader) == reference.greedy(PROMPT, NEW_TOKENS)
    assert blocks_read(reader) == 2
    assert reader.faults == {"unreachable": 6}


def test_without_a_store_everything_is_computed(reference: Any, join: Join) -> None:
    alone = join(reference.engine(), is_alone=True)
    alone.run("request", PROMPT, GREEDY, publishes=True)
    assert answer(alone) == reference.greedy(PROMPT, NEW_TOKENS)
    assert blocks_read(alone) == 0
    assert not alone.exchange.load.kv.is_attached


def test_a_request_that_is_cancelled_while_its_blocks_arrive_leaves_nothing_behind(reader: Member) -> None:
    held = hold_back(reader, 2)
    reader.add("request", PROMPT, GREEDY)
    reader.turn_until(lambda: bool(held))
    reader.exchange.forget("request")
    reader.engine.cancel("request")
    [wait] = reader.exchange.take_waits()
    assert (wait.request_id, wait.held_blocks) == ("request", 8)
    assert wait.by_tier_ns[Tier.HOST] > 0
    assert sum(wait.fetched_bytes.values()) <= 2 * block_bytes(reader.engine.spec)
    reader.client.pending += held
    reader.turn()
    assert reader.engine.load.free_blocks == reader.engine.load.total_blocks
    assert reader.engine.load.arriving == 0
    assert len(reader.client.words("done")) == 1
    assert not reader.engine.has_work


def test_a_cancelled_request_s_blocks_are_not_written_to_once_they_may_be_another_s(
    references: Any, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fetch takes several turns, and the pool is so small that the next request gets the same blocks."""
    reference = references("qwen3-tied")
    publish(join(reference.engine()), PROMPT)
    reader = join(reference.engine(num_blocks=12))
    fetcher = reader.exchange._fetcher
    monkeypatch.setattr(fetcher, "copy", functools.partial(fetcher.copy, 1))
    reader.add("request", PROMPT, GREEDY)
    reader.turn_until(lambda: len(fetcher._ready) > 4)
    reader.exchange.forget("request")
    reader.engine.cancel("request")
    del reader.outputs["request"]
    other = tokens(67, seed=21)
    reader.add("other", other, GREEDY)
    reader.finish()
    assert answer(reader, "other") == reference.greedy(other, NEW_TOKENS)


def test_an_unexpected_fault_is_one_that_is_known() -> None:
    from tokenworks.worker.kv_fetch import _fault

    assert _fault("checksum") is BlockFault.CHECKSUM
    assert _fault("gremlins") is BlockFault.UNREACHABLE
