"""What the observer found out, for those who only read: a small file in the state folder, replaced as a whole.

The gateway shows it at `/metrics` without asking anybody (a scrape must not wait for the observer), and an observer
that restarts reads from it which alerts it has already sent. It is there or it is not; half a file cannot be seen.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

FILE: Final = "observer.json"


class FeatureFigure(msgspec.Struct, frozen=True):
    """Drift of one feature; see `observe.drift`."""

    feature: str
    psi: float
    noise: float
    moved: bool
    before: str = ""
    after: str = ""


class AlertFigure(msgspec.Struct, frozen=True):
    """An alert that fires."""

    name: str
    subject: str
    severity: str
    summary: str
    since_ns: int
    told_ns: int = 0  # when somebody was last told of it


class Figures(msgspec.Struct, frozen=True):
    """All of it."""

    at_ns: int  # since 1970
    missing_frames: int = 0  # frames that the ledger lacks, of the last hour
    alerts: list[AlertFigure] = []
    drift: list[FeatureFigure] = []


_decode: Final = msgspec.json.Decoder(Figures).decode


def write_figures(folder: Path, figures: Figures) -> None:
    """Replace what is there; raises OSError."""
    beside = folder / f"{FILE}.{os.getpid()}"
    beside.write_bytes(msgspec.json.encode(figures))
    beside.replace(folder / FILE)


def read_figures(folder: Path) -> Figures | None:
    """What is there; None where that is nothing, or nothing of ours."""
    try:
        return _decode((folder / FILE).read_bytes())
    except (OSError, ValueError):  # msgspec's errors are ValueErrors
        return None
