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
    change: str = ""


class AlertFigure(msgspec.Struct, frozen=True):
    """An alert that fires."""

    name: str
    subject: str
    severity: str
    summary: str
    since_ns: int
    told_ns: int = 0  # when somebody was last told of it


class SpanFigures(msgspec.Struct):
    """What became of spans since the observer's start; counted on its event loop."""

    accepted: int = 0  # others', into the ledger
    rejected: int = 0
    cut: int = 0  # accepted, but not with all that they carried
    exported_requests: int = 0  # ours, to a collector
    dropped_requests: int = 0  # no room in the queue, refused, or not taken after all tries


class Figures(msgspec.Struct, frozen=True):
    """All of it."""

    at_ns: int  # since 1970
    missing_frames: int = 0  # frames that the ledger lacks, of the last hour
    alerts: list[AlertFigure] = []
    drift: list[FeatureFigure] = []
    spans: SpanFigures = msgspec.field(default_factory=SpanFigures)


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
