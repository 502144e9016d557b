"""From signals to probable causes to actions: what is wrong in a window, with its evidence and what mending it brings.

`diagnose` is what `tokenworks diagnose`, the dashboard and `GET /observe/diagnose` show. It reads the ledger, looks at
every subject with every rule, and tells what it found, worst first. A rule fires on figures alone (see `signals`), and
stays silent where its subject had fewer than `min_requests` or where a figure is not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import msgspec

from tokenworks.contract.config import ObjectiveSettings, Settings
from tokenworks.contract.record import Incident
from tokenworks.observe.diagnose.expression import Expression
from tokenworks.observe.diagnose.hurt import Hurt, hurt
from tokenworks.observe.diagnose.mix import MIX_SIGNALS, mix_figure
from tokenworks.observe.diagnose.peak import PEAK_SIGNALS, peak_busy_workers
from tokenworks.observe.diagnose.rules import PLACE, Rule, Rules, all_names, own_rules
from tokenworks.observe.diagnose.scaling import SCALE_SIGNALS, scale_figures
from tokenworks.observe.diagnose.sides import Side, Sides, Subject
from tokenworks.observe.diagnose.signals import SIGNALS
from tokenworks.observe.diagnose.worst_time import worst_time
from tokenworks.observe.ledger import Ledger, Window
from tokenworks.observe.units import shown

SEVERITIES: Final = ("critical", "warning", "notice")
MAX_INCIDENTS: Final = 100


class Evidence(msgspec.Struct, frozen=True):
    """One figure that a finding rests on."""

    name: str
    meaning: str
    value: float
    text: str  # the value with its unit
    before: str  # the same before the window; empty: not known, or the figure is of another time anyway


class Finding(msgspec.Struct, frozen=True):
    """Something that is wrong, or could be better."""

    rule: str
    severity: str
    kind: str  # what it is about: "window", "scenario", "tenant", "model", "version", "worker"
    subject: str
    signal: str
    cause: str
    action: str
    evidence: list[Evidence]
    hurt: list[Hurt]  # tenants who wait, pay or lose more for it, hurt most first
    gain: str  # expected, in words; empty: not estimated
    gain_value: float | None
    arithmetic: str  # of the gain
    requests: int  # of its subject, in the window
    worst: Window | None  # when it was at its worst; None: all the time, or not known
    window: Window
    baseline: Window


class Diagnosis(msgspec.Struct, frozen=True):
    """What was found, and what was looked at."""

    window: Window
    baseline: Window  # empty: nothing came before
    is_own_baseline: bool  # it is a stretch of the window itself, since nothing came before
    requests: int
    num_rules: int
    findings: list[Finding]
    incidents: list[Incident]  # what happened to the system in the window, in order; the latest `MAX_INCIDENTS`
    num_incidents: int  # all


def diagnose(ledger: Ledger, window: Window, settings: Settings, rules: Rules | None = None) -> list[Finding]:
    """What the rules find, worst first; raises LedgerError where the ledger cannot be read."""
    return diagnosis(ledger, window, settings, rules).findings


def diagnosis(
    ledger: Ledger, window: Window, settings: Settings, rules: Rules | None = None, baseline: Window | None = None
) -> Diagnosis:
    """The same, with what was looked at.

    `baseline`: what is usual; None: the time before the window, or the window's own best stretch (see `best_stretch`).
    """
    rules = rules or own_rules()
    figures = Figures(Sides(ledger, window, baseline), ledger, settings, rules)
    findings: list[Finding] = []
    for rule in rules.rules:
        better = [finding for finding in findings if finding.rule in rule.unless]
        condition = Expression(rule.when)
        for subject in figures.sides.subjects(rule.over):
            if subject.now.cell.requests < rule.min_requests or any(_explains(each, subject) for each in better):
                continue
            look_up = figures.of(subject)
            if condition.value(look_up):
                findings.append(_finding(rule, subject, look_up, figures))
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    sides = figures.sides
    incidents = sides.whole.now.incidents
    return Diagnosis(
        window,
        sides.before_window,
        sides.is_own_baseline,
        sides.whole.now.cell.requests,
        len(rules.rules),
        findings,
        incidents[-MAX_INCIDENTS:],
        len(incidents),
    )


def _explains(finding: Finding, subject: Subject) -> bool:
    """Whether a finding may be the cause of what is seen of a subject; of another one of its kind it is not."""
    return finding.kind != subject.kind or finding.subject == subject.name


class Figures:
    """Looks up what expressions name."""

    def __init__(self, sides: Sides, ledger: Ledger, settings: Settings, rules: Rules) -> None:
        self.sides = sides
        self.currency = settings.cost.currency
        self._objectives = settings.objectives
        self._definitions = {name: Expression(text) for name, text in rules.define.items()}
        self._scaling: dict[str, float] | None = None
        self._peak: float | None = None
        self.ledger = ledger

    def of(self, subject: Subject) -> Callable[[str], float]:
        """The figures of one subject, each computed once."""
        known: dict[str, float] = {}

        def look_up(name: str) -> float:
            if name not in known:
                known[name] = self._value(subject, name, look_up)
            return known[name]

        return look_up

    def _value(self, subject: Subject, name: str, look_up: Callable[[str], float]) -> float:
        if name in self._definitions:
            return self._definitions[name].value(look_up)
        if name in SCALE_SIGNALS:
            return self._scale()[name]
        if name in PEAK_SIGNALS:
            return self._busiest()
        if name in MIX_SIGNALS:
            return mix_figure(name, self.sides, subject)
        if name.startswith("objective_"):
            return _objective(self._objectives, subject, name)
        side, signal = _side_of(subject, self.sides.whole, name)
        return float(SIGNALS[signal].of(side))

    def _scale(self) -> dict[str, float]:
        if self._scaling is None:
            now, before = self.sides.window, self.sides.before_window
            whole = Window(min(now.start_ns, before.start_ns), now.end_ns)
            self._scaling = scale_figures(self.ledger, whole)
        return self._scaling

    def _busiest(self) -> float:
        if self._peak is None:
            self._peak = peak_busy_workers(self.ledger, self.sides.window)
        return self._peak


def _side_of(subject: Subject, whole: Subject, name: str) -> tuple[Side, str]:
    """Which side a prefix means, and the figure's own name."""
    if name in SIGNALS:
        return subject.now, name
    prefix, _, rest = name.partition("_")
    if prefix == "all":
        return _side_of(whole, whole, rest)
    return (subject.before if prefix == "before" else subject.others), rest


