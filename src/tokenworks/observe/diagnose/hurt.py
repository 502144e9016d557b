"""Whom a finding hurts: the tenants for whom something is clearly worse than it was, and by how much.

A rule says by which figures (`Rule.hurts`, all of them worse the higher they are). Looked at are the tenants of the
finding's subject: of a worker those that it served, of a tenant all others, of a window everybody. A percentile is
clearly worse where the lower bound of what it is now lies above the upper bound of what it was; other figures where
both sides have enough requests. Of each tenant the figure is told that grew most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from tokenworks.observe.diagnose.sides import Side, Sides, Subject
from tokenworks.observe.diagnose.signals import SIGNALS
from tokenworks.observe.units import shown

MAX_HURT: Final = 5
"""Tenants that are named: those who are hurt most."""
WORSE: Final = 1.3
"""Times what it was, from which on something is worth telling somebody."""
_MIN_REQUESTS: Final = 10
_MIN_COUNTED: Final = 20  # where a figure has no bounds


class Hurt(msgspec.Struct, frozen=True):
    """One tenant who waits, pays or loses more than before."""

    tenant: str
    requests: int  # of its, that the subject had in the window
    name: str  # of the figure
    meaning: str
    value: float
    before: float
    text: str  # all of it, for a person


def hurt(names: Sequence[str], subject: Subject, sides: Sides, currency: str) -> list[Hurt]:
    """Those who are hurt most first; at most `MAX_HURT`. Empty where there is nothing to compare with."""
    if sides.before_window.seconds <= 0:
        return []
    found = []
    for tenant, now, before in sides.tenants_of(subject):
        worse = [(times, name) for name in names if (times := _times_worse(name, now, before)) >= WORSE]
        if worse:
            times, name = max(worse)
            found.append((times, _told(tenant, name, now, before, currency)))
    found.sort(key=lambda each: (-each[0], each[1].tenant))
    return [each for _, each in found[:MAX_HURT]]


def _times_worse(name: str, now: Side, before: Side) -> float:
    """What it is over what it was; 0 where that may be chance."""
    few = min(now.cell.requests, before.cell.requests)
    value, base = SIGNALS[name].of(now), SIGNALS[name].of(before)
    stem, _, unit = name.rpartition("_")
    if f"{stem}_low_{unit}" in SIGNALS:
        low, high = SIGNALS[f"{stem}_low_{unit}"].of(now), SIGNALS[f"{stem}_high_{unit}"].of(before)
        is_clear = few >= _MIN_REQUESTS and low > high
    else:
        is_clear = few >= _MIN_COUNTED and value > base
    if not is_clear:
        return 0.0
    return value / base if base else math.inf


def _told(tenant: str, name: str, now: Side, before: Side, currency: str) -> Hurt:
    signal = SIGNALS[name]
    value, base = signal.of(now), signal.of(before)
    text = f"{shown(value, signal.unit, currency)} ({shown(base, signal.unit, currency)} before): {signal.meaning}"
    return Hurt(tenant, now.cell.requests, name, signal.meaning, value, base, text)
