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
from tokenworks.gateway.legs import Trail, add_stages
from tokenworks.gateway.tenants import UNKNOWN, Caller
from tokenworks.gateway.traces import Trace
from tokenworks.observe.cost import costs_of

MAX_GAPS: Final = 1 << 16
"""Of one request that are kept: a quarter of a MiB, the gaps of 16 answers of 4096 tokens."""
_LONGEST_GAP_US: Final = (1 << 32) - 1


class Recording:
    """What is known of one request while it is answered. Times are monotonic nanoseconds, but `started_at_ns`."""

    def __init__(self, request_id: str, endpoint: str, trace: Trace, started_ns: int) -> None:
        self.id = request_id
        self.endpoint = endpoint
        self.trace = trace
        self.started_ns = started_ns
        self.started_at_ns = time.time_ns()
        self.is_understood = False
        self.caller: Caller = UNKNOWN
        self.scenario: Scenario | None = None  # None: nothing is said of it
        self.tags: dict[str, str] = {}
        self.is_stream = False
        self.num_sequences = 1
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.cached_tokens: dict[Tier, int] = {}
        self.finish_reasons: list[str] = []
        self.mean_logprob: float | None = None
        self.ttft_ns: int | None = None
        self.trail: Trail | None = None  # None: it was not placed
        self.asked_ns = 0  # until then the client was taking what had come before
        self.write_ns = 0  # when the last bytes began to be written; 0: none were
        self._gaps_us = array("I")
        self._stages_ns: dict[Stage, int] = {}
        self._stage = Stage.RECEIVE
        self._since_ns = started_ns

    def enter(self, stage: Stage) -> None:
        """From now on time goes to that stage; until its sequences are placed."""
        self._close_stage(time.monotonic_ns())
        self._stage = stage

    def placed(self, trail: Trail) -> None:
        """Its sequences are on their way."""
        self._close_stage(trail.began_ns)
        self.trail = trail

    def writes(self) -> None:
        """What is written from now on is the last that the client gets."""
        if self.trail is None:
            self.enter(Stage.WRITE)
        else:
            self.write_ns = time.monotonic_ns()

    def gap(self, gap_ns: int) -> None:
        """Between two token events of a sequence."""
        if len(self._gaps_us) < MAX_GAPS:
            self._gaps_us.append(min(gap_ns // 1000, _LONGEST_GAP_US))

    def record(self, gateway: str, model: str, outcome: str, status: int, ended_ns: int) -> Record:
        """As it stands, ended at that time."""
        trail, caller, trace = self.trail, self.caller, self.trace
        legs = [] if trail is None else [sending.leg(self.started_ns) for sending in trail.sendings]
        return Record(
            id=self.id,
            started_ns=self.started_at_ns,
            e2e_ns=ended_ns - self.started_ns,
            tenant=caller.tenant,
            model=model,
            scenario=self.scenario or caller.scenario,
            outcome=outcome,
            status=status,
            gateway=gateway,
            key=caller.key,
            version="" if trail is None or not trail.sendings else trail.sendings[-1].worker.version,
            endpoint=self.endpoint,
            is_stream=self.is_stream,
            trace_id=trace.trace_id,
            span_id=trace.span_id,
            parent_span_id=trace.parent_span_id,
            tags=self.tags,
            num_sequences=self.num_sequences,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            finish_reasons=self.finish_reasons,
            mean_logprob=self.mean_logprob,
            ttft_ns=self.ttft_ns,
            gaps_us=_little_endian(self._gaps_us),
            stages_ns=self._stages(ended_ns),
            legs=legs,
        )

    def _close_stage(self, now_ns: int) -> None:
        self._stages_ns[self._stage] = self._stages_ns.get(self._stage, 0) + now_ns - self._since_ns
        self._since_ns = now_ns

    def _stages(self, ended_ns: int) -> dict[Stage, int]:
        """A partition of all of it; stages that took no time are left out."""
        stages = dict(self._stages_ns)
        if self.trail is None:
            add_stages(stages, {self._stage: ended_ns - self._since_ns})
        else:
            add_stages(stages, self.trail.stages())
            add_stages(stages, self._last_stages(min(self.trail.end_ns, ended_ns), ended_ns))
        return {stage: spent_ns for stage, spent_ns in stages.items() if spent_ns}

    def _last_stages(self, since_ns: int, ended_ns: int) -> dict[Stage, int]:
        """From the last delivery to the end."""
        free_ns = max(since_ns, self.asked_ns)
        write_ns = max(free_ns, self.write_ns or ended_ns)
        return {Stage.WRITE: free_ns - since_ns + ended_ns - write_ns, Stage.DETOKENISE: write_ns - free_ns}


class Recorder:
    """Makes records of what has ended and hands each to every keeper, once."""

    def __init__(
        self, gateway: str, model: str, prices: CostSettings, keepers: Sequence[Callable[[Record], None]]
    ) -> None:
        self.gateway = gateway  # its name
        self.prices = prices
        self._model = model
        self._keepers = keepers

    def finish(self, recording: Recording, outcome: str, status: int, ended_ns: int) -> None:
        """A request has ended; its record follows at once, or when its workers have told."""
        if not recording.is_understood or not self._keepers:
            return
        write = partial(self._write, recording, outcome, status, ended_ns)
        if recording.trail is not None and recording.trail.num_untold:
            recording.trail.on_told = write
        else:
            write()

    def costs(self, recording: Recording) -> Costs | None:
        """What a request whose sequences have ended came to; None where a worker has yet to tell."""
        if recording.trail is not None and recording.trail.num_untold:
            return None
        record = recording.record(self.gateway, self._model, "ok", 200, time.monotonic_ns())
        return costs_of(record, self.prices)

    def _write(self, recording: Recording, outcome: str, status: int, ended_ns: int) -> None:
        record = recording.record(self.gateway, self._model, outcome, status, ended_ns)
        for keep in self._keepers:
            keep(record)


def _little_endian(values: array[int]) -> bytes:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()
