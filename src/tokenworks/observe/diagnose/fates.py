"""What became of the workers that a request met: how one was lost, and whether one of the same name is another life.

A record names workers; a worker that dies comes back under its name. How it was lost stands in the ledger's incidents,
and which lives there were in its samples. Both are asked only where a sending was lost.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tokenworks.contract.record import Incident, Leg, Record
from tokenworks.observe.ledger import Ledger, Window

_LATE_NS: Final = 5 * 10**9  # the loss may be written down, and the new life first heard, so long after the request
_LOST: Final = "worker_lost"


class Fate(NamedTuple):
    """Of the worker of one leg."""

    lost: str = ""  # how, where it was lost
    is_new_life: bool = False  # it had been lost under an earlier leg, and has started again since


def fates(ledger: Ledger, record: Record) -> tuple[Fate, ...]:
    """Of each of the record's legs; raises LedgerError."""
    if all(leg.outcome != "lost" for leg in record.legs):
        return tuple(Fate() for _ in record.legs)
    window = Window(record.started_ns, record.started_ns + record.e2e_ns + _LATE_NS)
    losses = [each for each in ledger.incidents(window) if each.kind == _LOST]
    told = [_loss(losses, record, leg) for leg in record.legs]
    starts = {(stretch.worker, stretch.use.started_ns) for stretch in ledger.workers(window)}
    return tuple(
        Fate(loss.text if loss else "", _has_begun_again(leg, record.legs[:at], told[:at], starts))
        for at, (leg, loss) in enumerate(zip(record.legs, told, strict=True))
    )


def _loss(losses: list[Incident], record: Record, leg: Leg) -> Incident | None:
    """What was written down of this worker first after the sending; several gateways may have written it."""
    if leg.outcome != "lost":
        return None
    sent_ns = record.started_ns + leg.start_ns
    until_ns = sent_ns + leg.span_ns + _LATE_NS
    return next((each for each in losses if each.subject == leg.worker and sent_ns <= each.at_ns < until_ns), None)


def _has_begun_again(leg: Leg, before: list[Leg], losses: list[Incident | None], starts: set[tuple[str, int]]) -> bool:
    """Whether there was a life of the worker that began after the one that an earlier sending lost."""
    lost_ns = [
        loss.life_ns
        for other, loss in zip(before, losses, strict=True)
        if loss is not None and other.worker == leg.worker
    ]
    return bool(lost_ns) and any(worker == leg.worker and started_ns > max(lost_ns) for worker, started_ns in starts)
