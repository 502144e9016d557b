"""One request, explained: where its time and its money went, why it went to which worker, and what would have helped.

`explain` is what `tokenworks explain`, the dashboard and `GET /observe/explain/{id}` show; it only reads the ledger.
A record's stages partition its E2E but may be scattered over it (a sequence decodes, stalls, decodes again), so that
the waterfall shows how much each took, one after the other (`stage_lines`); legs and spans, which have a beginning,
stand where they were. Durations are nanoseconds, amounts are in the configured currency.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from tokenworks.contract.errors import NotFound
from tokenworks.contract.record import PICO, Costs, Leg, Record
from tokenworks.observe.chains.chain import Link, chain_of, held_ns
from tokenworks.observe.chains.own_spans import SERVICE
from tokenworks.observe.diagnose.explain_words import advice_for, reason_in_words, story_of
from tokenworks.observe.diagnose.fates import Fate, fates
from tokenworks.observe.diagnose.stage_lines import StageLine, stage_lines
from tokenworks.observe.ledger import Ended, Ledger

NO_SUCH: Final = "no record of {id!r}: requests appear when they have ended; `tokenworks explain --last` finds one"


class LegLine(msgspec.Struct, frozen=True):
    """One sending to one worker."""

    worker: str
    sequence: int
    kind: str
    reason: str  # the router's word
    why: str  # the same, as a sentence
    start_ns: int
    ns: int
    outcome: str
    lost: str  # how its worker was lost, as it was written down; empty: it was not, or nobody wrote it down
    is_new_life: bool  # a sending before it lost a worker of this name, which has started again since
    expected_cached_tokens: int
    predicted_ttft_ns: int | None  # from its sending on
    actual_ttft_ns: int | None
    steps: int | None = None  # None, here and below: the worker never told
    prefill_chunks: int | None = None
    computed_tokens: int | None = None
    recomputed_tokens: int | None = None
    preemptions: int | None = None


class CostLine(msgspec.Struct, frozen=True):
    """One part of what it cost."""

    name: str
    amount: float
    share: float  # of the total


class Gaps(msgspec.Struct, frozen=True):
    """Times between token events."""

    count: int
    p50_ns: int
    p99_ns: int
    longest_ns: int


class SpanLine(msgspec.Struct, frozen=True):
    """One step of the application around the model call; or the call itself."""

    service: str
    name: str
    kind: str
    start_ns: int  # after the request's own start; negative: before it
    ns: int
    depth: int
    critical_ns: int  # for so long it held up the whole
    is_critical: bool
    is_error: bool
    is_this: bool  # the request that is explained


class Explanation(msgspec.Struct, frozen=True):
    """Everything that is known of one request."""

    id: str
    started_ns: int
    e2e_ns: int
    ttft_ns: int | None
    outcome: str
    status: int
    tenant: str
    model: str
    version: str
    scenario: str
    endpoint: str
    is_stream: bool
    gateway: str
    trace_id: str
    tags: dict[str, str]
    prompt_tokens: int
    cached_tokens: dict[str, int]
    output_tokens: int
    recomputed_tokens: int
    rejected_tokens: int
    finish_reasons: list[str]
    retries: int
    migrations: int
    preemptions: int
    gaps: Gaps | None
    stages: list[StageLine]
    legs: list[LegLine]
    spans: list[SpanLine]  # of its trace, parents before children; empty where it is alone in it
    costs: list[CostLine]
    cost: float
    saved: float
    story: str
    advice: str
    num_alike: int  # requests that this one stands for, itself among them


def explain(ledger: Ledger, request_id: str) -> Explanation:
    """The explanation of one request; raises NotFound, and LedgerError where the database cannot be read."""
    found = ledger.record(request_id)
    if found is None:
        raise NotFound(NO_SUCH.format(id=request_id))
    return explained(found, span_lines(ledger, found.record), fates(ledger, found.record))


def explained(ended: Ended, spans: list[SpanLine], became: Sequence[Fate]) -> Explanation:
    """The explanation of what the ledger holds of a request; `became` is of each of its legs."""
    record, costs = ended
    reports = [leg.report for leg in record.legs if leg.report is not None]
    return Explanation(
        id=record.id,
        started_ns=record.started_ns,
        e2e_ns=record.e2e_ns,
        ttft_ns=record.ttft_ns,
        outcome=record.outcome,
        status=record.status,
        tenant=record.tenant,
        model=record.model,
        version=record.version,
        scenario=record.scenario.value,
        endpoint=record.endpoint,
        is_stream=record.is_stream,
        gateway=record.gateway,
        trace_id=record.trace_id,
        tags=dict(record.tags),
        prompt_tokens=record.prompt_tokens,
        cached_tokens={tier.value: count for tier, count in record.cached_tokens.items()},
        output_tokens=record.output_tokens,
        recomputed_tokens=sum(report.recomputed_tokens for report in reports),
        rejected_tokens=sum(report.rejected_tokens for report in reports),
        finish_reasons=list(record.finish_reasons),
        retries=sum(leg.outcome == "refused" for leg in record.legs),
        migrations=sum(leg.outcome == "lost" for leg in record.legs),
        preemptions=sum(report.preemptions for report in reports),
        gaps=_gaps(record),
        stages=stage_lines(record),
        legs=[_leg_line(record, leg, fate) for leg, fate in zip(record.legs, became, strict=True)],
        spans=spans,
        costs=_cost_lines(costs),
        cost=costs.total / PICO,
        saved=costs.saved / PICO,
        story=story_of(record),
        advice=advice_for(record),
        num_alike=record.num_alike,
    )


def span_lines(ledger: Ledger, record: Record) -> list[SpanLine]:
    """The request among the spans of its trace; a request's stages are its waterfall's, and count as its own here."""
    chain = chain_of(ledger, record.trace_id) if record.trace_id else None
    if chain is None or not any(link.span.service != SERVICE for link in chain.links):
        return []
    held = held_ns(chain.path)
    own: Counter[str] = Counter()
    for link in chain.links:
        own[link.span.parent_span_id if _is_stage(link) else link.span.span_id] += held[link.span.span_id]
    return [
        SpanLine(
            service=link.span.service,
            name=link.span.name,
            kind=link.span.kind,
            start_ns=link.span.started_ns - record.started_ns,
            ns=link.span.duration_ns,
            depth=link.depth,
            critical_ns=own[link.span.span_id],
            is_critical=own[link.span.span_id] > 0,
            is_error=link.span.is_error,
            is_this=link.span.span_id == record.span_id,
        )
        for link in chain.links
        if not _is_stage(link)
    ]


def _is_stage(link: Link) -> bool:
    return link.span.service == SERVICE and link.span.kind == "internal"


def _leg_line(record: Record, leg: Leg, fate: Fate) -> LegLine:
    report = leg.report
    told = {}
    if report is not None:
        names = ("steps", "prefill_chunks", "computed_tokens", "recomputed_tokens", "preemptions")
        told = {name: getattr(report, name) for name in names}
    return LegLine(
        worker=leg.worker,
        sequence=leg.sequence,
        kind=leg.kind,
        reason=leg.reason,
        why=reason_in_words(leg),
        start_ns=leg.start_ns,
        ns=leg.span_ns,
        outcome=leg.outcome,
        lost=fate.lost,
        is_new_life=fate.is_new_life,
        expected_cached_tokens=leg.cached_tokens,
        predicted_ttft_ns=leg.predicted_ns,
        actual_ttft_ns=_actual_ttft_ns(record, leg),
        **told,
    )


def _actual_ttft_ns(record: Record, leg: Leg) -> int | None:
    """From the sending to the request's first token; None for a leg that began after it."""
    if record.ttft_ns is None or leg.predicted_ns is None or leg.start_ns > record.ttft_ns:
        return None
    return record.ttft_ns - leg.start_ns


def _cost_lines(costs: Costs) -> list[CostLine]:
    amounts = {f"device: {work.value}": amount for work, amount in costs.device.items()}
    amounts |= {f"KV held: {tier.value}": amount for tier, amount in costs.kv.items()}
    amounts |= {"KV moved": costs.transfer, "energy": costs.energy}
    return [
        CostLine(name, amount / PICO, amount / max(costs.total, 1)) for name, amount in amounts.items() if amount > 0
    ]


def _gaps(record: Record) -> Gaps | None:
    """By nearest rank, as the table's percentiles; `np.quantile` would load a fifth of NumPy for it."""
    gaps_us = np.sort(np.frombuffer(record.gaps_us, "<u4")).tolist()
    if not gaps_us:
        return None
    p50_us, p99_us = (gaps_us[math.ceil(share * len(gaps_us)) - 1] for share in (0.5, 0.99))
    return Gaps(len(gaps_us), p50_us * 1000, p99_us * 1000, gaps_us[-1] * 1000)
