"""A system's life in a ledger, made up in a few words: what was usual for 40 minutes, and the 10 minutes after that.

Numbers are drawn with a seed, so that percentiles have something to be of; stages are given in milliseconds and vary by
a tenth. `Scene()` with `usual()` in both halves is a clean run.
"""

from __future__ import annotations

import random
from array import array
from typing import Any, Final

import msgspec

from tests.observe.made import MINUTE_NS, NOON_NS, SECOND_NS
from tests.observe.memory_ledger import MemoryLedger
from tokenworks.contract.config import ObjectiveSettings
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import (
    Frame,
    Incident,
    Leg,
    Record,
    SequenceReport,
    Stage,
    StoreSample,
    Work,
    WorkerSample,
    WorkerUse,
)
from tokenworks.contract.request import Scenario
from tokenworks.observe.ledger import Window

NOW: Final = Window(NOON_NS, NOON_NS + 10 * MINUTE_NS)
BEFORE: Final = Window(NOON_NS - 40 * MINUTE_NS, NOON_NS)
NO_PROMISES: Final = ObjectiveSettings(online_ttft_s=0, online_tpot_s=0, realtime_ttft_s=0, realtime_itl_s=0)
USUAL_MS: Final = {
    Stage.RECEIVE: 0.2,
    Stage.TOKENISE: 0.5,
    Stage.ROUTE: 0.2,
    Stage.WIRE: 1.0,
    Stage.QUEUE: 2.0,
    Stage.PREFILL: 60.0,
    Stage.DECODE: 400.0,
    Stage.DETOKENISE: 0.2,
    Stage.WRITE: 0.2,
}
_STARTING: Final = frozenset(
    stage for stage in Stage if stage not in (Stage.DECODE, Stage.STALL, Stage.PREEMPTED, Stage.DETOKENISE, Stage.WRITE)
)


class Scene:
    """Frames of one made-up system; every method adds to them."""

    def __init__(self, seed: int = 1) -> None:
        self.frames: list[Frame] = []
        self._random = random.Random(seed)

    def ledger(self) -> MemoryLedger:
        return MemoryLedger(self.frames)

    def requests(self, window: Window, count: int, stages_ms: dict[Stage, float] | None = None, **more: Any) -> Scene:
        """So many that end in a window, evenly spread; `more`: see `_record`."""
        step_ns = (window.end_ns - window.start_ns) // (count + 1)
        for number in range(count):
            stages = {**USUAL_MS, **(stages_ms or {})}
            self.frames.append(self._record(window.start_ns + (number + 1) * step_ns, stages, **more))
        return self

    def usual(self, window: Window, count: int = 100, **more: Any) -> Scene:
        return self.requests(window, count, **more)

    def worker(self, window: Window, name: str = "w0", busy: float = 0.5, between: float = 0.02, **more: Any) -> Scene:
        """One life of a worker, as long as the window, told every minute; `rates`: FLOP/s and bytes/s in steps."""
        price, cores = more.pop("price", 3.6), more.pop("cores", 1.0)
        flops_per_s, bytes_per_s = more.pop("rates", (50e9, 5e9))
        for at_ns in range(window.start_ns, window.end_ns, MINUTE_NS):
            wall_ns = at_ns - window.start_ns
            step_ns, between_ns = int(wall_ns * busy), int(wall_ns * between)
            use = WorkerUse(
                started_ns=window.start_ns,
                wall_ns=wall_ns,
                step_ns={Work.DECODE: step_ns},
                between_ns=between_ns,
                idle_ns=wall_ns - step_ns - between_ns,
                flops=flops_per_s * step_ns / 1e9,
                read_bytes=bytes_per_s * step_ns / 1e9,
                cpu_s=cores * (step_ns + between_ns) / 1e9,
            )
            fields = {"model": "m", "total_blocks": 100, "free_blocks": 60, "device": "CPU", "running": 2, **more}
            self.frames.append(WorkerSample(at_ns, name, use=use, price_per_hour=price, **fields))
        return self

    def store(self, window: Window, evictions: int = 0, speeds: dict[Tier, float] | None = None) -> Scene:
        """A store that dropped so many blocks by the window's end, and whose tiers give so many bytes a second."""
        for at_ns, dropped in ((window.start_ns, 0), (window.end_ns - 1, evictions)):
            sample = StoreSample(at_ns, "s0", {Tier.HOST: 100}, {Tier.HOST: 100}, evictions={Tier.HOST: dropped})
            self.frames.append(msgspec.structs.replace(sample, read_bytes_per_s=speeds or {}))
        return self

    def incident(self, kind: str, subject: str, times: int = 1) -> Scene:
        """So many of a kind, in the window."""
        self.frames += [Incident(NOW.start_ns + (1 + at) * SECOND_NS, kind, subject) for at in range(times)]
        return self

    def _record(
        self,
        ended_ns: int,
        stages_ms: dict[Stage, float],
        *,
        tenant: str = "anna",
        scenario: Scenario = Scenario.ONLINE,
        worker: str = "w0",
        outcome: str = "ok",
        prompt: int = 200,
        cached: int = 100,
        tier: Tier = Tier.DEVICE,
        output: int = 40,
        gap_ms: float | None = None,
        spikes: tuple[int, float] = (0, 0.0),
        price: float = 3.6,
        work_ms: dict[Work, float] | None = None,
        slow: tuple[float, dict[Stage, float]] = (0.0, {}),
        **report: Any,
    ) -> Record:
        """`spikes`: so many gaps of so many ms; `slow`: with this chance these stages instead."""
        if self._random.random() < slow[0]:
            stages_ms = {**stages_ms, **slow[1]}
        stages = {stage: int(ms * 1e6 * self._random.uniform(0.95, 1.05)) for stage, ms in stages_ms.items()}
        device_ms = work_ms or {Work.PREFILL: stages_ms[Stage.PREFILL], Work.DECODE: stages_ms[Stage.DECODE] / 4}
        gap = gap_ms if gap_ms is not None else stages_ms[Stage.DECODE] / output
        gaps = [gap * self._random.uniform(0.95, 1.05) for _ in range(output - 1 - spikes[0])] + [spikes[1]] * spikes[0]
        told = SequenceReport(device_ns={work: int(ms * 1e6) for work, ms in device_ms.items()}, **report)
        legs = [Leg(worker, span_ns=sum(stages.values()), report=told, price_per_hour=price)] if worker else []
        return Record(
            id=f"r{len(self.frames)}",
            started_ns=ended_ns - sum(stages.values()),
            e2e_ns=sum(stages.values()),
            tenant=tenant,
            model="m",
            version="v1",
            scenario=scenario,
            outcome=outcome,
            status={"ok": 200, "invalid_value": 400}.get(outcome, 503),
            prompt_tokens=prompt,
            cached_tokens={tier: cached},
            output_tokens=output,
            ttft_ns=sum(ns for stage, ns in stages.items() if stage in _STARTING) if worker else None,
            gaps_us=array("I", [round(each * 1000) for each in gaps]).tobytes(),
            stages_ns=stages,
            legs=legs,
        )
