"""The command that installs an optional set of packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tokenworks.contract.extras import install_command


def test_it_names_the_python_that_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", "/opt/venv/bin/python")
    assert install_command("remote") == "/opt/venv/bin/python -m pip install 'tokenworks[remote]'"
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert install_command("openvino") == ".venv/bin/python -m pip install 'tokenworks[openvino]'"
