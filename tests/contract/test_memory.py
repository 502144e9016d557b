"""How much memory is free: what the system says, and what the container allows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tokenworks.contract import memory
from tokenworks.contract.memory import available_memory_bytes, free_memory_bytes


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
