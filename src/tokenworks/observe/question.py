"""What may be asked of the observer over HTTP: the parameters below /observe/, checked by name, value and range.

An unknown or repeated parameter is refused, never ignored: a filter that is silently dropped would show the figures of
everybody under one tenant's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from tokenworks.contract.errors import InvalidRequest
from tokenworks.observe.ledger import DIMENSIONS, Window
from tokenworks.observe.when import parse_window

DEFAULT_SINCE: Final = "15m"
MAX_REQUESTS: Final = 500
MAX_POINTS: Final = 500
ORDERS: Final = ("latest", "slowest")
_MAX_TEXT: Final = 256


class Question(NamedTuple):
    """One question, understood."""

    window: Window
    reference: Window  # the time before, equally long: what drift compares with
    by: str | None = None
    where: Mapping[str, str] = {}
    preset: str | None = None
    order: str = "latest"
    limit: int = 50
    points: int = 60


def read_question(parameters: list[tuple[str, str]], now_ns: int) -> Question:
    """The question that a query string asks at this moment; raises InvalidRequest by the name of what is wrong."""
    given = _given(parameters)
    window = parse_window(given.get("since", DEFAULT_SINCE), given.get("until", "now"), now_ns)
    return Question(
        window,
        Window(2 * window.start_ns - window.end_ns, window.start_ns),
        by=_dimension(given["by"], "by") if given.get("by") else None,
        where=_where([value for name, value in parameters if name == "where"]),
        preset=given.get("preset") or None,
        order=_one_of(given.get("order", "latest"), "order", ORDERS),
        limit=_number(given.get("limit", "50"), "limit", MAX_REQUESTS),
        points=_number(given.get("points", "60"), "points", MAX_POINTS),
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
    where = {}
    for condition in conditions:
        dimension, equals, value = condition.partition("=")
        if not equals:
            raise InvalidRequest(
                "`where` is DIMENSION=VALUE, such as tenant=acme; repeat it for several", param="where"
            )
        where[_dimension(dimension, "where")] = value
    return where


def _dimension(name: str, param: str) -> str:
    if name in DIMENSIONS or (name.startswith("tag:") and len(name) > len("tag:") and param == "by"):
        return name
    also = " or tag:KEY" if param == "by" else ""
    raise InvalidRequest(f"`{param}` cannot be {name[:40]!r}; there are: {', '.join(DIMENSIONS)}{also}", param=param)


def _one_of(value: str, name: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise InvalidRequest(f"`{name}` cannot be {value[:40]!r}; there are: {', '.join(known)}", param=name)
    return value


def _number(text: str, name: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise InvalidRequest(f"`{name}` is a whole number from 1 to {most}", param=name)
    return int(text)


_NAMES: Final = ("since", "until", "by", "where", "preset", "order", "limit", "points")
