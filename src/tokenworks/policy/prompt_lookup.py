"""Finds where a sequence last said what it has just said, so that what followed then can be guessed to follow now.

An index from n-gram to the place behind its last occurrence, for two sizes of n-gram; it grows with the sequence by a
constant number of dictionary operations a token, and is never searched. Only hashes are kept: a collision costs a wrong
guess, and a guess is verified by the model anyway. Source of the idea: prompt lookup decoding (A. Saxena, 2023);
longest match first, as in LZ77, and as there a copy may run into what it is itself producing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SIZES: Final = (4, 2)
"""Of the n-grams that are looked up, longest first; a match of another length is found by its last 4 or 2 tokens."""

LONGEST_MATCH: Final = 16
"""Tokens; beyond this a longer match says nothing more about what follows."""


@dataclass(frozen=True, slots=True)
class Match:
    """The last `length` tokens also stand before position `end`, earlier in the sequence."""

    end: int
    length: int  # SIZES[-1] to LONGEST_MATCH


class PromptLookup:
    """The index of one sequence, which may only grow."""

    __slots__ = ("_last", "_num_indexed")

    def __init__(self) -> None:
        self._last: dict[int, int] = {}  # hash of an n-gram -> one past its last occurrence
        self._num_indexed = 0  # every n-gram that ends at this position or before is in the index

    def find(self, token_ids: list[int]) -> Match | None:
        """The latest earlier occurrence of the sequence's last n-gram; takes in the tokens that are new."""
        self._extend(token_ids)
        size_in_all = len(token_ids)
        for size in SIZES:
            end = self._last.get(hash(tuple(token_ids[-size:])), 0) if size < size_in_all else 0
            if end:
                return Match(end, _match_length(token_ids, end))
        return None

    def _extend(self, token_ids: list[int]) -> None:
        """Index every n-gram that ends before the last token: the last one must not find itself."""
        last = self._last
        for end in range(self._num_indexed + 1, len(token_ids)):
            for size in SIZES:
                if size <= end:
                    last[hash(tuple(token_ids[end - size : end]))] = end
        self._num_indexed = max(self._num_indexed, len(token_ids) - 1)


def _match_length(token_ids: list[int], end: int) -> int:
    """How many tokens before `end` equal those at the end of the sequence."""
    length = 0
    while length < min(end, LONGEST_MATCH) and token_ids[end - 1 - length] == token_ids[-1 - length]:
        length += 1
    return length


def continuation(token_ids: list[int], end: int, count: int) -> list[int]:
    """The `count` tokens that follow position `end`; past the sequence's end, the copy goes on with what it copied."""
    following = token_ids[end : end + count]
    return (following * (count // len(following) + 1))[:count]
