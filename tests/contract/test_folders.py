"""Folders that outlive a start, as the XDG base directory specification has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.folders import peaks_file, quantized_folder, state_folder


@pytest.mark.parametrize("given", ["", "relative/folder"])
def test_without_an_absolute_cache_home_it_is_in_the_home_folder(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setenv("XDG_STATE_HOME", given)
    monkeypatch.setenv("HOME", "/home/me")
    assert quantized_folder() == Path("/home/me/.cache/tokenworks/quantized")
    assert state_folder(LedgerSettings()) == Path("/home/me/.local/state/tokenworks")


def test_a_cache_home_and_a_state_home_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast/disk")
    monkeypatch.setenv("XDG_STATE_HOME", "/safe/disk")
    assert quantized_folder() == Path("/fast/disk/tokenworks/quantized")
    assert peaks_file() == Path("/fast/disk/tokenworks/peaks.json")
    assert state_folder(LedgerSettings()) == Path("/safe/disk/tokenworks")


def test_the_ledgers_folder_is_the_one_that_was_set_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert state_folder(LedgerSettings(path="~/ledger")) == Path("/home/me/ledger")
    assert state_folder(LedgerSettings(path="here")) == Path.cwd() / "here"
    assert state_folder(LedgerSettings(path="off")) is None
