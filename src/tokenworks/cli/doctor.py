"""`tokenworks doctor`: is this machine fit, and what to do if not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenworks.cli.before_start import check_before_start
from tokenworks.cli.options import EVERY_SECTION, SettingsCommand, settings_from, takes_settings
from tokenworks.contract.errors import TokenworksError
from tokenworks.fleet.doctor import examine
from tokenworks.fleet.finding import Finding, Verdict

_STYLES: Final = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


@click.command(cls=SettingsCommand)
@takes_settings(*EVERY_SECTION, is_shown=False)
@click.pass_context
def doctor(ctx: click.Context, /, **options: Any) -> None:
    """Check this machine and say what to do about what is not right.

    Takes MODEL and every option of `tokenworks serve`, and says whether that would start. Looks at Python, the
    packages, the CPU, memory, the port, the model and the settings in effect, and at what the KV store and unlike
    workers need where they are set. Exit code 1 if something would stop `tokenworks serve`; a warning does not.

    \b
    Examples:
      tokenworks doctor
      tokenworks doctor ~/models/Qwen3-0.6B --port 8001
      tokenworks doctor --config examples/one-machine.toml
    """
    table = Table(title="tokenworks doctor", title_justify="left")
    for heading in ("check", "", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    findings = [*examine(lambda: settings_from(options)), *_together(options)]
    for finding in findings:
        verdict = Text(finding.verdict.value, style=_STYLES[finding.verdict])
        table.add_row(finding.what, verdict, Text(finding.found), Text(finding.advice))
    Console(highlight=False).print(table)
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        ctx.exit(1)


def _together(options: dict[str, Any]) -> Iterator[Finding]:
    """Whether `serve` would take these settings; nothing where they cannot be read, which is a finding of its own."""
    try:
        settings = settings_from(options)
    except TokenworksError:
        return
    try:
        check_before_start(settings)
    except TokenworksError as error:
        yield Finding("together", Verdict.FAIL, error.message, "correct it: serve does not start so")
    else:
        yield Finding("together", Verdict.OK, "these settings can be served")
