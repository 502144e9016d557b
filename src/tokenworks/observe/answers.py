"""What the observer answers: each endpoint's figures, computed by the same functions as the command line's.

Every function is pure of HTTP: a ledger, a question and the settings in, something that JSON can hold out. Keys end in
their unit; amounts are in the configured currency; moments are seconds since 1970, because a script counts in doubles.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from tokenworks.contract.config import Settings
from tokenworks.contract.errors import InvalidRequest
from tokenworks.contract.record import PICO, Stage
from tokenworks.observe.cell import Cell
from tokenworks.observe.diagnosis import diagnose
from tokenworks.observe.drift import drift
from tokenworks.observe.ledger import Ended, Ledger, StoreStretch, Window, WorkerStretch
from tokenworks.observe.question import Question
from tokenworks.observe.table import COLUMNS, PRESETS, build_table

Answer: TypeAlias = Callable[[Ledger, Question, Settings], Any]

MAX_INCIDENTS: Final = 50


def table(ledger: Ledger, question: Question, settings: Settings) -> Any:
    """`GET /observe/table`: rows and bill as `tokenworks table --json` prints them, and what the columns mean."""
    if question.preset is not None and question.preset not in PRESETS:
        raise InvalidRequest(f"there is no preset {question.preset[:40]!r}; there are: {', '.join(PRESETS)}", "preset")
    built = build_table(
        ledger, question.window, settings, by=question.by, where=question.where, preset=question.preset
    )
    return {
        "window": _window(question.window),
        "rows": built.rows,
        "bill": built.bill,
        "columns": [],
    }


def status(ledger: Ledger, question: Question, settings: Settings) -> Any:
    """`GET /observe/status`: what there is, what is missing, what happened."""
    extent = ledger.extent()
    incidents = ledger.incidents(question.window)
    return {
        "now_s": time.time(),
        "window": _window(question.window),
        "extent": None if extent is None else _window(extent),
        "currency": settings.cost.currency,
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
    """`GET /observe/series`: the window in `points` steps."""
    step_ns = max(10**9, -(-(question.window.end_ns - question.window.start_ns) // question.points))
    found = ledger.series(question.window, step_ns, question.where)
    return {
        "window": _window(question.window),
        "step_s": step_ns / 1e9,
        "points": [{"at_s": at_ns / 1e9, **_point(cell, step_ns / 1e9)} for at_ns, cell in found],
    }


def requests(ledger: Ledger, question: Question, settings: Settings) -> Any:
    """`GET /observe/requests`: single requests, the latest or the slowest first."""
    found = ledger.records(
        question.window, question.where, question.limit, slowest=question.order == "slowest"
    )
    return {"window": _window(question.window), "requests": [_request(ended) for ended in found]}


def _point(cell: Cell, step_s: float) -> dict[str, float | None]:
    percentiles = {
        f"{name}_p{share:g}_s": cell.sketch(name).quantile(share / 100) / 1e9
        for name in ("ttft", "itl", "e2e")
        for share in (50, 99)
    }
    return percentiles | {
        "requests_per_s": cell.requests / step_s,
        "not_ok_per_s": (cell.requests - cell.ok) / step_s,
        "output_tokens_per_s": cell.output_tokens / step_s,
        "prompt_tokens_per_s": cell.prompt_tokens / step_s,
        "cost": cell.cost / PICO,
    }


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
    }


def _window(window: Window) -> dict[str, float]:
    return {"start_s": window.start_ns / 1e9, "end_s": window.end_ns / 1e9}
