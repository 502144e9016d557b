"""The best peaks of a machine outlive its starts, and a damaged book stops none."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tokenworks.contract.card import Card
from tokenworks.contract.config import EngineSettings
from tokenworks.worker.fit import fitted_card
from tokenworks.worker.peak_book import with_best_peaks


def card(flops: float, bytes_per_s: float, threads: int = 2) -> Card:
    described = {"device": "cpu: made up", "threads": threads, "dtype": "float32", "weights": "float32"}
    sizes = {"weight_bytes": 1, "active_weight_bytes": 1, "kv_bytes_per_token": 1, "kv_capacity_tokens": 1}
    return fitted_card(
        [],
        [],
        EngineSettings(),
        **described,
        **sizes,
        kv_dtype="float32",
        peak_flops=flops,
        peak_bytes_per_s=bytes_per_s,
    )


def peaks_of(card: Card) -> tuple[float, float]:
    return card.peak_flops, card.peak_bytes_per_s


def test_each_peak_is_the_best_of_all_starts(tmp_path: Path) -> None:
    file = tmp_path / "new" / "peaks.json"
    assert peaks_of(with_best_peaks(card(3e9, 1e9), file)) == (3e9, 1e9)
    assert peaks_of(with_best_peaks(card(1e9, 2e9), file)) == (3e9, 2e9)  # a busy start, but for its memory
    assert peaks_of(with_best_peaks(card(1.0, 1.0), file)) == (3e9, 2e9)
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_other_threads_are_another_device(tmp_path: Path) -> None:
    file = tmp_path / "peaks.json"
    with_best_peaks(card(8e9, 8e9, threads=8), file)
    assert peaks_of(with_best_peaks(card(1e9, 1e9, threads=1), file)) == (1e9, 1e9)
    assert len(msgspec.json.decode(file.read_bytes())) == 2


@pytest.mark.parametrize("content", [b"", b"{", b'{"x": [[]]}', b"[]", b"\xff"])
def test_a_damaged_book_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "peaks.json"
    file.write_bytes(content)
    for _ in range(2):
        assert peaks_of(with_best_peaks(card(2e9, 1e9), file)) == (2e9, 1e9)
    assert len(msgspec.json.decode(file.read_bytes())) == 1


def test_a_book_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert peaks_of(with_best_peaks(card(2e9, 1e9), tmp_path / "file" / "peaks.json")) == (2e9, 1e9)
