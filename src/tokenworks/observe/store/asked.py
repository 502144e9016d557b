"""What is asked of cells and records, taken apart: grouped by what, of which dimensions' values, and of which tag.

Cells are kept for one tag at a time: a question may name one, as what rows are by, as a filter, or as both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from tokenworks.contract.errors import LedgerError
from tokenworks.observe.ledger import DIMENSIONS, TAG
from tokenworks.observe.store.dictionaries import clean
from tokenworks.observe.store.schema import dimensions


class Asked(NamedTuple):
    """Of requests that have a tag; those without it are the whole (`untagged`) less these."""

    by: str | None  # a dimension, "tag:KEY" of the tag below, or None: all together
    where: dict[str, str]  # values of dimensions
    tag: str | None = None  # the key; None: whatever tags they have
    value: str | None = None  # of the tag; None: any; "": those that have no such tag, or nothing in it

    @property
    def is_by_tag(self) -> bool:
        """Whether groups are the tag's values."""
        return self.tag is not None and self.by == TAG + self.tag

    @property
    def wants_untagged(self) -> bool:
        """Whether requests without the tag are in the answer."""
        return self.tag is not None and not self.value

    @property
    def untagged(self) -> Asked:
        """The same of requests whatever their tags."""
        return Asked(None if self.is_by_tag else self.by, self.where)

    def of_dimensions(self, statement: sa.Select[Any], column: sa.ColumnElement[int]) -> sa.Select[Any]:
        """Rows of the wanted dimensions alone; without a join where all are wanted and none is asked for."""
        if not self.where and self.by not in DIMENSIONS:
            return statement
        wanted = (dimensions.c[name] == clean(value) for name, value in self.where.items())
        return statement.join(dimensions, dimensions.c.id == column).where(*wanted)


def asked(by: str | None, where: Mapping[str, str] | None) -> Asked:
    """Understand a question; raises LedgerError for what cells are not kept apart by."""
    names = [*(where or {}), *([by] if by is not None else [])]
    for name in names:
        if name not in DIMENSIONS and not name.startswith(TAG):
            known = ", ".join(DIMENSIONS)
            raise LedgerError(f"{name!r} is nothing to group or filter by: take one of {known}, or tag:KEY")
    tags = {name for name in names if name.startswith(TAG)}
    if len(tags) > 1:
        raise LedgerError(f"cells are kept for one tag at a time, and not for {' with '.join(sorted(tags))}")
    values = {name: value for name, value in (where or {}).items() if name not in tags}
    if not tags:
        return Asked(by, values)
    [name] = tags
    key = clean(name.removeprefix(TAG))
    value = None if where is None or name not in where else clean(where[name])
    return Asked(TAG + key if by == name else by, values, key, value)
