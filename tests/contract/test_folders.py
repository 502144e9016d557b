"""Folders that outlive a start, as the XDG base directory specification has them."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from tokenworks.contract import folders
from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.folders import kernel_folder, may_write, peaks_file, quantized_folder, state_folder


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


def test_a_home_that_is_not_known_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(ConfigError, match="~nobody-of-that-name/x: whose home folder is not known; set HOME"):
        state_folder(LedgerSettings(path="~nobody-of-that-name/x"))
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])  # as in a container that runs as any number
    with pytest.raises(ConfigError, match="set HOME"):
        state_folder(LedgerSettings())
    monkeypatch.setattr(folders, "BESIDE_THE_CODE", tmp_path / "kernels")
    assert kernel_folder() == tmp_path / "kernels"
    (tmp_path / "kernels").write_text("no folder")
    assert kernel_folder() is None


def test_a_folder_that_is_not_there_yet_is_judged_by_its_nearest_parent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert may_write(tmp_path / "a" / "b")
    assert not may_write(tmp_path / "file" / "b")


def test_kernels_are_kept_in_the_first_place_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    no_folder = tmp_path / "file" / "x"
    monkeypatch.setattr(folders, "BESIDE_THE_CODE", tmp_path / "beside")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "told"))
    assert kernel_folder() == tmp_path / "told"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(no_folder))
    assert kernel_folder() == tmp_path / "beside"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setattr(folders, "BESIDE_THE_CODE", no_folder)
    assert kernel_folder() == tmp_path / "cache" / "tokenworks" / "kernels"
    monkeypatch.setenv("XDG_CACHE_HOME", str(no_folder))
    assert kernel_folder() is None