def _objective(objectives: ObjectiveSettings, subject: Subject, name: str) -> float:
    """What a scenario promises, in seconds; NaN where it promises nothing, and for who is no scenario."""
    field = f"{subject.name}_{name.removeprefix('objective_')}"
    return getattr(objectives, field, 0.0) or math.nan if subject.kind == "scenario" else math.nan


def _finding(rule: Rule, subject: Subject, look_up: Callable[[str], float], figures: Figures) -> Finding:
    signals = all_names()

    def show(name: str) -> str:
        if name == "subject":
            return subject.name
        unit = signals[name].unit if name in signals else ""  # a definition has none
        return shown(look_up(name), unit, figures.currency)

    gain = Expression(rule.gain) if rule.gain else None
    value = gain.value(look_up) if gain else math.nan
    is_known = gain is not None and math.isfinite(value) and value > 0
    told = shown(value, rule.gain_unit, figures.currency)
    return Finding(
        rule=rule.name,
        severity=rule.severity,
        kind=subject.kind,
        subject=subject.name,
        signal=_filled(rule.signal, show),
        cause=_filled(rule.cause, show),
        action=_filled(rule.action, show),
        evidence=[_evidence(name, subject, look_up, figures) for name in rule.evidence],
        hurt=hurt(rule.hurts, subject, figures.sides, figures.currency),
        gain=_filled(rule.gain_text, lambda name: told if name == "gain" else show(name)) if is_known else "",
        gain_value=value if is_known else None,
        arithmetic=f"{rule.gain} = {gain.filled(show)} = {told}" if gain is not None and is_known else "",
        requests=subject.now.cell.requests,
        worst=worst_time(figures.ledger, subject, rule.peak) if rule.peak else None,
        window=figures.sides.window,
        baseline=figures.sides.before_window,
    )


def _evidence(name: str, subject: Subject, look_up: Callable[[str], float], figures: Figures) -> Evidence:
    signal = all_names()[name]
    before = math.nan
    if name in SIGNALS and figures.sides.before_window.seconds > 0:
        before = look_up(f"before_{name}")
    text = shown(look_up(name), signal.unit, figures.currency)
    known = shown(before, signal.unit, figures.currency) if math.isfinite(before) else ""
    return Evidence(name, _whose(name) + signal.meaning, look_up(name), text, known)


def _whose(name: str) -> str:
    prefixes = {
        "all_before_": "of all before: ",
        "before_": "before: ",
        "others_": "of the others: ",
        "all_": "of all: ",
    }
    return (
        next((words for prefix, words in prefixes.items() if name.startswith(prefix)), "")
        if name not in SIGNALS
        else ""
    )


def _filled(text: str, show: Callable[[str], str]) -> str:
    """The text, in one line, with its figures; what stands in them is never taken for a place again."""
    return PLACE.sub(lambda match: show(match[1]), " ".join(text.split()))
