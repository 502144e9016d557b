"""What the observer answers: each endpoint's figures, computed by the same functions as the command line's.

Every function is pure of HTTP: a ledger, a question and the settings in, something that JSON can hold out. Keys end in
their unit; amounts are in the configured currency; moments are seconds since 1970, because a script counts in doubles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from tokenworks.contract.config import Settings
from tokenworks.contract.record import PICO, Stage
from tokenworks.observe.cell import Cell
from tokenworks.observe.chains.breakdown import breakdown
from tokenworks.observe.diagnose.diagnosis import diagnosis as what_is_wrong
from tokenworks.observe.drift.drift import drift, sizes
from tokenworks.observe.drift.halves import halves_where_needed
from tokenworks.observe.ledger import FAILED, Ended, Ledger, Window, WorkerStretch
from tokenworks.observe.observer.question import Question
from tokenworks.observe.tables.bill import bill
from tokenworks.observe.tables.columns import COLUMNS, Column, preset_columns
from tokenworks.observe.tables.facts import has_beaten_its_peak, machines_of
from tokenworks.observe.tables.series import Step, build_series
from tokenworks.observe.tables.steps import handy_step_ns
from tokenworks.observe.tables.table import build_table
from tokenworks.observe.tables.troubles import with_troubles

Answer: TypeAlias = Callable[[Ledger, Question, Settings], Any]

MAX_INCIDENTS: Final = 50
_OF_COLUMN: Final = ("key", "heading", "unit", "better", "help")
CHARTED: Final = ("ttft_p50", "ttft_p99", "itl_p50", "itl_p99", "input_tokens_per_s", "output_tokens_per_s")
"""The table's columns that `series` gives for each step, whatever is asked for."""


def table(ledger: Ledger, question: Question, settings: Settings) -> Any:
    """`GET /observe/table`: what `tokenworks table --json` prints, and what its columns mean."""
    built = build_table(
        ledger,
        question.window,
        settings,
        by=question.by,
        where=question.where,
        columns=_asked_columns(ledger, question),
        limit=question.limit,
    )
    meanings = [_meaning(column) for column in built.columns]
    return built.as_json() | {"window": _window(question.window), "columns": meanings}


def status(ledger: Ledger, question: Question, settings: Settings) -> Any:
    """`GET /observe/status`: what there is, what is missing, what happened."""
    extent = ledger.extent()
    incidents = ledger.incidents(question.window)
    return {
        "now_s": time.time(),
        "window": _window(question.window),
        "extent": None if extent is None else _window(extent),
        "currency": settings.cost.currency,
        "success_ratio": settings.objectives.success_ratio,
        "models": sorted(name for name in ledger.cells(question.window, "model") if name),
        "tags": ledger.tags(question.window),
        "gaps": [
            {"from_s": gap.from_ns / 1e9, "until_s": gap.until_ns / 1e9, "frames": gap.frames, "reason": gap.reason}
            for gap in ledger.gaps(question.window)
        ],
        "incidents": [
            {"at_s": each.at_ns / 1e9, "kind": each.kind, "subject": each.subject, "text": each.text}
            for each in incidents[-MAX_INCIDENTS:]
        ],
        "num_incidents": len(incidents),
    }


def series(ledger: Ledger, question: Question, settings: Settings) -> Any:
    """`GET /observe/series`: the window in some `points` steps; of the first and the last a part may lie in it."""
    window = question.window
    asked = _asked_columns(ledger, question) if question.columns or question.preset else ()
    num_requests = ledger.cells(window, None, question.where).get("", Cell()).requests
    step_ns = handy_step_ns(window, question.points, num_requests)
    columns = [*dict.fromkeys((*CHARTED, *asked))]
    found = build_series(ledger, window, settings, step_ns, where=question.where, columns=columns)
    return {
        "window": _window(window),
        "step_s": step_ns / 1e9,
        "columns": [_meaning(COLUMNS[key]) for key in asked],
        "points": [_point(step) for step in found.steps],
    }


def requests(ledger: Ledger, question: Question, settings: Settings) -> Any:
    """`GET /observe/requests`: single requests, the latest or the slowest first, or the latest that failed."""
    outcome = FAILED if question.order == "failed" else ""
    found = ledger.records(
        question.window, question.where, question.limit, slowest=question.order == "slowest", outcome=outcome
    )
    return {"window": _window(question.window), "requests": [_request(ended) for ended in found]}


def workers(ledger: Ledger, question: Question, settings: Settings) -> Any:
    """`GET /observe/workers`: each life of each worker, and what its time went to."""
    return {
        "window": _window(question.window),
        "workers": [_worker(stretch) for stretch in ledger.workers(question.window)],
    }


