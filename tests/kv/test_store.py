"""What the store answers, by hand-made messages: grants, pins, leases, and memory that is full."""

from __future__ import annotations

import math

import msgspec
import pytest

from tests.kv.chain import chain, spec_of
from tests.kv.rig import LEASE_S, PLACE_BYTES, Rig
from tokenworks.contract.kv import Tier
from tokenworks.kv.format import BlockFault
from tokenworks.kv.gets import PIN_S
from tokenworks.kv.grants import GRANT_S
from tokenworks.kv.protocol import (
    STORE_PROTOCOL,
    Abort,
    Alive,
    Attach,
    Attached,
    Commit,
    Detach,
    Done,
    Find,
    Get,
    Granted,
    Missing,
    Offer,
    Place,
    Ready,
    Refused,
    Speeds,
    Touch,
    Unknown,
)
from tokenworks.kv.tasks import Check

A, B = b"a", b"b"


@pytest.fixture
def rig() -> Rig:
    rig = Rig(4)
    rig.attach(A)
    rig.attach(B)
    return rig


def test_a_client_is_told_where_the_memory_is(rig: Rig) -> None:
    (attached,) = rig.take(A, Attached)
    assert attached == Attached("s1", "/proc/1/fd/3", 4 * PLACE_BYTES, attached.speeds)
    assert attached.speeds[Tier.HOST].bytes_per_s == 5e9


def test_what_one_client_put_another_gets(rig: Rig) -> None:
    blocks = chain(3)
    places = rig.put(A, blocks)
    names = [block.name for block in blocks]
    rig.tell(B, Find("r", names))
    assert rig.found(B) == [Tier.HOST] * 3
    rig.tell(B, Get("r", names))
    (ready,) = rig.take(B, Ready)
    assert ready == Ready("r", places)
    assert rig.status(Tier.HOST).hits == 3
    assert rig.status(Tier.HOST).puts == 3


def test_a_prefix_ends_at_its_first_gap(rig: Rig) -> None:
    blocks = chain(4)
    rig.put(A, [blocks[0], blocks[1], blocks[3]])
    rig.tell(A, Find("r", [block.name for block in blocks]))
    assert rig.found(A) == [Tier.HOST] * 2
    assert rig.store.status("kv0", 1).misses == 2


def test_a_block_that_is_granted_and_not_committed_is_not_there(rig: Rig) -> None:
    (block,) = chain(1)
    rig.tell(A, Offer([block.offered()]))
    rig.tell(B, Find("r", [block.name]))
    assert rig.found(B) == []
    rig.tell(B, Get("r", [block.name]))
    assert rig.missing(B) == {block.name: BlockFault.MISSING}


def test_of_two_who_offer_a_block_one_writes_it(rig: Rig) -> None:
    (block,) = chain(1)
    rig.tell(A, Offer([block.offered()]))
    rig.tell(B, Offer([block.offered()]))
    assert len(rig.take(A, Granted)) == 1
    assert rig.take(B, Granted) == []
    rig.tell(B, Commit([block.name]))  # it was not B's to commit
    rig.tell(B, Find("r", [block.name]))
    assert rig.found(B) == []
    rig.tell(A, Commit([block.name]))
    rig.tell(B, Find("r", [block.name]))
    assert rig.found(B) == [Tier.HOST]


def test_an_aborted_place_is_free_again(rig: Rig) -> None:
    blocks = chain(4)
    rig.tell(A, Offer([block.offered() for block in blocks]))
    rig.tell(A, Abort([block.name for block in blocks]))
    assert rig.status(Tier.HOST).used_bytes == 0
    assert len(rig.put(B, blocks)) == 4


def test_full_memory_forgets_what_was_used_longest_ago(rig: Rig) -> None:
    blocks = chain(5)
    rig.put(A, blocks[:4])
    rig.tell(A, Touch([blocks[0].name]))
    rig.put(A, blocks[4:])
    held = [block for block in blocks if rig.stock.nearest(block.name)]
    assert held == [blocks[0], *blocks[2:]]
    assert rig.status(Tier.HOST).evictions == 1


