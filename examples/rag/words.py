"""Search by words: SQLite's full-text index (FTS5), ranked by BM25, with English stems."""

from __future__ import annotations

import re
import sqlite3
import threading

_WORD = re.compile(r"\w+")


class WordSearch:
    """The index over all passages, in memory."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._lock = threading.Lock()  # one connection, asked from several threads
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute("CREATE VIRTUAL TABLE passage USING fts5(id UNINDEXED, text, tokenize='porter')")
        self._database.executemany("INSERT INTO passage VALUES (?, ?)", texts.items())

    def search(self, question: str, count: int) -> list[str]:
        """Ids of the passages with most of the question's words, the best first."""
        words = " OR ".join(f'"{word}"' for word in _WORD.findall(question))
        if not words:
            return []
        query = "SELECT id FROM passage WHERE passage MATCH ? ORDER BY bm25(passage) LIMIT ?"
        with self._lock:
            return [row[0] for row in self._database.execute(query, (words, count))]
