"""The reference page of diagnosis: rules and signals, as `observe` has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tokenworks.observe.diagnose.peak import PEAK_SIGNALS
from tokenworks.observe.diagnose.rules import OBJECTIVES, PLACE, Rule, own_rules
from tokenworks.observe.diagnose.scaling import SCALE_SIGNALS
from tokenworks.observe.diagnose.signals import SIGNALS

Rows = list[tuple[str, ...]]
Tabled = Callable[[tuple[str, ...], Rows], list[str]]


def diagnosis_lines(table: Tabled) -> Iterator[str]:
    """The page's lines; `table` writes a heading and rows as Markdown."""
    loaded = own_rules()
    yield from ("# Rules and signals of diagnosis", "")
    yield "What `tokenworks diagnose` looks for, and the figures that rules speak of: see docs/guides/diagnosis.md."
    yield from ("", "## Definitions", "")
    yield from table(("name", "stands for"), [(f"`{name}`", _code(text)) for name, text in loaded.define.items()])
    for rule in loaded.rules:
        yield from _rule_lines(rule)
    yield from ("", "## Signals", "")
    yield from table(("signal", "unit", "meaning"), _figures())


def _rule_lines(rule: Rule) -> Iterator[str]:
    names = ", ".join(f"`{name}`" for name in rule.unless)
    silent = f"; silent where one of {names} found something" if names else ""
    yield from ("", f"## `{rule.name}`", "")
    yield f"A {rule.severity}, of each {rule.over} with {rule.min_requests} requests or more{silent}."
    yield from ("", f"- **When** {_code(rule.when)}", f"- **Seen** {_prose(rule.signal)}")
    yield from (f"- **Cause** {_prose(rule.cause)}", f"- **Do** {_prose(rule.action)}")
    if rule.hurts:
        yield f"- **Hurts** tenants by {', '.join(f'`{name}`' for name in rule.hurts)}"
    if rule.gain:
        yield f"- **Gain** {_prose(rule.gain_text)}: {_code(rule.gain)}"


def _figures() -> Rows:
    rows: Rows = [(f"`{name}`", signal.unit or "-", signal.meaning) for name, signal in SIGNALS.items()]
    rows += [(f"`{name}`", unit, meaning) for name, (unit, meaning) in {**SCALE_SIGNALS, **PEAK_SIGNALS}.items()]
    return rows + [(f"`{name}`", "s", "what the scenario promises ([objectives])") for name in OBJECTIVES]


def _code(text: str) -> str:
    return f"`{' '.join(text.split())}`"


def _prose(text: str) -> str:
    return " ".join(PLACE.sub(r"`\1`", text).split())
