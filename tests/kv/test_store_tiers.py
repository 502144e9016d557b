"""How the store uses the tiers below its memory, by hand-made outcomes: order, failures, write-back, probes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest

from tests.kv.chain import ChainBlock, chain
from tests.kv.lru import LeastRecentlyUsed
from tests.kv.rig import PLACE_BYTES, Rig
from tokenworks.contract.kv import BlockName, Tier
from tokenworks.kv.format import BlockFault
from tokenworks.kv.protocol import Done, Find, Get, Ready, Speeds, Touch
from tokenworks.kv.tasks import Lookup, Move, Outcome, Probe, Read, Scan, Write

A, B = b"a", b"b"
BOTH = (Tier.DISK, Tier.REMOTE)


def with_disk(places: int = 4, *others: Tier, disk_blocks: int = 1000) -> Rig:
    rig = Rig(places, Tier.DISK, *others, disk_blocks=disk_blocks)
    rig.attach(A)
    rig.attach(B)
    return rig


def names_of(blocks: list[ChainBlock]) -> list[BlockName]:
    return [block.name for block in blocks]


def put_and_written(rig: Rig, blocks: list[ChainBlock], recompute_s: float = 0.1) -> None:
    for block in blocks:
        rig.put(A, [block], recompute_s)
        for write in rig.tasks(Write):
            rig.end(write)


def on_disk_only(rig: Rig, blocks: list[ChainBlock]) -> None:
    """Put blocks, have them written, and fill host memory with others."""
    put_and_written(rig, blocks)
    put_and_written(rig, chain(rig.stock.host.limit_bytes // PLACE_BYTES, seed=99))
    rig.tell(A, Find("where", names_of(blocks)))
    assert rig.found(A) == [Tier.DISK] * len(blocks)


# Passing through memory


class Stubborn(LeastRecentlyUsed):
    """Wants nothing for which something else must go; if it must, what came last goes first."""

    def wants(self, name: BlockName, parent: BlockName, num_bytes: int, recompute_s: float, now_s: float) -> bool:
        return self.used_bytes + num_bytes <= self.limit_bytes

    def victims(self, num_bytes: int, is_pinned: Callable[[BlockName], bool]) -> list[BlockName]:
        self._sizes = OrderedDict(reversed(self._sizes.items()))
        names = super().victims(num_bytes, is_pinned)
        self._sizes = OrderedDict(reversed(self._sizes.items()))
        return names


def test_what_full_memory_does_not_want_passes_through_it_to_the_disk() -> None:
    rig = Rig(4, Tier.DISK, make_policy=Stubborn)
    rig.attach(A)
    first, later = chain(4), chain(12, seed=1)
    put_and_written(rig, first)
    put_and_written(rig, later)
    assert rig.status(Tier.DISK).blocks == 16
    held = [block for block in first if rig.stock.nearest(block.name) is Tier.HOST]
    assert held == first[:3]  # one place is enough to pass through


def test_nothing_unsaved_is_lost_for_what_only_passes_through() -> None:
    rig = Rig(4, Tier.DISK, make_policy=Stubborn)
    rig.attach(A)
    first = chain(4)
    rig.put(A, first)  # none of them written below yet
    assert rig.put(A, chain(2, seed=1)) == []
    assert all(rig.stock.nearest(block.name) is Tier.HOST for block in first)
    assert "unsaved" not in rig.status(Tier.DISK).faults


def test_without_a_tier_below_full_memory_takes_only_what_it_wants() -> None:
    rig = Rig(4, make_policy=Stubborn)
    rig.attach(A)
    rig.put(A, chain(4))
    assert rig.put(A, chain(2, seed=1)) == []


def test_nothing_goes_for_a_block_that_is_larger_than_all_memory() -> None:
    rig = with_disk(4, Tier.REMOTE, disk_blocks=1000)
    blocks = chain(4)
    put_and_written(rig, blocks)
    (huge,) = chain(1, payload_bytes=5 * PLACE_BYTES, seed=1)
    rig.put(A, [huge])
    assert rig.status(Tier.HOST).blocks == 4


# Reading


def test_a_block_is_not_in_memory_before_all_of_it_has_been_read() -> None:
    rig = with_disk()
    (block,) = chain(1)
    on_disk_only(rig, [block])
    rig.tell(A, Get("r", [block.name]))
    rig.tell(B, Find("r", [block.name]))
    assert rig.found(B) == [Tier.DISK]
    rig.tell(B, Get("r", [block.name]))
    assert rig.ready(B) == []
    rig.end(rig.task(Read), fault=BlockFault.TORN)
    assert rig.missing(A) == rig.missing(B) == {block.name: "torn"}


def test_a_block_on_disk_is_read_and_then_ready_from_disk() -> None:
    rig = with_disk()
    (block,) = chain(1)
    on_disk_only(rig, [block])
    rig.tell(B, Get("r", [block.name]))
    read = rig.task(Read)
    assert rig.ready(B) == []
    rig.end(read, parent=block.parent)
    (ready,) = rig.take(B, Ready)
    assert [(place.name, place.tier) for place in ready.places] == [(block.name, Tier.DISK)]
    assert ready.places[0].offset == read.offset
    assert rig.status(Tier.DISK).hits == 1
    assert rig.stock.nearest(block.name) is Tier.HOST


def test_two_reads_are_under_way_and_the_rest_wait_in_order() -> None:
    rig = with_disk(5)
    blocks = chain(5)
    on_disk_only(rig, blocks)
    rig.tell(B, Get("r", names_of(blocks)))
    seen: list[BlockName] = []
    while reads := rig.tasks(Read):
        assert len(reads) <= 2
        seen.append(reads[0].name)
        rig.end(reads[0], parent=blocks[0].parent)
    assert seen == names_of(blocks)
    assert rig.ready(B) == names_of(blocks)


def test_a_block_that_two_want_is_read_once() -> None:
    rig = with_disk()
    (block,) = chain(1)
    on_disk_only(rig, [block])
    rig.tell(A, Get("r", [block.name]))
    rig.tell(B, Get("r", [block.name]))
    rig.end(rig.task(Read), parent=block.parent)
    assert rig.ready(A) == rig.ready(B) == [block.name]


def test_what_nobody_waits_for_any_more_is_not_read() -> None:
    rig = with_disk(5)
    blocks = chain(4)
    on_disk_only(rig, blocks)
    rig.tell(A, Get("r", names_of(blocks)))
    rig.tell(B, Get("s", [blocks[3].name]))
    rig.tell(A, Done("r"))
    for read in rig.tasks(Read):
        rig.end(read, parent=blocks[0].parent)
    assert [read.name for read in rig.tasks(Read)] == [blocks[3].name]
    assert rig.ready(A) == []


def test_a_block_put_while_its_read_waits_is_given_and_keeps_its_place() -> None:
    rig = with_disk(3)
    blocks = chain(4)
    on_disk_only(rig, blocks)
    rig.tell(B, Get("r", names_of(blocks)))
    assert len(rig.put(A, [blocks[2]])) == 1  # memory is full now: two are being read
    rig.end(rig.tasks(Read)[0], parent=blocks[0].parent)
    assert rig.ready(B) == [blocks[0].name, blocks[2].name]
    assert rig.missing(B) == {blocks[3].name: "no_room"}
    assert rig.stock.nearest(blocks[2].name) is Tier.HOST


def test_a_block_found_in_a_tier_is_not_written_there_again() -> None:
    rig = with_disk()
    first, second = chain(2)
    rig.put(A, [first])
    rig.put(A, [second])  # waits to be written
    rig.end(rig.task(Scan), found=((second.name, 8320),))
    rig.end(rig.task(Write))
    assert rig.tasks(Write) == []
    assert rig.status(Tier.DISK).used_bytes == 2 * 8320


def test_host_hits_do_not_wait_for_the_disk() -> None:
    rig = with_disk()
    far, near = chain(1), chain(1, seed=5)
    on_disk_only(rig, far)
    put_and_written(rig, near)
    rig.tell(B, Get("far", names_of(far)))
    rig.tell(B, Get("near", names_of(near)))
    assert rig.ready(B) == names_of(near)
    assert len(rig.tasks(Read)) == 1


def test_a_bad_block_on_disk_is_missing_counted_and_held_no_more() -> None:
    rig = with_disk()
    (block,) = chain(1)
    on_disk_only(rig, [block])
    rig.tell(B, Get("r", [block.name]))
    rig.end(rig.task(Read), fault=BlockFault.CHECKSUM)
    assert rig.missing(B) == {block.name: "checksum"}
    assert rig.status(Tier.DISK).faults["checksum"] == 1
    assert rig.stock.nearest(block.name) is None
    rig.tell(B, Get("s", [block.name]))
    assert rig.missing(B) == {block.name: "missing"}


def test_memory_full_of_blocks_in_use_leaves_no_room_for_a_read() -> None:
    rig = with_disk()
    (block,) = chain(1)
    on_disk_only(rig, [block])
    rig.tell(A, Get("r", names_of(chain(4, seed=99))))
    rig.tell(B, Get("s", [block.name]))
    assert rig.missing(B) == {block.name: "no_room"}
    assert rig.status(Tier.HOST).faults == {"no_room": 1}
    rig.tell(A, Done("r"))
    rig.tell(B, Get("t", [block.name]))
    assert len(rig.tasks(Read)) == 1


def test_a_disk_that_fails_holds_nothing_until_it_answers_again() -> None:
    rig = with_disk()
    rig.measure(Tier.DISK)
    blocks = chain(3)
    on_disk_only(rig, blocks)
    rig.tell(B, Get("r", names_of(blocks)))
    rig.end(rig.tasks(Read)[0], error="the device fails")
    rig.end(rig.task(Read), error="the device fails")
    assert rig.missing(B) == dict.fromkeys(names_of(blocks), "unreachable")
    assert not rig.status(Tier.DISK).is_up
    rig.tell(B, Find("s", names_of(blocks)))
    assert rig.found(B) == []
    assert rig.stock.speeds(rig.now_s)[Tier.DISK].bytes_per_s == 0
    rig.wait(1.0)
    rig.end(rig.task(Probe), error="the device fails")
    rig.wait(1.0)
    assert rig.tasks(Probe) == []
    rig.wait(1.1)
    rig.measure(Tier.DISK)
    rig.tell(B, Find("t", names_of(blocks)))
    assert rig.found(B) == [Tier.DISK] * 3


def test_a_block_that_is_bad_on_disk_comes_from_the_remote_tier() -> None:
    rig = with_disk(4, Tier.REMOTE)
    rig.measure(Tier.REMOTE)
    (block,) = chain(1)
    put_and_written(rig, [block])
    rig.tell(A, Touch([block.name]))
    rig.end(rig.task(Write))
    put_and_written(rig, chain(4, seed=99))
    rig.tell(B, Get("r", [block.name]))
    rig.end(rig.task(Read), fault=BlockFault.TORN)
    read = rig.task(Read)
    assert read.tier is Tier.REMOTE
    rig.end(read, parent=block.parent)
    (ready,) = rig.take(B, Ready)
    assert ready.places[0].tier is Tier.REMOTE
    assert rig.task(Write).tier is Tier.DISK  # where it should be


# Writing back


def test_what_is_put_is_written_the_most_valuable_first() -> None:
    rig = with_disk(8)
    first = chain(1)
    rig.put(A, first)  # its write is under way, so that the others wait
    cheap, dear, middling = chain(3, seed=1)
    for block, cost_s in ((cheap, 0.1), (dear, 0.9), (middling, 0.5)):
        rig.put(A, [block], cost_s)
    order: list[BlockName] = []
    while writes := rig.tasks(Write):
        (write,) = writes
        order.append(write.name)
        rig.end(write)
    assert order == [*names_of(first), dear.name, middling.name, cheap.name]
    assert rig.store.is_saved


def test_a_block_being_written_keeps_its_place() -> None:
    rig = with_disk(2)
    blocks = chain(2)
    rig.put(A, blocks)
    write = rig.task(Write)
    rig.put(A, chain(2, seed=1))
    assert rig.stock.nearest(write.name) is Tier.HOST
    rig.end(write)
    rig.put(A, chain(2, seed=2))
    assert rig.stock.nearest(write.name) is Tier.DISK


def test_blocks_that_are_safe_give_way_before_those_that_are_not() -> None:
    rig = with_disk(4)
    safe, busy, waits, new = (chain(2, seed=seed) for seed in range(4))
    put_and_written(rig, safe)
    rig.put(A, busy[:1])
    rig.put(A, waits[:1])  # behind the write that is under way
    rig.tell(A, Touch(names_of(safe)))
    rig.put(A, new[:1])
    assert rig.stock.nearest(waits[0].name) is Tier.HOST
    assert rig.stock.nearest(safe[0].name) is Tier.DISK
    assert "unsaved" not in rig.status(Tier.DISK).faults


def test_what_leaves_memory_before_it_is_written_is_counted() -> None:
    rig = with_disk(3)
    rig.put(A, chain(3))
    rig.put(A, chain(2, seed=1))
    assert rig.status(Tier.DISK).faults["unsaved"] == 2


def test_a_write_that_waited_longer_than_promised_is_counted() -> None:
    rig = with_disk()
    blocks = chain(2)
    rig.put(A, blocks)
    rig.wait(3.0)
    rig.end(rig.task(Write))
    assert rig.status(Tier.DISK).faults["late"] == 1


def test_a_disk_that_takes_nothing_can_still_be_read_and_is_tried_again() -> None:
    rig = with_disk(2)
    kept, waits = chain(1), chain(1, seed=1)
    put_and_written(rig, kept)
    rig.put(A, waits)
    rig.end(rig.task(Write), error="the file system is full")
    assert rig.tasks(Write) == []
    assert not rig.status(Tier.DISK).is_up
    assert rig.store.is_saved  # as far as the disk takes it
    rig.tell(A, Find("r", names_of(kept)))
    assert rig.found(A) == [Tier.HOST]
    rig.wait(0.5)
    assert rig.tasks(Write) == []
    rig.wait(0.6)
    rig.end(rig.task(Write))
    assert rig.status(Tier.DISK).is_up
    assert rig.status(Tier.DISK).blocks == 2


def test_a_block_that_is_bad_in_memory_is_not_kept_anywhere() -> None:
    rig = with_disk()
    (block,) = chain(1)
    rig.put(A, [block])
    rig.end(rig.task(Write), fault=BlockFault.TORN)
    assert rig.stock.nearest(block.name) is None
    assert rig.status(Tier.HOST).faults == {"torn": 1}
    assert rig.status(Tier.DISK).used_bytes == 0


def test_a_full_disk_drops_with_the_write_what_was_used_longest_ago() -> None:
    rig = with_disk(8, disk_blocks=2)
    blocks = chain(3)
    put_and_written(rig, blocks[:2])
    rig.put(A, blocks[2:])
    write = rig.task(Write)
    assert write.drop == (blocks[0].name,)
    rig.end(write, error="no")
    rig.wait(1.1)
    assert rig.task(Write).drop == (blocks[0].name,)  # it is still there, and still has to go
    rig.end(rig.task(Write))
    status = rig.status(Tier.DISK)
    assert (status.blocks, status.evictions, status.used_bytes) == (2, 1, 2 * 8320)


def test_without_a_disk_blocks_go_to_the_remote_tier_if_they_come_back_faster_than_computed() -> None:
    rig = Rig(8, Tier.REMOTE)
    rig.attach(A)
    blocks = chain(3)
    rig.put(A, blocks[:1])
    assert rig.tasks(Write) == []  # nobody knows yet
    rig.measure(Tier.REMOTE, bytes_per_s=1e6)  # 8 ms a block
    rig.put(A, blocks[1:2], recompute_s=0.005)
    assert rig.tasks(Write) == []
    rig.put(A, blocks[2:], recompute_s=0.1)
    assert rig.task(Write).name == blocks[2].name


def test_with_a_disk_only_what_was_used_again_goes_on_to_the_remote_tier() -> None:
    rig = with_disk(8, Tier.REMOTE)
    rig.measure(Tier.REMOTE)
    once, again = chain(2)
    put_and_written(rig, [once, again])
    assert rig.status(Tier.REMOTE).blocks == 0
    rig.tell(B, Get("r", [again.name]))
    assert rig.task(Write).tier is Tier.REMOTE
    rig.end(rig.task(Write))
    assert (rig.status(Tier.DISK).blocks, rig.status(Tier.REMOTE).blocks) == (2, 1)


def test_what_leaves_the_disk_goes_on_to_the_remote_tier_and_is_deleted_afterwards() -> None:
    rig = with_disk(2, Tier.REMOTE, disk_blocks=2)
    rig.measure(Tier.REMOTE)
    blocks = chain(3)
    put_and_written(rig, blocks[:2])
    rig.put(A, blocks[2:])
    move = rig.task(Move)
    assert move == Move(Tier.REMOTE, Tier.DISK, blocks[0].name, 8320)
    assert rig.task(Write).drop == ()
    rig.end(move, num_bytes=8320)
    rig.end(rig.task(Write))
    assert rig.stock.nearest(blocks[0].name) is Tier.REMOTE
    rig.put(A, chain(1, seed=1))
    assert blocks[0].name in rig.task(Write).drop


def test_what_leaves_the_disk_and_comes_again_meanwhile_is_not_deleted_behind_its_back() -> None:
    rig = with_disk(4, Tier.REMOTE, disk_blocks=2)
    rig.measure(Tier.REMOTE)
    blocks = chain(3)
    put_and_written(rig, blocks[:2])
    rig.put(A, blocks[2:])
    move = rig.task(Move)
    rig.end(rig.task(Write))
    rig.stock.host.drop(rig.stock.host._blocks[blocks[0].name])
    rig.put(A, blocks[:1])  # computed anew, while its file is still being read
    rig.end(rig.task(Write))
    assert blocks[0].name in rig.stock.lowers[Tier.DISK]
    rig.end(move, num_bytes=8320)
    rig.put(A, chain(1, seed=1))
    assert blocks[0].name not in rig.task(Write).drop


@pytest.mark.parametrize("trouble", [{"error": "the remote tier is gone"}, {"fault": BlockFault.MISSING}])
def test_a_move_that_fails_loses_one_block_and_is_counted(trouble: dict[str, str]) -> None:
    rig = with_disk(2, Tier.REMOTE, disk_blocks=2)
    rig.measure(Tier.REMOTE)
    blocks = chain(3)
    put_and_written(rig, blocks[:2])
    rig.put(A, blocks[2:])
    rig.end(rig.task(Move), **trouble)  # type: ignore[arg-type]
    assert rig.stock.nearest(blocks[0].name) is None
    counted = rig.status(Tier.REMOTE if "error" in trouble else Tier.DISK).faults
    assert counted["unreachable" if "error" in trouble else "missing"] == 1


# What is known


def test_after_a_restart_what_the_disk_holds_is_known_part_by_part() -> None:
    rig = with_disk()
    blocks = chain(3)
    scan = rig.task(Scan)
    part = Outcome(scan, rig.now_s, rig.now_s, found=((blocks[0].name, 8320), (blocks[1].name, 8320)), is_last=False)
    rig.store.finished(part, rig.now_s)
    rig.tell(A, Find("r", names_of(blocks)))
    assert rig.found(A) == [Tier.DISK] * 2
    rig.end(scan, found=((blocks[2].name, 8320),))
    rig.tell(A, Find("s", names_of(blocks)))
    assert rig.found(A) == [Tier.DISK] * 3
    rig.tell(A, Get("s", names_of(blocks)))
    for block in blocks:
        read = next(read for read in rig.tasks(Read) if read.name == block.name)
        rig.end(read, parent=block.parent)
    assert rig.ready(A) == names_of(blocks)


def test_a_scan_that_fails_is_made_again_when_the_disk_answers() -> None:
    rig = with_disk()
    rig.end(rig.task(Scan), error="gone")
    rig.end(rig.task(Probe), error="gone")
    assert rig.tasks(Scan) == []
    rig.wait(2.0)
    assert len(rig.tasks(Scan)) == 1


def test_a_smaller_limit_than_before_is_kept_to_with_the_next_write() -> None:
    rig = with_disk(4, disk_blocks=2)
    old = chain(4)
    rig.end(rig.task(Scan), found=tuple((block.name, 8320) for block in old))
    rig.put(A, chain(1, seed=1))
    assert rig.task(Write).drop == tuple(names_of(old[:3]))


def test_a_tier_is_measured_at_first_and_when_it_has_not_been_used() -> None:
    rig = Rig(4, Tier.REMOTE)
    rig.attach(A)
    assert rig.stock.speeds(rig.now_s)[Tier.REMOTE].bytes_per_s == 0
    rig.measure(Tier.REMOTE, bytes_per_s=5e6, latency_s=0.02)
    speed = rig.stock.speeds(rig.now_s)[Tier.REMOTE]
    assert speed.latency_s == pytest.approx(0.02)
    assert speed.bytes_per_s == pytest.approx(5e6)
    rig.wait(0.9)
    assert rig.tasks(Probe) == []
    rig.wait(0.5)
    assert len(rig.tasks(Probe)) == 1
    rig.wait(100)
    assert len(rig.tasks(Probe)) == 1


def test_workers_are_told_soon_of_a_speed_that_has_changed() -> None:
    rig = Rig(4, Tier.REMOTE)
    rig.attach(A)
    rig.wait(0.1)
    assert [told.speeds[Tier.REMOTE].bytes_per_s for told in rig.take(A, Speeds)] == [0.0]
    rig.measure(Tier.REMOTE, bytes_per_s=5e6)
    rig.wait(0.3)
    assert [told.speeds[Tier.REMOTE].bytes_per_s for told in rig.take(A, Speeds)] == [pytest.approx(5e6)]
    rig.wait(0.3)
    assert rig.take(A, Speeds) == []


def test_the_disk_is_measured_with_a_block_of_its_own_once_there_is_one() -> None:
    rig = with_disk()
    (block,) = chain(1)
    rig.end(rig.task(Probe))
    rig.end(rig.task(Scan), found=((block.name, 8320),))
    assert rig.task(Probe).sample == (block.name, 8320)
    rig.end(rig.task(Probe), fault=BlockFault.TORN)
    assert rig.stock.nearest(block.name) is None
    assert rig.status(Tier.DISK).faults == {"torn": 1}


def test_a_probe_that_cannot_write_leaves_the_tier_readable() -> None:
    rig = Rig(4, Tier.REMOTE)
    rig.attach(A)
    rig.end(rig.task(Probe), write_error="full")
    status = rig.status(Tier.REMOTE)
    assert not status.is_up
    assert status.faults == {"unreachable": 1}
    assert rig.stock.lowers[Tier.REMOTE].reading.is_up


def test_a_find_asks_the_remote_tier_what_other_hosts_have_put_there() -> None:
    rig = Rig(4, Tier.REMOTE)
    rig.attach(A)
    rig.measure(Tier.REMOTE)
    here, there, nowhere = chain(3)
    rig.put(A, [here])
    rig.tell(A, Find("r", names_of([here, there, nowhere])))
    lookup = rig.task(Lookup)
    assert lookup.names == (there.name, nowhere.name)
    rig.end(lookup, found=((there.name, 2 * 8320),))  # of an engine whose blocks are longer
    assert rig.found(A) == [Tier.HOST, Tier.REMOTE]
    rig.tell(A, Get("r", [there.name]))
    assert rig.task(Read).num_bytes == 2 * 8320
    rig.end(rig.task(Read), parent=there.parent)
    assert rig.ready(A) == [there.name]


def test_a_find_is_answered_without_the_remote_tier_when_that_takes_its_time() -> None:
    rig = Rig(4, Tier.REMOTE)
    rig.attach(A)
    rig.measure(Tier.REMOTE)
    blocks = chain(1)
    rig.tell(A, Find("r", names_of(blocks)))
    assert rig.store.is_hurried
    rig.wait(0.06)
    assert rig.found(A) == []
    rig.end(rig.task(Lookup), found=((blocks[0].name, 8320),))
    rig.tell(A, Find("s", names_of(blocks)))
    assert rig.found(A) == [Tier.REMOTE]


def test_a_far_remote_tier_is_not_asked() -> None:
    rig = Rig(4, Tier.REMOTE)
    rig.attach(A)
    rig.measure(Tier.REMOTE, latency_s=0.2)
    rig.tell(A, Find("r", names_of(chain(1))))
    assert rig.found(A) == []
    assert rig.tasks(Lookup) == []
