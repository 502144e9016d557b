"""The journal: what was flushed is read again, whole and once, whatever was done to writer, disk or file."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.observe.made import NOON_NS, record
from tokenworks.contract.record import Frame, Gap, Incident
from tokenworks.observe.journal import frames
from tokenworks.observe.journal import writer as module
from tokenworks.observe.journal.reader import JournalReader
from tokenworks.observe.journal.writer import Journal, JournalState


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path, "gateway", 0.05)
    yield made
    made.close()


def read_all(folder: Path) -> list[Frame]:
    reader, positions, found = JournalReader(folder), {}, []
    while batch := reader.read(positions):
        if not batch.positions:
            return found
        found += batch.frames
        positions |= batch.positions
    return found


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


def test_what_was_flushed_can_be_read_while_the_writer_goes_on(writer: Journal, tmp_path: Path) -> None:
    reader = JournalReader(tmp_path)
    assert reader.read({}) == ([], {})
    written: list[Frame] = [record(1), Incident(NOON_NS, "joined", "w0"), Gap(1, 2, 3, "why")]
    for frame in written:
        writer.append(frame)
    assert reader.read({}).frames == []
    writer.flush()
    batch = reader.read({})
    assert batch.frames == written
    writer.append(record(2))
    writer.flush()
    assert reader.read(batch.positions).frames == [record(2)]


def test_a_name_that_is_no_file_name_is_made_one(tmp_path: Path) -> None:
    made = Journal(tmp_path, "../../etc/passwd\n'; DROP TABLE", 0.05)
    made.append(record())
    made.close()
    assert [file.parent for file in files(tmp_path)] == [tmp_path]
    assert read_all(tmp_path) == [record()]


def test_files_are_rotated_and_read_in_order_and_deleted_when_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROTATE_BYTES", 2000)
    writer, reader = Journal(tmp_path, "gateway", 0.05), JournalReader(tmp_path)
    for number in range(20):
        writer.append(record(number))
        writer.flush()
    assert len(files(tmp_path)) > 3
    batch = reader.read({})
    assert batch.frames == [record(number) for number in range(20)]
    writer.close()
    assert reader.forget({}) == []
    short = dict.fromkeys(batch.positions, 0) | dict(list(batch.positions.items())[:2])
    assert sorted(reader.forget(short)) == sorted(list(batch.positions)[:2])
    assert sorted(reader.forget(batch.positions)) == sorted(batch.positions)
    assert files(tmp_path) == []


def test_a_file_that_is_still_written_is_not_deleted(writer: Journal, tmp_path: Path) -> None:
    writer.append(record())
    writer.flush()
    reader = JournalReader(tmp_path)
    assert reader.forget(reader.read({}).positions) == []
    assert reader.waiting_bytes({}) == files(tmp_path)[0].stat().st_size
    assert reader.waiting_bytes(reader.read({}).positions) == 0


def test_a_frame_too_large_or_not_writable_is_told_as_a_gap(writer: Journal, tmp_path: Path) -> None:
    writer.append(record(gaps_us=b"\0" * (frames.MAX_BODY_BYTES + 1)))
    writer.append(record(1))
    writer.flush()
    [kept, gap] = read_all(tmp_path)
    assert kept == record(1)
    assert isinstance(gap, Gap)
    assert gap.frames == writer.dropped_frames == 1
    assert "longer than" in gap.reason


def test_large_frames_are_read_whole(writer: Journal, tmp_path: Path) -> None:
    large = record(gaps_us=b"\0" * (frames.MAX_BODY_BYTES - 1000))
    for frame in (record(1), large, record(2)):
        writer.append(frame)
    writer.flush()
    assert read_all(tmp_path) == [record(1), large, record(2)]


def closed_journal(folder: Path, count: int) -> Path:
    made = Journal(folder, "gateway", 0.05)
    for number in range(count):
        made.append(record(number))
    made.close()
    return files(folder)[0]


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_stretch_costs_what_was_in_it_and_is_told(tmp_path: Path, seed: int) -> None:
    path, random = closed_journal(tmp_path, 20), Random(seed)
    raw = bytearray(path.read_bytes())
    length = random.choice([1, 3, 20, 1000])
    start = random.randrange(len(raw) - length)
    raw[start : start + length] = bytes(byte ^ 0x5A for byte in raw[start : start + length])
    path.write_bytes(raw)
    found = read_all(tmp_path)
    gaps = [frame for frame in found if isinstance(frame, Gap)]
    kept = [frame for frame in found if not isinstance(frame, Gap)]
    frame_bytes = len(raw) // 20
    assert len(gaps) == 1
    assert 20 - length // frame_bytes - 2 <= len(kept) < 20
    assert all(frame in [record(number) for number in range(20)] for frame in kept)
    assert str(path.name) in gaps[0].reason


@pytest.mark.parametrize("missing", [1, 10, 100, 370])
def test_a_tail_cut_off_is_waited_for_while_the_writer_lives_and_told_when_it_is_gone(
    tmp_path: Path, missing: int
) -> None:
    path = closed_journal(tmp_path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-missing])
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = JournalReader(tmp_path)
        batch = waiting.read({})
        assert batch.frames == [record(0), record(1)]
        assert waiting.read(batch.positions) == ([], {})
        path.write_bytes(whole)
        assert waiting.read(batch.positions).frames == [record(2)]
        path.write_bytes(whole[:-missing])
    [*kept, gap] = read_all(tmp_path)
    assert kept == [record(0), record(1)]
    assert isinstance(gap, Gap)
    assert "cut off" in gap.reason


def test_zeros_at_the_end_as_a_power_loss_leaves_them_are_a_gap(tmp_path: Path) -> None:
    path = closed_journal(tmp_path, 3)
    path.write_bytes(path.read_bytes() + bytes(6 << 20))
    [*kept, gap] = read_all(tmp_path)[:4]
    assert kept == [record(0), record(1), record(2)]
    assert isinstance(gap, Gap)


def test_a_frame_of_another_version_is_told_and_passed_over(tmp_path: Path) -> None:
    path = closed_journal(tmp_path, 1)
    body = frames.msgspec.msgpack.encode({"type": "record", "id": "x", "colour": "red"})
    header = frames._HEADER.pack(frames.MARK, len(body), frames.xxhash.xxh3_64_intdigest(body))
    path.write_bytes(header + body + path.read_bytes())
    [gap, kept] = read_all(tmp_path)
    assert kept == record(0)
    assert isinstance(gap, Gap)
    assert "another version" in gap.reason


def test_a_text_cannot_look_like_a_frame(tmp_path: Path) -> None:
    hostile = frames.encode_frame(record(666)).decode("latin-1")
    made = Journal(tmp_path, "gateway", 0.05)
    made.append(record(1, tags={"a": hostile}))
    made.append(record(2))
    made.close()
    [path] = files(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[5] ^= 1
    path.write_bytes(raw)
    assert [frame.id for frame in read_all(tmp_path) if not isinstance(frame, Gap)] == ["req-2"]


WRITER = """
import sys, time
from pathlib import Path
from tests.observe.made import record
from tokenworks.observe.journal.writer import Journal
journal = Journal(Path(sys.argv[1]), "gateway", 0.05)
number = 0
while True:
    for _ in range(5):
        journal.append(record(number))
        number += 1
    journal.flush()
    print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_was_flushed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(200):
            flushed = int(process.stdout.readline())
        process.kill()
        flushed = max([flushed, *(int(line) for line in process.stdout.read().split())])
    found = [frame for frame in read_all(tmp_path) if not isinstance(frame, Gap)]
    assert found == [record(number) for number in range(len(found))]
    assert len(found) >= flushed


