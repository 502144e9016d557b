"""The account of a run for a person (a page of text) and for a program (one JSON object).

The JSON has stable keys and base units: seconds, tokens, requests; a distribution lists its own sample count and, in
`thin`, the percentiles that have too few samples. `schema` changes when a key changes its meaning. The page shows
milliseconds and the same figures. Both are functions of one `Report`; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tokenworks.bench.measure import PERCENTILES, Distribution, Objectives, Summary

SCHEMA = "tokenworks.bench/1"
LATE_SEND_S = 0.05  # past this P99 the client itself, not only the server, shapes what is measured
BUSY_CLIENT_SHARE = 0.8  # of one core; the client is single-threaded
MAX_EXAMPLE_CHARS = 100
METRICS = {"ttft": "TTFT", "itl": "ITL", "tpot": "TPOT", "e2e": "E2E"}
MARKS = ("mean", *PERCENTILES, "max")


class TraceUse(msgspec.Struct, frozen=True):
    """Which trace was replayed and how it was scaled to fit."""

    name: str
    format: str
    speed: float
    length_scale: float
    rate_scale: float
    records: int
    kept: int


class Workload(msgspec.Struct, frozen=True):
    """What was asked of the server, in the words of the command line."""

    rate: float | None
    concurrency: int | None
    max_requests: int | None
    duration_s: float
    input_tokens: str
    output_tokens: str
    prompts: str
    ignore_eos: bool
    temperature: float
    seed: int
    trace: TraceUse | None = None


class Report(msgspec.Struct, frozen=True):
    """One run, complete."""

    started_at: str
    url: str
    model: str
    workload: Workload
    objectives: Objectives
    summary: Summary
    sent: int
    abandoned: int
    peak_in_flight: int
    interrupted: bool
    is_cut_short: bool
    client_cpu_s: float
    remarks: tuple[str, ...] = ()  # from before the run, such as a fallback to text prompts


def to_json(report: Report) -> bytes:
    """One line of JSON; the summary's figures are at the top level."""
    fields: dict[str, Any] = msgspec.to_builtins(report)
    summary = fields.pop("summary")
    del fields["remarks"]
    return msgspec.json.encode({"schema": SCHEMA, **fields, **summary, "notes": list(notes(report))})


def print_page(report: Report, console: Console) -> None:
    """Header, counts, latency table and notes."""
    _print(console, f"[bold]tokenworks bench[/bold]  {escape(report.model)} at {escape(report.url)}")
    _print(console, describe_workload(report.workload))
    _print(console, "")
    for label, text in headline(report):
        _print(console, f"[bold]{label:>10}[/bold]  {text}")
    _print(console, "")
    console.print(latency_table(report.summary, report.objectives))
    for note in notes(report):
        _print(console, f"[dim]{escape(note)}[/dim]")


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=not console.is_terminal)  # a file's lines are whole


def describe_workload(workload: Workload) -> str:
    """One line: loop, arrivals, lengths, prompts."""
    replay = f"trace {workload.trace.name} ({workload.trace.format})" if workload.trace else ""
    if workload.concurrency is not None:
        loop = f"closed loop, {workload.concurrency} in flight"
    elif workload.rate is not None:
        loop = f"open loop, Poisson {workload.rate:g} req/s"
    else:
        loop = "open loop"
    lengths = replay or f"input {workload.input_tokens}, output {workload.output_tokens} tokens"
    end = "length forced" if workload.ignore_eos else "may end early"
    return escape(f"{loop} · {lengths}, {end} · prompts as {workload.prompts} · seed {workload.seed}")


def headline(report: Report) -> Iterator[tuple[str, str]]:
    """Label and text of the lines above the table."""
    yield "requests", _describe_counts(report)
    for reason in report.summary.reasons:
        example = reason.example if len(reason.example) <= MAX_EXAMPLE_CHARS else f"{reason.example[:97]}..."
        yield reason.outcome, escape(f"{reason.count} x {reason.code}" + (f": {example}" if example else ""))
    yield "throughput", _describe_throughput(report.summary)
    if report.summary.goodput is not None:
        goodput = report.summary.goodput
        ended = report.summary.ok + report.summary.failed + report.summary.rejected
        met = f"{goodput.met} of {ended}, {goodput.share:.1%}"
        yield "goodput", f"{goodput.requests_per_s:.2f} req/s met every objective ({met})"


def _describe_counts(report: Report) -> str:
    summary = report.summary
    counts = [f"{summary.ok} ok"]
    counts += [f"[red]{summary.failed} failed[/red]"] if summary.failed else ["0 failed"]
    counts += [f"[yellow]{summary.rejected} rejected[/yellow]"] if summary.rejected else []
    counts += [f"{report.abandoned} unfinished"] if report.abandoned else []
    return (
        f"{report.sent} sent in {summary.wall_s:.1f} s: {', '.join(counts)} · at most {report.peak_in_flight} in flight"
    )


