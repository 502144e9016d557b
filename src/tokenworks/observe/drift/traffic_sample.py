"""Traffic as drift compares it: a bounded sample of a window's records, and from each what may drift.

The sample is spread over the window as the traffic was: the window is cut into slices, and each slice gives its share
of the sample as one run of consecutive records, so that gaps between arrivals are real ones. Prompts and answers are
not recorded, so a refusal cannot be read; an answer that the model ended by itself within `SHORT_TOKENS` is what most
refusals look like, and their share is a figure of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tokenworks.contract.record import Record
from tokenworks.observe.ledger import Ledger, Window

SHORT_TOKENS: Final = 32
_SLICES: Final = 64
_NS: Final = 1e-9
_UNITS_NS: Final = (24 * 3600 * 10**9, 3600 * 10**9, 60 * 10**9)

Run = list[Record]
"""Consecutive records, by arrival."""


def sampled(ledger: Ledger, window: Window, limit: int) -> list[Run]:
    """At most about `limit` records of a window, in runs; raises LedgerError."""
    steps = ledger.series(window, step_ns(window))
    total = sum(cell.requests for _, cell in steps)
    if total <= limit:
        return [_run(ledger, window, limit)] if total else []
    ends = [start_ns for start_ns, _ in steps[1:]] + [window.end_ns]
    runs = []
    for (start_ns, cell), end_ns in zip(steps, ends, strict=True):
        if cell.requests:
            share = max(1, round(limit * cell.requests / total))
            runs.append(_run(ledger, Window(max(start_ns, window.start_ns), min(end_ns, window.end_ns)), share))
    return runs


def step_ns(window: Window) -> int:
    """About a slice, in the whole units that a ledger keeps cells of, so that it need not look at single records."""
    wanted_ns = max(1, (window.end_ns - window.start_ns) // _SLICES)
    unit_ns = next((unit_ns for unit_ns in _UNITS_NS if wanted_ns >= unit_ns), 1)
    return -(-wanted_ns // unit_ns) * unit_ns


def _run(ledger: Ledger, window: Window, limit: int) -> Run:
    records = [ended.record for ended in ledger.records(window, limit=limit)]
    return sorted(records, key=lambda record: record.started_ns)


def _arrival_gaps(runs: list[Run]) -> Iterator[float]:
    for run in runs:
        for before, after in zip(run, run[1:], strict=False):
            yield (after.started_ns - before.started_ns) * _NS


def _of_each(read: Callable[[Record], float | None]) -> Callable[[list[Run]], Iterator[float]]:
    def values(runs: list[Run]) -> Iterator[float]:
        return (value for run in runs for record in run if (value := read(record)) is not None)

    return values


def _words_of_each(read: Callable[[Record], list[str]]) -> Callable[[list[Run]], Iterator[str]]:
    def words(runs: list[Run]) -> Iterator[str]:
        return (word for run in runs for record in run for word in read(record))

    return words


def _prefix_share(record: Record) -> float | None:
    return sum(record.cached_tokens.values()) / record.prompt_tokens if record.prompt_tokens else None


def _is_answered(record: Record) -> bool:
    return record.outcome == "ok" and bool(record.finish_reasons)


def _output_length(record: Record) -> float | None:
    return record.output_tokens / record.num_sequences if _is_answered(record) else None


def _answer_kind(record: Record) -> list[str]:
    if not _is_answered(record):
        return []
    is_short = record.output_tokens <= SHORT_TOKENS * record.num_sequences
    return ["short" if is_short and set(record.finish_reasons) == {"stop"} else "other"]


NUMBERS: Final[dict[str, Callable[[list[Run]], Iterator[float]]]] = {
    "input_tokens": _of_each(lambda record: record.prompt_tokens or None),
    "output_tokens": _of_each(_output_length),
    "arrival_gap_s": _arrival_gaps,
    "prefix_share": _of_each(_prefix_share),
    "mean_logprob": _of_each(lambda record: record.mean_logprob),
}
COUNTS: Final = frozenset({"input_tokens", "output_tokens"})
"""Of those, counts of tokens."""
WORDS: Final[dict[str, Callable[[list[Run]], Iterator[str]]]] = {
    "scenario": _words_of_each(lambda record: [record.scenario.value]),
    "tenant": _words_of_each(lambda record: [record.tenant]),
    "model": _words_of_each(lambda record: [record.model]),
    "outcome": _words_of_each(lambda record: [record.outcome]),
    "finish_reason": _words_of_each(lambda record: record.finish_reasons),
    "short_answers": _words_of_each(_answer_kind),
}
