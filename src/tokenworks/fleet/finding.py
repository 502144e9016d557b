"""What a check of `doctor` found, and how bad that is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"  # it works, but worse than it could
    FAIL = "fail"  # it does not work


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    what: str
    verdict: Verdict
    found: str
    advice: str = ""
