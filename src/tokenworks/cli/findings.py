"""Draws what `diagnose` found on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenworks.cli.terminal_text import printable
from tokenworks.observe.diagnose.diagnosis import Diagnosis, Evidence, Finding
from tokenworks.observe.ledger import Window
from tokenworks.observe.units import moment

_STYLES: Final = {"critical": "bold red", "warning": "bold yellow", "notice": "bold cyan"}
_MAX_CHARS: Final = 1000
_MAX_INCIDENTS: Final = 20


def draw(console: Console, told: Diagnosis) -> None:
    """All findings, or that there are none; and what was looked at."""
    for finding in told.findings:
        heading = Text(finding.severity, style=_STYLES[finding.severity])
        subject = f"{finding.kind} {printable(finding.subject)}, " if finding.subject else ""
        heading.append(f"  {finding.rule}", style="bold").append(f"  ({subject}{finding.requests:,} requests)")
        console.print(heading)
        console.print(_table(finding))
        console.print()
    if not told.findings:
        console.print(Text("Nothing found.", style="bold green"))
    _draw_incidents(console, told)
    console.print(Text(_looked_at(told), style="dim"))


def _draw_incidents(console: Console, told: Diagnosis) -> None:
    """What happened to the system: the latest, in order."""
    if not told.incidents:
        return
    shown = told.incidents[-_MAX_INCIDENTS:]
    more = told.num_incidents - len(shown)
    console.print(Text(f"what happened{f', the latest {len(shown)} of {told.num_incidents:,}' if more else ''}"))
    table = _grid()
    for each in shown:
        what = f"{each.kind} {printable(each.subject)}{': ' if each.text else ''}{printable(each.text, _MAX_CHARS)}"
        table.add_row(f"  {moment(each.at_ns)}", Text(what))
    console.print(table)
    console.print()


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _table(finding: Finding) -> Table:
    table = _grid()
    for name, text in _rows(finding):
        table.add_row(f"  {name}", Text(printable(text, _MAX_CHARS)))
    return table


def _rows(finding: Finding) -> Iterator[tuple[str, str]]:
    yield "seen", finding.signal
    yield "cause", finding.cause
    yield "do", finding.action
    if finding.worst is not None:
        yield "when", f"worst from {_span(finding.worst)}"
    for number, each in enumerate(finding.hurt):
        yield "" if number else "hurts", f"{each.tenant}, {each.requests:,} requests: {each.text}"
    if finding.gain:
        yield "gain", f"{finding.gain} ({finding.arithmetic})"
    for number, evidence in enumerate(finding.evidence):
        yield "" if number else "evidence", _evidence(evidence)


def _evidence(evidence: Evidence) -> str:
    before = f" ({evidence.before} before)" if evidence.before else ""
    return f"{evidence.name} = {evidence.text}{before}: {evidence.meaning}"


def _looked_at(told: Diagnosis) -> str:
    return f"{told.requests:,} requests, {_span(told.window)}, {_baseline(told)}; {told.num_rules} rules."


def _baseline(told: Diagnosis) -> str:
    if told.is_own_baseline:
        return f"nothing before: compared with {_span(told.baseline)} of the same run, its best stretch"
    return f"compared with {_span(told.baseline)}" if told.baseline.seconds > 0 else "with nothing before to compare"


def _span(window: Window) -> str:
    return f"{moment(window.start_ns)} to {moment(window.end_ns)}"
