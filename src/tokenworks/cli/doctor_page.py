"""Draws what the doctor found."""

from __future__ import annotations

import os
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenworks.contract.loader import load_settings
from tokenworks.fleet.doctor import examine
from tokenworks.fleet.finding import Verdict

_STYLES: Final = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


def show_findings() -> bool:
    """Examine this machine and print what was found; whether it may serve."""
    table = Table(title="tokenworks doctor", title_justify="left")
    for heading in ("check", "", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    findings = list(examine(lambda: load_settings(environment=os.environ)))
    for finding in findings:
        verdict = Text(finding.verdict.value, style=_STYLES[finding.verdict])
        table.add_row(finding.what, verdict, Text(finding.found), Text(finding.advice))
    Console(highlight=False).print(table)
    return all(finding.verdict is not Verdict.FAIL for finding in findings)
