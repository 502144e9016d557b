"""Folders that outlive a start, as the XDG base directory specification has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenworks.contract.folders import quantized_folder


@pytest.mark.parametrize("given", ["", "relative/folder"])
def test_without_an_absolute_cache_home_it_is_in_the_home_folder(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setenv("HOME", "/home/me")
    assert quantized_folder() == Path("/home/me/.cache/tokenworks/quantized")


def test_a_cache_home_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast/disk")
    assert quantized_folder() == Path("/fast/disk/tokenworks/quantized")
