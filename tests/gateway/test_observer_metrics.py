"""What the observer found out, at `/metrics`: fresh figures alone, and the lack of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenworks.gateway.metrics.observer_metrics import STALE_S, ObserverMetrics
from tokenworks.observe.observer.figures import FILE, AlertFigure, FeatureFigure, Figures, write_figures

NOW_S = 1_763_812_800.0
FIGURES = Figures(
    at_ns=round(NOW_S * 1e9),
    missing_frames=3,
    alerts=[AlertFigure("Drift", "tenant", "ticket", "others", 1)],
    drift=[FeatureFigure("tenant", 0.5, 0.01, True), FeatureFigure("model", 0.0, 0.01, False)],
)
UNTOLD: dict[tuple[str, ...], float] = {
    ("tokenworks_journal_waiting_frames",): 0,
    ("tokenworks_journal_dropped_frames_total",): 0,
}


def lines(folder: Path | None, now_s: float = NOW_S) -> dict[tuple[str, ...], float]:
    families = ObserverMetrics(folder, lambda: now_s).collect()
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_fresh_figures_are_shown(tmp_path: Path) -> None:
    write_figures(tmp_path, FIGURES)
    found = lines(tmp_path, NOW_S + STALE_S - 1)
    assert found == {
        **UNTOLD,
        ("tokenworks_observer_up",): 1,
        ("tokenworks_ledger_missing_frames",): 3,
        ("tokenworks_drift_psi", "tenant"): 0.5,
        ("tokenworks_drift_psi", "model"): 0.0,
        ("tokenworks_drift_noise", "tenant"): 0.01,
        ("tokenworks_drift_noise", "model"): 0.01,
        ("tokenworks_drift_moved", "tenant"): 1,
        ("tokenworks_drift_moved", "model"): 0,
        ("tokenworks_alerts_firing", "Drift", "tenant", "ticket"): 1,
    }


@pytest.mark.parametrize("content", [None, b"", b'{"at_ns": 1', b'{"at_ns": "now"}', b"\xff\xfe"])
def test_figures_that_are_not_there_or_not_whole_mean_that_the_observer_is_down(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    assert lines(tmp_path) == UNTOLD | {("tokenworks_observer_up",): 0}


def test_old_figures_are_not_shown_as_new(tmp_path: Path) -> None:
    write_figures(tmp_path, FIGURES)
    assert lines(tmp_path, NOW_S + STALE_S + 1)["tokenworks_observer_up",] == 0
    assert ("tokenworks_drift_psi", "tenant") not in lines(tmp_path, NOW_S + STALE_S + 1)


def test_without_a_ledger_nothing_is_said_of_an_observer() -> None:
    assert lines(None) == UNTOLD
