"""`tokenworks diagnose`: what is wrong, why probably, and what to do, from the ledger."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from tokenworks.cli.options import SettingsCommand, settings_from, takes_settings
from tokenworks.contract.errors import ConfigError
from tokenworks.observe.ledger import Window
from tokenworks.observe.when import parse_window


@click.command(cls=SettingsCommand)
@click.option("--since", default="1h", show_default=True, help="Look at what ended after this: 30m, 2026-03-01T10:00.")
@click.option("--until", default="now", show_default=True, help="And before this.")
@click.option("--baseline", metavar="START..END", help="Compare with this time, not with what came before the window.")
@click.option("--rules", type=click.Path(path_type=Path), multiple=True, metavar="FILE", help="More rules, as TOML.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: window, baseline, findings.")
@takes_settings("ledger.path", "ledger.database", "cost.currency", "objectives", takes_model=False)
def diagnose(
    since: str, until: str, baseline: str | None, rules: tuple[Path, ...], as_json: bool, **options: Any
) -> None:
    """Find what is wrong, with its probable cause, what to do, the evidence and the expected gain.

    Rules compare the window with the time before it (up to four times as long), with the objectives, and workers and
    tenants with each other; they stay silent where too little happened to tell. Rules of your own: --rules FILE, see
    docs/guides/diagnosis.md.

    \b
    Examples:
      tokenworks diagnose
      tokenworks diagnose --since 15m
      tokenworks diagnose --since 2026-03-01T10:00 --until 2026-03-01T11:00
      tokenworks diagnose --since 10m --baseline 25h..24h
      tokenworks diagnose --rules ours.toml --json
    """
    import msgspec
    from rich.console import Console

    from tokenworks.cli.findings import draw
    from tokenworks.observe.diagnose.diagnosis import diagnosis
    from tokenworks.observe.diagnose.rules import load_rules
    from tokenworks.observe.store import open_ledger

    settings = settings_from(options)
    loaded = load_rules(rules)
    now_ns = time.time_ns()
    window = parse_window(since, until, now_ns)
    usual = _baseline(baseline, now_ns) if baseline is not None else None
    with closing(open_ledger(settings.ledger, cost=settings.cost, objectives=settings.objectives)) as ledger:
        told = diagnosis(ledger, window, settings, loaded, usual)
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(told)).decode() + "\n")
    else:
        draw(Console(highlight=False, markup=False, emoji=False), told)


def _baseline(text: str, now_ns: int) -> Window:
    start, dots, end = text.partition("..")
    if not dots:
        raise ConfigError(f"--baseline cannot be {text!r}; give START..END, such as 25h..24h")
    return parse_window(start, end, now_ns)
