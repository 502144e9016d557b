"""Where faults are provoked: a system, what is usual in it, and what is done to it, one after the other.

A `Place` says so, a `Visit` is one that runs. Every fault is compared with the same usual run, which the visit begins
with, so that each can be provoked alone; those that leave a mark (a cache that is cold, a worker that takes its time to
come back) stand last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.diagnosis.system import System
from tokenworks.observe.ledger import Window

Findings = Mapping[str, dict[str, Any]]
"""By rule; of several with one rule the last."""
TRIES = 5
"""A machine that does other work beside may hide a fault of two seconds, or make a usual run unusual; not each time."""


@dataclass(frozen=True)
class Fault:
    """One."""

    rule: str  # that finds it
    provoke: Callable[[System], Window]  # and the time in which it could be seen
    also: frozenset[str] = frozenset()  # rules that may speak up too, since the fault is theirs as well
    instead: frozenset[str] = frozenset()  # rules that explain it better, where they see it: its own then keeps silent
    usual: Callable[[System], Window] | None = None  # what it is compared with; None: the place's usual run

    def finding(self, found: Findings) -> dict[str, Any] | None:
        """What tells of it; None: nothing does."""
        return next((found[rule] for rule in (self.rule, *sorted(self.instead)) if rule in found), None)


@dataclass(frozen=True)
class Place:
    """A system to be."""

    name: str
    opened: Callable[[Path], AbstractContextManager[System]]  # with its ledger and its log in a folder
    usual: Callable[[System], Window]  # a run that nothing is wrong with
    faults: tuple[Fault, ...]
    settle: Callable[[System], object] = lambda system: None  # until caches are filled and kernels compiled
    known: frozenset[str] = frozenset()  # rules that are right about its usual run

    @property
    def rules(self) -> tuple[str, ...]:
        """Those that are to find something here."""
        return tuple(fault.rule for fault in self.faults)


@dataclass
class Visit:
    """A place that runs."""

    place: Place
    system: System
    usual: Window
    _windows: dict[Callable[[System], Window], Window] = field(default_factory=dict)
    _usuals: dict[Callable[[System], Window], Window] = field(default_factory=dict)

    def provoked(self, fault: Fault, tries: int = 1) -> Findings:
        """What is found of a fault; one of several rules is provoked once, and again where its rule misses it."""
        found: Findings = {}
        for attempt in range(tries):
            if attempt:  # what was usual at first may have passed: a tier that nobody fetches from any more
                self.place.settle(self.system)
                self.usual = self.place.usual(self.system)
            if attempt or fault.provoke not in self._windows:
                if fault.usual is not None:
                    self._usuals[fault.provoke] = fault.usual(self.system)
                self._windows[fault.provoke] = fault.provoke(self.system)
            found = self.findings(self._windows[fault.provoke], self._usuals.get(fault.provoke))
            if fault.finding(found) is not None:
                break
        return found

    def clean(self) -> Findings:
        """What is found in another usual run, and is not so."""
        found = self.findings(self.place.usual(self.system))
        return {rule: finding for rule, finding in found.items() if rule not in self.place.known}

    def findings(self, window: Window, usual: Window | None = None) -> Findings:
        """What is found in a window, compared with the usual run."""
        return {each["rule"]: each for each in self.system.diagnose(window, usual or self.usual)}


@contextmanager
def visiting(place: Place, folder: Path) -> Iterator[Visit]:
    """One that runs as long as the block."""
    with place.opened(folder) as system:
        place.settle(system)
        yield Visit(place, system, place.usual(system))