def test_memory_full_of_blocks_in_use_grants_nothing_until_they_are_done(rig: Rig) -> None:
    blocks = chain(5)
    rig.put(A, blocks[:4])
    rig.tell(B, Get("r", [block.name for block in blocks[:4]]))
    assert rig.put(A, blocks[4:]) == []
    assert len(rig.ready(B)) == 4
    rig.tell(B, Done("r"))
    assert len(rig.put(A, blocks[4:])) == 1


def test_places_being_written_are_in_use_too(rig: Rig) -> None:
    blocks = chain(5)
    rig.tell(A, Offer([block.offered() for block in blocks]))
    (granted,) = rig.take(A, Granted)
    assert [place.name for place in granted.places] == [block.name for block in blocks[:4]]


def test_a_block_larger_than_all_memory_is_not_granted(rig: Rig) -> None:
    rig.put(A, chain(4))
    (large,) = chain(1, payload_bytes=5 * PLACE_BYTES, seed=1)
    assert rig.put(A, [large]) == []
    assert rig.status(Tier.HOST).blocks == 4


def test_blocks_of_several_sizes_make_room_for_each_other(rig: Rig) -> None:
    """Three pages a block, twelve in all; a large one takes eight."""
    small = chain(4)
    rig.put(A, small)
    rig.tell(A, Touch([small[1].name]))  # so that the first to go are not neighbours
    (large,) = chain(1, payload_bytes=7 * 4096, seed=1)
    assert len(rig.put(A, [large])) == 1
    assert rig.status(Tier.HOST).blocks <= 2
    assert [len(rig.put(A, [block])) for block in chain(4, seed=2)] == [1] * 4


def test_what_is_pinned_is_never_moved_for_a_larger_block(rig: Rig) -> None:
    small = chain(4)
    rig.put(A, small)
    rig.tell(B, Get("r", [small[1].name]))
    (large,) = chain(1, payload_bytes=9 * 4096, seed=1)  # ten pages of twelve
    assert rig.put(A, [large]) == []
    assert rig.stock.nearest(small[1].name) is Tier.HOST


def test_a_silent_client_holds_nothing_after_its_lease(rig: Rig) -> None:
    blocks = chain(6)
    rig.put(A, blocks[:2])
    rig.tell(A, Get("r", [block.name for block in blocks[:2]]))
    rig.tell(A, Offer([block.offered() for block in blocks[2:4]]))
    assert rig.put(B, blocks[4:]) == []
    rig.wait(LEASE_S - 1)
    rig.tell(B, Alive())
    rig.wait(2)
    assert len(rig.put(B, blocks[4:])) == 2
    rig.tell(A, Commit([blocks[2].name]))
    assert len(rig.take(A, Unknown)) == 1
    assert rig.stock.nearest(blocks[2].name) is None
    assert rig.take(B, Unknown) == []


def stay(rig: Rig, client: bytes, seconds: float) -> None:
    """Time passes, and the client is alive."""
    for _ in range(round(seconds / 10)):
        rig.wait(10)
        rig.tell(client, Alive())


def test_a_live_client_that_never_writes_its_places_loses_them(rig: Rig) -> None:
    blocks = chain(4)
    rig.tell(A, Offer([block.offered() for block in blocks]))
    stay(rig, A, GRANT_S - 10)
    assert rig.put(B, chain(4, seed=1)) == []
    stay(rig, A, 20)
    rig.attach(B)
    assert len(rig.put(B, chain(4, seed=1))) == 4
    assert rig.status(Tier.HOST).faults == {"late_grant": 4}
    rig.tell(A, Commit([blocks[0].name]))  # too late
    assert rig.stock.nearest(blocks[0].name) is None


def test_a_live_client_that_is_never_done_loses_its_pins(rig: Rig) -> None:
    blocks = chain(4)
    rig.put(A, blocks)
    rig.attach(B)
    rig.tell(B, Get("r", [block.name for block in blocks]))
    assert len(rig.ready(B)) == 4
    stay(rig, B, PIN_S - 10)
    rig.attach(A)
    assert rig.put(A, chain(4, seed=1)) == []
    stay(rig, B, 20)
    rig.attach(A)
    assert len(rig.put(A, chain(4, seed=1))) == 4
    assert rig.status(Tier.HOST).faults == {"late_done": 4}
    rig.tell(B, Done("r"))  # too late, and harmless
    assert len(rig.put(A, chain(4, seed=2))) == 4


