"""Records and samples that tests make up, in as few words as possible."""

from __future__ import annotations

from typing import Any

from tokenworks.contract.record import Leg, Record, SequenceReport, Stage, Work, WorkerSample, WorkerUse
from tokenworks.contract.request import Scenario
from tokenworks.observe.ledger import Span

NOON_NS = 1_763_812_800_000_000_000  # 2025-11-22 12:00 UTC: on a minute and on an hour
SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS


def record(number: int = 0, ended_ns: int = NOON_NS, e2e_ns: int = SECOND_NS, **fields: Any) -> Record:
    """A request that went well on worker w0."""
    report = SequenceReport(
        stages_ns={Stage.PREFILL: e2e_ns // 4, Stage.DECODE: e2e_ns // 2},
        device_ns={Work.PREFILL: e2e_ns // 4, Work.DECODE: e2e_ns // 2},
    )
    worker = fields.pop("worker", "w0")
    given: dict[str, Any] = {
        "id": f"req-{number}",
        "tenant": "anna",
        "model": "qwen",
        "version": "v1",
        "scenario": Scenario.ONLINE,
        "outcome": "ok",
        "status": 200,
        "prompt_tokens": 10,
        "output_tokens": 5,
        "ttft_ns": e2e_ns // 4,
        "gaps_us": b"\x10\x27\0\0" * 4,
        "stages_ns": {Stage.PREFILL: e2e_ns // 4, Stage.DECODE: e2e_ns - e2e_ns // 4},
        "legs": [Leg(worker, span_ns=e2e_ns, report=report, price_per_hour=3.6)] if worker else [],
    }
    return Record(started_ns=ended_ns - e2e_ns, e2e_ns=e2e_ns, **(given | fields))


def worker_sample(at_ns: int, busy_ns: int, idle_ns: int, started_ns: int = NOON_NS, **fields: Any) -> WorkerSample:
    """Worker w0 after so much work."""
    use = WorkerUse(started_ns, busy_ns + idle_ns, {Work.DECODE: busy_ns}, 0, idle_ns)
    given: dict[str, Any] = {"worker": "w0", "model": "qwen", "price_per_hour": 3.6, "total_blocks": 100}
    return WorkerSample(at_ns=at_ns, use=use, **(given | fields))


def span(span_id: str, start_ms: float, end_ms: float, parent: str = "", **fields: Any) -> Span:
    """A span of trace "t" in milliseconds after noon."""
    given: dict[str, Any] = {"trace_id": "t", "service": "shop", "name": f"span {span_id}", "kind": "internal"}
    started_ns = NOON_NS + round(start_ms * 1e6)
    duration_ns = round((end_ms - start_ms) * 1e6)
    return Span(
        span_id=span_id,
        parent_span_id=parent,
        started_ns=started_ns,
        duration_ns=duration_ns,
        **(given | fields),
    )
