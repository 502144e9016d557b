"""Takes frames into the database: everything that a batch of them changes, and how far the journal was read.

All of it is one transaction of the caller's. So a record is in the ledger once, whoever is killed when: either all of a
batch is there, and the journal is read on behind it, or nothing is and it is read again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import sqlalchemy as sa
import xxhash

from tokenworks.contract.config import CostSettings, ObjectiveSettings
from tokenworks.contract.record import Frame, Gap, Incident, Record, StoreSample, WorkerSample
from tokenworks.observe.cell import Cell, cell_of
from tokenworks.observe.journal.frames import instant_ns
from tokenworks.observe.ledger import Ended, Span
from tokenworks.observe.store import cell_rows, endings
from tokenworks.observe.store.cell_rows import NO_TAG, CellKey
from tokenworks.observe.store.dictionaries import Dimensions, Words, combination_of
from tokenworks.observe.store.marks import read_marks
from tokenworks.observe.store.packing import pack, pack_detail, pack_record
from tokenworks.observe.store.periods import HOUR_NS, MINUTE_NS, floor
from tokenworks.observe.store.samples import add_store_samples, add_worker_samples
from tokenworks.observe.store.schema import details, events, names, positions, records, spans
from tokenworks.observe.store.tag_limits import TagLimits
from tokenworks.observe.store.upsert import upsert
from tokenworks.observe.tables.cost import costs_of

MAX_TAGS: Final = 16  # of one record, as OpenAI allows
_LAST_NS: Final = 2**62  # the year 2116: what lies beyond is no time, and would not fit once something is added


class TakeIn:
    """How records become rows. Keeps numbers and limits that it has looked up from one batch to the next."""

    def __init__(self, cost: CostSettings, objectives: ObjectiveSettings) -> None:
        self._cost = cost
        self._objectives = objectives
        self._dimensions = Dimensions()
        self._words = Words()
        self._limits = TagLimits()

    def forget(self) -> None:
        """The last transaction was rolled back: what was numbered in it is not there."""
        self._dimensions.forget()
        self._words.forget()
        self._limits.forget()

    def take(
        self, connection: sa.Connection, frames: Sequence[Frame], told: Iterable[Span], positions: Mapping[str, int]
    ) -> None:
        """Add frames and spans, and note the positions."""
        troubles = self._add_records(connection, [frame for frame in frames if isinstance(frame, Record)])
        add_worker_samples(connection, (frame for frame in frames if isinstance(frame, WorkerSample)))
        add_store_samples(connection, (frame for frame in frames if isinstance(frame, StoreSample)))
        add_events(connection, [frame for frame in frames if isinstance(frame, Incident | Gap)])
        add_events(connection, gaps_of(troubles, frames))
        _add_spans(connection, told)
        note_positions(connection, positions)

    def _add_records(self, connection: sa.Connection, ended: Sequence[Record]) -> list[str]:
        if not ended:
            return []
        rows, bodies, hashes = [], [], []
        minutes: dict[CellKey, list[Cell]] = defaultdict(list)
        places = _free_places(connection, ended)
        for ended_ns, record in zip(places, ended, strict=True):
            costs = costs_of(record, self._cost)
            dimension = self._dimensions.id_of(connection, combination_of(record))
            cell, given = cell_of(record, costs, self._objectives), Ended(record, costs)
            body = pack_record(given)
            rows.append({"ended_ns": ended_ns, "dimension": dimension, "e2e_ns": record.e2e_ns, "body": body})
            bodies.append({"ended_ns": ended_ns, "body": pack_detail(given, bool(cell.good))})
            hashes += [{"hash": number, "ended_ns": ended_ns} for number in {hash_of(n) for n in names_of(record)}]
            for key in self._cells_of(connection, record, dimension, floor(ended_ns, MINUTE_NS)):
                minutes[key].append(cell)
        connection.execute(records.insert(), rows)
        connection.execute(details.insert(), bodies)
        connection.execute(names.insert(), hashes)
        endings.add(connection, zip(places, ended, strict=True))
        self._limits.forget(before_ns=floor(min(places), HOUR_NS) - HOUR_NS)
        return cell_rows.add(connection, minutes, read_marks(connection))

    def _cells_of(self, connection: sa.Connection, record: Record, dimension: int, minute_ns: int) -> Iterable[CellKey]:
        yield CellKey(NO_TAG, minute_ns, dimension, NO_TAG)
        seen = set()
        for key, value in sorted(record.tags.items())[:MAX_TAGS]:
            counted = self._limits.counted_as(connection, minute_ns, key, value)
            if counted not in seen:  # two of a record's keys may be "(other)"
                seen.add(counted)
                numbers = [self._words.id_of(connection, text) for text in counted]
                yield CellKey(numbers[0], minute_ns, dimension, numbers[1])


def add_events(connection: sa.Connection, happened: Iterable[Incident | Gap]) -> None:
    """Incidents and gaps."""
    last = connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0
    rows = []
    for number, event in enumerate(happened, last + 1):
        from_ns, until_ns = (event.from_ns, event.until_ns) if isinstance(event, Gap) else (event.at_ns, event.at_ns)
        times = {"from_ns": _fitting(from_ns), "until_ns": _fitting(until_ns)}
        rows.append({"id": number, **times, "is_gap": isinstance(event, Gap), "body": pack(event)})
    if rows:
        connection.execute(events.insert(), rows)


def gaps_of(troubles: Iterable[str], frames: Iterable[Frame]) -> list[Gap]:
    """What could not be read of the ledger itself while these frames were taken in."""
    times = [instant_ns(frame) for frame in frames]
    return [Gap(min(times), max(times), 1, trouble) for trouble in troubles] if times else []


def note_positions(connection: sa.Connection, read: Mapping[str, int]) -> None:
    """How far each file of the journal is in the ledger."""
    upsert(connection, positions, [{"file": file, "position": read[file]} for file in read], ("file",))


def names_of(record: Record) -> set[str]:
    """By what a record can be asked for."""
    return {name for name in (record.id, record.trace_id, record.answer_id) if name}


def hash_of(name: str) -> int:
    """32 bits, signed as databases have them."""
    return int.from_bytes(xxhash.xxh32_digest(name.encode(errors="replace")), "big", signed=True)


def _free_places(connection: sa.Connection, ended: Sequence[Record]) -> list[int]:
    """When each ended, moved on by nanoseconds where something else ended then."""
    wanted = [_fitting(instant_ns(record)) for record in ended]
    asked, taken = set(wanted), set[int]()
    for first in range(0, len(wanted), 500):
        statement = sa.select(records.c.ended_ns).where(records.c.ended_ns.in_(wanted[first : first + 500]))
        taken.update(connection.execute(statement).scalars())
    places = []
    for place in wanted:
        while place in taken or (place not in asked and _is_taken(connection, place)):
            place += 1
        taken.add(place)
        places.append(place)
    return places


def _is_taken(connection: sa.Connection, place: int) -> bool:
    found = connection.execute(sa.select(records.c.ended_ns).where(records.c.ended_ns == place)).first()
    return found is not None


def _add_spans(connection: sa.Connection, told: Iterable[Span]) -> None:
    rows = {(span.trace_id, span.span_id): span for span in told}
    fitting = [
        {
            "trace_id": bytes.fromhex(span.trace_id),
            "span_id": bytes.fromhex(span.span_id),
            "started_ns": _fitting(span.started_ns),
            "body": pack(span),
        }
        for span in rows.values()
    ]
    upsert(connection, spans, fitting, ("trace_id", "span_id"))


def _fitting(at_ns: int) -> int:
    return min(max(at_ns, 0), _LAST_NS)