def test_requests_that_are_never_called_done_are_forgotten_also_where_nothing_came(rig: Rig) -> None:
    for number in range(20):
        rig.tell(B, Get(str(number), [chain(1, seed=number)[0].name]))
    stay(rig, B, PIN_S)
    assert not rig.store._gets._open[B]
    assert rig.status(Tier.HOST).faults == {}


def test_who_let_a_place_run_out_is_trusted_with_one_until_it_is_written(rig: Rig) -> None:
    blocks = chain(4)
    rig.tell(A, Offer([block.offered() for block in blocks]))
    stay(rig, A, GRANT_S)
    rig.take(A, Granted)
    rig.tell(A, Offer([block.offered() for block in blocks]))
    (granted,) = rig.take(A, Granted)
    assert [place.name for place in granted.places] == [blocks[0].name]
    assert rig.status(Tier.HOST).faults == {"late_grant": 4, "many_grants": 3}
    rig.tell(A, Commit([blocks[0].name]))
    assert len(rig.put(A, blocks[1:])) == 3


def test_no_client_gets_more_than_half_of_the_memory_to_write_to() -> None:
    rig = Rig(64)
    rig.attach(A)
    rig.attach(B)
    blocks = chain(40)
    rig.tell(A, Offer([block.offered() for block in blocks]))
    (granted,) = rig.take(A, Granted)
    assert [place.name for place in granted.places] == [block.name for block in blocks[:32]]
    assert rig.status(Tier.HOST).faults == {"many_grants": 8}
    rig.tell(A, Commit([granted.places[0].name]))
    rig.tell(A, Offer([blocks[-1].offered(), blocks[0].offered()]))
    assert len(rig.take(A, Granted)[0].places) == 1
    assert rig.status(Tier.HOST).faults == {"many_grants": 8}, "what is there is no place to write to"
    rig.tell(B, Offer([block.offered() for block in chain(16, seed=1)]))
    assert len(rig.take(B, Granted)[0].places) == 16


def test_however_many_never_write_there_is_room_for_the_next() -> None:
    rig = Rig(64)
    clients = [f"client {number}".encode() for number in range(6)]
    for client in clients:
        rig.attach(client)
    for number, client in enumerate(clients):
        rig.tell(client, Offer([block.offered() for block in chain(64, seed=number)]))
    granted = [len(rig.take(client, Granted)[0].places) for client in clients]
    assert granted == [32, 16, 8, 4, 2, 1]
    rig.attach(A)
    assert all(len(rig.put(A, chain(1, seed=seed))) == 1 for seed in range(10, 20))


def test_who_leaves_gives_the_others_its_room() -> None:
    rig = Rig(64)
    rig.attach(A)
    rig.attach(B)
    rig.tell(A, Offer([block.offered() for block in chain(32)]))
    rig.tell(A, Detach())
    rig.tell(B, Offer([block.offered() for block in chain(40, seed=1)]))
    assert len(rig.take(B, Granted)[0].places) == 32


@pytest.mark.parametrize("leaves", ["detach", "attach again", "another socket"])
def test_who_leaves_or_comes_anew_holds_nothing(rig: Rig, leaves: str) -> None:
    blocks = chain(4)
    rig.tell(A, Offer([block.offered() for block in blocks]))
    if leaves == "detach":
        rig.tell(A, Detach())
    elif leaves == "attach again":
        rig.attach(A)
    else:
        rig.attach(b"a2", client_id="a")
    assert len(rig.put(B, blocks)) == 4


def test_a_stranger_is_asked_to_attach(rig: Rig) -> None:
    rig.tell(b"stranger", Find("r", []))
    assert len(rig.take(b"stranger", Unknown)) == 1


def test_another_version_of_the_protocol_is_refused(rig: Rig) -> None:
    rig.attach(b"old", protocol=STORE_PROTOCOL + 1)
    (refused,) = rig.take(b"old", Refused)
    assert "run the same release of tokenworks for both" in refused.reason
    rig.tell(b"old", Alive())
    assert len(rig.take(b"old", Unknown)) == 1


