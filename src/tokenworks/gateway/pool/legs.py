"""Where the sequences of one HTTP request were, and what that says of where its time went.

A `Sending` is a leg under way: one sequence at one worker. A `Trail` holds all sendings of a request. The stages of a
sequence's way are a partition of the time from its placing to its last delivery: what lies between two sendings is
`ROUTE`; a sending is what its worker reports, and the rest of its span `WIRE`, found by subtraction, since no two
processes' clocks are compared. A sending that was lost or refused is `LOST`, whatever was reported. Without a report (a
foreign server that tells none, a worker that never told) it is split at its first token: what came before counts as
`PREFILL`, what came after as `DECODE`.

A worker that is told to stop goes on until it hears of it, so that its report may cover more than the request waited
for: the excess is taken from the end, decoding first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tokenworks.contract.record import Leg, SequenceReport, Stage
from tokenworks.contract.wire import EndReason
from tokenworks.gateway.pool.registry import Worker

OUTCOMES: Final = {
    EndReason.STOP: "ok",
    EndReason.LENGTH: "ok",
    EndReason.CANCELLED: "cancelled",
    EndReason.FAILED: "failed",
    EndReason.REFUSED: "refused",
}
LOST: Final = "lost"
_ROUTE: Final = Stage.ROUTE  # plain names, as in `record`
_WIRE: Final = Stage.WIRE
_IN_VAIN: Final = frozenset({LOST, OUTCOMES[EndReason.REFUSED]})
_CUT_FIRST: Final = (
    Stage.DECODE,
    Stage.STALL,
    Stage.PREEMPTED,
    Stage.PUBLISH,
    Stage.PREFILL,
    Stage.FETCH_REMOTE,
    Stage.FETCH_DISK,
    Stage.FETCH_HOST,
    Stage.QUEUE,
)


class Sending:
    """One sequence at one worker. Times are monotonic nanoseconds. What nobody has set is the class's."""

    cached_tokens = 0  # that the router expected to find there
    handed_tokens = 0  # of the prompt, those that another worker has computed for this sending
    found_tokens = 0  # that the worker did not compute
    predicted_ns: int | None = None
    first_ns = 0  # its first token came; 0: none did
    left_ns = 0  # the request no longer waited for it; 0: it does
    ended_ns = 0  # its last word, or its loss
    outcome = "cancelled"  # unless it ends otherwise
    report: SequenceReport | None = None

    def __init__(self, worker: Worker, sequence: int, kind: str, reason: str, sent_ns: int) -> None:
        self.worker = worker
        self.sequence = sequence
        self.kind = kind
        self.reason = reason
        self.sent_ns = sent_ns

    def end(self, now_ns: int, outcome: str, report: SequenceReport | None = None) -> None:
        """The last that is heard of it."""
        self.left_ns = self.left_ns or now_ns
        self.ended_ns = now_ns
        self.outcome = outcome
        self.report = report

    def add_stages(self, total: dict[Stage, int]) -> None:
        """Add a partition of the time for which the request waited for it."""
        span_ns, report = self.left_ns - self.sent_ns, self.report
        if self.outcome in _IN_VAIN:
            add(total, Stage.LOST, span_ns)
        elif report is None or not report.stages_ns:
            self._add_unreported(total, span_ns)
        else:
            self._add_reported(total, report.stages_ns, span_ns)

    def _add_reported(self, total: dict[Stage, int], reported: dict[Stage, int], span_ns: int) -> None:
        told_ns = reported.values()
        reported_ns = sum(told_ns)
        if reported_ns > span_ns:
            wire_ns = max(0, self.ended_ns - self.sent_ns - reported_ns)
            reported = _cut(reported, max(0, span_ns - wire_ns))
            told_ns = reported.values()
            reported_ns = sum(told_ns)
        if reported_ns > span_ns or min(told_ns) < 0:
            self._add_unreported(total, span_ns)  # it cannot be: no worker of ours tells such a thing
            return
        for stage, spent_ns in reported.items():
            if spent_ns:
                total[stage] = total[stage] + spent_ns if stage in total else spent_ns
        add(total, _WIRE, span_ns - reported_ns)

    def _saved_ns(self) -> int:
        """What the tokens that were found would have taken, by the card; those paid for elsewhere are none."""
        found, handed = self.found_tokens, min(self.found_tokens, self.handed_tokens)
        if found == handed:
            return 0
        card = self.worker.hello.card
        pairs = (found**2 - handed**2) / 2
        return round(1e9 * (card.prefill_per_token_s * (found - handed) + card.prefill_per_pair_s * pairs))

    def _add_unreported(self, total: dict[Stage, int], span_ns: int) -> None:
        if not self.first_ns:
            add(total, Stage.WIRE, span_ns)
            return
        prefill_ns = min(self.first_ns - self.sent_ns, span_ns)
        add(total, Stage.PREFILL, prefill_ns)
        add(total, Stage.DECODE, span_ns - prefill_ns)

    def leg(self, origin_ns: int) -> Leg:
        """For the record, which starts at `origin_ns`."""
        card = self.worker.hello.card
        return Leg(  # in the order of its fields, as in `record`
            self.worker.id,
            self.sequence,
            self.kind,
            self.reason,
            self.sent_ns - origin_ns,
            self.ended_ns - self.sent_ns,
            self.outcome,
            self.cached_tokens,
            self.predicted_ns,
            self._saved_ns() if self.found_tokens else 0,
            self.report,
            card.price_per_hour,
            card.watts,
        )


class Trail:
    """All sendings of one HTTP request."""

    __slots__ = ("began_ns", "end_ns", "last", "num_untold", "on_told", "sendings")

    def __init__(self, began_ns: int) -> None:
        self.began_ns = self.end_ns = began_ns  # from the one to the other its sequences were on their way
        self.last: int | None = None  # of its sequences, the one that ended last; None: none has ended
        self.sendings: list[Sending] = []
        self.num_untold = 0  # sendings that were cancelled and whose worker has not yet said what they took
        self.on_told: Callable[[], None] | None = None  # when there is none left

    def ended(self, sequence: int, at_ns: int) -> None:
        """A sequence's last delivery, or when it was given up; once for each."""
        if self.last is None or at_ns > self.end_ns:
            self.last, self.end_ns = sequence, at_ns

    def told(self) -> None:
        """One of those that were cancelled has told, or never will."""
        self.num_untold -= 1
        if not self.num_untold and self.on_told is not None:
            self.on_told()

    def add_stages(self, total: dict[Stage, int]) -> None:
        """Add a partition of `began_ns` to `end_ns`: the way of the sequence that ended last."""
        now_ns, routed_ns = self.began_ns, 0
        for sending in self.sendings if self.last is not None else ():
            if sending.sequence == self.last:
                routed_ns += sending.sent_ns - now_ns
                sending.add_stages(total)
                now_ns = sending.left_ns
        add(total, _ROUTE, routed_ns + self.end_ns - now_ns)


def add(total: dict[Stage, int], stage: Stage, spent_ns: int) -> None:
    """More time for a stage; none leaves it out."""
    if spent_ns:
        total[stage] = total[stage] + spent_ns if stage in total else spent_ns


def _cut(stages: dict[Stage, int], most_ns: int) -> dict[Stage, int]:
    """The stages without what is beyond `most_ns`, taken from the end."""
    left = dict(stages)
    excess_ns = sum(left.values()) - most_ns
    for stage in _CUT_FIRST:
        taken_ns = min(excess_ns, left.get(stage, 0))
        if taken_ns > 0:
            left[stage] -= taken_ns
            excess_ns -= taken_ns
    return left