@pytest.fixture
def file_limit() -> Iterator[None]:
    """Files may grow to 4000 bytes: the kernel's own EFBIG, as a full disk gives ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.usefixtures("file_limit")
def test_a_file_that_cannot_grow_is_left_for_the_next_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    writer = Journal(tmp_path, "gateway", 0.05)
    for number in range(40):
        writer.append(record(number))
        writer.flush()
    for _ in range(20):
        writer.flush()
    writer.close()
    assert read_all(tmp_path) == [record(number) for number in range(40)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root: run the tests as root, in a container for instance")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    with path.open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()


def test_a_full_disk_drops_frames_counts_them_and_tells_once_there_is_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    monkeypatch.setattr(module, "MAX_BUFFERED_BYTES", 20_000)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        fill(ballast)
    writer = Journal(small_disk / "journal", "gateway", 0.05)
    for number in range(300):
        writer.append(record(number))
        writer.flush()
    assert 0 < writer.dropped_frames < 300
    assert writer.state.waiting_frames + writer.state.dropped_frames == 300
    assert "No space left" in writer.state.failure
    ballast.unlink()
    writer.flush()
    writer.append(record(1000))
    writer.flush()
    assert writer.state._replace(dropped_frames=0) == JournalState()
    writer.close()
    found = read_all(small_disk / "journal")
    [gap] = [frame for frame in found if isinstance(frame, Gap)]
    kept = [frame for frame in found if not isinstance(frame, Gap)]
    assert "No space" in gap.reason
    assert gap.frames + len(kept) == 301
    assert found[-2:] == [gap, record(1000)]


def test_a_folder_that_cannot_be_made_costs_frames_and_raises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    (tmp_path / "file").write_text("")
    writer = Journal(tmp_path / "file" / "journal", "gateway", 0.05)
    writer.append(record())
    writer.flush()
    (tmp_path / "file").unlink()
    writer.flush()
    writer.close()
    assert read_all(tmp_path / "file" / "journal") == [record()]


def test_a_clock_that_is_set_back_makes_no_gap_that_ends_before_it_begins(
    writer: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.append(record(gaps_us=b"\0" * (frames.MAX_BODY_BYTES + 1)))
    real_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: real_ns - 3_600_000_000_000)
    writer.flush()
    [gap] = read_all(tmp_path)
    assert isinstance(gap, Gap)
    assert gap.until_ns >= gap.from_ns


def test_a_file_that_may_not_be_read_is_passed_over(writer: Journal, tmp_path: Path) -> None:
    (tmp_path / "aaa.journal").mkdir()
    writer.append(record())
    writer.flush()
    assert read_all(tmp_path) == [record()]
    assert os.path.isdir(tmp_path / "aaa.journal")
