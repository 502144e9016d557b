"""Which tags there are: the keys that cells of a window were made for."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from tokenworks.observe.ledger import Window
from tokenworks.observe.store.cell_rows import NO_TAG
from tokenworks.observe.store.periods import LENGTH_NS, Level, floor
from tokenworks.observe.store.schema import cells, words

MAX_KEYS: Final = 500
"""That are looked at: keys are clients' words, and there may be many over the years."""
_SECOND_NS: Final = 10**9


def tag_keys(connection: sa.Connection, window: Window) -> list[str]:
    """Those of requests that ended in the window, to the minute where those are kept, else to the hour; in order."""
    found = {key for level in (Level.MINUTE, Level.HOUR) for key in _of_level(connection, level, window)}
    texts = connection.execute(sa.select(words.c.text).where(words.c.id.in_(sorted(found)))).scalars()
    return sorted(text for text in texts if text)


def _of_level(connection: sa.Connection, level: Level, window: Window) -> set[int]:
    """Key after key by the index that cells have: it is asked as often as there are keys, however many cells."""
    found, key = set(), NO_TAG
    for _ in range(MAX_KEYS):
        after = sa.select(sa.func.min(cells.c.tag_key)).where(cells.c.level == int(level), cells.c.tag_key > key)
        following = connection.execute(after).scalar()
        if following is None:
            break
        key = int(following)
        if _is_in(connection, level, key, window):
            found.add(key)
    return found


def _is_in(connection: sa.Connection, level: Level, key: int, window: Window) -> bool:
    start_s = floor(window.start_ns, LENGTH_NS[level]) // _SECOND_NS
    times = (cells.c.start_s >= start_s, cells.c.start_s < -(-window.end_ns // _SECOND_NS))
    those = sa.select(cells.c.start_s).where(cells.c.level == int(level), cells.c.tag_key == key, *times)
    return connection.execute(those.limit(1)).first() is not None
