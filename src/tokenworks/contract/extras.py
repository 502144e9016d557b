"""How an optional set of packages gets into the Python that runs this: told wherever one of them is missing."""

from __future__ import annotations

import sys
from pathlib import Path


def install_command(extra: str) -> str:
    """What to type. It names this Python, since plain `pip` is another one's where nobody has activated a `.venv`."""
    python, here = Path(sys.executable), Path.cwd()
    shown = python.relative_to(here) if python.is_relative_to(here) else python
    return f"{shown} -m pip install 'tokenworks[{extra}]'"
