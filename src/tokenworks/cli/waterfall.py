"""Draws an explanation on a terminal: bars on one time axis, then what belongs to them in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tokenworks.cli.terminal_text import counted, printable
from tokenworks.observe.diagnose.explain import CostLine, Explanation, LegLine, SpanLine
from tokenworks.observe.units import amount, duration

MAX_SPANS: Final = 60
_MIN_BAR: Final = 10
_NAME: Final = 18  # columns that a name takes,
_WIDE_NAME: Final = 24  # or where there is room: names of services and their spans are long
_WIDE: Final = 100
_RIGHT: Final = 9  # and each of the two figures behind the bar
_COLORS: Final = {
    "decode": "green",
    "prefill": "blue",
    "queue": "yellow",
    "stall": "yellow",
    "admit": "yellow",
    "preempted": "red",
    "lost": "red",
    "ok": "cyan",
}


def draw(console: Console, told: Explanation, currency: str) -> None:
    """All of it, in as many columns as the console has."""
    console.print(Text(told.story, style="bold"))
    if told.advice:
        console.print(Text(told.advice))
    console.print()
    console.print(_facts(told))
    for title, part in _parts(console, told, currency):
        console.print()
        console.print(Text(title, style="bold"))
        console.print(part)


def _parts(console: Console, told: Explanation, currency: str) -> Iterator[tuple[str, RenderableType]]:
    if told.stages:
        alike = f", one of {told.num_alike:,} alike" if told.num_alike > 1 else ""
        yield f"stages of {_ms(told.e2e_ns)}{alike}", _stages(console, told)
    if told.legs:
        yield "workers", _legs(console, told)
    if told.spans:
        yield "the application around it (* held everything up)", _spans(console, told)
    if told.costs:
        yield "cost", _costs(told.costs, told, currency)


def _facts(told: Explanation) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _fact_rows(told):
        table.add_row(name, Text(text))
    return table


def _fact_rows(told: Explanation) -> Iterator[tuple[str, str]]:
    yield "request", f"{printable(told.id)} at {datetime.fromtimestamp(told.started_ns / 1e9):%Y-%m-%d %H:%M:%S.%f}"
    yield (
        "who, what",
        ", ".join(printable(part) for part in (told.tenant, told.scenario, told.model, told.version) if part),
    )
    yield "end", printable(f"{told.outcome}, HTTP {told.status}" + "".join(f", {why}" for why in told.finish_reasons))
    cached = "".join(f", {count:,} from {tier}" for tier, count in told.cached_tokens.items() if count)
    yield "tokens", f"{told.prompt_tokens:,} in{cached}; {told.output_tokens:,} out" + _wasted(told)
    yield "times", _times(told)
    if told.retries or told.migrations or told.preemptions:
        yield "troubles", f"{told.retries} refused, {told.migrations} lost, {told.preemptions} preempted"
    if told.trace_id:
        yield "trace", printable(told.trace_id)
    if told.tags:
        yield "tags", ", ".join(f"{printable(key)}={printable(value, 60)}" for key, value in told.tags.items())


def _wasted(told: Explanation) -> str:
    parts = ((told.recomputed_tokens, "computed again"), (told.rejected_tokens, "guessed wrong"))
    return "".join(f"; {count:,} {what}" for count, what in parts if count)


def _times(told: Explanation) -> str:
    parts = [f"first token {_ms(told.ttft_ns)}"] if told.ttft_ns is not None else []
    if told.gaps is not None:
        parts.append(f"between tokens {_ms(told.gaps.p50_ns)} (longest {_ms(told.gaps.longest_ns)})")
    return ", ".join([*parts, f"all {_ms(told.e2e_ns)}"])


def _stages(console: Console, told: Explanation) -> Table:
    table = _bars(console)
    drawn: set[str] = set()
    for line in told.stages:
        bar = _bar(console, line.start_ns, line.ns, told.e2e_ns, line.stage.value)
        name = f"{line.stage.value} again" if line.stage.value in drawn else line.stage.value
        table.add_row(name, bar, _ms(line.ns), f"{line.share:.1%}")
        drawn.add(line.stage.value)
    if told.ttft_ns is not None:
        table.add_row("", _mark(console, told.ttft_ns, told.e2e_ns), "", "")
    return table


def _legs(console: Console, told: Explanation) -> Group:
    parts: list[RenderableType] = []
    for leg in told.legs:
        table = _bars(console)
        bar = _bar(console, leg.start_ns, leg.ns, told.e2e_ns, leg.outcome if leg.outcome == "ok" else "lost")
        table.add_row(printable(leg.worker, _name(console)), bar, _ms(leg.ns), printable(leg.outcome, _RIGHT))
        parts += [table, Padding(Text("; ".join(_leg_words(leg)), style="dim"), (0, 0, 0, 2))]
    return Group(*parts)


def _leg_words(leg: LegLine) -> Iterator[str]:
    if leg.sequence:
        yield f"choice {leg.sequence + 1}"
    if leg.is_new_life:
        yield "started again since: another life of this worker than the one that was lost"
    yield printable(leg.why)
    if leg.lost:
        yield f"the worker {printable(leg.lost, 120)}"
    if leg.expected_cached_tokens:
        yield f"{leg.expected_cached_tokens:,} cached tokens expected"
    if leg.predicted_ttft_ns is not None and leg.actual_ttft_ns is not None:
        yield f"first token predicted after {_ms(leg.predicted_ttft_ns)}, came after {_ms(leg.actual_ttft_ns)}"
    if leg.steps:
        yield f"{counted(leg.steps, 'step')}, prompt in {counted(leg.prefill_chunks or 0, 'chunk')}"
    if leg.preemptions:
        yield f"preempted {leg.preemptions} times, {leg.recomputed_tokens or 0:,} tokens computed again"


def _spans(console: Console, told: Explanation) -> Table:
    table = _bars(console)
    start_ns = min(span.start_ns for span in told.spans)
    whole_ns = max(max(span.start_ns + span.ns for span in told.spans) - start_ns, 1)
    for span in told.spans[:MAX_SPANS]:
        bar = _bar(console, span.start_ns - start_ns, span.ns, whole_ns, "lost" if span.is_error else "ok")
        share = f"*{span.critical_ns / whole_ns:.1%}" if span.is_critical else ""
        table.add_row(_span_name(span, _name(console)), bar, _ms(span.ns), share)
    if len(told.spans) > MAX_SPANS:
        table.add_row("", f"and {len(told.spans) - MAX_SPANS} more: see --json", "", "")
    return table


def _span_name(span: SpanLine, most: int) -> Text:
    name = f"{' ' * min(span.depth, 6)}{span.service}: {span.name}" if span.service else span.name
    return Text(printable(name, most), style="bold" if span.is_this else "")


def _costs(lines: Iterable[CostLine], told: Explanation, currency: str) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    table.add_column(justify="right")
    for line in lines:
        table.add_row(
            printable(line.name), f"{amount(line.amount, told.cost)} {printable(currency, 12)}", f"{line.share:.0%}"
        )
    table.add_row("total", f"{amount(told.cost, told.cost)} {printable(currency, 12)}", "", style="bold")
    if told.saved:
        table.add_row(
            "saved by cached tokens", f"{amount(told.saved, told.cost)} {printable(currency, 12)}", "", style="dim"
        )
    return table


def _bars(console: Console) -> Table:
    """Name, bar, duration, share."""
    table = Table.grid(padding=(0, 1))
    table.add_column(width=_name(console), no_wrap=True, overflow="ellipsis")
    table.add_column(width=_width(console), overflow="fold")
    table.add_column(width=_RIGHT, justify="right", no_wrap=True)
    table.add_column(width=_RIGHT, justify="right", no_wrap=True, style="dim")
    return table


def _width(console: Console) -> int:
    return max(_MIN_BAR, min(console.width, 160) - _name(console) - 2 * _RIGHT - 3)  # with the space between them


def _name(console: Console) -> int:
    return _WIDE_NAME if console.width >= _WIDE else _NAME


def _bar(console: Console, start_ns: int, ns: int, whole_ns: int, kind: str) -> Text:
    """At least one character wide, so that nothing that took time is invisible."""
    width = _width(console)
    begin = min(width - 1, max(0, int(width * start_ns / max(whole_ns, 1))))
    end = min(width, max(begin + 1, round(width * (start_ns + ns) / max(whole_ns, 1))))
    full = "#" if console.options.ascii_only else "█"
    return Text(" " * begin + full * (end - begin), style=_COLORS.get(kind, "cyan"), no_wrap=True)


def _mark(console: Console, at_ns: int, whole_ns: int) -> Text:
    width = _width(console)
    words = "^ first token"
    begin = min(width - 1, int(width * at_ns / max(whole_ns, 1)))
    text = " " * begin + words if begin + len(words) <= width else (words[2:] + " ^").rjust(begin + 1)
    return Text(text, style="dim", no_wrap=True)


def _ms(ns: float) -> str:
    return duration(ns / 1e9)
