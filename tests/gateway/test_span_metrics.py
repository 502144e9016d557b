"""What became of spans, at `/metrics`: lines as soon as there is something to tell."""

from __future__ import annotations

from pathlib import Path

from tokenworks.gateway.metrics.observer_metrics import ObserverMetrics
from tokenworks.observe.observer.figures import Figures, SpanFigures, write_figures

NOW_S = 1_763_812_800.0


def lines(folder: Path, spans: SpanFigures) -> dict[tuple[str, ...], float]:
    write_figures(folder, Figures(round(NOW_S * 1e9), spans=spans))
    samples = [each for family in ObserverMetrics(folder, lambda: NOW_S).collect() for each in family.samples]
    return {(each.name, *each.labels.values()): each.value for each in samples if "outcome" in each.labels}


def test_spans_of_others_are_told_apart_by_what_became_of_them(tmp_path: Path) -> None:
    assert lines(tmp_path, SpanFigures(accepted=10, rejected=3, cut=2)) == {
        ("tokenworks_spans_received_total", "kept"): 8,
        ("tokenworks_spans_received_total", "cut"): 2,
        ("tokenworks_spans_received_total", "rejected"): 3,
    }


def test_requests_that_were_not_exported_are_seen(tmp_path: Path) -> None:
    assert lines(tmp_path, SpanFigures(dropped_requests=7)) == {
        ("tokenworks_requests_exported_total", "sent"): 0,
        ("tokenworks_requests_exported_total", "dropped"): 7,
    }


def test_without_spans_there_are_no_lines(tmp_path: Path) -> None:
    assert lines(tmp_path, SpanFigures()) == {}
