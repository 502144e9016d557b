"""Markdown files, cut into passages at their headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LONGEST_CHARS = 1200
_HEADING = re.compile(r"^#{1,4} +(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Passage:
    """A piece of one page. `id` is the page's path and the passage's number in it."""

    id: str
    title: str
    text: str


def passages_of(folder: Path) -> dict[str, Passage]:
    """Every passage of the Markdown files below `folder`, by id."""
    found = {}
    for file in sorted(folder.rglob("*.md")):
        for number, (title, text) in enumerate(_pieces(file)):
            passage = Passage(f"{file.relative_to(folder)}#{number}", title, text)
            found[passage.id] = passage
    return found


def _pieces(file: Path) -> Iterator[tuple[str, str]]:
    """Title and text of each section, a long one in several pieces."""
    text = file.read_text(encoding="utf-8")
    marks = [(match.start(), match[1]) for match in _HEADING.finditer(text)] or [(0, file.stem)]
    ends = [start for start, _ in marks[1:]] + [len(text)]
    for (start, title), end in zip(marks, ends, strict=True):
        paragraphs = text[start:end].split("\n\n")
        piece = ""
        for paragraph in paragraphs:
            if piece and len(piece) + len(paragraph) > LONGEST_CHARS:
                yield title, piece.strip()
                piece = ""
            piece += paragraph + "\n\n"
        if piece.strip():
            yield title, piece.strip()
