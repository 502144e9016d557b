"""Which tags have cells of their own: a client may send a million distinct ones.

In an hour, `MAX_KEYS` keys and `MAX_VALUES` values of each are kept apart, in the order in which they come; the rest is
together under `OTHER`. What came is what has cells, so that nothing else must be kept to go on after a restart.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from tokenworks.observe.store.dictionaries import clean
from tokenworks.observe.store.periods import HOUR_NS, Level, floor
from tokenworks.observe.store.schema import cells, words

MAX_KEYS: Final = 50
MAX_VALUES: Final = 200
OTHER: Final = "(other)"
_SECOND_NS: Final = 10**9


class TagLimits:
    """Forgets older hours as time goes on; what it forgot, it reads again."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str | None], set[str]] = {}  # by hour and key; None: the keys themselves

    def counted_as(self, connection: sa.Connection, at_ns: int, key: str, value: str) -> tuple[str, str]:
        """The key and the value under which a tag of this moment is counted; they count as known from now on."""
        hour_ns, key, value = floor(at_ns, HOUR_NS), clean(key), clean(value)
        if not self._admits(connection, hour_ns, None, key, MAX_KEYS):
            return OTHER, OTHER
        return key, value if self._admits(connection, hour_ns, key, value, MAX_VALUES) else OTHER

    def forget(self, before_ns: int | None = None) -> None:
        """Read again what is asked for: of the hours before this one, or of all."""
        kept = {name: known for name, known in self._known.items() if before_ns is not None and name[0] >= before_ns}
        self._known = kept

    def _admits(self, connection: sa.Connection, hour_ns: int, key: str | None, text: str, most: int) -> bool:
        known = self._known.get((hour_ns, key))
        if known is None:
            known = self._known[hour_ns, key] = known_texts(connection, hour_ns, key)
        if text not in known and len(known) < most:
            known.add(text)
        return text in known


def known_texts(connection: sa.Connection, hour_ns: int, key: str | None) -> set[str]:
    """Values of a key that have cells in this hour; without a key: the keys that have."""
    start_s = hour_ns // _SECOND_NS
    hour = (cells.c.level == Level.MINUTE, cells.c.start_s >= start_s, cells.c.start_s < start_s + 3600)
    column = cells.c.tag_key if key is None else cells.c.tag_value
    statement = sa.select(words.c.text).distinct().join_from(cells, words, words.c.id == column).where(*hour)
    if key is not None:
        its_id = sa.select(words.c.id).where(words.c.text == key).scalar_subquery()
        statement = statement.where(cells.c.tag_key == its_id)
    return set(connection.execute(statement).scalars()) - {OTHER}