def test_blocks_that_cannot_fit_or_be_read_are_refused_at_once(rig: Rig) -> None:
    rig.tell(b"large", Attach(STORE_PROTOCOL, "large", spec_of(5 * PLACE_BYTES // 512 * 512)))
    assert "raise --kv-host-bytes" in rig.take(b"large", Refused)[0].reason
    odd = msgspec.structs.replace(spec_of(8192), dtype="float8")
    rig.tell(b"odd", Attach(STORE_PROTOCOL, "odd", odd))
    assert "no dtype 'float8'" in rig.take(b"odd", Refused)[0].reason


@pytest.mark.parametrize("field", ["num_layers", "num_kv_heads", "head_dim", "block_tokens"])
@pytest.mark.parametrize("value", [0, -1])
def test_blocks_that_have_no_bytes_are_refused_at_once(rig: Rig, field: str, value: int) -> None:
    """A length below nothing would be a place that cannot be, and the end of the store."""
    rig.tell(b"odd", Attach(STORE_PROTOCOL, "odd", msgspec.structs.replace(spec_of(8192), **{field: value})))
    assert "must be positive" in rig.take(b"odd", Refused)[0].reason


def test_offers_that_make_no_sense_are_counted_and_nothing_else(rig: Rig) -> None:
    good = chain(1)[0].offered()
    bad = [("name", b"short"), ("parent", b""), ("num_bytes", 128), ("num_bytes", -5), ("recompute_s", -1.0)]
    bad += [("recompute_s", math.nan), ("recompute_s", math.inf)]
    rig.tell(A, Offer([msgspec.structs.replace(good, **{field: value}) for field, value in bad]))
    assert rig.take(A, Granted) == []
    assert rig.status(Tier.HOST).faults == {"bad_frame": len(bad)}


def test_each_name_of_a_get_is_answered_once(rig: Rig) -> None:
    blocks = chain(3)
    rig.put(A, blocks[:2])
    rig.tell(B, Get("r", [block.name for block in blocks]))
    assert rig.ready(B) == [blocks[0].name, blocks[1].name]
    assert rig.take(B, Missing) == [Missing("r", [blocks[2].name], "missing")]


def test_done_to_a_request_that_never_was_does_nothing(rig: Rig) -> None:
    rig.tell(A, Done("never"))
    rig.tell(A, Abort([b"x" * 16]))
    assert rig.take(A, Unknown) == []


def test_clients_hear_of_the_speeds_every_two_seconds(rig: Rig) -> None:
    rig.take(A, Speeds)
    for _ in range(10):
        rig.wait(1)
        rig.tell(A, Alive())
    assert len(rig.take(A, Speeds)) == 5


def test_a_draining_store_takes_nothing_in_and_still_gives(rig: Rig) -> None:
    blocks = chain(2)
    rig.put(A, blocks[:1])
    rig.store.drain()
    assert rig.put(A, blocks[1:]) == []
    rig.tell(B, Get("r", [blocks[0].name]))
    assert rig.ready(B) == [blocks[0].name]


def test_a_block_that_is_computed_though_it_is_here_is_looked_at_and_dropped_if_bad(rig: Rig) -> None:
    """A reader that found its copy bad computes the block and offers it."""
    (block,) = chain(1)
    (place,) = rig.put(A, [block])
    rig.tell(B, Offer([block.offered()]))
    rig.tell(B, Offer([block.offered()]))
    check = rig.task(Check)
    assert check == Check(Tier.HOST, block.name, place.offset, place.num_bytes)
    rig.end(check)
    assert rig.stock.nearest(block.name) is Tier.HOST
    rig.tell(B, Offer([block.offered()]))
    rig.end(rig.task(Check), fault=BlockFault.CHECKSUM)
    assert rig.stock.nearest(block.name) is None
    assert rig.status(Tier.HOST).faults == {"checksum": 1}
    assert len(rig.put(B, [block])) == 1


def test_a_bad_block_that_somebody_reads_keeps_its_place_until_they_are_done(rig: Rig) -> None:
    blocks = chain(4)
    rig.put(A, blocks)
    rig.tell(B, Get("r", [blocks[0].name]))
    rig.tell(A, Offer([blocks[0].offered()]))
    rig.end(rig.task(Check), fault=BlockFault.CHECKSUM)
    rig.tell(B, Get("s", [block.name for block in blocks[1:]]))
    assert rig.put(A, blocks[:1]) == []
    rig.tell(B, Done("r"))
    assert [Place(place.name, place.offset, place.num_bytes) for place in rig.put(A, blocks[:1])]
