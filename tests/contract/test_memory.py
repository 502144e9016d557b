"""How much memory is free: what the system says, and what the container allows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tokenworks.contract import memory
from tokenworks.contract.memory import STORE_MEMORY, available_memory_bytes, free_memory_bytes, store_memory_bytes


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    return tmp_path


def test_without_a_word_from_the_system_anything_goes(system: Path) -> None:
    assert available_memory_bytes() is None
    assert free_memory_bytes() == sys.maxsize
    for odd in ("MemTotal:       24 kB\n", "MemAvailable:\n", "MemAvailable:   none kB\n"):
        (system / "meminfo").write_text(odd)
        assert available_memory_bytes() is None


def test_the_containers_limit_counts_where_it_is_less(system: Path) -> None:
    (system / "meminfo").write_text("MemTotal:       24 kB\nMemAvailable:   12 kB\n")
    assert free_memory_bytes() == 12 * 1024
    (system / "memory.max").write_text("max\n")
    (system / "memory.current").write_text("1000\n")
    assert free_memory_bytes() == 12 * 1024
    (system / "memory.max").write_text("5000\n")
    assert free_memory_bytes() == 4000
    (system / "memory.max").write_text("50000000\n")
    assert free_memory_bytes() == 12 * 1024


def test_a_stores_memory_is_seen_as_far_as_it_is_taken_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"test of {os.getpid()}"  # others may run stores here
    monkeypatch.setattr(memory, "STORE_MEMORY", name)
    assert store_memory_bytes() == 0
    descriptor = os.memfd_create(name)
    again = os.dup(descriptor)
    other = os.memfd_create("something else")
    try:
        os.ftruncate(descriptor, 1 << 30)
        os.posix_fallocate(descriptor, 0, 1 << 20)
        os.posix_fallocate(other, 0, 1 << 20)
        assert store_memory_bytes() == 1 << 20
    finally:
        for each in (descriptor, again, other):
            os.close(each)


def test_what_may_not_be_looked_at_or_is_gone_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PROCESSES", tmp_path)
    assert store_memory_bytes() == 0
    (tmp_path / "1").mkdir()
    (tmp_path / "2" / "fd").mkdir(parents=True)
    (tmp_path / "2" / "fd" / "3").symlink_to(f"/memfd:{STORE_MEMORY} (deleted)")  # closed between two looks
    assert store_memory_bytes() == 0
