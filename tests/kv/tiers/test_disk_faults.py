"""What goes wrong with a disk: kills, a full or read-only file system, a folder that is gone, a device that fails."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kv.tiers.conftest import wait_until
from tests.kv.tiers.sealed import fill, is_whole, sealed
from tokenworks.contract.folders import BLOCK_FOLDER
from tokenworks.contract.kv import BlockName
from tokenworks.kv.tiers.disk import DiskTier
from tokenworks.kv.tiers.tier import PutRefused, TierError

ROOT = Path(__file__).parents[3]
SPACIOUS = 1 << 30


def read(tier: DiskTier, name: BlockName) -> bytes:
    into = memoryview(bytearray(2 << 20))
    return bytes(into[: tier.get(name, into)])


@contextmanager
def a_writer(folder: Path, first: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.kv.tiers.writer", str(folder), str(first)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_blocks_and_loses_none(tmp_path: Path) -> None:
    choose = random.Random(0)
    put: set[BlockName] = set()
    for round_number in range(8):
        with a_writer(tmp_path, 1000 * round_number) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(choose.uniform(0.0, 0.1))
            process.kill()
            put |= {bytes.fromhex(line.decode()) for line in process.stdout.read().splitlines() if len(line) == 32}
        tier = DiskTier(tmp_path, SPACIOUS, 60.0)
        found = [name for name, _ in tier.names()]
        assert all(is_whole(read(tier, name), name) for name in found)
        assert put <= set(found)
        assert not list((tmp_path / BLOCK_FOLDER / "new").iterdir())
        tier.close()
    assert put


def test_two_stores_never_share_a_folder(tmp_path: Path) -> None:
    with a_writer(tmp_path, 0) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(TierError, match=rf"process {process.pid} on .* a kv\.disk_path of its own"):
            DiskTier(tmp_path, SPACIOUS, 60.0)
    first = DiskTier(tmp_path, SPACIOUS, 60.0)  # the lock has gone with its holder
    with pytest.raises(TierError, match=f"process {os.getpid()} "):
        DiskTier(tmp_path, SPACIOUS, 60.0)
    first.close()
    DiskTier(tmp_path, SPACIOUS, 60.0).close()


def test_a_full_file_system_refuses_puts_and_keeps_what_it_has(small_disk: Path) -> None:
    tier = DiskTier(small_disk, SPACIOUS, 60.0)
    held: dict[BlockName, memoryview] = {}
    with pytest.raises(PutRefused, match=r"file system is full: free space there, or lower kv\.disk_bytes"):
        fill(tier, range(300), 4096, held)  # there are 300 files at most
    assert held
    assert dict(tier.names()).keys() == held.keys()
    assert all(read(tier, name) == block for name, block in held.items())
    tier.delete(list(held)[:2])
    tier.put(*sealed(1000))
    tier.close()


def test_some_of_the_file_system_is_kept_free(small_disk: Path) -> None:
    tier = DiskTier(small_disk, SPACIOUS, 60.0)
    (small_disk / "others").write_bytes(bytes(58 << 20))
    held: dict[BlockName, memoryview] = {}
    with pytest.raises(PutRefused, match="are kept so"):
        fill(tier, range(4), 1 << 20, held)
    assert held
    assert all(read(tier, name) == block for name, block in held.items())
    tier.close()


def test_a_read_only_file_system_can_still_be_read(small_disk: Path) -> None:
    tier = DiskTier(small_disk, SPACIOUS, 60.0)
    name, block = sealed(1)
    tier.put(name, block)
    remount(small_disk, "ro")
    with pytest.raises(PutRefused, match=r"mount -o remount,rw"):
        tier.put(*sealed(2))
    with pytest.raises(TierError, match="read-only"):
        tier.delete([name])
    assert read(tier, name) == block
    remount(small_disk, "rw")
    tier.put(*sealed(2))
    assert tier.held([name, sealed(2)[0], sealed(3)[0]]).keys() == {name, sealed(2)[0]}
    tier.close()


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def test_a_file_that_may_not_become_that_large_is_refused(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, SPACIOUS, 60.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(PutRefused, match="ulimit -f"):
            tier.put(*sealed(1, 2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tier.names()) == []
    assert not list((tmp_path / BLOCK_FOLDER / "new").iterdir())
    tier.put(*sealed(1, 2 << 20))
    tier.close()


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o500)
    with as_nobody(), pytest.raises(TierError, match=r"this user may not use it: `chown` it"):
        DiskTier(folder, SPACIOUS, 60.0)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's rights, where the tests have them."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TierError, match="a file where a folder should be"):
        DiskTier(tmp_path / "file", SPACIOUS, 60.0)


def test_a_link_to_nothing_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(TierError, match="a link to nothing, where a folder should be"):
        DiskTier(tmp_path / "link", SPACIOUS, 60.0)


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(TierError, match="no folder can be made there: set kv.disk_path"):
        DiskTier(Path("/proc/tokenworks"), SPACIOUS, 60.0)


def test_a_folder_that_goes_while_in_use_is_an_error_until_a_restart(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path / "kv", SPACIOUS, 0.02)
    tier.put(*sealed(1))
    shutil.rmtree(tmp_path / "kv")
    for use in (lambda: tier.put(*sealed(2)), lambda: read(tier, sealed(1)[0])):
        with pytest.raises(TierError, match="removed or unmounted"):
            use()
    tier.close()
    again = DiskTier(tmp_path / "kv", SPACIOUS, 60.0)
    again.put(*sealed(2))
    assert read(again, sealed(1)[0]) == b""
    again.close()


class Device:
    """Stands between the flusher and `os.fsync`: notes what is flushed, and can be slow or fail."""

    def __init__(self) -> None:
        self.flushed: list[str] = []
        self.fails_on = ""
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self._fsync = os.fsync

    def fsync(self, file: int) -> None:
        path = os.readlink(f"/proc/self/fd/{file}")
        self.may_go_on.wait()
        if self.fails_on and path.endswith(self.fails_on):
            raise OSError(errno.EIO, "Input/output error")
        self._fsync(file)
        self.flushed.append(path)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setattr(os, "fsync", device.fsync)
    return device


def test_a_put_is_soon_on_the_device_with_its_folder(tmp_path: Path, device: Device) -> None:
    tier = DiskTier(tmp_path, SPACIOUS, 0.02)
    name, block = sealed(1)
    device.may_go_on.clear()
    tier.put(name, block)
    assert tier.unsynced_s > 0
    device.may_go_on.set()
    wait_until(lambda: tier.unsynced_s == 0, "the block is flushed")
    place = tmp_path / BLOCK_FOLDER / name.hex()[:2] / name.hex()
    assert device.flushed[-2:] == [str(place), str(place.parent)]  # the file before its name
    tier.close()


def test_closing_flushes_everything(tmp_path: Path, device: Device) -> None:
    tier = DiskTier(tmp_path, SPACIOUS, 3600.0)
    names = [sealed(number)[0] for number in range(5)]
    for number in range(5):
        tier.put(*sealed(number))
    tier.close()
    assert {name.hex() for name in names} <= {Path(path).name for path in device.flushed}


def test_a_file_that_cannot_be_flushed_is_dropped_and_told_of_once(tmp_path: Path, device: Device) -> None:
    tier = DiskTier(tmp_path, SPACIOUS, 0.02)
    bad, good = sealed(1), sealed(2)
    device.fails_on = bad[0].hex()
    tier.put(*bad)
    wait_until(lambda: not tier.held([bad[0]]), "the block is dropped")
    with pytest.raises(TierError, match="the device fails"):
        tier.put(*good)
    tier.put(*good)
    assert read(tier, bad[0]) == b""
    assert read(tier, good[0]) == good[1]
    tier.close()


def test_a_device_that_does_not_keep_up_takes_no_more(tmp_path: Path, device: Device) -> None:
    tier = DiskTier(tmp_path, SPACIOUS, 0.02)
    tier.put(*sealed(1))
    device.may_go_on.clear()
    tier.put(*sealed(2))
    wait_until(lambda: tier.unsynced_s > 0.02, "the promise is overdue")
    with pytest.raises(PutRefused, match=r"does not keep up.* Raise kv\.sync_s"):
        tier.put(*sealed(3))
    assert read(tier, sealed(2)[0]) == sealed(2)[1]
    device.may_go_on.set()
    wait_until(lambda: tier.unsynced_s == 0, "the device has caught up")
    tier.put(*sealed(3))
    tier.close()
