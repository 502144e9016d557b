"""The tables, as the code reads and writes them. How a database comes to have them is `migrations`' affair.

Times are nanoseconds since 1970 unless a column says otherwise. What is only ever read whole is packed (`packing`);
columns are what is searched by, or summed by the database. Texts that clients chose are in `words` and `dimensions`,
each once, and never part of a statement.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

VERSIONS: Final = ("0001", "0002", "0003")
"""Of the schema, from the first to the one that this code reads and writes."""

tables: Final = sa.MetaData()

dimensions: Final = sa.Table(
    "dimensions",  # what cells are kept apart by: see observe.ledger.DIMENSIONS
    tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("scenario", sa.Text, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.UniqueConstraint("scenario", "tenant", "model", "version", "worker", name="dimensions_once"),
)

words: Final = sa.Table(
    "words",  # keys and values of tags; 0 is none
    tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("text", sa.Text, nullable=False, unique=True),
)

records: Final = sa.Table(
    "records",
    tables,
    # One of them every nanosecond: where two ended then, the second is moved on. So time orders the table itself.
    sa.Column("ended_ns", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("dimension", sa.Integer, nullable=False),
    sa.Column("e2e_ns", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

details: Final = sa.Table(
    "details",  # the whole record, and its costs
    tables,
    sa.Column("ended_ns", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

names: Final = sa.Table(
    "names",  # by what a record is asked for: a hash, so that an entry is small; the record itself decides
    tables,
    sa.Column("hash", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("ended_ns", sa.BigInteger, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

failures: Final = sa.Table(
    "failures",  # the records that did not end well, by how they did
    tables,
    sa.Column("outcome", sa.Text, primary_key=True),
    sa.Column("ended_ns", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("e2e_ns", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

cells: Final = sa.Table(
    "cells",
    tables,
    sa.Column("level", sa.SmallInteger, nullable=False),  # see periods.Level
    sa.Column("tag_key", sa.Integer, nullable=False),  # a word; 0: requests whatever their tags
    sa.Column("start_s", sa.BigInteger, nullable=False),  # since 1970
    sa.Column("dimension", sa.Integer, nullable=False),
    sa.Column("tag_value", sa.Integer, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("level", "tag_key", "start_s", "dimension", "tag_value", name="cells_once"),
)

lives: Final = sa.Table(
    "lives",  # of workers: from their start to their end, each with counters of its own
    tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("started_ns", sa.BigInteger, nullable=False),  # by the worker's clock: it names the life
    sa.Column("last_ns", sa.BigInteger, nullable=False),  # when it was last heard
    sa.Column("wall_ns", sa.BigInteger, nullable=False),  # how long it had lived then, by itself
    sa.UniqueConstraint("worker", "started_ns", name="lives_once"),
)

worker_samples: Final = sa.Table(
    "worker_samples",
    tables,
    sa.Column("life", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at_ns", sa.BigInteger, primary_key=True, autoincrement=False),  # rising within a life: see samples
    sa.Column("running", sa.Integer, nullable=False),
    sa.Column("waiting", sa.Integer, nullable=False),
    sa.Column("used_share", sa.Float, nullable=False),  # of its blocks
    sa.Column("body", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

store_samples: Final = sa.Table(
    "store_samples",
    tables,
    sa.Column("store", sa.Text, primary_key=True),
    sa.Column("at_ns", sa.BigInteger, primary_key=True, autoincrement=False),  # rising
    sa.Column("body", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

events: Final = sa.Table(
    "events",  # incidents and gaps
    tables,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("from_ns", sa.BigInteger, nullable=False),
    sa.Column("until_ns", sa.BigInteger, nullable=False),
    sa.Column("is_gap", sa.Boolean, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Index("events_by_time", "until_ns"),
)

spans: Final = sa.Table(
    "spans",
    tables,
    sa.Column("trace_id", sa.LargeBinary, primary_key=True),
    sa.Column("span_id", sa.LargeBinary, primary_key=True),
    sa.Column("started_ns", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Index("spans_by_time", "started_ns"),
    sqlite_with_rowid=False,
)

prices: Final = sa.Table(
    "prices",  # as they were stated, each from then on: see observe.tables.prices
    tables,
    sa.Column("from_ns", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

positions: Final = sa.Table(
    "positions",  # up to where each file of a journal has been taken in
    tables,
    sa.Column("file", sa.Text, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

marks: Final = sa.Table(
    "marks",  # how far roll-up and retention have come: see periods.Marks
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("at_ns", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
