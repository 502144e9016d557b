"""Moments and windows as people write them: "now", "90m" or "1h30m" (ago), "2026-03-01 10:00", "1772359200".

A time without a zone is this machine's. Errors are InvalidRequest and name the parameter.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from tokenworks.contract.errors import InvalidRequest
from tokenworks.observe.ledger import Window

_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])", re.ASCII)
_DURATION: Final = re.compile(rf"(?:{_PART.pattern}\s*)+", re.ASCII)
_NUMBER: Final = re.compile(r"\d{9,11}(?:\.\d+)?", re.ASCII)
_EXAMPLES: Final = 'now, a time ago such as 90m, 1h30m or 7d, or a date and time such as "2026-03-01 10:00"'


def parse_window(since: str, until: str, now_ns: int) -> Window:
    """From `since` to `until`; raises InvalidRequest where one is not a moment, or they are the wrong way round."""
    window = Window(parse_moment(since, now_ns, "since"), parse_moment(until, now_ns, "until"))
    if window.start_ns >= window.end_ns:
        raise InvalidRequest(
            f"the window from {since!r} to {until!r} is empty: `since` must be before `until`", param="since"
        )
    return window


def parse_moment(text: str, now_ns: int, param: str) -> int:
    """Nanoseconds since 1970; raises InvalidRequest."""
    text = text.strip()
    if text.lower() == "now":
        return now_ns
    if _DURATION.fullmatch(text):
        return now_ns - parse_duration(text, param)
    try:
        seconds = float(text) if _NUMBER.fullmatch(text) else datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidRequest(f"`{param}` cannot be {text!r}; give {_EXAMPLES}", param=param) from error
    return round(seconds * 1e9)


def parse_duration(text: str, param: str) -> int:
    """Nanoseconds of "1h30m"; raises InvalidRequest."""
    if not _DURATION.fullmatch(text.strip()):
        raise InvalidRequest(
            f"`{param}` cannot be {text!r}; give a duration such as 30s, 90m, 1h30m or 7d", param=param
        )
    return round(sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text)) * 1e9)
