"""What speculation knows of one sequence: where its words stood before, what it guessed last, how often it was right.

A guess (draft) is what followed the last time when the sequence's last tokens stood together. Each guess is compared
with the tokens that came, whether or not a row of a step was spent on it.
"""

from __future__ import annotations

from typing import Final

from tokenworks.policy.acceptance import Acceptance
from tokenworks.policy.prompt_lookup import PromptLookup, continuation

LEAST_CHANCE: Final = 0.02
"""A chain of drafts is not followed to where it is right once in fifty times."""


class Drafting:
    """Of one sequence, which only grows from call to call."""

    __slots__ = ("_acceptance", "_drafts", "_from", "_lookup", "_match_length")

    def __init__(self, engine: Acceptance) -> None:
        self._lookup = PromptLookup()
        self._acceptance = Acceptance(engine)
        self._from = 0  # the position that the latest drafts start at
        self._drafts: list[int] = []
        self._match_length = 0

    def propose(self, token_ids: list[int], most: int, stop_token_ids: tuple[int, ...]) -> list[int]:
        """At most `most` tokens that may come next, ending before a stop token: nothing is gained behind it."""
        self._learn(token_ids)
        match = self._lookup.find(token_ids)
        self._from = len(token_ids)
        if match is None or most < 1:
            self._drafts = []
            return self._drafts
        self._match_length = match.length
        drafts = continuation(token_ids, match.end, most)
        stop = next((at for at, draft in enumerate(drafts) if draft in stop_token_ids), most)
        self._drafts = drafts[:stop]
        return self._drafts

    def chances(self) -> list[float]:
        """For each draft proposed, the probability that it and all before it are right: falling, cut where hopeless."""
        found, chance = [], 1.0
        for ahead in range(len(self._drafts)):
            chance *= self._acceptance.chance(self._match_length + ahead)
            if chance < LEAST_CHANCE:
                break
            found.append(chance)
        return found

    def _learn(self, token_ids: list[int]) -> None:
        """Compare the latest drafts with what came, up to where they were wrong."""
        for ahead, (draft, token_id) in enumerate(zip(self._drafts, token_ids[self._from :], strict=False)):
            self._acceptance.observe(self._match_length + ahead, draft == token_id)
            if draft != token_id:
                return