def tiers(ledger: Ledger, question: Question, settings: Settings) -> Any:
    """`GET /observe/tiers`: the KV stores, and what they hold."""
    return {"window": _window(question.window), "stores": ledger.stores(question.window)}


def cost(ledger: Ledger, question: Question, settings: Settings) -> Any:
    """`GET /observe/cost`: the bill, as the table has it."""
    return bill(ledger, question.window, settings.cost).as_json()


def diagnosis(ledger: Ledger, question: Question, settings: Settings) -> Any:
    """`GET /observe/diagnose`: what `tokenworks diagnose` finds."""
    told = what_is_wrong(ledger, question.window, settings)
    return {
        "window": _window(question.window),
        "baseline": _window(told.baseline),
        "is_own_baseline": told.is_own_baseline,
        "rules": told.num_rules,
        "requests": told.requests,
        "findings": told.findings,
    }


def chains(ledger: Ledger, question: Question, settings: Settings) -> Any:
    """`GET /observe/chains`: what `tokenworks chains` prints of the applications around the model call."""
    found = breakdown(ledger, question.window, settings.export.zone)
    return {"window": _window(question.window), "breakdown": found}


def drifted(ledger: Ledger, question: Question, settings: Settings) -> Any:
    """`GET /observe/drift`: what moved against the time before, equally long; or between the halves of the window."""
    own = halves_where_needed(ledger, question.window, question.reference)
    reference, window = own or (question.reference, question.window)
    return {
        "window": _window(window),
        "reference": _window(reference),
        "are_halves": own is not None,
        **sizes(ledger, window, reference)._asdict(),
        "features": drift(ledger, window, reference),
    }


def _asked_columns(ledger: Ledger, question: Question) -> Sequence[str]:
    if question.columns or not question.troubles:
        return question.columns or preset_columns(question.preset)
    return with_troubles(ledger, question.window, question.where, question.preset)


def _point(step: Step) -> dict[str, Any]:
    cell, seconds = step.cell, step.seconds
    rates = {"ended_per_s": cell.requests / seconds, "not_ok_per_s": (cell.requests - cell.ok) / seconds}
    return {"at_s": step.start_ns / 1e9, "note": step.note, **step.figures, **rates}


def _meaning(column: Column) -> dict[str, Any]:
    return {name: getattr(column, name) for name in _OF_COLUMN}


def _request(ended: Ended) -> dict[str, Any]:
    record = ended.record
    return {
        "id": record.id,
        "ended_s": (record.started_ns + record.e2e_ns) / 1e9,
        "tenant": record.tenant,
        "model": record.model,
        "scenario": record.scenario,
        "outcome": record.outcome,
        "worker": record.legs[-1].worker if record.legs else "",
        "num_legs": len(record.legs),
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": sum(record.cached_tokens.values()),
        "output_tokens": record.output_tokens,
        "ttft_s": None if record.ttft_ns is None else record.ttft_ns / 1e9,
        "e2e_s": record.e2e_ns / 1e9,
        "stages_s": {stage: record.stages_ns[stage] / 1e9 for stage in Stage if record.stages_ns.get(stage)},
        "cost": ended.costs.total / PICO,
        "num_alike": record.num_alike,
    }


def _worker(stretch: WorkerStretch) -> dict[str, Any]:
    """Shares are of its wall time in the window; MFU and MBU of its time in steps, by the table's own arithmetic."""
    use, machine = stretch.use, machines_of([stretch])
    return {
        "worker": stretch.worker,
        "model": stretch.model,
        "version": stretch.version,
        "device": stretch.device,
        "from_s": stretch.from_ns / 1e9,
        "until_s": stretch.until_ns / 1e9,
        "step_share": {work: _ratio(spent_ns, use.wall_ns) for work, spent_ns in use.step_ns.items()},
        "between_share": _ratio(use.between_ns, use.wall_ns),
        "idle_share": _ratio(use.idle_ns, use.wall_ns),
        "used_blocks_share": stretch.used_blocks_share,
        "running": stretch.running,
        "waiting": stretch.waiting,
        "preemptions": stretch.preemptions,
        "mfu": _ratio(machine.flops, machine.possible_flops),
        "mbu": _ratio(machine.read_bytes, machine.possible_bytes),
        "is_peak_low": has_beaten_its_peak(stretch),
        "cpu_cores": _ratio(machine.cpu_s, machine.wall_s),
        "rss_bytes": use.rss_bytes,
        "watts": _ratio(use.energy_j, machine.wall_s) if use.energy_j is not None else stretch.watts,
        "is_power_measured": use.energy_j is not None,
        "price_per_hour": stretch.price_per_hour,
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _window(window: Window) -> dict[str, float]:
    return {"start_s": window.start_ns / 1e9, "end_s": window.end_ns / 1e9}
