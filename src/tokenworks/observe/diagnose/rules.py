"""Rules of diagnosis: read from TOML, checked, so that a mistake is told when a rule is read and not when it fires.

A file holds `[define]`, names for conditions that several rules share, and `[[rule]]` entries, whose fields are those
of `Rule`. A user's file adds to the package's own `rules.toml`; a rule or a definition of the same name replaces it,
and a rule with `when = "0 > 1"` is off.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from tokenworks.contract.config import ObjectiveSettings
from tokenworks.contract.errors import ConfigError
from tokenworks.observe.diagnose.expression import Expression
from tokenworks.observe.diagnose.mix import MIX_SIGNALS
from tokenworks.observe.diagnose.peak import PEAK_SIGNALS
from tokenworks.observe.diagnose.scaling import SCALE_SIGNALS
from tokenworks.observe.diagnose.sides import WHOLE
from tokenworks.observe.diagnose.signals import SIGNALS, Signal
from tokenworks.observe.diagnose.use_signals import USE_SIGNALS
from tokenworks.observe.ledger import DIMENSIONS
from tokenworks.observe.units import Unit

PLACE: Final = re.compile(r"\{(\w*)\}")
_PROMISES: Final = {name.partition("_")[2] for name in ObjectiveSettings.__struct_fields__ if name.endswith("_s")}
OBJECTIVES: Final = tuple(f"objective_{name}" for name in sorted(_PROMISES))
_KINDS: Final = (WHOLE, *DIMENSIONS)
_PREFIXES: Final = ("", "before_", "others_", "all_", "all_before_")


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From signal to probable cause to action."""

    name: str
    when: str  # an expression: see `expression`
    signal: str  # what is seen; in this and the next three, {NAME} stands for a figure, {subject} for the one it is of
    cause: str
    action: str
    over: str = WHOLE  # or one of `DIMENSIONS`: looked at once for each
    severity: Literal["notice", "warning", "critical"] = "warning"
    evidence: list[str] = []  # figures to show
    gain: str = ""  # an expression: what the action is expected to bring
    gain_unit: Unit = "s"
    gain_text: str = ""  # with {gain}
    min_requests: int = 20  # of its subject, below which it stays silent
    hurts: tuple[str, ...] = ("ttft_p50_s", "ttft_p99_s", "tpot_p50_s", "tpot_p99_s")  # worse the higher: see `hurt`
    peak: str = ""  # a figure of requests, worse the higher: when it stood out is told, see `worst_time`
    unless: list[str] = []  # rules further up that explain it better: silent where one fired, if not of another subject


class Rules(msgspec.Struct, frozen=True):
    """All rules in order, with what they are made of."""

    rules: list[Rule]
    define: dict[str, str]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    define: dict[str, str] = {}
    rule: list[Rule] = []


@cache
def own_rules() -> Rules:
    """Those of the package."""
    return _checked(_read(files("tokenworks.observe.diagnose").joinpath("rules.toml").read_bytes(), "rules.toml"), [])


def load_rules(paths: Iterable[Path] = ()) -> Rules:
    """The package's and those of users' files, later ones over earlier ones; raises ConfigError."""
    rules = own_rules()
    for path in paths:
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read the rules in {path}: {error.strerror}") from error
        rules = _checked(_read(raw, str(path)), rules.rules, rules.define, origin=f"{path}: ")
    return rules


@cache
def all_names() -> dict[str, Signal]:
    """Every figure that a rule may name, definitions aside."""
    names = {prefix + name: signal for prefix in _PREFIXES for name, signal in SIGNALS.items()}
    of_ledger = {**SCALE_SIGNALS, **PEAK_SIGNALS, **MIX_SIGNALS}
    more = {name: Signal(unit, meaning, _no_side) for name, (unit, meaning) in of_ledger.items()}
    return names | more | {name: Signal("s", "objective of the scenario", _no_side) for name in OBJECTIVES}


def _read(raw: bytes, origin: str) -> _File:
    try:
        return msgspec.convert(tomllib.loads(raw.decode()), _File)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{origin} is not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {error}; a rule has {', '.join(Rule.__struct_fields__)}") from error


def _checked(file: _File, base: Sequence[Rule], define: Mapping[str, str] | None = None, origin: str = "") -> Rules:
    defined = {**(define or {}), **file.define}
    own = {rule.name: rule for rule in file.rule}
    rules = [own.pop(rule.name, rule) for rule in base] + [rule for rule in file.rule if rule.name in own]
    known = all_names()
    _check_definitions(defined, set(known), origin)
    for place, rule in enumerate(rules):
        _check_rule(rule, {earlier.name for earlier in rules[:place]}, known, defined, origin)
    return Rules(rules, defined)


def _check_definitions(defined: Mapping[str, str], known: set[str], origin: str) -> None:
    """A definition may use those before it, so that there is no circle."""
    seen: set[str] = set()
    for name, text in defined.items():
        if name in known or not name.isidentifier():
            raise ConfigError(f"{origin}[define] {name}: give it a name that is not taken, of letters, digits and _")
        _check_names(_names_in(text, f"{origin}[define] {name}"), known | seen, f"{origin}[define] {name}")
        seen.add(name)


def _check_rule(
    rule: Rule, earlier: set[str], known: Mapping[str, Any], defined: Mapping[str, str], origin: str
) -> None:
    where = f"{origin}rule {rule.name!r}"
    if rule.over not in _KINDS:
        raise ConfigError(f"{where}: `over` is one of {', '.join(_KINDS)}, not {rule.over!r}")
    for text in (rule.when, rule.gain):
        if text:
            _check_names(_names_in(text, where), {*known, *defined}, where)
    _check_names(rule.evidence, {*known}, where)
    _check_names(rule.hurts, {*SIGNALS}, f"{where}: `hurts` has figures of now")
    _check_names([rule.peak] if rule.peak else [], {*SIGNALS} - {*USE_SIGNALS}, f"{where}: `peak` is of requests")
    for text, more in ((rule.signal, ()), (rule.cause, ()), (rule.action, ()), (rule.gain_text, ("gain",))):
        _check_names(PLACE.findall(text), {*known, "subject", *more}, where)
    if bool(rule.gain) != bool(rule.gain_text):
        raise ConfigError(f"{where}: give both `gain` and `gain_text`, or none")
    _check_names(rule.unless, earlier, f"{where}: `unless` names rules further up")


def _names_in(text: str, where: str) -> frozenset[str]:
    try:
        return Expression(text).names
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}") from error


def _check_names(names: Iterable[str], known: set[str], where: str) -> None:
    for name in names:
        if name not in known:
            nearest = get_close_matches(name, known, n=1, cutoff=0.0)
            hint = f"; the nearest known one is `{nearest[0]}`" if nearest else ""
            raise ConfigError(f"{where}; unknown name `{name}`{hint}")


def _no_side(_: object) -> float:
    raise AssertionError("computed by `figures`")
