"""Moments as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tokenworks.contract.errors import InvalidRequest
from tokenworks.observe.ledger import Window
from tokenworks.observe.when import parse_duration, parse_moment, parse_window

NOW_NS = 1_772_359_200 * 10**9


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("90m", 5400), ("1h30m", 5400), ("1h 30m", 5400), ("2d", 172800), ("1w", 604800), ("1.5h", 5400)],
)
def test_a_duration_is_that_long_ago(text: str, seconds: int) -> None:
    assert parse_duration(text, "since") == seconds * 10**9
    assert parse_moment(text, NOW_NS, "since") == NOW_NS - seconds * 10**9


def test_milliseconds_are_no_minutes() -> None:
    assert parse_duration("250ms", "since") == 250 * 10**6


@pytest.mark.parametrize("text", ["2026-03-01T10:00:00Z", "2026-03-01T12:00+02:00", "1772359200", " NOW "])
def test_a_moment_is_the_same_however_it_is_written(text: str) -> None:
    assert parse_moment(text, NOW_NS, "until") == NOW_NS == datetime(2026, 3, 1, 10, tzinfo=UTC).timestamp() * 1e9


def test_a_time_without_a_zone_is_this_machines() -> None:
    assert parse_moment("2026-03-01 10:00", 0, "since") == datetime(2026, 3, 1, 10).timestamp() * 1e9


@pytest.mark.parametrize(
    "text", ["", "yesterday", "1 hour", "-1h", "5", "2026-13-01", "10:00", "1h; DROP TABLE", "9" * 40]
)
def test_what_is_no_moment_is_refused_with_what_would_be(text: str) -> None:
    with pytest.raises(InvalidRequest, match="`since` cannot be .*; give now, a time ago") as caught:
        parse_moment(text, NOW_NS, "since")
    assert caught.value.param == "since"


def test_a_word_is_no_duration() -> None:
    with pytest.raises(InvalidRequest, match="`for` cannot be 'soon'; give a duration"):
        parse_duration("soon", "for")


def test_a_window_has_a_beginning_and_then_an_end() -> None:
    assert parse_window("1h", "now", NOW_NS) == Window(NOW_NS - 3600 * 10**9, NOW_NS)
    with pytest.raises(InvalidRequest, match="`since` must be before `until`"):
        parse_window("now", "1h", NOW_NS)
