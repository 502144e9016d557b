"""Which tokens a sequence has, and how often each was output: what penalties ask, kept up to date as it grows.

Counting the whole sequence at each step would make a token cost as much as the context is long.
"""

from __future__ import annotations

from array import array


class TokenCounts:
    """Of one sequence, which only grows from call to call."""

    __slots__ = ("_places", "num_counted", "output_counts", "token_ids")

    def __init__(self, prompt: list[int]) -> None:
        self.token_ids = array("i", dict.fromkeys(prompt))  # distinct, in order of first occurrence
        self.output_counts = array("i", bytes(4 * len(self.token_ids)))  # of each: 0 where only the prompt has it
        self.num_counted = len(prompt)  # tokens of the sequence
        self._places = {token_id: place for place, token_id in enumerate(self.token_ids)}

    def count_output(self, token_ids: list[int] | tuple[int, ...]) -> None:
        """Count what was output behind all that is counted already."""
        self.num_counted += len(token_ids)
        for token_id in token_ids:
            place = self._places.setdefault(token_id, len(self.token_ids))
            if place == len(self.token_ids):
                self.token_ids.append(token_id)
                self.output_counts.append(0)
            self.output_counts[place] += 1

    def copy(self) -> TokenCounts:
        """One that may be taken further, along drafts that may prove wrong."""
        other = TokenCounts.__new__(TokenCounts)
        other.token_ids, other.output_counts = self.token_ids[:], self.output_counts[:]
        other.num_counted, other._places = self.num_counted, dict(self._places)
        return other
