"""Shows what drifted."""

from __future__ import annotations

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenworks.cli.terminal_text import counted
from tokenworks.observe.drift.drift import MAX_RECORDS, MIN_VALUES, FeatureDrift, Sizes
from tokenworks.observe.ledger import Window
from tokenworks.observe.units import moment


def show_drift(found: list[FeatureDrift], told: Sizes, window: Window, reference: Window, *, is_json: bool) -> None:
    """On standard output."""
    if is_json:
        click.echo(msgspec.json.encode({**told._asdict(), "features": found}))
        return
    click.echo(f"before: {_side(told.reference_requests, reference)}")
    click.echo(f"   now: {_side(told.requests, window)}")
    if not found:
        click.echo(f"Too few to compare: each window needs {MIN_VALUES} requests that have ended. Widen them.")
    else:
        Console(highlight=False).print(drift_table(found))


def _side(num_requests: int, window: Window) -> str:
    sample = f", of which {MAX_RECORDS:,} are compared" if num_requests > MAX_RECORDS else ""
    return f"{counted(num_requests, 'request')} from {moment(window.start_ns)} to {moment(window.end_ns)}{sample}"


def drift_table(found: list[FeatureDrift]) -> Table:
    """One line a feature, those that moved first."""
    table = Table(title="drift", title_justify="left")
    for heading in ("feature", "", "PSI", "chance", "before", "after"):
        table.add_column(heading, justify="right" if heading in ("PSI", "chance") else "left", overflow="fold")
    for each in found:
        verdict = Text("moved", style="bold red") if each.moved else Text("steady", style="green")
        told = [Text(part) for part in (each.before, each.after)]
        table.add_row(Text(each.feature), verdict, f"{each.psi:.3f}", f"< {each.noise:.3f}", *told)
    return table
