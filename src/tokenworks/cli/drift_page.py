"""Shows what drifted."""

from __future__ import annotations

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenworks.observe.drift.drift import MIN_VALUES, FeatureDrift


def show_drift(found: list[FeatureDrift], *, is_json: bool) -> None:
    """On standard output."""
    if is_json:
        click.echo(msgspec.json.encode({"features": found}))
    elif not found:
        click.echo(f"Nothing to compare: each window needs {MIN_VALUES} requests that have ended. Widen them.")
    else:
        Console(highlight=False).print(drift_table(found))


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
