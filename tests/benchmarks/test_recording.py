"""What the recording benchmark switches is there, is off when it is off, and is as it was when it is on again."""

from __future__ import annotations

import pytest

from benchmarks import recording_seams
from benchmarks.recording_instructions import events_of
from benchmarks.recording_parts import BATCH, Bench
from benchmarks.recording_seams import PARTS, switches


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_switched_off_and_on_again(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    turned: list[list[recording_seams.Seam]] = []
    set_all = recording_seams._set_all
    monkeypatch.setattr(recording_seams, "_set_all", lambda seams: (turned.append(list(seams)), set_all(seams)))
    on, off = switches(part, 16)
    off()
    try:
        assert all(getattr(owner, name) is value for owner, name, value in turned[0])
        assert bool(turned[0]) == (part != "report")  # which the worker leaves out
    finally:
        on()
    assert [(owner, name) for owner, name, _ in turned[1]] == [(owner, name) for owner, name, _ in turned[0]]
    assert all(getattr(owner, name) is not value for owner, name, value in turned[0])


def test_every_part_is_measured_on_requests_that_are_recorded() -> None:
    bench = Bench(tokens=4, price=2.5)
    spent_ns = bench.turn(lambda: None)
    assert set(spent_ns) == {"bare", "report", "notes", "tokens", "record", "metrics", "frame"}
    text, _ = bench._metrics.exposition()
    assert b'tokenworks_records_total{outcome="ok",scenario="online"} %d.0' % BATCH in text
    assert b'tokenworks_tenant_cost_total{tenant="acme"} 0.0' not in text


def test_callgrinds_totals_are_read_by_event_also_where_zeros_are_left_out() -> None:
    dump = "# callgrind format\nversion: 1\nevents: Ir Dr I1mr\n\nfn=main\n12 7 3\ntotals: 700 300\n"
    assert events_of(dump) == {"Ir": 700, "Dr": 300}
    with pytest.raises(ValueError, match="without totals"):
        events_of("events: Ir\n")
