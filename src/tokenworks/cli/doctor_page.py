"""Draws what the doctor found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenworks.cli.before_start import check_before_start
from tokenworks.cli.context_window import check_window
from tokenworks.cli.remote_check import check_remote_answers
from tokenworks.cli.server_check import check_servers
from tokenworks.contract.config import Settings
from tokenworks.contract.errors import TokenworksError
from tokenworks.fleet.doctor import examine
from tokenworks.fleet.finding import Finding, Verdict

_STYLES: Final = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


def show_findings(read_settings: Callable[[], Settings]) -> bool:
    """Examine this machine and print what was found; whether it may serve. `read_settings` may raise ConfigError."""
    table = Table(title="tokenworks doctor", title_justify="left")
    for heading in ("check", "", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    findings = [*examine(read_settings), *_together(read_settings)]
    for finding in findings:
        verdict = Text(finding.verdict.value, style=_STYLES[finding.verdict])
        table.add_row(finding.what, verdict, Text(finding.found), Text(finding.advice))
    Console(highlight=False).print(table)
    return all(finding.verdict is not Verdict.FAIL for finding in findings)


def _together(read_settings: Callable[[], Settings]) -> Iterator[Finding]:
    """Whether `serve` would take these settings; nothing where they cannot be read, which is a finding of its own."""
    try:
        settings = read_settings()
    except TokenworksError:
        return
    if settings.kv.remote and (answer := check_remote_answers(settings.kv.remote)) is not None:
        yield answer
    yield from check_servers(settings)
    try:
        check_before_start(settings)
    except TokenworksError as error:
        yield Finding("together", Verdict.FAIL, error.message, "correct it: serve does not start so")
    else:
        yield Finding("together", Verdict.OK, "these settings can be served")
    window = check_window(settings)
    if window is not None:
        yield window
