"""How often a guessed token turns out right, by how long the match was that it comes from.

Longer matches are better guides: two tokens in common say little, sixteen say "this is being copied". The estimate of a
sequence starts as its parent's (the engine's) and follows what the sequence itself shows; old trials fade, because a
text changes between prose and quotation. Every guess is a trial, also one that no row was spent on: the token that came
says whether it would have been right. So the estimate is always fresh and costs no probe.
"""

from __future__ import annotations

from typing import Final

from tokenworks.policy.prompt_lookup import LONGEST_MATCH

PRIOR: Final = (0.2, 0.5, 0.7, 0.8)
"""By class of match length (2 to 3, 4 to 7, 8 to 15, 16 and more tokens), before anything was seen: about prose."""

PRIOR_TRIALS: Final = 4.0
"""How many own trials weigh as much as what the parent says."""

ENGINE_MEMORY: Final = 200.0
SEQUENCE_MEMORY: Final = 20.0
"""Trials after which one has faded to 1/e."""


def length_class(match_length: int) -> int:
    """0 for a match of 2 or 3 tokens, 1 for up to 7, 2 for up to 15, 3 for more."""
    return min(match_length, LONGEST_MATCH).bit_length() - 2


class Acceptance:
    """Fading counts of trials, of one sequence or (without a parent) of the engine."""

    __slots__ = ("_accepted", "_keep", "_parent", "_tried")

    def __init__(self, parent: Acceptance | None = None) -> None:
        self._parent = parent
        self._keep = 1 - 1 / (SEQUENCE_MEMORY if parent else ENGINE_MEMORY)
        self._accepted = [0.0] * len(PRIOR)
        self._tried = [0.0] * len(PRIOR)

    def chance(self, match_length: int) -> float:
        """Probability that the token after a match of this length is guessed right."""
        return self._chance(length_class(match_length))

    def _chance(self, at: int) -> float:
        prior = PRIOR[at] if self._parent is None else self._parent._chance(at)
        return (self._accepted[at] + PRIOR_TRIALS * prior) / (self._tried[at] + PRIOR_TRIALS)

    def observe(self, match_length: int, is_right: bool) -> None:
        """One trial; the parent learns from it too."""
        at = length_class(match_length)
        self._accepted[at] = self._accepted[at] * self._keep + is_right
        self._tried[at] = self._tried[at] * self._keep + 1
        if self._parent is not None:
            self._parent.observe(match_length, is_right)
