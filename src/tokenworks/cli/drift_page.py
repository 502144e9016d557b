"""Shows what drifted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import click
import msgspec
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tokenworks.cli.terminal_text import counted, printable
from tokenworks.observe.drift.drift import MAX_RECORDS, MIN_VALUES, FeatureDrift, Sizes
from tokenworks.observe.ledger import Window
from tokenworks.observe.units import moment


class Compared(NamedTuple):
    """What was asked and found."""

    features: list[FeatureDrift]
    sizes: Sizes
    window: Window
    reference: Window
    halves: tuple[Window, Window] | None  # of a window with too little before it, where they hold enough

    @property
    def are_halves(self) -> bool:
        """Whether they are what was compared."""
        return self.halves == (self.reference, self.window)


def show_drift(told: Compared, *, is_json: bool) -> None:
    """On standard output."""
    if is_json:
        windows = {"window": _bounds(told.window), "reference": _bounds(told.reference), "are_halves": told.are_halves}
        click.echo(msgspec.json.encode({**told.sizes._asdict(), **windows, "features": told.features}))
        return
    click.echo(f"before: {_side(told.sizes.reference_requests, told.reference)}")
    click.echo(f"   now: {_side(told.sizes.requests, told.window)}")
    if told.are_halves:
        click.echo("There is too little before this window: these are its two halves.")
    if not told.features:
        click.echo(_too_few(told))
    else:
        notes = (Text(f"· {note}", style="dim") for note in drift_notes(told.features))
        Console(highlight=False).print(Group(drift_table(told.features), *notes))


def _too_few(told: Compared) -> str:
    text = f"Too few to compare: each window needs {MIN_VALUES} requests that have ended."
    if told.halves is None:
        return f"{text} Widen them."
    return f"{text} This window's own halves hold enough: leave --reference out to compare them."


def _bounds(window: Window) -> dict[str, float]:
    return {"start_s": window.start_ns / 1e9, "end_s": window.end_ns / 1e9}


def _side(num_requests: int, window: Window) -> str:
    sample = f", of which {MAX_RECORDS:,} are compared" if num_requests > MAX_RECORDS else ""
    return f"{counted(num_requests, 'request')} from {moment(window.start_ns)} to {moment(window.end_ns)}{sample}"


def drift_table(found: list[FeatureDrift]) -> Table:
    """One line a feature, those that moved first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("feature", "", "PSI", "chance"):
        table.add_column(heading, justify="right" if heading in ("PSI", "chance") else "left", no_wrap=True)
    for heading in ("before", "after"):
        table.add_column(heading, overflow="fold")
    for each in found:
        told = (Text(printable(part, 200)) for part in (each.before, each.after))
        table.add_row(Text(each.feature), _verdict(each), f"{each.psi:.3f}", f"< {each.noise:.3f}", *told)
    return table


def drift_notes(found: list[FeatureDrift]) -> Iterator[str]:
    """What grew most of each feature that moved, and what "within 5 %" is."""
    for each in found:
        if each.moved:
            yield f"{each.feature}, what grew most: {printable(each.change, 120)}"
    if any(each.is_near for each in found):
        yield "within 5 %: over the bounds of their bins, but nearly all values are where they were, by 5 % or 3 tokens"


def _verdict(each: FeatureDrift) -> Text:
    if each.is_near:
        return Text("within 5 %", style="green")
    return Text("moved", style="bold red") if each.moved else Text("steady", style="green")
