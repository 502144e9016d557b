"""What the worker's time, and each sequence's, went to: told by the step loop, read by the heartbeat.

The worker's life is steps, time between steps while there is work, and idle time. It is counted from the meter's making
on, which is when the worker is ready: loading the model is not in it. Each call gives the time since the last one its
kind, so that the three sum to the whole exactly. What metering itself takes is time between steps, and next to none of
it: `benchmarks/metering.py` measures it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from tokenworks.contract.card import Card
from tokenworks.contract.record import SequenceReport, Stage, WorkerUse
from tokenworks.contract.request import Request
from tokenworks.contract.wire import SequenceOutput
from tokenworks.engine.arithmetic import Arithmetic
from tokenworks.engine.engine import Engine, StepTime
from tokenworks.policy.accounts import Accounts, Step, Wait
from tokenworks.policy.one_way import Doorstep
from tokenworks.policy.sharing import Prices
from tokenworks.worker.machine import Machine

TELL_EVERY_NS: Final = 10**8


class Meter:
    """One worker's. Used by the step loop alone, but for `use`."""

    def __init__(
        self, engine: Engine, card: Card, machine: Machine, clock_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        """The clock must be the engine's."""
        self._accounts = Accounts(Prices.of(card), engine.spec.block_tokens, engine.spec.bytes_per_block)
        self._arithmetic = Arithmetic(engine.model.config, engine.spec, engine.model.step_bytes)
        self._machine = machine
        self._clock_ns = clock_ns
        self._started_ns = time.time_ns()
        self._seen_ns = self._told_ns = clock_ns()
        self._between_ns = self._idle_ns = 0
        self._flops = self._read_bytes = 0.0
        self._looked_ns = self._seen_ns
        self._doors: defaultdict[int, Doorstep] = defaultdict(Doorstep)
        self._snapshot = self._take_snapshot()

    # The worker

    def passed(self, *, is_idle: bool) -> None:
        """The time since the last call was idle, or between steps."""
        now_ns = self._clock_ns()
        if is_idle:
            self._idle_ns += now_ns - self._seen_ns
        else:
            self._between_ns += now_ns - self._seen_ns
        self._seen_ns = now_ns

    def turned(self, *, is_idle: bool) -> None:
        """The same, at the end of a turn; now and then the heartbeat is given to see what has been counted."""
        self.passed(is_idle=is_idle)
        seen_ns = self._seen_ns
        if is_idle or seen_ns - self._told_ns > TELL_EVERY_NS:
            self._told_ns = seen_ns
            self._snapshot = self._take_snapshot()

    def stepped(self, step: StepTime, outputs: Sequence[SequenceOutput]) -> None:
        """A step was run, and gave this."""
        plan = step.plan
        self._accounts.take_step(Step(plan.chunks, step.start_ns, step.end_ns, outputs, plan.goes_on))
        self._between_ns += step.start_ns - self._seen_ns
        self._seen_ns = step.end_ns

    def _take_snapshot(self) -> WorkerUse:
        """Replaced as a whole, so that its sums are right."""
        for computed in self._accounts.take_computed():
            flops, read_bytes = self._arithmetic.count(computed)
            self._flops += flops
            self._read_bytes += read_bytes
        step_ns = {work: ns for work, ns in self._accounts.work_ns.items() if ns}
        return WorkerUse(
            started_ns=self._started_ns,
            wall_ns=sum(step_ns.values()) + self._between_ns + self._idle_ns,
            step_ns=step_ns,
            between_ns=self._between_ns,
            idle_ns=self._idle_ns,
            flops=self._flops,
            read_bytes=self._read_bytes,
        )

    @property
    def use(self) -> WorkerUse:
        """Up to a tenth of a second ago, or the last step's beginning. Safe to read from another thread."""
        return replace(self._snapshot, **self._machine.use()._asdict())

    # Sequences

    def came_ns(self, gateway: int, sent_ns: int) -> int:
        """When a message came that is seen now: see `one_way`."""
        return self._doors[gateway].came_ns(sent_ns, self._clock_ns(), self._looked_ns)

    def looked(self) -> None:
        """All that had come by now has been seen."""
        self._looked_ns = self._clock_ns()

    def has_changed(self, gateway: int) -> None:
        """It is another process now, perhaps on another machine: what is known of its clock is void."""
        self._doors[gateway] = Doorstep()

    def arrived(self, request: Request, at_ns: int, *, publishes: bool) -> None:
        """The engine has taken a request that came then."""
        self._accounts.open(request, at_ns, publishes=publishes)

    def refused(self, at_ns: int) -> SequenceReport:
        """Of a request that came then, and goes now."""
        return SequenceReport({Stage.QUEUE: self._clock_ns() - at_ns})

    def exchanged(self, waits: Iterable[Wait], published_bytes: Iterable[tuple[str, int]]) -> None:
        """What the exchange with the KV store did for sequences since the last call."""
        for wait in waits:
            self._accounts.waited(wait)
        for request_id, num_bytes in published_bytes:
            self._accounts.published(request_id, num_bytes)

    def close(self, request_id: str) -> SequenceReport | None:
        """The account of a sequence whose last word is said now; None where there is none."""
        return self._accounts.close(request_id, self._clock_ns())

    def with_reports(self, outputs: list[SequenceOutput]) -> list[SequenceOutput]:
        """The outputs, the ends among them with what each sequence took."""
        if all([output.end is None for output in outputs]):
            return outputs
        return [output if output.end is None else self._with_report(output) for output in outputs]

    def _with_report(self, output: SequenceOutput) -> SequenceOutput:
        assert output.end is not None
        return replace(output, end=replace(output.end, report=self.close(output.request_id)))
