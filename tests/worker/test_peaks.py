"""The device's peaks: measured for real, and plausible against each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tokenworks.worker import peaks
from tokenworks.worker.peaks import cache_bytes, measure_peaks


def test_both_peaks_are_measured() -> None:
    found = measure_peaks(torch.float32, 1)
    assert 1e8 < found.flops < 1e16
    assert 1e7 < found.bytes_per_s < 1e14


def test_without_the_native_library_reading_is_summing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks.library, "missing", lambda: "it was not built")
    assert 1e7 < measure_peaks(torch.float32, 1).bytes_per_s < 1e14


@pytest.mark.parametrize("free_bytes", [0, 4000, 8 << 20])
def test_where_memory_is_short_nothing_is_said_of_reading_it(free_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "free_memory_bytes", lambda: free_bytes)
    found = measure_peaks(torch.float32, 1)
    assert found.flops > 0
    assert found.bytes_per_s == 0


def caches_of(cpu: Path, *caches: tuple[str, str, str]) -> None:
    for index, cache in enumerate(caches):
        folder = cpu / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, value in zip(("level", "size", "shared_cpu_list"), cache, strict=True):
            (folder / name).write_text(f"{value}\n")


def test_last_level_caches_are_counted_once_and_together(tmp_path: Path) -> None:
    caches_of(tmp_path / "cpu0", ("1", "32K", "0"), ("2", "1M", "0"), ("3", "32M", "0-1"))
    caches_of(tmp_path / "cpu1", ("1", "32K", "1"), ("2", "1M", "1"), ("3", "32M", "0-1"))
    caches_of(tmp_path / "cpu2", ("1", "32K", "2"), ("3", "32M", "2-3"))
    (tmp_path / "cpufreq").mkdir()
    assert cache_bytes(tmp_path) == 64 << 20


def test_a_machine_that_does_not_tell_its_caches(tmp_path: Path) -> None:
    assert cache_bytes(tmp_path / "nothing") == 32 << 20
    caches_of(tmp_path / "cpu0", ("3", "", "0"))
    caches_of(tmp_path / "cpu1", ("3", "many", "0"))
    (tmp_path / "cpu2").mkdir()
    assert cache_bytes(tmp_path) == 32 << 20
