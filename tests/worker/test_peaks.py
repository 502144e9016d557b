"""The device's peaks: measured for real, and plausible against each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tokenworks.worker import peaks
from tokenworks.worker.peaks import largest_cache_bytes, measure_peaks


def test_both_peaks_are_measured(tmp_path: Path) -> None:
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


def test_the_largest_cache_is_the_one_that_counts(tmp_path: Path) -> None:
    for index, size in enumerate(("32K", "1024K", "3M", "nonsense")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert largest_cache_bytes(tmp_path) == 3 << 20


def test_a_machine_that_does_not_tell_its_caches(tmp_path: Path) -> None:
    assert largest_cache_bytes(tmp_path) == 32 << 20
    (tmp_path / "index0").mkdir()
    assert largest_cache_bytes(tmp_path) == 32 << 20
