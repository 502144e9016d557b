"""The disk tier: a block is there whole or not at all, within bounds, and again after a restart."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kv.tiers.sealed import is_whole, sealed
from tokenworks.contract.folders import BLOCK_FOLDER
from tokenworks.contract.kv import BlockName
from tokenworks.kv.format import HEADER_BYTES, BadBlock
from tokenworks.kv.tiers.disk import DiskTier
from tokenworks.kv.tiers.tier import PutRefused

BLOCK_BYTES = HEADER_BYTES + 4096
Open = Callable[..., DiskTier]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens tiers on one folder, and closes what a test has left open."""
    tiers: list[DiskTier] = []

    def open_tier(limit_bytes: int = 1 << 30, sync_s: float = 60.0) -> DiskTier:
        tiers.append(DiskTier(tmp_path / "kv", limit_bytes, sync_s))
        return tiers[-1]

    yield open_tier
    for tier in tiers:
        tier.close()


def file_of(tmp_path: Path, name: BlockName) -> Path:
    return tmp_path / "kv" / BLOCK_FOLDER / name.hex()[:2] / name.hex()


def read(tier: DiskTier, name: BlockName, room: int = BLOCK_BYTES) -> bytes:
    into = memoryview(bytearray(room))
    return bytes(into[: tier.get(name, into)])


@pytest.mark.parametrize("payload_bytes", [8, 4096, 1_000_000 * 8])
def test_what_was_put_is_got(opened: Open, payload_bytes: int) -> None:
    tier = opened()
    name, block = sealed(1, payload_bytes)
    tier.put(name, block)
    assert read(tier, name, len(block) + 100) == block
    assert read(tier, name, len(block)) == block


def test_a_block_that_is_not_there_or_too_long_gives_nothing(opened: Open) -> None:
    tier = opened()
    name, block = sealed(1)
    assert read(tier, name) == b""
    tier.put(name, block)
    assert read(tier, name, len(block) - 1) == b""
    tier.delete([name, sealed(2)[0]])
    assert read(tier, name) == b""


def test_a_restart_finds_everything_least_recently_used_first(opened: Open) -> None:
    first = opened()
    blocks = dict(map(sealed, range(20)))
    for name, block in blocks.items():
        first.put(name, block)
    reused = list(blocks)[3]
    read(first, reused)
    first.close()
    second = opened()
    found = list(second.names())
    assert dict(found) == {name: len(block) for name, block in blocks.items()}
    assert found[-1][0] == reused
    assert all(read(second, name) == block for name, block in blocks.items())


def test_what_is_held_is_told_without_reading(opened: Open) -> None:
    tier = opened()
    names = [sealed(number)[0] for number in range(4)]
    tier.put(*sealed(0))
    tier.put(*sealed(2, 8192))
    assert tier.held(names) == {names[0]: 4096 + 128, names[2]: 8192 + 128}


def test_a_put_beyond_the_limit_is_refused_and_changes_nothing(opened: Open) -> None:
    tier = opened(limit_bytes=2 * BLOCK_BYTES)
    blocks = [sealed(number) for number in range(3)]
    tier.put(*blocks[0])
    tier.put(*blocks[1])
    tier.put(*blocks[1])  # the same again takes no more
    with pytest.raises(PutRefused, match=r"kv\.disk_bytes"):
        tier.put(*blocks[2])
    assert read(tier, blocks[0][0]) == blocks[0][1]
    tier.delete([blocks[0][0]])
    tier.put(*blocks[2])
    assert dict(tier.names()) == {name: BLOCK_BYTES for name, _ in blocks[1:]}


def test_the_limit_counts_what_a_former_process_left(opened: Open) -> None:
    first = opened()
    first.put(*sealed(1))
    first.put(*sealed(2))
    first.close()
    with pytest.raises(PutRefused, match="more do not fit"):
        opened(limit_bytes=2 * BLOCK_BYTES).put(*sealed(3))


def test_many_threads_never_exceed_the_limit_nor_see_half_a_block(opened: Open, tmp_path: Path) -> None:
    tier = opened(limit_bytes=10 * BLOCK_BYTES)
    blocks = [sealed(number) for number in range(16)]
    wrong: list[str] = []

    def work(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(150):
            name, block = choose.choice(blocks)
            try:
                if choose.random() < 0.5:
                    tier.put(name, block)
                else:
                    tier.delete([name])
            except PutRefused:
                tier.delete([choose.choice(blocks)[0]])
            if read(tier, name) not in (b"", block):
                wrong.append(name.hex())

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = list((tmp_path / "kv" / BLOCK_FOLDER).glob("??/*"))
    assert not wrong
    assert dict(tier.names()) == {bytes.fromhex(file.name): BLOCK_BYTES for file in files}
    assert len(files) <= 10


def test_a_flipped_bit_is_found_by_the_reader(opened: Open, tmp_path: Path) -> None:
    tier = opened()
    name, block = sealed(1)
    choose = random.Random(0)
    for bit in [*range(0, 8 * HEADER_BYTES, 7), *choose.sample(range(8 * HEADER_BYTES, 8 * len(block)), 100)]:
        tier.put(name, block)
        damaged = bytearray(block)
        damaged[bit // 8] ^= 1 << bit % 8
        file_of(tmp_path, name).write_bytes(damaged)
        got = read(tier, name)
        assert got == damaged
        with pytest.raises(BadBlock):
            is_whole(got, name)


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1, 2048, BLOCK_BYTES - 1])
def test_a_truncated_file_is_no_block_and_does_not_stay(opened: Open, tmp_path: Path, length: int) -> None:
    tier = opened()
    name, block = sealed(1)
    tier.put(name, block)
    os.truncate(file_of(tmp_path, name), length)
    got = read(tier, name)
    assert len(got) == length
    with pytest.raises(BadBlock):
        is_whole(got, name)
    assert read(tier, name) == b""
    assert tier.held([name]) == {}


def test_a_file_that_has_grown_does_not_stay(opened: Open, tmp_path: Path) -> None:
    tier = opened()
    name, block = sealed(1)
    tier.put(name, block)
    file_of(tmp_path, name).write_bytes(bytes(block) + b"more")
    read(tier, name, BLOCK_BYTES + 100)
    assert not file_of(tmp_path, name).exists()


def test_leftovers_go_and_what_is_not_ours_stays(opened: Open, tmp_path: Path) -> None:
    first = opened()
    name, block = sealed(1)
    first.put(name, block)
    first.close()
    place = file_of(tmp_path, name)
    half = tmp_path / "kv" / BLOCK_FOLDER / "new" / "half"
    empty = place.with_name(place.name[:-1] + ("0" if place.name[-1] != "0" else "1"))
    theirs = [place.with_name("notes.txt"), place.with_name("x" * 32), tmp_path / "kv" / "photo"]
    for file in [half, empty, *theirs]:
        file.write_bytes(b"")
    assert list(opened().names()) == [(name, len(block))]
    assert [file for file in [half, empty, *theirs] if file.exists()] == theirs


def test_only_its_user_may_read_blocks(opened: Open, tmp_path: Path) -> None:
    tier = opened()
    name, block = sealed(1)
    tier.put(name, block)
    assert file_of(tmp_path, name).stat().st_mode & 0o077 == 0
    assert (tmp_path / "kv" / BLOCK_FOLDER).stat().st_mode & 0o077 == 0
