"""What a foreign server's time went to, as far as it can be seen from outside: who had a request there, and since when.

Its price is for the whole server, however many requests it works on at once. So at each instant its time is shared
evenly among the requests that are there, and it is idle when there is none: shares and idle time sum to the time that
has passed, exactly. Whether a request waits or is computed cannot be seen: until its first output it counts as prefill,
from then on as decode. Reads no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenworks.contract.record import SequenceReport, Stage, Work, WorkerUse
from tokenworks.policy.sharing import share_out


@dataclass(eq=False, slots=True)
class _Leg:
    """One request at the server."""

    since_ns: int
    has_output: bool = False
    stages_ns: dict[Stage, int] = field(default_factory=dict)
    device_ns: dict[Work, int] = field(default_factory=dict)

    @property
    def work(self) -> Work:
        return Work.DECODE if self.has_output else Work.PREFILL


class RelayMeter:
    """One server's; instants by one monotonic clock."""

    def __init__(self, started_ns: int, now_ns: int) -> None:
        """`started_ns` is since 1970, and names this life."""
        self._started_ns = started_ns
        self._seen_ns = now_ns
        self._idle_ns = 0
        self._work_ns: dict[Work, int] = {}
        self._legs: dict[str, _Leg] = {}

    def begin(self, request_id: str, now_ns: int) -> None:
        """A request goes to the server."""
        self._pass(now_ns)
        self._legs[request_id] = _Leg(now_ns)

    def first_output(self, request_id: str, now_ns: int) -> None:
        """Something has come back."""
        self._pass(now_ns)
        leg = self._legs[request_id]
        self._end_stage(leg, now_ns)
        leg.has_output = True

    def end(self, request_id: str, now_ns: int) -> SequenceReport | None:
        """It is over, however; None where it is not known."""
        self._pass(now_ns)
        leg = self._legs.pop(request_id, None)
        if leg is None:
            return None
        self._end_stage(leg, now_ns)
        return SequenceReport(stages_ns=leg.stages_ns, device_ns=leg.device_ns)

    def use(self, now_ns: int) -> WorkerUse:
        """Of the server's time; of the machine that it runs on nothing is known."""
        self._pass(now_ns)
        step_ns = dict(self._work_ns)
        wall_ns = sum(step_ns.values()) + self._idle_ns
        return WorkerUse(started_ns=self._started_ns, wall_ns=wall_ns, step_ns=step_ns, idle_ns=self._idle_ns)

    def _pass(self, now_ns: int) -> None:
        """Share out the time since the last event. O(requests there), at each beginning, first output and end."""
        passed_ns = now_ns - self._seen_ns
        self._seen_ns = now_ns
        if not self._legs:
            self._idle_ns += passed_ns
            return
        for leg, share_ns in zip(self._legs.values(), share_out(passed_ns, [1.0] * len(self._legs)), strict=True):
            leg.device_ns[leg.work] = leg.device_ns.get(leg.work, 0) + share_ns
            self._work_ns[leg.work] = self._work_ns.get(leg.work, 0) + share_ns

    def _end_stage(self, leg: _Leg, now_ns: int) -> None:
        leg.stages_ns[Stage.DECODE if leg.has_output else Stage.PREFILL] = now_ns - leg.since_ns
        leg.since_ns = now_ns
