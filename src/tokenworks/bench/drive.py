"""Drives `tokenworks bench`: from its options to a finished report.

Owns the order of things (plan, preflight, run, report), where output goes and the exit codes: 0 all requests
succeeded, 1 some failed or were rejected, 2 wrong usage or a server that refuses what would be sent, 3 server
unreachable, 130 interrupted (after the report). Each step itself belongs to another module.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import click
import msgspec
import uvloop
from rich.console import Console

from tokenworks.bench.client import LoadClient, open_session
from tokenworks.bench.measure import RequestResult, summarise
from tokenworks.bench.options import PAGE_WIDTH
from tokenworks.bench.preflight import Refused, Unreachable, find_model, settle_style
from tokenworks.bench.progress import show_progress
from tokenworks.bench.prompts import PromptStyle
from tokenworks.bench.report import Report, print_page, to_json
from tokenworks.bench.run import LoadRun, Tally, run_until_signal
from tokenworks.bench.settings import Plan, Settings, make_plan, settings_from, style_of, workload_of
from tokenworks.plan.traces import TraceError

EXIT_SOME_FAILED, EXIT_UNREACHABLE, EXIT_INTERRUPTED = 1, 3, 130


class UnreachableExit(click.ClickException):
    """Ends the command with the exit code for a server that does not answer."""

    exit_code = EXIT_UNREACHABLE


def drive(options: dict[str, Any]) -> int:
    """Measure what the options ask for; the exit code. Raises click's exceptions where nothing could be measured."""
    settings, plan = _settle(options)
    report, results = _measure(settings, plan)
    _publish(report, settings.output.json_path)
    _write_records(results, settings.output.records_path)
    return _exit_code(report)


def _settle(options: dict[str, Any]) -> tuple[Settings, Plan]:
    try:
        settings = settings_from(options)
        return settings, make_plan(settings)
    except (ValueError, TraceError, OSError) as error:
        raise click.UsageError(str(error)) from error


def _measure(settings: Settings, plan: Plan) -> tuple[Report, list[RequestResult]]:
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(measure_load(settings, plan))
    except Refused as error:
        raise click.UsageError(str(error)) from error
    except Unreachable as error:
        raise UnreachableExit(str(error)) from error


async def measure_load(settings: Settings, plan: Plan) -> tuple[Report, list[RequestResult]]:
    """Settle how to ask, run the plan, sum up. Raises Unreachable or Refused before any load is sent."""
    console = Console(stderr=True)
    async with open_session(settings.target) as session:
        with console.status(f"asking {settings.server.url} what it takes"):
            style, remark = await _settle_style(session, settings, plan)
        tally = Tally()
        client = LoadClient(session, settings.target, style, on_token_events=tally.on_token_events)
        run = LoadRun(client, tally, start_s=client.start_s, max_duration_s=plan.duration_s)
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        cpu_before_s = time.process_time()
        async with show_progress(tally, plan.total, console):
            interrupted = await run_until_signal(run.follow(plan.requests, plan.concurrency))
    client_cpu_s = time.process_time() - cpu_before_s
    report = Report(
        started_at=started_at,
        url=settings.target.url_of(style.endpoint),
        model=style.model,
        workload=workload_of(settings, plan, style),
        objectives=settings.objectives,
        summary=summarise(run.results, settings.objectives),
        sent=tally.sent,
        abandoned=tally.abandoned,
        peak_in_flight=tally.peak_in_flight,
        interrupted=interrupted,
        is_cut_short=run.is_cut_short and plan.total is not None,
        client_cpu_s=client_cpu_s,
        remarks=(remark,) if remark else (),
    )
    return report, run.results


async def _settle_style(session: aiohttp.ClientSession, settings: Settings, plan: Plan) -> tuple[PromptStyle, str]:
    model = settings.server.model or await find_model(session, settings.target)
    wanted = style_of(settings, plan, model)
    return await settle_style(session, settings.target, wanted, may_use_text=settings.shape.prompts == "auto")


def _write_records(results: Iterable[RequestResult], path: Path | None) -> None:
    if path is not None:
        _write(path, b"".join(msgspec.json.encode(result) + b"\n" for result in results))


def _publish(report: Report, json_path: str | None) -> None:
    """The page on stdout, and in a pipe the JSON last; `-` leaves stdout to the JSON and moves the page to stderr."""
    console = Console(stderr=json_path == "-")
    is_for_a_person = console.is_terminal
    if not is_for_a_person:
        console = Console(stderr=json_path == "-", width=PAGE_WIDTH)
    print_page(report, console)
    line = to_json(report)
    if json_path not in (None, "-"):
        _write(Path(json_path), line + b"\n")
    elif json_path == "-" or not is_for_a_person:
        click.echo(line.decode())


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise click.FileError(str(path), error.strerror) from error


def _exit_code(report: Report) -> int:
    if report.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_SOME_FAILED if report.summary.failed or report.summary.rejected else 0
