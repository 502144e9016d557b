"""KV outlives whoever computed it, and the store that kept it; what has been harmed on the disk is computed again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.worker.kv.asking import BLOCK, GREEDY, NEW_TOKENS, answer, blocks_read, publish, tokens
from tests.worker.kv.conftest import StoreProcess
from tests.worker.kv.reseal import reseal
from tokenworks.contract.kv import KVSpec, Tier, block_names, root_name

if TYPE_CHECKING:
    from tests.worker.kv.conftest import Member

HARMED = 3  # which of a prompt's eight blocks


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disk"


@pytest.fixture
def store(tmp_path: Path, disk: Path) -> Iterator[StoreProcess]:
    """In the place of the one without a disk."""
    options = ("--kv-disk-path", str(disk), "--kv-disk-bytes", str(64 << 20))
    process = StoreProcess(f"ipc://{tmp_path}/store", 16 << 20, *options)
    yield process
    process.kill()


def flip(file: Path, spec: KVSpec) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def cut(file: Path, spec: KVSpec) -> None:
    os.truncate(file, file.stat().st_size // 2)


def swap(file: Path, spec: KVSpec) -> None:
    other = next(each for each in file.parents[1].glob("??/*") if each != file and len(each.name) == len(file.name))
    file.write_bytes(other.read_bytes())


def as_another(kind: str) -> Callable[[Path, KVSpec], None]:
    def harm(file: Path, spec: KVSpec) -> None:
        content = bytearray(file.read_bytes())
        reseal(memoryview(content), spec, kind)
        file.write_bytes(content)

    return harm


HARMS: dict[str, Callable[[Path, KVSpec], None]] = {
    "checksum": flip,
    "torn": cut,
    "name": swap,
    "missing": lambda file, spec: None,  # removed behind the store's back, while it runs
    "version": as_another("version"),
    "model": as_another("model"),
    "spec": as_another("spec"),
}


def file_of(disk: Path, spec: KVSpec, prompt: list[int]) -> Path:
    digits = block_names(root_name(spec.fingerprint), prompt, BLOCK)[HARMED].hex()
    return disk / "tokenworks-kv-1" / digits[:2] / digits


def test_all_that_was_put_survives_the_store_and_what_was_harmed_is_computed_again(
    references: Any, join: Callable[..., Member], store: StoreProcess, disk: Path
) -> None:
    """One prompt stays whole, the others lose a block each, to another harm: right text, and a count of what it was."""
    reference = references("qwen3-tied")
    prompts = {kind: tokens(67, seed) for seed, kind in enumerate(["whole", *HARMS], 100)}
    writer = join(reference.engine())
    for kind, prompt in prompts.items():
        publish(writer, prompt, kind)
    files = {kind: file_of(disk, writer.engine.spec, prompt) for kind, prompt in prompts.items()}
    writer.turn_until(lambda: len(list(disk.glob("tokenworks-kv-1/??/*"))) == 8 * len(prompts))
    store.kill()
    for kind, harm in HARMS.items():
        harm(files[kind], writer.engine.spec)
        os.utime(
            files[kind], (0, 0)
        )  # the store measures its disk with the block that was used last: not with this one
    store.start()
    reader = join(reference.engine())
    reader.turn_until(lambda: bool(reader.client.speeds.get(Tier.DISK) and reader.client.speeds[Tier.DISK].bytes_per_s))
    files["missing"].unlink()
    for kind, prompt in prompts.items():
        [first, *_] = reader.run("request", prompt, GREEDY)
        assert answer(reader) == reference.greedy(prompt, NEW_TOKENS), kind
        held = 8 if kind == "whole" else HARMED
        assert (blocks_read(reader), first.fetched_tokens) == (held, {Tier.DISK: held * BLOCK}), kind
    assert reader.faults == dict.fromkeys(HARMS, 1)
