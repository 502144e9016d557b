"""Which records ended otherwise than well, by how they did: what would else be looked for in millions."""

from collections.abc import Iterator

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_AT_ONCE = 20_000


def upgrade() -> None:
    """The records that there are say how they ended: each is looked at once, 46 s of processor time for ten million."""
    failures = op.create_table(
        "failures",
        sa.Column("outcome", sa.Text, primary_key=True),
        sa.Column("ended_ns", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("e2e_ns", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    for rows in _batches(op.get_bind()):
        found = [
            {"outcome": outcome, "ended_ns": ended_ns, "e2e_ns": e2e_ns}
            for ended_ns, e2e_ns, body in rows
            if (outcome := _outcome(body))
        ]
        if found:
            op.get_bind().execute(failures.insert(), found)


def _batches(connection: sa.Connection) -> Iterator[list[tuple[int, int, bytes]]]:
    statement = sa.text(
        "SELECT ended_ns, e2e_ns, body FROM records WHERE ended_ns > :after ORDER BY ended_ns LIMIT :most"
    )
    after = -1
    while rows := connection.execute(statement, {"after": after, "most": _AT_ONCE}).all():
        yield [(row.ended_ns, row.e2e_ns, bytes(row.body)) for row in rows]
        after = rows[-1].ended_ns


def _outcome(body: bytes) -> str:
    """Of a compact record, whose second value it is; "" for what ended well, and for what cannot be read."""
    try:
        values = msgspec.msgpack.decode(body)
    except msgspec.DecodeError:
        return ""
    return str(values[1]) if isinstance(values, list) and len(values) > 1 else ""