def _describe_throughput(summary: Summary) -> str:
    tokens = summary.tokens
    parts = [
        f"{summary.requests_per_s:.2f} req/s",
        f"{tokens.input_per_s:,.0f} input tok/s",
        f"{tokens.output_per_s:,.0f} output tok/s",
    ]
    if tokens.cached is not None and tokens.input:
        tiers = [f"{tier} {count / tokens.input:.1%}" for tier, count in tokens.cached_by_tier.items() if count]
        parts.append(
            f"{tokens.cached / tokens.input:.1%} of input cached" + (f" ({', '.join(tiers)})" if tiers else "")
        )
    return " · ".join(parts)


def latency_table(summary: Summary, objectives: Objectives) -> Table:
    """One row per metric in milliseconds; with objectives, what each one asks and how many requests met it."""
    limits = objectives.given()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("ms", justify="right", min_width=10, style="bold")
    for heading in [_heading(mark) for mark in MARKS] + (["objective", "met by"] if limits else []):
        table.add_column(heading, justify="right", no_wrap=True)
    for metric, label in METRICS.items():
        marks: Distribution = getattr(summary, f"{metric}_s")
        cells = [_format_mark(marks, mark, limits.get(metric)) for mark in MARKS]
        table.add_row(label, *cells, *_objective_cells(summary, metric, limits))
    return table


def _heading(mark: str) -> str:
    return mark.replace("p", "P").replace("_", ".") if mark in PERCENTILES else mark


def _objective_cells(summary: Summary, metric: str, limits: dict[str, float]) -> list[str]:
    if metric not in limits or summary.goodput is None or not summary.ok:
        return ["", ""] if limits else []
    met = 1.0 - summary.goodput.missed[metric] / summary.ok
    return [f"<= {format_ms(limits[metric])}", f"{met:.1%}"]


def _format_mark(marks: Distribution, mark: str, limit_s: float | None) -> str:
    value_s: float | None = getattr(marks, mark)
    if value_s is None:
        return "-"
    text = format_ms(value_s) + ("*" if mark in marks.thin else "")
    return f"[red]{text}[/red]" if limit_s is not None and value_s > limit_s else text


def format_ms(seconds: float) -> str:
    """Three significant digits or whole milliseconds, whichever says more."""
    ms = seconds * 1000.0
    decimals = 2 if abs(ms) < 10 else 1 if abs(ms) < 100 else 0
    return f"{ms:,.{decimals}f}"


def notes(report: Report) -> Iterator[str]:
    """What a reader must know before quoting the figures."""
    summary, tokens = report.summary, report.summary.tokens
    if any(getattr(summary, f"{metric}_s").thin for metric in METRICS):
        yield "* too few samples for this percentile (P95 needs 20, P99 100, P99.9 1000): read it as the maximum."
    yield from report.remarks
    if report.interrupted:
        yield f"Interrupted: figures cover what ended before; {report.abandoned} requests in flight were dropped."
    if report.is_cut_short:
        yield f"The duration of {report.workload.duration_s:g} s was over before every planned request had been sent."
    if report.workload.trace is not None:
        yield _describe_scaling(report.workload.trace)
    if tokens.uncounted_requests:
        yield f"{tokens.uncounted_requests} responses had no usage: their output tokens are counted as events."
    if tokens.short_requests:
        yield f"{tokens.short_requests} responses ended before the asked length: runs may not compare."
    yield from _note_timing(summary)
    if report.client_cpu_s > BUSY_CLIENT_SHARE * summary.wall_s > 0:
        yield "This client kept its core busy nearly all the time: latencies include its own queue, use more clients."


def _note_timing(summary: Summary) -> Iterator[str]:
    tokens, lag = summary.tokens, summary.send_lag_s
    if tokens.token_events and tokens.output > 1.05 * tokens.token_events:
        per_event = tokens.output / tokens.token_events
        yield f"One event carried {per_event:.2f} tokens on average: ITL is the gap between events, not tokens."
    if lag.p99 is not None and lag.max is not None:
        text = f"Sends left {format_ms(lag.p99)} ms (P99) and {format_ms(lag.max)} ms (max) after their instants"
        late = ": the client was too slow for this load, latencies are understated"
        yield text + (late if lag.p99 > LATE_SEND_S else "") + "."


def _describe_scaling(trace: TraceUse) -> str:
    if (trace.speed, trace.length_scale, trace.rate_scale) == (1.0, 1.0, 1.0):
        return f"Trace replayed as recorded: {trace.records} requests."
    return (
        f"Trace scaled: speed x{trace.speed:g}, lengths x{trace.length_scale:g}, rate x{trace.rate_scale:g} "
        f"(kept {trace.kept} of {trace.records} requests, whole conversations)."
    )
