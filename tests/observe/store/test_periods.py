"""How a window is put together: every nanosecond once, by the longest periods that are made and still kept."""

from __future__ import annotations

from random import Random

import pytest

from tests.observe.made import DAY_NS, HOUR_NS, MINUTE_NS, NOON_NS
from tokenworks.observe.ledger import Window
from tokenworks.observe.store.periods import LENGTH_NS, Level, Marks, floor, kept, pieces

MIDNIGHT = floor(NOON_NS, DAY_NS)


def marks(random: Random) -> Marks:
    """As roll-up and retention leave them: details go before minutes, and minutes only once their hour is made."""
    days_until = MIDNIGHT + random.randrange(-3, 3) * DAY_NS
    hours_until = days_until + random.randrange(-5, 30) * HOUR_NS
    minutes_from = hours_until - random.randrange(100) * HOUR_NS
    return Marks(hours_until, days_until, minutes_from + random.randrange(100) * MINUTE_NS, minutes_from)


@pytest.mark.parametrize("seed", range(200))
def test_pieces_cover_a_window_once_and_use_what_there_is(seed: int) -> None:
    random = Random(seed)
    now = marks(random)
    start = MIDNIGHT + random.randrange(-5 * DAY_NS, 5 * DAY_NS)
    window = Window(start, start + random.choice([1, MINUTE_NS, HOUR_NS, 3 * DAY_NS]) * random.randrange(1, 5))
    found = list(pieces(window, now))
    whole = kept(window, now)
    assert found[0].start == whole.start_ns
    assert found[-1].end == whole.end_ns
    assert all(one.end == following.start for one, following in zip(found, found[1:], strict=False))
    for piece in found:
        if piece.level is Level.RECORD:
            assert piece.start >= now.details_from
            continue
        length = LENGTH_NS[piece.level]
        assert piece.start % length == piece.end % length == 0
        made_until = {Level.HOUR: now.hours_until, Level.DAY: now.days_until}.get(piece.level, piece.end)
        assert piece.end <= made_until
        assert piece.level is not Level.MINUTE or piece.start >= now.minutes_from


def test_windows_that_touch_share_nothing_and_leave_nothing_out() -> None:
    now = Marks(MIDNIGHT, MIDNIGHT, MIDNIGHT - DAY_NS, MIDNIGHT - 2 * DAY_NS)
    random = Random(0)
    for _ in range(200):
        a, b, c = sorted(MIDNIGHT + random.randrange(-4 * DAY_NS, DAY_NS) for _ in range(3))
        if min(b - a, c - b) >= HOUR_NS:  # else one may be all that is left of the hour that it is in
            first, second, both = kept(Window(a, b), now), kept(Window(b, c), now), kept(Window(a, c), now)
            assert first.end_ns == second.start_ns
            assert (first.start_ns, second.end_ns) == both


def test_a_short_window_long_ago_is_the_hour_that_it_is_in() -> None:
    now = Marks(MIDNIGHT, MIDNIGHT, MIDNIGHT, MIDNIGHT)
    ago = MIDNIGHT - 3 * DAY_NS
    assert kept(Window(ago + 10 * MINUTE_NS, ago + 40 * MINUTE_NS), now) == (ago, ago + HOUR_NS)
    assert list(pieces(Window(ago, ago), now)) == []
    assert list(pieces(Window(ago + 1, ago), now)) == []


def test_a_day_is_read_as_hours_where_nothing_coarser_is_wanted() -> None:
    now = Marks(MIDNIGHT, MIDNIGHT)
    window = Window(MIDNIGHT - DAY_NS, MIDNIGHT)
    assert [piece.level for piece in pieces(window, now)] == [Level.DAY]
    assert [piece.level for piece in pieces(window, now, Level.HOUR)] == [Level.HOUR]
    assert [piece.level for piece in pieces(window, now, Level.RECORD)] == [Level.RECORD]
