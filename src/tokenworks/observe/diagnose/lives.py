"""Workers as they come and go: how many there are at a time, how often one is lost, and whether that goes in a circle.

A life is named by its start. That one is lost is counted once, however many gateways tell of it, and at the earliest
moment; one that is lost again later had only fallen silent. Of a worker that never told its life each loss is one.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from tokenworks.contract.record import Incident
from tokenworks.observe.diagnose.sides import Side
from tokenworks.observe.ledger import WorkerStretch

LOST: Final = "worker_lost"
_ENDS: Final = frozenset({LOST, "worker_left"})
_HEARD_NS: Final = 30 * 10**9
"""A worker of which nobody told that it went was there so long after its last sample: the next one comes later."""
CIRCLE_NS: Final = 1800 * 10**9
"""Losses that are further apart are no circle. The slowest starts take some minutes, and a restart waits 30 s more."""
_SAME_LOSS_NS: Final = 30 * 10**9
"""Gateways whose leases on one worker end within this time tell of one loss."""
YOUNG_NS: Final = 600 * 10**9
"""A worker that is lost sooner after its start has died of what it began with."""


class _Loss(NamedTuple):
    at_ns: int
    worker: str
    is_young: bool


def workers(side: Side) -> float:
    """At a time, on average; unknown where none was ever sampled."""
    lived_ns = sum(_lived_ns(stretch, side) for stretch in side.stretches)
    return lived_ns / 1e9 / side.seconds if side.stretches and side.seconds > 0 else math.nan


def most_lives(side: Side) -> float:
    """Of the worker that was started most often; unknown where none was sampled."""
    return float(max(Counter(each.worker for each in side.stretches).values())) if side.stretches else math.nan


def lives_begun(side: Side) -> float:
    """That began in the side's window; unknown where none was sampled."""
    return sum(each.use.started_ns >= side.window.start_ns for each in side.stretches) if side.stretches else math.nan


def workers_lost(side: Side) -> float:
    """Lives that ended by a loss."""
    return float(len(_losses(side.incidents)))


def losses_in_a_row(side: Side) -> float:
    """The most losses within `CIRCLE_NS` of one worker, or of workers that were young.

    The latter since a worker that an orchestrator starts again may have another name each time.
    """
    recent: deque[_Loss] = deque()
    of_each: Counter[str] = Counter()
    most = num_young = 0
    for loss in _losses(side.incidents):
        recent.append(loss)
        of_each[loss.worker] += 1
        num_young += loss.is_young
        while recent[0].at_ns <= loss.at_ns - CIRCLE_NS:
            old = recent.popleft()
            of_each[old.worker] -= 1
            num_young -= old.is_young
        most = max(most, num_young, of_each[loss.worker])
    return float(most)


def _lived_ns(stretch: WorkerStretch, side: Side) -> int:
    """How much of the side's window the stretch was there; its last sample may lie well before the window's end."""
    window = side.window
    nexts = [other.from_ns for other in side.stretches if other.worker == stretch.worker]
    ends = [each.at_ns for each in side.incidents if each.kind in _ENDS and each.subject == stretch.worker]
    later_ns = [at_ns for at_ns in (*nexts, *ends) if at_ns >= stretch.until_ns]
    until_ns = min([stretch.until_ns + _HEARD_NS, window.end_ns, *later_ns])
    return max(0, until_ns - max(stretch.from_ns, window.start_ns))


def _losses(incidents: Sequence[Incident]) -> list[_Loss]:
    """In order."""
    told_ns: dict[tuple[str, int], int] = {}  # when a life's loss was told of last
    found = []
    for incident in incidents:
        if incident.kind != LOST:
            continue
        life, at_ns = (incident.subject, incident.life_ns), incident.at_ns
        if not incident.life_ns or at_ns - told_ns.get(life, -_SAME_LOSS_NS) >= _SAME_LOSS_NS:
            found.append(_Loss(at_ns, incident.subject, 0 <= at_ns - incident.life_ns < YOUNG_NS))
        told_ns[life] = at_ns
    return found
