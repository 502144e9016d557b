"""How a window is put together from days, hours, minutes and single records, and how far each of them reaches.

A request is in its minute's cell at once. An hour is made of its minutes when it is over, a day of its hours (`Marks`
say up to where); from then on a request that comes late is added to them too. Single records and minutes are kept for
some time only: what is asked of the time before them is answered to the minute, then to the hour. Both ends of a window
then move down to such a boundary, so that windows that touch still share nothing; a window of which nothing would be
left becomes the one minute, or hour, that it is in.

Pure. All times in nanoseconds since 1970; days are UTC's.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from tokenworks.observe.ledger import Window


class Level(IntEnum):
    """What one row stands for."""

    RECORD = 0
    MINUTE = 1
    HOUR = 2
    DAY = 3


MINUTE_NS: Final = 60 * 10**9
HOUR_NS: Final = 60 * MINUTE_NS
DAY_NS: Final = 24 * HOUR_NS
LENGTH_NS: Final = {Level.MINUTE: MINUTE_NS, Level.HOUR: HOUR_NS, Level.DAY: DAY_NS}


class Marks(NamedTuple):
    """How far roll-up and retention have come; each a multiple of the period that it speaks of."""

    hours_until: int = 0  # hours before it are made
    days_until: int = 0
    details_from: int = 0  # whole records before it are gone; on a minute
    minutes_from: int = 0  # minutes before it are gone; on an hour
    samples_by_minute: int = 0  # samples before it are thinned
    samples_by_hour: int = 0


class Piece(NamedTuple):
    """Rows of one level, from `start` on and before `end`."""

    level: Level
    start: int
    end: int


def floor(at_ns: int, length_ns: int) -> int:
    """The last multiple of `length_ns` that is not after `at_ns`."""
    return at_ns - at_ns % length_ns


def pieces(window: Window, marks: Marks, coarsest: Level = Level.DAY) -> Iterator[Piece]:
    """What to read for a window: no overlap, in order, none coarser than `coarsest`."""
    start, end = kept(window, marks)
    if start < end:
        yield from _cover(start, end, coarsest, marks)


def kept(window: Window, marks: Marks) -> Window:
    """The window that can be answered for: its ends where there still is a boundary."""
    start, end = _boundary(window.start_ns, marks), _boundary(window.end_ns, marks)
    if window.start_ns < window.end_ns and start == end:
        end = start + _step(start, marks)
    return Window(start, end)


def _step(at_ns: int, marks: Marks) -> int:
    if at_ns < marks.minutes_from:
        return HOUR_NS
    return MINUTE_NS if at_ns < marks.details_from else 1


def _boundary(at_ns: int, marks: Marks) -> int:
    return floor(at_ns, _step(at_ns, marks))


def _cover(start: int, end: int, level: Level, marks: Marks) -> Iterator[Piece]:
    """From `start` to `end` with the largest periods that fit, and finer ones before and behind them."""
    if level is Level.RECORD:
        yield Piece(level, start, end)
        return
    length, finer = LENGTH_NS[level], Level(level - 1)
    made_until = {Level.MINUTE: end, Level.HOUR: marks.hours_until, Level.DAY: marks.days_until}[level]
    first, last = -floor(-start, length), floor(min(end, made_until), length)
    if first >= last:
        yield from _cover(start, end, finer, marks)
        return
    if start < first:
        yield from _cover(start, first, finer, marks)
    yield Piece(level, first, last)
    if last < end:
        yield from _cover(last, end, finer, marks)
