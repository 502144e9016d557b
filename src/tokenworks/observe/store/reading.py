"""Answers about requests: cells of windows, in groups or one after the other, and single records.

A window is read in the pieces of `periods`. Where a dimension or a tag is asked for, its values come from the rows; the
statements carry values as parameters only. Cells are of one tag each: what is asked of a tag is read from that tag's
cells, and requests without it are the whole less those.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa

from tokenworks.contract.config import ObjectiveSettings
from tokenworks.contract.errors import LedgerError
from tokenworks.observe.cell import Cell, cell_of, merged
from tokenworks.observe.journal.frames import instant_ns
from tokenworks.observe.ledger import DIMENSIONS, OK, TAG, Ended, Window
from tokenworks.observe.store import endings
from tokenworks.observe.store.asked import Asked, asked
from tokenworks.observe.store.cell_rows import NO_TAG
from tokenworks.observe.store.dictionaries import clean, combination_of
from tokenworks.observe.store.difference import less
from tokenworks.observe.store.marks import read_marks
from tokenworks.observe.store.packing import Place, unpack, unpack_detail, unpack_record
from tokenworks.observe.store.periods import DAY_NS, HOUR_NS, LENGTH_NS, MINUTE_NS, Level, Piece, floor, pieces
from tokenworks.observe.store.schema import cells, details, dimensions, names, records, words
from tokenworks.observe.store.tag_limits import OTHER, known_texts
from tokenworks.observe.store.take_in import hash_of, names_of

MAX_STEPS: Final = 10_000
_ROWS_AT_ONCE: Final = 200  # of those that are looked through for a tag
_SLOW_ONES: Final = 1000  # among which some that ended well are looked for first
_SECOND_NS: Final = 10**9
Where = Mapping[str, str] | None


class Reading:
    """Over one connection, which sees one state of the database."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._marks = read_marks(connection)

    def cells(self, window: Window, by: str | None, where: Where) -> dict[str, Cell]:
        """By value of `by`; requests that have no such tag are under ""."""
        question = asked(by, where)
        found = self._groups(window, question)
        if not question.wants_untagged:
            return found
        tagged = {"": merged(found.values())} if question.is_by_tag else found
        whole = self._groups(window, question.untagged)
        rest = {value: less(cell, tagged.get(value, Cell())) for value, cell in whole.items()}
        rest = {value: cell for value, cell in rest.items() if cell.requests}
        return found | rest if question.value is None else rest

    def series(self, window: Window, step_ns: int, where: Where) -> list[tuple[int, Cell]]:
        """One cell for each step, by its start, which is a multiple of its length; above a minute, whole minutes."""
        step_ns = max(1, step_ns) if step_ns < MINUTE_NS else floor(step_ns, MINUTE_NS)
        if len(range(floor(window.start_ns, step_ns), window.end_ns, step_ns)) > MAX_STEPS:
            raise LedgerError(f"there are more than {MAX_STEPS} steps: ask for longer ones, or a shorter time")
        question = asked(None, where)
        found = self._steps(window, step_ns, question)
        if question.wants_untagged:
            whole = self._steps(window, step_ns, question.untagged)
            found = {start_ns: less(cell, found[start_ns]) for start_ns, cell in whole.items()}
        return sorted(found.items())

    def records(self, window: Window, where: Where, limit: int, slowest: bool, outcome: str) -> list[Ended]:
        """The latest first, or the slowest; whole where details are kept, compact (and without tags) where not."""
        question = asked(None, where)
        if question.tag is not None:
            return self._tagged(window, question, limit, slowest, outcome)
        if slowest and outcome == OK:
            found = self._of_keys(endings.slow_keys(window, question, limit + _SLOW_ONES).limit(limit), slowest)
            if len(found) == limit:
                return found
        return self._of_keys(endings.keys(window, question, slowest, outcome).limit(limit), slowest)

    def outcomes(self, window: Window) -> dict[str, int]:
        """How many ended how: those that did not end well by record, the others by request."""
        num_ok = sum(cell.ok for cell in self.cells(window, None, None).values())
        return ({OK: num_ok} if num_ok else {}) | endings.num_failures(self._connection, window)

    def record(self, name: str) -> Ended | None:
        """The latest that has this name."""
        return next(self._named(name), None)

    def trace(self, trace_id: str) -> list[Ended]:
        """Every record of a trace, by start."""
        found = [ended for ended in self._named(trace_id) if ended.record.trace_id == trace_id]
        return sorted(found, key=lambda ended: ended.record.started_ns)

    def extent(self) -> Window | None:
        """From the first to the last record; where those are gone, from the first cell."""
        # One of both at a time is a look at an end of the index; SQLite reads all of it for both together.
        first, last = (
            self._connection.scalar(sa.select(end(records.c.ended_ns))) for end in (sa.func.min, sa.func.max)
        )
        of_cells = sa.select(sa.func.min(cells.c.start_s), sa.func.max(cells.c.start_s)).where(
            cells.c.tag_key == NO_TAG
        )
        exact = (Level.MINUTE, Level.HOUR)  # every day is of hours that are kept too
        found = [self._connection.execute(of_cells.where(cells.c.level == level)).one() for level in exact]
        starts = [start_s * _SECOND_NS for start_s, _ in found if start_s is not None]
        if first is None:
            return Window(min(starts), max(end_s for _, end_s in found if end_s) * _SECOND_NS + 1) if starts else None
        is_older = bool(starts) and min(starts) < floor(first, DAY_NS)  # the cells that hold it begin that day
        return Window(min(starts) if is_older else first, last + 1)

    def _named(self, name: str) -> Iterator[Ended]:
        """All that have this name, the latest first: an entry is a hash, so the record itself decides."""
        statement = _with_bodies().join(names, names.c.ended_ns == records.c.ended_ns)
        statement = statement.where(names.c.hash == hash_of(name)).order_by(records.c.ended_ns.desc())
        for row in self._connection.execute(statement):
            ended = _ended(row)
            if name in names_of(ended.record):
                yield ended

    def _of_keys(self, keys: sa.Select[tuple[int]], slowest: bool) -> list[Ended]:
        return [_ended(row) for row in self._connection.execute(_by_keys(keys, slowest))]

    def _tagged(self, window: Window, question: Asked, limit: int, slowest: bool, outcome: str) -> list[Ended]:
        """One after the other, in the minutes that have the tag, until there are enough."""
        statement = _by_keys(endings.keys(window, question, slowest, outcome), slowest)
        statement = statement.where(details.c.body.is_not(None), *_in_minutes_of(question))
        assert question.tag is not None
        counted_as = self._counting(question.tag)
        with self._connection.execute(statement.execution_options(yield_per=_ROWS_AT_ONCE)) as rows:
            return list(islice((ended for ended in map(_ended, rows) if counted_as(ended) == question.value), limit))

    def _groups(self, window: Window, question: Asked) -> dict[str, Cell]:
        groups: dict[str, list[Cell]] = defaultdict(list)
        for piece in pieces(window, self._marks):
            for _, value, cell in self._rows(piece, question):
                groups[value].append(cell)
        return {value: merged(parts) for value, parts in groups.items()}

    def _steps(self, window: Window, step_ns: int, question: Asked) -> dict[int, Cell]:
        starts = range(floor(window.start_ns, step_ns), window.end_ns, step_ns)
        coarsest = max((level for level, length in LENGTH_NS.items() if step_ns % length == 0), default=Level.RECORD)
        parts: dict[int, list[Cell]] = {start_ns: [] for start_ns in starts}
        for piece in pieces(window, self._marks, coarsest):
            for at_ns, _, cell in self._rows(piece, question):
                parts.setdefault(floor(at_ns, step_ns), []).append(cell)
        return {start_ns: merged(found) for start_ns, found in parts.items()}

    def _rows(self, piece: Piece, question: Asked) -> Iterator[tuple[int, str, Cell]]:
        """When, the value of what it is by ("" without), and what it came to; of a tag, those that have it."""
        if piece.level is Level.RECORD:
            yield from self._of_records(piece, question)
            return
        value: sa.ColumnElement[str] = sa.literal("") if question.by is None else _column(question.by)
        statement = sa.select(cells.c.start_s, value, cells.c.body).where(*_in(piece), *_of_tag(question))
        if question.tag is not None:
            statement = statement.join_from(cells, words, words.c.id == cells.c.tag_value)
        statement = question.of_dimensions(statement, cells.c.dimension)
        for start_s, text, body in self._connection.execute(statement):
            yield start_s * _SECOND_NS, text, unpack(Cell, body)

    def _of_records(self, piece: Piece, question: Asked) -> Iterator[tuple[int, str, Cell]]:
        """The same of single records, which are counted under the tags that cells are."""
        counted_as = self._counting(question.tag) if question.tag is not None else None
        for ended, cell in self._whole_records(piece, question):
            at_ns = instant_ns(ended.record)
            if counted_as is None:
                yield at_ns, _value(ended, question.by), cell
                continue
            text = counted_as(ended)
            if text and text == (question.value or text):
                yield at_ns, text if question.is_by_tag else _value(ended, question.by), cell

    def _counting(self, tag: str) -> Callable[[Ended], str]:
        """Under which value of a tag a record is counted; "": under none."""
        known: dict[int, set[str]] = {}  # by the hour

        def counted_as(ended: Ended) -> str:
            hour_ns = floor(instant_ns(ended.record), HOUR_NS)
            if hour_ns not in known:
                known[hour_ns] = known_texts(self._connection, hour_ns, tag)
            text = _tag_of(ended, tag)
            return text if text in known[hour_ns] or not text or not known[hour_ns] else OTHER

        return counted_as

    def _whole_records(self, piece: Piece, question: Asked) -> Iterator[tuple[Ended, Cell]]:
        statement = sa.select(details.c.body).join(records, records.c.ended_ns == details.c.ended_ns)
        times = (details.c.ended_ns >= piece.start, details.c.ended_ns < piece.end)
        statement = question._replace(by=None).of_dimensions(statement.where(*times), records.c.dimension)
        for (body,) in self._connection.execute(statement):
            ended, is_good = unpack_detail(body)
            yield ended, _cell_of(ended, is_good)


