"""What a process takes of its machine: real processor time and memory, energy counters as Linux lays them out."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from tokenworks.worker.machine import Machine

CORES = os.cpu_count() or 1


class Powercap:
    """A folder like /sys/class/powercap."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def counter(self, name: str, kind: str, used_uj: int, range_uj: int = 999_999) -> Path:
        zone = self.folder / name
        zone.mkdir()
        (zone / "name").write_text(f"{kind}\n")
        (zone / "max_energy_range_uj").write_text(f"{range_uj}\n")
        (zone / "energy_uj").write_text(f"{used_uj}\n")
        return zone / "energy_uj"


@pytest.fixture
def powercap(tmp_path: Path) -> Powercap:
    return Powercap(tmp_path)


def test_processor_time_and_memory_are_the_process_own() -> None:
    machine = Machine(1)
    before = machine.use()
    held = bytearray(b"x") * (64 << 20)
    while machine.use().cpu_s < before.cpu_s + 0.02:
        sum(range(10_000))
    after = machine.use()
    assert after.rss_bytes >= before.rss_bytes + (32 << 20)
    assert after.disk_write_bytes >= before.disk_write_bytes >= 0
    assert len(held) == 64 << 20


def test_packages_are_summed_and_wrap_around(powercap: Powercap) -> None:
    first = powercap.counter("intel-rapl:0", "package-0", 100)
    second = powercap.counter("intel-rapl:1", "package-1", 999_900)
    machine = Machine(CORES, powercap.folder)
    assert machine.use().energy_j == 0
    first.write_text("300\n")
    second.write_text("100\n")
    assert machine.use().energy_j == pytest.approx((200 + 200) / 1e6)
    first.write_text("1300\n")
    assert machine.use().energy_j == pytest.approx((1200 + 200) / 1e6)


def test_parts_of_a_package_and_counters_of_more_than_it_are_left_out(powercap: Powercap) -> None:
    (powercap.folder / "intel-rapl").mkdir()
    counters = [
        powercap.counter("intel-rapl:0", "package-0", 0),
        powercap.counter("intel-rapl:0:0", "core", 0),
        powercap.counter("intel-rapl:1", "psys", 0),
        powercap.counter("intel-rapl-mmio:0", "package-0", 0),
    ]
    machine = Machine(CORES, powercap.folder)
    for counter in counters:
        counter.write_text("1000\n")
    assert machine.use().energy_j == pytest.approx(1000 / 1e6)


def test_a_worker_on_some_of_the_cores_is_charged_so_much(powercap: Powercap) -> None:
    counter = powercap.counter("intel-rapl:0", "package-0", 0)
    machine = Machine(max(1, CORES // 2), powercap.folder)
    counter.write_text("1000\n")
    assert machine.use().energy_j == pytest.approx(max(1, CORES // 2) / CORES * 1000 / 1e6)


def test_without_counters_energy_is_not_known(powercap: Powercap, tmp_path: Path) -> None:
    assert Machine(1, tmp_path / "nothing").use().energy_j is None
    assert Machine(1, powercap.folder).use().energy_j is None


def test_where_one_counter_cannot_be_read_none_is_believed(powercap: Powercap) -> None:
    powercap.counter("intel-rapl:0", "package-0", 0)
    powercap.counter("intel-rapl:1", "package-1", 0).write_text("")
    assert Machine(1, powercap.folder).use().energy_j is None


def test_a_counter_that_goes_away_ends_the_count_with_a_word(
    powercap: Powercap, caplog: pytest.LogCaptureFixture
) -> None:
    counter = powercap.counter("intel-rapl:0", "package-0", 0)
    machine = Machine(1, powercap.folder)
    counter.unlink()
    assert machine.use().energy_j is None
    assert machine.use().energy_j is None
    assert caplog.text.count("cannot be read any more") == 1


def test_a_process_whose_work_is_done_elsewhere_has_no_energy(powercap: Powercap) -> None:
    powercap.counter("intel-rapl:0", "package-0", 0)
    assert Machine(0, powercap.folder).use().energy_j is None


def test_a_system_that_does_not_tell_of_its_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: psutil.Process) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "io_counters", refuse)
    assert Machine(1).use()[2:4] == (0, 0)
