"""The KV store against what it stands on: memcpy, the disk, and the time to read a folder.

    python -m benchmarks.kv_store [--rounds 15] [--recover-gb 1,4] [--folder DIR]

Blocks are those of Qwen3-0.6B's shape: 32 tokens in bfloat16, 3.5 MiB. The store is a process of its own, this one is
the worker. *Put* is from the offer to the moment when another request finds the block; *get* from the request to the
copy out of shared memory. Each round does every measurement once, one after the other, on the same number of blocks, so
that a busy machine slows them alike; the table shows medians, and each as a share of memcpy's in the same rounds.

The disk's peer is one large file, written and flushed, read after its pages were dropped from the cache. *Recovery* is
from the start of the process, after a SIGKILL, until every name is known again and the first block has been got.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.kv.store_worker import HOST_BYTES, ROOT, SIZE, SPEC, Worker, running_store, sealed
from tokenworks.contract.kv import BlockName
from tokenworks.kv.format import seal
from tokenworks.kv.tiers.disk import DiskTier

BATCH = 8
"""Blocks put or got at a time: a step of 256 tokens."""
DISK_BLOCKS = 48


def timed(action: Callable[[], object]) -> float:
    """Seconds."""
    start_s = time.perf_counter()
    action()
    return time.perf_counter() - start_s


def in_memory(folder: Path, rounds: int) -> None:
    """The table of memcpy, put and get."""
    seconds: dict[str, list[float]] = {}
    with running_store(folder) as worker:
        for index in range(HOST_BYTES // SIZE // BATCH):  # touch every page of the arena, as in a store that is full
            worker.put(*sealed(BATCH, index))
        for index in range(rounds):
            for what, taken_s in memory_round(worker, f"round {index}").items():
                seconds.setdefault(what, []).append(taken_s)
    peers = ("memcpy to as many places", "memcpy to one place")
    print_rates(f"{BATCH} blocks of {SIZE / 2**20:.1f} MiB in shared memory", seconds, BATCH * SIZE, *peers)


def memory_round(worker: Worker, seed: str) -> dict[str, float]:
    """Seconds of each measurement, on blocks of their own."""
    names, blocks = sealed(BATCH, seed)
    places = memoryview(bytearray(BATCH * SIZE))
    target = places[:SIZE]
    copy_apart(blocks, places)  # its pages are there now, as the arena's are
    return {
        "memcpy to as many places": timed(lambda: copy_apart(blocks, places)),
        "put": timed(lambda: worker.put(names, blocks)),
        "seal (checksum) alone": timed(lambda: seal_all(names, blocks)),
        "memcpy to one place": timed(lambda: copy_over(blocks, target)),
        "get": timed(lambda: worker.get(names, target)),
        "get, copy verified": timed(lambda: worker.get(names, target, is_verified=True)),
    }


def copy_apart(blocks: list[memoryview], places: memoryview) -> None:
    """Each to a place of its own."""
    for index, block in enumerate(blocks):
        places[index * SIZE : (index + 1) * SIZE] = block


def copy_over(blocks: list[memoryview], place: memoryview) -> None:
    """Each over the one before."""
    for block in blocks:
        place[:] = block


def seal_all(names: list[BlockName], blocks: list[memoryview]) -> None:
    """What a worker pays before it commits."""
    for name, block in zip(names, blocks, strict=True):
        seal(block, SPEC, name, ROOT)


def on_disk(folder: Path, rounds: int) -> None:
    """The table of the disk tier against one large file."""
    seconds: dict[str, list[float]] = {}
    names, blocks = sealed(DISK_BLOCKS, "disk")
    for index in range(rounds):
        for what, taken_s in disk_round(folder / f"round-{index}", names, blocks).items():
            seconds.setdefault(what, []).append(taken_s)
    print_rates(f"{DISK_BLOCKS} blocks on disk", seconds, DISK_BLOCKS * SIZE, "file: write, fsync", "file: read")


def disk_round(folder: Path, names: list[BlockName], blocks: list[memoryview]) -> dict[str, float]:
    """Seconds of each measurement, in a folder of its own."""
    folder.mkdir()
    disk, file, target = folder / "disk", folder / "file", memoryview(bytearray(SIZE))
    taken = {"file: write, fsync": timed(lambda: write_file(file, blocks))}
    taken["tier: put, all flushed"] = timed(lambda: fill(disk, names, blocks))
    drop_cache([file])
    taken["file: read"] = timed(lambda: read_file(file, target))
    with running_store(folder, disk) as worker:
        while worker.find(names) < len(names):
            time.sleep(0.01)
        drop_cache(disk.rglob("*"))
        taken["store: get from disk"] = timed(lambda: worker.get(names, target))
    shutil.rmtree(folder)
    return taken


def fill(disk: Path, names: list[BlockName], blocks: list[memoryview]) -> None:
    """Put all and flush."""
    tier = DiskTier(disk, 64 << 30, 5.0)
    for name, block in zip(names, blocks, strict=True):
        tier.put(name, block)
    tier.close()


def write_file(file: Path, blocks: list[memoryview]) -> None:
    """One after the other into one file, and to the device."""
    with file.open("wb", buffering=0) as opened:
        for block in blocks:
            opened.write(block)
        os.fsync(opened.fileno())


def read_file(file: Path, into: memoryview) -> None:
    """All of it, a block at a time."""
    with file.open("rb", buffering=0) as opened:
        while opened.readinto(into):
            pass


def drop_cache(files: Iterable[Path]) -> None:
    """Have the pages of these files dropped, as far as the system does it."""
    for file in files:
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def recovery(folder: Path, gigabytes: Sequence[float]) -> None:
    """The table of restarts."""
    print("\n| GB on disk | blocks | first answer, s | all names known, s | first block got, s |")
    print("|---:|---:|---:|---:|---:|")
    disk, target, names = folder / "recovery", memoryview(bytearray(SIZE)), list[BlockName]()
    tier = DiskTier(disk, 64 << 30, 5.0)
    for wanted in gigabytes:
        while len(names) * SIZE < wanted * 1e9:
            more, blocks = sealed(BATCH, len(names))
            for name, block in zip(more, blocks, strict=True):
                tier.put(name, block)
            names += more
        tier.close()
        with running_store(folder, disk):
            pass  # killed as soon as it answers
        drop_cache(disk.rglob("*"))
        start_s = time.perf_counter()
        with running_store(folder, disk) as worker:
            attached_s = time.perf_counter() - start_s
            while worker.find(names) < len(names):
                time.sleep(0.005)
            known_s = time.perf_counter() - start_s
            worker.get(names[:1], target)
            got_s = time.perf_counter() - start_s
        print(f"| {wanted:g} | {len(names)} | {attached_s:.2f} | {known_s:.2f} | {got_s:.2f} |", flush=True)
        tier = DiskTier(disk, 64 << 30, 5.0)
    tier.close()


def print_rates(title: str, seconds: dict[str, list[float]], num_bytes: int, *peers: str) -> None:
    """Medians as GB/s, and as shares of the peer that stands above them, in the same rounds."""
    print(f"\n| {title} | GB/s | of the peer |\n|---|---:|---:|")
    peer = peers[0]
    for what, times in seconds.items():
        peer = what if what in peers else peer
        shares = [base / each for base, each in zip(seconds[peer], times, strict=True)]
        print(f"| {what} | {num_bytes / statistics.median(times) / 1e9:.2f} | {statistics.median(shares):.0%} |")
    sys.stdout.flush()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--disk-rounds", type=int, default=3)
    parser.add_argument("--recover-gb", default="1,4", help="sizes to restart with; as much is written to the disk")
    parser.add_argument("--folder", type=Path, help="a folder on the disk to be measured; default: the temporary one")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kv", dir=chosen.folder) as folder:
        in_memory(Path(folder), chosen.rounds)
        on_disk(Path(folder), chosen.disk_rounds)
        recovery(Path(folder), [float(size) for size in chosen.recover_gb.split(",") if size])


if __name__ == "__main__":
    main()
