"""One record for every generation request that was understood, however it ended.

A request is understood when its body was read and is a JSON object. So what is turned away for an unknown parameter, a
bad value, a missing key (whose body nobody looks at), no worker or a drain has a record without legs; what is no JSON,
or larger than is read, or broken off while it is sent, has none: `tokenworks_requests_total` counts those too.

The stages are a partition of the time between `started_ns` and the end by construction. Until the sequences are placed
they are `RECEIVE`, `TOKENISE` and `ADMIT`, then those of the sequence that ended last (`legs.Trail`), and from its last
delivery on `DETOKENISE`, but `WRITE` while the client is still taking what came before and once the last bytes are
written. A record is written when the workers have told what cancelled sequences took, or a lease later.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Iterable
from typing import Final

from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Record, Stage
from tokenworks.contract.request import Scenario
from tokenworks.gateway.keys.tenants import UNKNOWN, Caller
from tokenworks.gateway.pool.legs import Trail
from tokenworks.gateway.records.traces import Trace, new_traces, trace_of

MAX_GAPS: Final = 1 << 16
"""Of one request that are kept: a quarter of a MiB, the gaps of 16 answers of 4096 tokens."""
_RECEIVE: Final = Stage.RECEIVE  # plain names: looking up an enum's member takes as long as the sum that it is for
_TOKENISE: Final = Stage.TOKENISE
_ADMIT: Final = Stage.ADMIT
_WRITE: Final = Stage.WRITE
_DETOKENISE: Final = Stage.DETOKENISE
_NO_GAPS: Final = array("I")


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
    gaps_us = _NO_GAPS  # between the token events of each sequence
    received_ns = 0  # when its body was there; 0, as below: it never came to that
    tokenise_ns = 0  # when its prompt began to become tokens
    tokenised_ns = 0
    asked_ns = 0  # until then the client was taking what had come before
    write_ns = 0  # when the last bytes began to be written
    outcome = ""  # and the next two: once it has ended
    status = 0
    ended_ns = 0
    num_alike = 1  # requests that its record stands for: see `floods`
    _trace: Trace | None = None

    def __init__(self, request_id: str, endpoint: str, traceparent: bytes | None, started_ns: int) -> None:
        self.id = request_id
        self.endpoint = endpoint
        self.started_ns = started_ns
        self.started_at_ns = time.time_ns()
        self._traceparent = traceparent

    @property
    def trace(self) -> Trace:
        """The trace that it is a span of: drawn when somebody asks, which most often is when all is over."""
        if self._trace is None:
            self._trace = trace_of(self._traceparent)
        return self._trace

    def placed(self, trail: Trail) -> None:
        """Its sequences are on their way."""
        self.trail = trail

    def writes(self) -> None:
        """What is written from now on is the last that the client gets."""
        self.write_ns = time.monotonic_ns()

    def ended(self, outcome: str, status: int, ended_ns: int) -> None:
        """Nothing more comes of it."""
        self.outcome, self.status, self.ended_ns = outcome, status, ended_ns

    def record(self, gateway: str, model: str, outcome: str, status: int, ended_ns: int) -> Record:
        """As it stands, ended at that time."""
        trail, caller, origin_ns = self.trail, self.caller, self.started_ns
        trace = self.trace
        legs = [] if trail is None else [sending.leg(origin_ns) for sending in trail.sendings]
        return Record(  # in the order of its fields: named, they take six times as long
            self.id,
            self.started_at_ns,
            ended_ns - origin_ns,
            caller.tenant,
            model,
            self.scenario or caller.scenario,
            outcome,
            status,
            gateway,
            self.answer_id,
            caller.key,
            "" if trail is None or not trail.sendings else trail.sendings[-1].worker.version,
            self.endpoint,
            self.is_stream,
            trace.trace_id,
            trace.span_id,
            trace.parent_span_id,
            self.tags,
            self.num_sequences,
            self.prompt_tokens,
            self.cached_tokens,
            self.output_tokens,
            self.finish_reasons,
            self.mean_logprob,
            self.ttft_ns,
            _little_endian(self.gaps_us),
            self._partition(ended_ns),
            legs,
            self.num_alike,
        )

    def _partition(self, ended_ns: int) -> dict[Stage, int]:
        """All of its time, by stage."""
        trail, write_ns = self.trail, self.write_ns or ended_ns
        placed_ns = write_ns if trail is None else trail.began_ns
        tokenised_ns = self.tokenised_ns or placed_ns
        tokenise_ns = self.tokenise_ns or tokenised_ns
        received_ns = self.received_ns or tokenise_ns
        total = {
            _RECEIVE: received_ns - self.started_ns,
            _TOKENISE: tokenised_ns - tokenise_ns,
            _ADMIT: tokenise_ns - received_ns + placed_ns - tokenised_ns,
        }
        if trail is None:
            total[_WRITE] = ended_ns - write_ns
        else:
            trail.add_stages(total)
            delivered_ns = trail.end_ns
            free_ns = delivered_ns if delivered_ns > self.asked_ns else self.asked_ns
            write_ns = write_ns if write_ns > free_ns else free_ns
            total[_DETOKENISE] = write_ns - free_ns
            total[_WRITE] = free_ns - delivered_ns + ended_ns - write_ns
        return {stage: spent_ns for stage, spent_ns in total.items() if spent_ns} if 0 in total.values() else total


def draw_traces(recordings: Iterable[Recording]) -> None:
    """For those whose trace nobody has given or asked for: many at once take a third of the time of one by one."""
    untraced = [each for each in recordings if each._trace is None and each._traceparent is None]
    for recording, trace in zip(untraced, new_traces(len(untraced)), strict=True):
        recording._trace = trace


def _little_endian(gaps_us: array[int]) -> bytes:
    kept = gaps_us if len(gaps_us) <= MAX_GAPS and sys.byteorder == "little" else gaps_us[:MAX_GAPS]
    if sys.byteorder == "big":
        kept.byteswap()
    return kept.tobytes()