def _cell_of(ended: Ended, is_good: bool) -> Cell:
    """As it was counted when it was taken in: objectives may have changed since."""
    cell = cell_of(ended.record, ended.costs, ObjectiveSettings())
    cell.good = int(is_good)
    cell.good_tokens = (ended.record.prompt_tokens + ended.record.output_tokens) * is_good
    return cell


def _column(by: str) -> sa.ColumnElement[str]:
    return words.c.text if by.startswith(TAG) else dimensions.c[by]


def _of_tag(question: Asked) -> Sequence[sa.ColumnElement[bool]]:
    """Cells of the tag, with the value wanted, or any that is one; of requests whatever their tags where none is."""
    if question.tag is None:
        return [cells.c.tag_key == NO_TAG]
    its_id = sa.select(words.c.id).where(words.c.text == question.tag).scalar_subquery()
    return cells.c.tag_key == its_id, words.c.text == question.value if question.value else words.c.text != ""


def _in_minutes_of(question: Asked) -> Sequence[sa.ColumnElement[bool]]:
    """Of records: in a minute that has the tag's value; so a rare one is not looked for in every record."""
    if not question.value:
        return []
    minutes = sa.select(cells.c.start_s).join(words, words.c.id == cells.c.tag_value)
    minutes = minutes.where(cells.c.level == int(Level.MINUTE), *_of_tag(question))
    return [(records.c.ended_ns // MINUTE_NS * (MINUTE_NS // _SECOND_NS)).in_(minutes)]


def _in(piece: Piece) -> Sequence[sa.ColumnElement[bool]]:
    start_s, end_s = piece.start // _SECOND_NS, piece.end // _SECOND_NS
    return cells.c.level == int(piece.level), cells.c.start_s >= start_s, cells.c.start_s < end_s


def _with_bodies() -> sa.Select[Any]:
    return (
        sa.select(records, *(dimensions.c[name] for name in DIMENSIONS), details.c.body.label("detail"))
        .join(dimensions, dimensions.c.id == records.c.dimension)
        .outerjoin(details, details.c.ended_ns == records.c.ended_ns)
    )


def _by_keys(keys: sa.Select[tuple[int]], slowest: bool) -> sa.Select[Any]:
    found = keys.subquery()
    order = records.c.e2e_ns.desc() if slowest else records.c.ended_ns.desc()
    return _with_bodies().join(found, found.c.ended_ns == records.c.ended_ns).order_by(order)


def _ended(row: sa.Row[Any]) -> Ended:
    if row.detail is not None:
        return unpack_detail(row.detail)[0]
    place = Place(row.ended_ns, row.e2e_ns, {name: getattr(row, name) for name in DIMENSIONS})
    return unpack_record(row.body, place)


def _value(ended: Ended, by: str | None) -> str:
    return "" if by is None else combination_of(ended.record)[DIMENSIONS.index(by)]


def _tag_of(ended: Ended, tag: str) -> str:
    """What a record has in a tag, as it is written in the ledger; "": nothing."""
    return next((clean(value) for key, value in ended.record.tags.items() if clean(key) == tag), "")
