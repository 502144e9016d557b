"""Spans between who sent them and the ledger: whoever sent some is told when they are kept, and not before.

So what was answered with success is in the ledger, whoever is killed when; and what was not is sent again, which does
no harm, since a span that comes twice replaces itself.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, NamedTuple

from tokenworks.observe.ledger import Span

MAX_WAITING_SPANS: Final = 20_000
SPANS_AT_ONCE: Final = 2_000


class _Export(NamedTuple):
    """Spans that came together."""

    end: int  # the number of the first span behind them, counted from the first that ever came
    kept: Future[None]


class WaitingSpans:
    """A queue; `offer` from any thread, `first` and `done` from the one that takes in."""

    def __init__(self) -> None:
        self.on_offer: Callable[[], None] = lambda: None
        self._spans: deque[Span] = deque()
        self._exports: deque[_Export] = deque()
        self._num_done = 0
        self._lock = threading.Lock()

    def offer(self, spans: Sequence[Span]) -> Future[None] | None:
        """Take all of them; done when they are kept, with an error where they cannot be. None: there is no room."""
        with self._lock:
            if len(self._spans) + len(spans) > MAX_WAITING_SPANS:
                return None
            self._spans.extend(spans)
            export = _Export(self._num_done + len(self._spans), Future())
            self._exports.append(export)
        self.on_offer()
        return export.kept

    def first(self) -> list[Span]:
        """Some that have waited longest; they go on waiting until they are `done`."""
        with self._lock:
            return [self._spans[number] for number in range(min(SPANS_AT_ONCE, len(self._spans)))]

    def done(self, number: int, error: Exception | None = None) -> None:
        """The first ones are kept, or (with an error) never will be."""
        with self._lock:
            for _ in range(number):
                self._spans.popleft()
            self._num_done += number
            ended = []
            while self._exports and self._exports[0].end <= self._num_done:
                ended.append(self._exports.popleft().kept)
        for kept in ended:
            if error is None:
                kept.set_result(None)
            else:
                kept.set_exception(error)
