"""What slow requests have in common: in which stage they lose the time that usual requests do not.

Percentiles say that some are slow; single records say why. The slowest hundredth (by time to first token, or by time
per further token) is compared with the median request, stage by stage. What a stage takes longer than usual, summed
over stages, is the excess; a stage's part of it says whose fault the tail is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Final

from tokenworks.contract.record import Record, Stage
from tokenworks.observe.cell import tpot_ns

MIN_RECORDS: Final = 20
_SLOW: Final = 0.01
_MIN_SLOW: Final = 3
START_STAGES: Final = tuple(stage for stage in Stage if stage not in (Stage.DECODE, Stage.DETOKENISE, Stage.WRITE))
"""Where the time before the first token can go."""
PACE_STAGES: Final = (Stage.DECODE, Stage.STALL, Stage.PREEMPTED, Stage.LOST, Stage.WIRE, Stage.ROUTE, Stage.WRITE)
"""Where the time after it can go."""

_Measure = Callable[[Record], float | None]


def start_share(records: Sequence[Record], stage: Stage) -> float:
    """A stage's part in what makes first tokens late; NaN where too little is known."""
    return _share(records, stage, START_STAGES, lambda record: record.ttft_ns, _once)


def pace_share(records: Sequence[Record], stage: Stage) -> float:
    """A stage's part in what makes further tokens late; NaN where too little is known."""
    return _share(records, stage, PACE_STAGES, tpot_ns, _num_further)


def _share(
    records: Sequence[Record], stage: Stage, stages: tuple[Stage, ...], slowness: _Measure, per: _Measure
) -> float:
    known = [record for record in records if record.stages_ns and slowness(record) is not None]
    if len(known) < MIN_RECORDS:
        return math.nan
    slowest = sorted(known, key=lambda record: slowness(record) or 0.0)[-max(_MIN_SLOW, int(len(known) * _SLOW)) :]
    excess = {each: _excess(known, slowest, each, per) for each in stages}
    total = sum(excess.values())
    return excess[stage] / total if total else math.nan


def _excess(usual: Sequence[Record], slow: Sequence[Record], stage: Stage, per: _Measure) -> float:
    def taken(record: Record) -> float:
        return record.stages_ns.get(stage, 0) / (per(record) or 1.0)

    return max(0.0, fmean(taken(record) for record in slow) - median(taken(record) for record in usual))


def _once(record: Record) -> float:
    return 1.0


def _num_further(record: Record) -> float:
    return max(record.output_tokens / max(record.num_sequences, 1) - 1, 1.0)
