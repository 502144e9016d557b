"""What may be asked of the observer over HTTP: the parameters below /observe/, checked by name, value and range.

An unknown or repeated parameter is refused, never ignored: a filter that is silently dropped would show the figures of
everybody under one tenant's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from tokenworks.contract.errors import InvalidRequest
from tokenworks.observe.ledger import Window
from tokenworks.observe.tables.table import check_by, check_where
from tokenworks.observe.when import parse_window

DEFAULT_SINCE: Final = "15m"
MAX_ROWS: Final = 500
MAX_POINTS: Final = 500
ORDERS: Final = ("latest", "slowest", "failed")
YES: Final = "yes"
NO: Final = "no"
_MAX_TEXT: Final = 1024


class Question(NamedTuple):
    """One question, understood."""

    window: Window
    reference: Window  # the time before, equally long: what drift compares with
    by: str
    where: Mapping[str, str]
    preset: str
    columns: list[str]
    order: str
    limit: int
    points: int
    troubles: bool  # with a preset's columns also those of bad ends that there were


def read_question(parameters: list[tuple[str, str]], now_ns: int) -> Question:
    """The question that a query string asks at this moment; raises InvalidRequest by the name of what is wrong."""
    given = _given(parameters)
    window = parse_window(given.get("since", DEFAULT_SINCE), given.get("until", "now"), now_ns)
    by = given.get("by") or "scenario"
    check_by(by)
    return Question(
        window,
        Window(2 * window.start_ns - window.end_ns, window.start_ns),
        by=by,
        where=check_where(_where([value for name, value in parameters if name == "where"]), by),
        preset=given.get("preset", ""),
        columns=[key for key in given.get("columns", "").split(",") if key],
        order=_one_of(given.get("order", ORDERS[0]), "order", ORDERS),
        limit=_number(given.get("limit", "50"), "limit", MAX_ROWS),
        points=_number(given.get("points", "60"), "points", MAX_POINTS),
        troubles=_one_of(given.get("troubles", NO), "troubles", (YES, NO)) == YES,
    )


def _given(parameters: list[tuple[str, str]]) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in parameters:
        if name not in _NAMES:
            raise InvalidRequest(
                f"there is no parameter `{name[:40]}`; there are: {', '.join(_NAMES)}", param=name[:40]
            )
        if name in given and name != "where":
            raise InvalidRequest(f"`{name}` is given twice", param=name)
        if len(value) > _MAX_TEXT:
            raise InvalidRequest(f"`{name}` is longer than {_MAX_TEXT} characters", param=name)
        given[name] = value
    return given


def _where(conditions: list[str]) -> dict[str, str]:
    where: dict[str, str] = {}
    for condition in conditions:
        dimension, equals, value = condition.partition("=")
        if not equals or dimension in where:
            raise InvalidRequest(
                "`where` is DIMENSION=VALUE, such as tenant=acme; repeat it for another dimension", param="where"
            )
        where[dimension] = value
    return where


def _one_of(value: str, name: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise InvalidRequest(f"`{name}` cannot be {value[:40]!r}; there are: {', '.join(known)}", param=name)
    return value


def _number(text: str, name: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise InvalidRequest(f"`{name}` is a whole number from 1 to {most}", param=name)
    return int(text)


_NAMES: Final = ("since", "until", "by", "where", "preset", "columns", "order", "limit", "points", "troubles")
