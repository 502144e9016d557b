"""Prices and objectives that were stated to the system hold for who asks the ledger later, from anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenworks.contract.config import CostSettings, LedgerSettings, ObjectiveSettings, Settings
from tokenworks.contract.errors import LedgerError
from tokenworks.observe.terms import FILE, Terms, note_terms, noted_terms, with_terms

STATED = Settings(cost=CostSettings(currency="EUR"), objectives=ObjectiveSettings(online_ttft_s=0.5))


def test_what_was_noted_holds_for_who_states_nothing(tmp_path: Path) -> None:
    note_terms(tmp_path, STATED)
    found = with_terms(Settings(ledger=LedgerSettings(path=str(tmp_path))))
    assert (found.cost, found.objectives) == (STATED.cost, STATED.objectives)
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


def test_who_states_something_is_believed(tmp_path: Path) -> None:
    note_terms(tmp_path, STATED)
    asked = Settings(ledger=LedgerSettings(path=str(tmp_path)), cost=CostSettings(currency="CNY"))
    found = with_terms(asked)
    assert (found.cost.currency, found.objectives) == ("CNY", STATED.objectives)


@pytest.mark.parametrize("path", ["off", "nowhere"])
def test_where_nothing_is_noted_the_defaults_hold(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert noted_terms(LedgerSettings(path=path)) == Terms()


def test_damaged_terms_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"cost": {"currency": 7}}')
    with pytest.raises(LedgerError, match="the next `tokenworks serve` writes it anew"):
        noted_terms(LedgerSettings(path=str(tmp_path)))


def test_terms_that_cannot_be_noted_stop_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    note_terms(tmp_path / "gone", STATED)
    assert "cannot note prices and objectives" in caplog.text
