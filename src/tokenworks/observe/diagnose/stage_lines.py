"""A record's stages as lines of a waterfall, in the order in which they happened as far as that is known.

A record says how much each stage took, and not when: most lines stand in the order of a request's life. What is known
is when it was sent to a worker, and when that worker was lost or refused it (`Leg.start_ns`, `Leg.span_ns`). So the
time on workers in vain stands before that on the worker that answered, and the wait for another worker after it: the
stage "route" then has a line for each time that a worker was sought. Lines still sum to E2E.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Final

import msgspec

from tokenworks.contract.record import Leg, Record, Stage
from tokenworks.observe.diagnose.explain_words import MEANINGS

IN_VAIN: Final = frozenset({"lost", "refused"})
"""Outcomes of legs whose time is the stage "lost"."""
AGAIN: Final = "another worker was waited for, and chosen"
_BEFORE: Final = (Stage.RECEIVE, Stage.TOKENISE, Stage.ADMIT)


class StageLine(msgspec.Struct, frozen=True):
    """One line of the waterfall: a stage, or a part of one that came in several."""

    stage: Stage
    start_ns: int  # on the axis of the drawing
    ns: int
    share: float  # of E2E
    meaning: str


def stage_lines(record: Record) -> list[StageLine]:
    """The stages that took time."""
    lines: list[StageLine] = []
    start_ns = 0
    for stage, ns, meaning in _parts(record):
        if ns > 0:
            lines.append(StageLine(stage, start_ns, ns, ns / max(record.e2e_ns, 1), meaning))
            start_ns += ns
    return lines


def legs_in_vain(record: Record) -> list[Leg]:
    """Sendings of the sequence that ended last, whose stages the record has, before the first that was answered."""
    if not record.legs:
        return []
    last = max(record.legs, key=lambda leg: leg.start_ns + leg.span_ns).sequence
    own = sorted((leg for leg in record.legs if leg.sequence == last), key=lambda leg: leg.start_ns)
    return list(takewhile(lambda leg: leg.outcome in IN_VAIN, own))


def _parts(record: Record) -> Iterator[tuple[Stage, int, str]]:
    left = {stage: record.stages_ns.get(stage, 0) for stage in Stage}
    for stage in _BEFORE:
        yield stage, left.pop(stage), MEANINGS[stage]
    at_ns = sum(record.stages_ns.get(stage, 0) for stage in _BEFORE)
    meaning = MEANINGS[Stage.ROUTE]
    for leg in legs_in_vain(record):
        for stage, wanted_ns in ((Stage.ROUTE, leg.start_ns - at_ns), (Stage.LOST, leg.span_ns)):
            ns = max(0, min(wanted_ns, left[stage]))
            left[stage] -= ns
            yield stage, ns, meaning if stage is Stage.ROUTE else f"{MEANINGS[stage]}: {leg.worker}, {leg.outcome}"
        at_ns, meaning = leg.start_ns + leg.span_ns, AGAIN
    for stage, ns in left.items():
        yield stage, ns, meaning if stage is Stage.ROUTE else MEANINGS[stage]
