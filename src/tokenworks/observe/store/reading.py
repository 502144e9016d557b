"""Answers about requests: cells of windows, in groups or one after the other, and single records.

A window is read in the pieces of `periods`. Where a dimension or a tag is asked for, its values come from the rows; the
statements carry values as parameters only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from tokenworks.contract.config import ObjectiveSettings
from tokenworks.contract.errors import LedgerError
from tokenworks.observe.cell import Cell, cell_of, merged
from tokenworks.observe.journal.frames import instant_ns
from tokenworks.observe.ledger import DIMENSIONS, Ended, Window
from tokenworks.observe.store.cell_rows import NO_TAG
from tokenworks.observe.store.dictionaries import clean, combination_of
from tokenworks.observe.store.difference import less
from tokenworks.observe.store.marks import read_marks
from tokenworks.observe.store.packing import UNREADABLE, Place, unpack, unpack_detail, unpack_record
from tokenworks.observe.store.periods import DAY_NS, HOUR_NS, LENGTH_NS, MINUTE_NS, Level, Piece, floor, pieces
from tokenworks.observe.store.schema import cells, details, dimensions, names, records, words
from tokenworks.observe.store.tag_limits import OTHER, known_texts
from tokenworks.observe.store.take_in import hash_of, names_of

TAG: Final = "tag:"
MAX_STEPS: Final = 10_000
_SECOND_NS: Final = 10**9
Body = TypeVar("Body")
Where = Mapping[str, str] | None
Groups = dict[str, list[Cell]]
_cell_in: Final = partial(unpack, Cell)


class Reading:
    """Over one connection, which sees one state of the database."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._marks = read_marks(connection)

    def cells(self, window: Window, by: str | None, where: Where) -> dict[str, Cell]:
        """By value of `by`; requests that have no such tag are under ""."""
        tag = by.removeprefix(TAG) if by is not None and by.startswith(TAG) else None
        if by is not None and tag is None:
            _check(by)
        groups: Groups = defaultdict(list)
        for piece in pieces(window, self._marks):
            if tag is not None:
                self._tagged(piece, tag, where, groups)
            else:
                self._counted(piece, by, where, groups)
        found = {value: merged(parts) for value, parts in groups.items()}
        return found if tag is None else self._with_rest(window, where, found)

    def series(self, window: Window, step_ns: int, where: Where) -> list[tuple[int, Cell]]:
        """One cell for each step, by its start, which is a multiple of its length; above a minute, whole minutes."""
        step_ns = max(1, step_ns) if step_ns < MINUTE_NS else floor(step_ns, MINUTE_NS)
        starts = range(floor(window.start_ns, step_ns), window.end_ns, step_ns)
        if len(starts) > MAX_STEPS:
            raise LedgerError(f"{len(starts)} steps are more than {MAX_STEPS}: ask for longer ones, or a shorter time")
        coarsest = max((level for level, length in LENGTH_NS.items() if step_ns % length == 0), default=Level.RECORD)
        parts: dict[int, list[Cell]] = {start_ns: [] for start_ns in starts}
        for piece in pieces(window, self._marks, coarsest):
            for at_ns, _, cell in self._rows(piece, None, where):
                parts.setdefault(floor(at_ns, step_ns), []).append(cell)
        return [(start_ns, merged(found)) for start_ns, found in sorted(parts.items())]

    def records(self, window: Window, where: Where, limit: int, slowest: bool) -> list[Ended]:
        """The latest first, or the slowest; whole where details are kept, compact where they are not."""
        order = records.c.e2e_ns.desc() if slowest else records.c.ended_ns.desc()
        times = (records.c.ended_ns >= window.start_ns, records.c.ended_ns < window.end_ns)
        statement = _with_bodies().where(*times, *_wanted(where)).order_by(order).limit(limit)
        return [_ended(row) for row in self._connection.execute(statement)]

    def record(self, name: str) -> Ended | None:
        """The latest that has this name."""
        return next(self._named(name), None)

    def trace(self, trace_id: str) -> list[Ended]:
        """Every record of a trace, by start."""
        found = [ended for ended in self._named(trace_id) if ended.record.trace_id == trace_id]
        return sorted(found, key=lambda ended: ended.record.started_ns)

    def extent(self) -> Window | None:
        """From the first to the last record; where those are gone, from the first cell."""
        first, last = self._connection.execute(
            sa.select(sa.func.min(records.c.ended_ns), sa.func.max(records.c.ended_ns))
        ).one()
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

    def _counted(self, piece: Piece, by: str | None, where: Where, groups: Groups) -> None:
        for _, value, cell in self._rows(piece, by, where):
            groups[value].append(cell)

    def _tagged(self, piece: Piece, tag: str, where: Where, groups: Groups) -> None:
        if piece.level is Level.RECORD:
            known = known_texts(self._connection, floor(piece.start, HOUR_NS), clean(tag))
            for ended, cell in self._whole_records(piece, where):
                if tag in ended.record.tags:
                    value = clean(ended.record.tags[tag])
                    groups[value if value in known else OTHER].append(cell)
            return
        key = sa.select(words.c.id).where(words.c.text == clean(tag)).scalar_subquery()
        statement = (
            sa.select(words.c.text, cells.c.body)
            .join_from(cells, words, words.c.id == cells.c.tag_value)
            .where(cells.c.tag_key == key, *_in(piece))
        )
        for value, body in self._connection.execute(_filtered(statement, cells.c.dimension, where)):
            groups[value].append(_read(_cell_in, body))

    def _with_rest(self, window: Window, where: Where, found: dict[str, Cell]) -> dict[str, Cell]:
        """And, under "", all others: what is in the whole and in no group."""
        total = self.cells(window, None, where).get("", Cell())
        rest = less(total, merged(found.values()))
        if rest.requests:  # and those that have the tag, with nothing in it
            found[""] = merged([found[""], rest]) if "" in found else rest
        return found

    def _rows(self, piece: Piece, by: str | None, where: Where) -> Iterator[tuple[int, str, Cell]]:
        """When, the value of `by` ("" without), and what it came to."""
        if piece.level is Level.RECORD:
            for ended, cell in self._whole_records(piece, where):
                yield instant_ns(ended.record), _value(ended, by), cell
            return
        value = sa.literal("") if by is None else dimensions.c[by]
        statement = sa.select(cells.c.start_s, value, cells.c.body).where(cells.c.tag_key == NO_TAG, *_in(piece))
        if by is not None:
            statement = statement.join(dimensions, dimensions.c.id == cells.c.dimension).where(*_wanted(where))
        else:
            statement = _filtered(statement, cells.c.dimension, where)
        for start_s, text, body in self._connection.execute(statement):
            yield start_s * _SECOND_NS, text, _read(_cell_in, body)

    def _whole_records(self, piece: Piece, where: Where) -> Iterator[tuple[Ended, Cell]]:
        statement = sa.select(details.c.body).join(records, records.c.ended_ns == details.c.ended_ns)
        times = (details.c.ended_ns >= piece.start, details.c.ended_ns < piece.end)
        for (body,) in self._connection.execute(_filtered(statement.where(*times), records.c.dimension, where)):
            ended, is_good = _read(unpack_detail, body)
            yield ended, _cell_of(ended, is_good)


