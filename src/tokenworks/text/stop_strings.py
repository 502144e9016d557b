"""Streaming search for stop strings: text in, the text that is safe to show out.

Text that could still turn out to be the start of a stop string is held back, and nothing else is: the longest suffix
that is a proper prefix of some stop string. The stop string that is *completed first* wins, and of those completed by
the same character the longest, so the outcome does not depend on how the text was cut into pieces.

A push costs a scan of the new text for each stop string plus one binary search per held position.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class StopStrings:
    """The matcher of one output sequence."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = sorted(set(stops))
        self._shortest = min(map(len, self._stops))
        self._longest = max(map(len, self._stops))
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """The text to show, and the stop string that ended it, if one did."""
        pending = self._held + text
        matched = self._first_match(pending)
        if matched is not None:
            self._held = ""
            return pending[: pending.index(matched)], matched
        start = self._held_from(pending)
        self._held = pending[start:]
        return pending[:start], None

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, pending: str) -> str | None:
        """The stop string whose first occurrence ends first; of several with one end, the longest."""
        if len(pending) < self._shortest:
            return None
        ends = [(at + len(stop), -len(stop), stop) for stop in self._stops if (at := pending.find(stop)) >= 0]
        return min(ends)[2] if ends else None

    def _held_from(self, pending: str) -> int:
        """Where the longest suffix starts that some stop string starts with."""
        for start in range(max(0, len(pending) - self._longest + 1), len(pending)):
            suffix = pending[start:]
            at = bisect_left(self._stops, suffix)  # the first stop not below the suffix starts with it, if any does
            if at < len(self._stops) and self._stops[at].startswith(suffix):
                return start
        return len(pending)
