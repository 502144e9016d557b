"""One record for every generation request that was understood, however it ended.

A request is understood when its body was read and is a JSON object. So what is turned away for an unknown parameter, a
bad value, a missing key (whose body nobody looks at), no worker or a drain has a record without legs; what is no JSON,
or larger than is read, or broken off while it is sent, has none: `tokenworks_requests_total` counts those too.

The stages are a partition of the time between `started_ns` and the end by construction. Until the sequences are placed
they are what was entered (`Recording.enter`), then those of the sequence that ended last (`legs.Trail`), and from its
last delivery on `DETOKENISE`, but `WRITE` while the client is still taking what came before and once the last bytes are
written. A record is written when the workers have told what cancelled sequences took, or a lease later.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from tokenworks.contract.config import CostSettings
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Costs, Record, Stage
from tokenworks.contract.request import Scenario
from tokenworks.gateway.legs import Trail, add
from tokenworks.gateway.tenants import UNKNOWN, Caller
from tokenworks.gateway.traces import Trace, trace_of
from tokenworks.observe.tables.cost import costs_of

_log = logging.getLogger(__name__)

MAX_GAPS: Final = 1 << 16
"""Of one request that are kept: a quarter of a MiB, the gaps of 16 answers of 4096 tokens."""
LONGEST_GAP_US: Final = (1 << 32) - 1
_RECEIVE: Final = Stage.RECEIVE


class Recording:
    """What is known of one request while it is answered. Times are monotonic nanoseconds, but `started_at_ns`.

    What nobody has set is the class's: most requests set a third of it, and there are a thousand of them a second.
    """

    is_understood = False
    trail: Trail | None = None  # None: it was not placed
    caller: Caller = UNKNOWN
    scenario: Scenario | None = None  # None: nothing is said of it
    answer_id = ""
    tags: dict[str, str] = {}  # replaced, never changed, as are the others here
    is_stream = False
    num_sequences = 1
    prompt_tokens = 0
    output_tokens = 0
    cached_tokens: dict[Tier, int] = {}
    finish_reasons: list[str] = []
    mean_logprob: float | None = None
    ttft_ns: int | None = None
    asked_ns = 0  # until then the client was taking what had come before
    write_ns = 0  # when the last bytes began to be written; 0: none were
    outcome = ""  # and the next two: once it has ended
    status = 0
    ended_ns = 0
    _trace: Trace | None = None

    def __init__(self, request_id: str, endpoint: str, traceparent: bytes | None, started_ns: int) -> None:
        self.id = request_id
        self.endpoint = endpoint
        self.started_ns = started_ns
        self.started_at_ns = time.time_ns()
        self.gaps_us = array("Q")  # between the token events of each sequence
        self._traceparent = traceparent
        self._stages = [_RECEIVE]
        self._since_ns = [started_ns]

    @property
    def trace(self) -> Trace:
        """The trace that it is a span of: drawn when somebody asks, which most often is when all is over."""
        if self._trace is None:
            self._trace = trace_of(self._traceparent)
        return self._trace

    def enter(self, stage: Stage) -> None:
        """From now on time goes to that stage; until its sequences are placed."""
        self._since_ns.append(time.monotonic_ns())
        self._stages.append(stage)

    def placed(self, trail: Trail) -> None:
        """Its sequences are on their way."""
        self.trail = trail

    def writes(self) -> None:
        """What is written from now on is the last that the client gets."""
        if self.trail is None:
            self.enter(Stage.WRITE)
        else:
            self.write_ns = time.monotonic_ns()

    def ended(self, outcome: str, status: int, ended_ns: int) -> None:
        """Nothing more comes of it."""
        self.outcome, self.status, self.ended_ns = outcome, status, ended_ns

    def record(self, gateway: str, model: str, outcome: str, status: int, ended_ns: int) -> Record:
        """As it stands, ended at that time."""
        trail, caller, origin_ns = self.trail, self.caller, self.started_ns
        trace_id, span_id, parent_span_id = self.trace
        legs = [] if trail is None else [sending.leg(origin_ns) for sending in trail.sendings]
        return Record(
            id=self.id,
            started_ns=self.started_at_ns,
            e2e_ns=ended_ns - origin_ns,
            tenant=caller.tenant,
            model=model,
            scenario=self.scenario or caller.scenario,
            outcome=outcome,
            status=status,
            gateway=gateway,
            answer_id=self.answer_id,
            key=caller.key,
            version="" if trail is None or not trail.sendings else trail.sendings[-1].worker.version,
            endpoint=self.endpoint,
            is_stream=self.is_stream,
            trace_id=trace_id,
            span_id=span_id,
            parent_span_id=parent_span_id,
            tags=self.tags,
            num_sequences=self.num_sequences,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            finish_reasons=self.finish_reasons,
            mean_logprob=self.mean_logprob,
            ttft_ns=self.ttft_ns,
            gaps_us=_packed(self.gaps_us),
            stages_ns=self._partition(ended_ns),
            legs=legs,
        )

    def _partition(self, ended_ns: int) -> dict[Stage, int]:
        """All of its time, by stage."""
        total: dict[Stage, int] = {}
        until_ns = [*self._since_ns[1:], ended_ns if self.trail is None else self.trail.began_ns]
        for stage, since_ns, end_ns in zip(self._stages, self._since_ns, until_ns, strict=True):
            add(total, stage, end_ns - since_ns)
        if self.trail is not None:
            self.trail.add_stages(total)
            delivered_ns = self.trail.end_ns
            free_ns = max(delivered_ns, self.asked_ns)
            write_ns = max(free_ns, self.write_ns or ended_ns)
            add(total, Stage.WRITE, free_ns - delivered_ns + ended_ns - write_ns)
            add(total, Stage.DETOKENISE, write_ns - free_ns)
        return total


class Recorder:
    """Makes records of what has ended and hands each to every keeper, once.

    Not one by one as they end but all of some milliseconds in a row: no client waits for it, and the same work in a row
    takes a fraction of the time that it takes between other work, with other things in the processor's caches.
    """

    def __init__(
        self,
        gateway: str,
        model: str,
        prices: CostSettings,
        keepers: Sequence[Callable[[Record], None]],
        settle_s: float = 0.05,
        on_settled: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_settled` is called after every turn."""
        self.gateway = gateway  # its name
        self.prices = prices
        self._model = model
        self._keepers = keepers
        self._settle_s = settle_s
        self._on_settled = on_settled
        self._ended: list[Recording] = []
        self._timer: asyncio.TimerHandle | None = None

    def finish(self, recording: Recording, outcome: str, status: int, ended_ns: int) -> None:
        """A request has ended; its record follows within `settle_s`, or when its workers have told."""
        if not recording.is_understood or not self._keepers:
            return
        recording.ended(outcome, status, ended_ns)
        trail = recording.trail
        if trail is not None and trail.num_untold:
            trail.on_told = partial(self._add, recording)
        else:
            self._add(recording)

    def costs(self, recording: Recording) -> Costs | None:
        """What a request whose sequences have ended came to; None where a worker has yet to tell."""
        if recording.trail is not None and recording.trail.num_untold:
            return None
        record = recording.record(self.gateway, self._model, "ok", 200, time.monotonic_ns())
        return costs_of(record, self.prices)

    def settle(self) -> None:
        """Make the records that are due now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ended, self._ended = self._ended, []
        for recording in ended:
            try:
                self._settle(recording)
            except Exception:
                _log.exception("the record of request %s could not be made: this is a bug", recording.id)
        self._on_settled()

    def _settle(self, ended: Recording) -> None:
        record = ended.record(self.gateway, self._model, ended.outcome, ended.status, ended.ended_ns)
        for keep in self._keepers:
            keep(record)

    def _add(self, ended: Recording) -> None:
        self._ended.append(ended)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._settle_s, self.settle)


def _packed(gaps_us: array[int]) -> bytes:
    """As a record has them."""
    kept = gaps_us if len(gaps_us) <= MAX_GAPS else gaps_us[:MAX_GAPS]
    try:
        packed = array("I", kept)
    except OverflowError:
        packed = array("I", [min(gap_us, LONGEST_GAP_US) for gap_us in kept])
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()