def _cell_of(ended: Ended, is_good: bool) -> Cell:
    """As it was counted when it was taken in: objectives may have changed since."""
    cell = cell_of(ended.record, ended.costs, ObjectiveSettings())
    cell.good = int(is_good)
    cell.good_tokens = (ended.record.prompt_tokens + ended.record.output_tokens) * is_good
    return cell


def _check(dimension: str) -> None:
    if dimension not in DIMENSIONS:
        raise LedgerError(f"{dimension!r} is nothing to group by: take one of {', '.join(DIMENSIONS)}, or tag:KEY")


def _wanted(where: Where) -> list[sa.ColumnElement[bool]]:
    for name in where or {}:
        _check(name)
    return [dimensions.c[name] == clean(value) for name, value in (where or {}).items()]


def _filtered(statement: sa.Select[Any], column: sa.ColumnElement[int], where: Where) -> sa.Select[Any]:
    """Rows of the wanted dimensions alone; without a join where all are wanted."""
    if not where:
        return statement
    return statement.join(dimensions, dimensions.c.id == column).where(*_wanted(where))


def _in(piece: Piece) -> Sequence[sa.ColumnElement[bool]]:
    start_s, end_s = piece.start // _SECOND_NS, piece.end // _SECOND_NS
    return cells.c.level == int(piece.level), cells.c.start_s >= start_s, cells.c.start_s < end_s


def _with_bodies() -> sa.Select[Any]:
    return (
        sa.select(records, *(dimensions.c[name] for name in DIMENSIONS), details.c.body.label("detail"))
        .join(dimensions, dimensions.c.id == records.c.dimension)
        .outerjoin(details, details.c.ended_ns == records.c.ended_ns)
    )


def _ended(row: sa.Row[Any]) -> Ended:
    if row.detail is not None:
        return _read(unpack_detail, row.detail)[0]
    place = Place(row.ended_ns, row.e2e_ns, {name: getattr(row, name) for name in DIMENSIONS})
    return _read(partial(unpack_record, place=place), row.body)


def _read(unpacked: Callable[[bytes], Body], body: bytes) -> Body:
    try:
        return unpacked(body)
    except UNREADABLE as error:
        raise LedgerError(f"a part of the ledger cannot be read: {error}") from error


def _value(ended: Ended, by: str | None) -> str:
    return "" if by is None else combination_of(ended.record)[DIMENSIONS.index(by)]
