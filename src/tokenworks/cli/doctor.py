"""`tokenworks doctor`: is this machine fit, and what to do if not."""

from __future__ import annotations

import os
from typing import Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenworks.contract.loader import load_settings
from tokenworks.fleet.doctor import examine
from tokenworks.fleet.finding import Verdict

_STYLES: Final = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


@click.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Check this machine and say what to do about what is not right.

    Looks at Python, the packages, the CPU, memory, the port, the model and the settings in effect, and at what the KV
    store and unlike workers need where they are set. Exit code 1 if something would stop `tokenworks serve`; a warning
    does not.
    """
    table = Table(title="tokenworks doctor", title_justify="left")
    for heading in ("check", "", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    findings = list(examine(lambda: load_settings(environment=os.environ)))
    for finding in findings:
        verdict = Text(finding.verdict.value, style=_STYLES[finding.verdict])
        table.add_row(finding.what, verdict, Text(finding.found), Text(finding.advice))
    Console(highlight=False).print(table)
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        ctx.exit(1)
