"""The ledger over a database: what may be asked of it (`observe.ledger.Ledger`), and taking in what is new.

Safe to ask from several threads; taken in, and kept up, by one. Every method raises LedgerError.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from tokenworks.contract.config import CostSettings, LedgerSettings, ObjectiveSettings
from tokenworks.contract.errors import LedgerError
from tokenworks.contract.record import Frame, Gap, Incident
from tokenworks.observe.cell import Cell
from tokenworks.observe.journal.frames import instant_ns
from tokenworks.observe.ledger import Ended, Span, StoreStretch, Window, WorkerStretch
from tokenworks.observe.store import price_list
from tokenworks.observe.store.database import Database
from tokenworks.observe.store.packing import unpack
from tokenworks.observe.store.periods import floor
from tokenworks.observe.store.reading import Reading
from tokenworks.observe.store.schema import events, positions, spans
from tokenworks.observe.store.store_stretches import store_stretches
from tokenworks.observe.store.tag_keys import tag_keys
from tokenworks.observe.store.take_in import TakeIn
from tokenworks.observe.store.upkeep import Upkeep
from tokenworks.observe.store.worker_stretches import worker_series, worker_stretches

log = logging.getLogger(__name__)

_TRACES_AT_ONCE: Final = 500
MAX_SPANS: Final = 20_000
"""Of one trace that are read, the first ones: whoever sends more has a loop in it, and nobody looks at them all."""


class SqlLedger:
    """One database; see `open_ledger`."""

    def __init__(
        self, database: Database, settings: LedgerSettings, cost: CostSettings, objectives: ObjectiveSettings
    ) -> None:
        self.where = database.where
        self._database = database
        self._take_in = TakeIn(cost, objectives)
        self._upkeep = Upkeep(settings)

    def take_in(
        self, frames: Sequence[Frame], spans: Iterable[Span] = (), read: Mapping[str, int] | None = None
    ) -> None:
        """Add them, and note to where that has `read` the journal: all of it or nothing."""
        try:
            with self._database.writing() as connection:
                self._take_in.take(connection, frames, spans, read or {})
        except BaseException:
            self._take_in.forget()
            raise

    def take_in_singly(self, frames: Sequence[Frame], read: Mapping[str, int]) -> None:
        """As `take_in`, where one of the frames cannot be: it becomes a gap, the others are added."""
        with self._database.writing() as connection:
            for frame in frames:
                try:
                    with connection.begin_nested():
                        self._take_in.take(connection, [frame], (), {})
                except SQLAlchemyError:
                    self._take_in.forget()
                    raise
                except Exception as error:
                    self._take_in.forget()
                    log.exception("a frame could not be taken in: %r", frame)
                    at_ns = instant_ns(frame)
                    self._take_in.take(connection, [Gap(at_ns, at_ns, 1, f"could not be kept: {error!r}")], (), {})
            self._take_in.take(connection, (), (), read)

    def positions(self) -> dict[str, int]:
        """To where each file of the journal is in the ledger."""
        with self._database.reading() as connection:
            return {file: int(at) for file, at in connection.execute(sa.select(positions.c.file, positions.c.position))}

    def forget_files(self, files: Sequence[str]) -> None:
        """These files of the journal are gone."""
        if files:
            with self._database.writing() as connection:
                connection.execute(positions.delete().where(positions.c.file == sa.bindparam("gone")),
                                   [{"gone": file} for file in files])  # fmt: skip

    def keep_up(self, now_ns: int) -> bool:
        """Do a bounded part of roll-up and retention; whether there may be more to do."""
        with self._database.writing() as connection:
            is_more = self._upkeep.turn(connection, now_ns)
        return self._database.give_back() or is_more

    def cells(self, window: Window, by: str | None = None, where: Mapping[str, str] | None = None) -> dict[str, Cell]:
        """Cells of the requests that ended in a window: see `observe.ledger.Ledger`."""
        with self._reading() as reading:
            return reading.cells(window, by, where)

    def tags(self, window: Window) -> list[str]:
        """Keys of tags that requests of a window had."""
        with self._database.reading() as connection:
            return tag_keys(connection, window)

    def series(self, window: Window, step_ns: int, where: Mapping[str, str] | None = None) -> list[tuple[int, Cell]]:
        """Cells one after the other, by their start."""
        with self._reading() as reading:
            return reading.series(window, step_ns, where)

    def records(
        self,
        window: Window,
        where: Mapping[str, str] | None = None,
        limit: int = 1000,
        *,
        slowest: bool = False,
        outcome: str = "",
    ) -> Iterator[Ended]:
        """Single records, the latest (or slowest by E2E) first."""
        with self._reading() as reading:
            return iter(reading.records(window, where, limit, slowest, outcome))

    def outcomes(self, window: Window) -> dict[str, int]:
        """How the records of a window ended."""
        with self._reading() as reading:
            return reading.outcomes(window)

    def record(self, request_id: str) -> Ended | None:
        """The record of one request."""
        with self._reading() as reading:
            return reading.record(request_id)

    def trace(self, trace_id: str) -> list[Ended]:
        """Every record of a trace, by start."""
        with self._reading() as reading:
            return reading.trace(trace_id)

    def workers(self, window: Window) -> list[WorkerStretch]:
        """Where the workers' time went."""
        with self._database.reading() as connection:
            return worker_stretches(connection, window)

    def stores(self, window: Window) -> list[StoreStretch]:
        """What the stores held."""
        with self._database.reading() as connection:
            return store_stretches(connection, window)

    def worker_series(self, window: Window, step_ns: int) -> list[tuple[int, list[WorkerStretch]]]:
        """The same for each step, by its start; `step_ns` is below a minute, or whole minutes."""
        with self._database.reading() as connection:
            found = worker_series(connection, window, step_ns)
        starts = range(floor(window.start_ns, step_ns), window.end_ns, step_ns)
        return [(start_ns, found.get(start_ns, [])) for start_ns in starts]

    def prices(self, window: Window) -> list[tuple[int, CostSettings]]:
        """What was stated, from when on."""
        with self._database.reading() as connection:
            return price_list.held_in(connection, window)

    def note_prices(self, cost: CostSettings, at_ns: int) -> None:
        """From now on these prices hold."""
        with self._database.writing() as connection:
            price_list.note(connection, cost, at_ns)

    def incidents(self, window: Window) -> list[Incident]:
        """What happened, in order."""
        times = (events.c.from_ns >= window.start_ns, events.c.from_ns < window.end_ns)
        statement = sa.select(events.c.body).where(~events.c.is_gap, *times).order_by(events.c.from_ns, events.c.id)
        with self._database.reading() as connection:
            return [unpack(Incident, body) for (body,) in connection.execute(statement)]

    def gaps(self, window: Window) -> list[Gap]:
        """Where records are missing."""
        times = (events.c.until_ns >= window.start_ns, events.c.from_ns < window.end_ns)
        statement = sa.select(events.c.body).where(events.c.is_gap, *times).order_by(events.c.from_ns, events.c.id)
        with self._database.reading() as connection:
            return [unpack(Gap, body) for (body,) in connection.execute(statement)]

    def spans(self, trace_id: str) -> list[Span]:
        """Spans of others in this trace, by their start."""
        return self.spans_of([trace_id]).get(trace_id.lower(), [])

    def spans_of(self, trace_ids: Sequence[str]) -> dict[str, list[Span]]:
        """The same for many traces at once."""
        wanted = [_raw_id(trace_id) for trace_id in trace_ids]
        found: dict[str, list[Span]] = {}
        with self._database.reading() as connection:
            for first in range(0, len(wanted), _TRACES_AT_ONCE):
                is_wanted = spans.c.trace_id.in_(wanted[first : first + _TRACES_AT_ONCE])
                statement = sa.select(spans.c.trace_id, spans.c.body).where(is_wanted).order_by(spans.c.started_ns)
                for raw_id, body in connection.execute(statement):
                    told = found.setdefault(raw_id.hex(), [])
                    if len(told) < MAX_SPANS:
                        told.append(unpack(Span, body))
        return found

    def extent(self) -> Window | None:
        """From the first to the last record."""
        with self._reading() as reading:
            return reading.extent()

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    @contextmanager
    def _reading(self) -> Iterator[Reading]:
        with self._database.reading() as connection:
            yield Reading(connection)


def _raw_id(trace_id: str) -> bytes:
    try:
        return bytes.fromhex(trace_id)
    except ValueError:
        raise LedgerError(f"{trace_id!r} is no trace id: it has 32 hexadecimal digits") from None
