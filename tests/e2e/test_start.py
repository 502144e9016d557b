"""What the fixtures of these tests promise: a system that does not start leaves no process behind."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.e2e import conftest


def test_a_system_that_is_given_up_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "PATIENCE_S", 0.0)
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(AssertionError, match="waited in vain"):
        conftest.start(tmp_path)
    assert set(psutil.Process().children(recursive=True)) <= before
