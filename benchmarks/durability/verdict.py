"""What the clients noted against what the ledger has: what is missing, and what is there twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from itertools import pairwise
from typing import NamedTuple

from benchmarks.durability.clients import Answer, Client
from benchmarks.durability.parts import GATEWAY, Kill
from tokenworks.contract.config import CostSettings
from tokenworks.observe.ledger import Ledger, Window
from tokenworks.observe.tables.bill import bill

ALL = Window(0, 2**62)
_MANY = 10_000_000


class Verdict(NamedTuple):
    """Counts; every one that is named `wrong` must be 0."""

    kills: dict[str, int]
    asked: int
    answered: int
    refused: int
    recorded: int  # requests, refused ones among them
    lost: int  # answered, and not in the ledger
    lost_at_most: int  # by one kill
    lost_before_kill_s: float  # the longest time from a lost answer to the kill
    lost_before_last_s: float  # and to the last answer of that gateway, which is when it surely still ran
    gaps: list[str]  # stretches of a journal that were cut off
    wrong_twice: int  # in the ledger more than once
    wrong_more: int  # requests in the ledger beyond those that were asked
    wrong_lost_without_kill: int  # lost though no gateway was killed afterwards
    wrong_requests: int  # by which sums differ from single records
    wrong_tokens: int  # by which output tokens of answered and recorded requests differ from what clients got
    wrong_bill: int  # pico, by which the bill's lines differ from its total
    worker_lives: int
    worker_told_s: float  # of the worker's time, what the ledger has
    worker_lived_s: float  # and how long its processes lived, starts included


def verdict(ledger: Ledger, kills: Sequence[Kill], clients: Sequence[Client], worker_lived_s: float) -> Verdict:
    """Of a run that is over and a ledger that has taken in all that there is."""
    records = [ended.record for ended in ledger.records(ALL, limit=_MANY)]
    tokens = {record.id: record.output_tokens for record in records}
    asked = sum(len(client.asked) for client in clients)
    answers = sorted((answer for client in clients for answer in client.answers), key=lambda answer: answer.at_s)
    kept = [answer for answer in answers if answer.request_id in tokens]
    losses = _losses(answers, tokens, [kill.after_s for kill in kills if GATEWAY in kill.parts])
    num_lost = len(answers) - len(kept)
    recorded = sum(record.num_alike for record in records)
    cells = ledger.cells(ALL)
    workers, owed = ledger.workers(ALL), bill(ledger, ALL, CostSettings())
    return Verdict(
        kills=dict(Counter("+".join(kill.parts) for kill in kills)),
        asked=asked,
        answered=len(answers),
        refused=sum(client.num_refused for client in clients),
        recorded=recorded,
        lost=num_lost,
        lost_at_most=max((loss.number for loss in losses), default=0),
        lost_before_kill_s=round(max((loss.before_kill_s for loss in losses), default=0.0), 4),
        lost_before_last_s=round(max((loss.before_last_s for loss in losses), default=0.0), 4),
        gaps=[gap.reason for gap in ledger.gaps(ALL)],
        wrong_twice=len(records) - len(tokens),
        wrong_more=max(0, recorded - asked),
        wrong_lost_without_kill=num_lost - sum(loss.number for loss in losses),
        wrong_requests=abs(sum(cell.requests for cell in cells.values()) - recorded),
        wrong_tokens=abs(sum(answer.tokens for answer in kept) - sum(tokens[answer.request_id] for answer in kept)),
        wrong_bill=abs(sum(line.pico for line in owed.lines) - owed.total),
        worker_lives=len(workers),
        worker_told_s=round(sum(stretch.use.wall_ns for stretch in workers) / 1e9, 3),
        worker_lived_s=round(worker_lived_s, 3),
    )


def is_right(found: Verdict) -> bool:
    """Whether nothing is wrong: nothing twice, nothing lost but by a kill, and no worker's time beyond its life."""
    wrong = [value for name, value in found._asdict().items() if name.startswith("wrong_")]
    return not any(wrong) and found.worker_told_s <= found.worker_lived_s


class _Loss(NamedTuple):
    """What one kill of a gateway cost."""

    number: int
    before_kill_s: float
    before_last_s: float


def _losses(answers: Sequence[Answer], recorded: Container[str], kills_s: Sequence[float]) -> list[_Loss]:
    """Of each kill that cost something.

    A request is of the gateway that lived when it was sent, whenever a client that has no processor comes to read it.
    """
    found = []
    for after_s, until_s in pairwise([0.0, *kills_s]):
        told = [answer for answer in answers if after_s <= answer.sent_s < until_s]
        lost = [min(answer.at_s, until_s) for answer in told if answer.request_id not in recorded]
        if lost:
            last_s = min(until_s, max(answer.at_s for answer in told))
            found.append(_Loss(len(lost), until_s - min(lost), last_s - min(lost)))
    return found
