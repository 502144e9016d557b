"""What somebody asks of the table on the command line. Apart, so that the command starts without what answers."""

from __future__ import annotations

from typing import NamedTuple


class Question(NamedTuple):
    """What was asked, in the words of who asks."""

    by: str | None
    since: str
    until: str
    where: dict[str, str]
    preset: str
    columns: tuple[str, ...]
    rows: int
    against: str
    every: str
