"""What the ledger says of a window, cut into the sides that signals are computed from.

A rule looks at a subject: the whole window, a scenario, a tenant, a worker. Of each it may ask what it is like `now`,
`before` (the time before the window, several times as long where there is as much; where there is nothing, the best
stretch of the window itself), and what the `others` of its kind are like now. A side is one of these: the requests'
cell and the workers' stretches, and for the whole window what is nobody's own (stores, incidents, gaps). Sides are read
when they are asked for, and once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tokenworks.contract.record import Gap, Incident, Record
from tokenworks.observe.cell import Cell, merged
from tokenworks.observe.diagnose.best_stretch import MIN_REQUESTS, best_stretch
from tokenworks.observe.ledger import Ledger, StoreStretch, Window, WorkerStretch, observed_window

BASELINE_WINDOWS: Final = 4
"""Windows of the same length before the one that is looked at, which say what is usual."""
MAX_SUBJECTS: Final = 20
"""Of each kind, those with the most device time: a million tenants are not looked at one by one."""
MAX_RECORDS: Final = 2000
"""Single records, the latest, that say what slow requests have in common."""
WHOLE: Final = "window"
Where = tuple[tuple[str, str], ...]
"""Dimensions with the values wanted."""


@dataclass(frozen=True)
class Side:
    """What figures are computed from."""

    window: Window  # without the time in which there was no system
    cell: Cell
    stretches: list[WorkerStretch] = field(default_factory=list)
    stores: list[StoreStretch] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long its window is."""
        return self.window.seconds


@dataclass(frozen=True)
class Subject:
    """One whom a rule looks at."""

    kind: str  # `WHOLE`, or one of `ledger.DIMENSIONS`
    name: str  # "" for the whole window
    now: Side
    before: Side
    others: Side  # the same as `now`, without it; of a worker, those on a device like its own


class Sides:
    """All subjects of a window."""

    def __init__(self, ledger: Ledger, window: Window, baseline: Window | None = None) -> None:
        self.window = window
        self._ledger = ledger
        self._cells: dict[tuple[str, Window, Where], dict[str, Cell]] = {}
        self._stretches: dict[Window, list[WorkerStretch]] = {}
        self._subjects: dict[str, list[Subject]] = {}
        self._observed = observed_window(window, ledger.extent(), self._stretches_in(window))
        self.before_window, self.is_own_baseline = (baseline, False) if baseline else self._usual()

    @property
    def lead_s(self) -> float:
        """From the middle of what is compared with to the middle of the window: below 0 where it came later."""
        return (sum(self.window) - sum(self.before_window)) / 2e9

    def subjects(self, kind: str) -> list[Subject]:
        """Those of one kind, busiest first."""
        if kind not in self._subjects:
            self._subjects[kind] = [self._whole()] if kind == WHOLE else self._of(kind)
        return self._subjects[kind]

    @property
    def whole(self) -> Subject:
        """The window as one."""
        return self.subjects(WHOLE)[0]

    def tenants_of(self, subject: Subject) -> Iterator[tuple[str, Side, Side]]:
        """Tenants whom a subject serves, or who have it beside them: each now, there, and before, as far as it goes.

        Before is everywhere where the subject is a worker or a version: it may be that it was not there then.
        """
        where = ((subject.kind, subject.name),) if subject.kind not in (WHOLE, "tenant") else ()
        cells = self._cells_by("tenant", self.window, where)
        old = self._cells_by("tenant", self.before_window, where if subject.kind in ("scenario", "model") else ())
        for name in _busiest(cells):
            if name and (subject.kind, subject.name) != ("tenant", name):
                yield name, Side(self._observed, cells[name]), Side(self.before_window, old.get(name, Cell()))

    def parts_of(self, subject: Subject) -> Iterator[tuple[Cell, Cell]]:
        """A subject's requests by tenant and scenario: each part now, and what it was before."""
        mine = () if subject.kind == WHOLE else ((subject.kind, subject.name),)
        scenarios = self._cells_by("scenario", self.window, mine)
        for scenario in [subject.name] if subject.kind == "scenario" else scenarios:
            where = (*mine, ("scenario", scenario)) if subject.kind != "scenario" else mine
            old = self._cells_by("tenant", self.before_window, where)
            for tenant, cell in self._cells_by("tenant", self.window, where).items():
                yield cell, old.get(tenant, Cell())

    def _usual(self) -> tuple[Window, bool]:
        """The time before, or, where hardly anything was then, the best stretch of the window itself."""
        before = _before(self._ledger, self.window)
        if sum(cell.requests for cell in self._cells_by("", before).values()) >= MIN_REQUESTS:
            return before, False
        best = best_stretch(self._ledger, self.window)
        return (before, False) if best is None else (best, True)

    def _whole(self) -> Subject:
        now, before = (self._whole_side(window) for window in (self.window, self.before_window))
        return Subject(WHOLE, "", now, before, Side(self._observed, Cell()))

    def _whole_side(self, window: Window) -> Side:
        if window.end_ns <= window.start_ns:
            return Side(window, Cell())
        ledger = self._ledger
        records = self._records({}) if window == self.window else []
        cells = self._cells_by("", window)
        stretches = self._stretches_in(window)
        return Side(
            self._observed if window == self.window else window,
            merged(cells.values()),
            stretches,
            ledger.stores(window),
            ledger.incidents(window),
            ledger.gaps(window),
            records,
        )

    def _of(self, kind: str) -> list[Subject]:
        cells = self._cells_by(kind, self.window)
        return [self._subject(kind, name, cells) for name in _busiest(cells) if name or kind != "worker"]

    def _subject(self, kind: str, name: str, cells: dict[str, Cell]) -> Subject:
        now, before = self._stretches_in(self.window), self._stretches_in(self.before_window)
        old = self._cells_by(kind, self.before_window).get(name, Cell())
        records = self._records({kind: name}) if kind == "scenario" else []
        if kind != "worker":
            rest = merged(cell for other, cell in cells.items() if other != name)
            sides = (Side(self._observed, cells[name], records=records), Side(self.before_window, old))
            return Subject(kind, name, *sides, Side(self._observed, rest))
        peers = _peers([*before, *now], name)
        rest = merged(cell for other, cell in cells.items() if other in peers)
        return Subject(
            kind,
            name,
            Side(self._observed, cells[name], _named(now, {name})),
            Side(self.before_window, old, _named(before, {name})),
            Side(self._observed, rest, _named(now, peers)),
        )

    def _cells_by(self, kind: str, window: Window, where: Where = ()) -> dict[str, Cell]:
        key = (kind, window, where)
        if key not in self._cells:
            is_empty = window.end_ns <= window.start_ns
            self._cells[key] = {} if is_empty else self._ledger.cells(window, kind or None, dict(where))
        return self._cells[key]

    def _stretches_in(self, window: Window) -> list[WorkerStretch]:
        if window not in self._stretches:
            self._stretches[window] = self._ledger.workers(window) if window.end_ns > window.start_ns else []
        return self._stretches[window]

    def _records(self, where: dict[str, str]) -> list[Record]:
        return [ended.record for ended in self._ledger.records(self.window, where, MAX_RECORDS)]


def _before(ledger: Ledger, window: Window) -> Window:
    """Up to `BASELINE_WINDOWS` windows of the same length, as far as the ledger goes back; empty where it does not."""
    extent = ledger.extent()
    start_ns = window.start_ns - BASELINE_WINDOWS * (window.end_ns - window.start_ns)
    if extent is not None:
        start_ns = min(max(start_ns, extent.start_ns), window.start_ns)
    return Window(start_ns, window.start_ns)


def _busiest(cells: dict[str, Cell]) -> list[str]:
    """The names of those with the most device time, `MAX_SUBJECTS` at most."""
    return sorted(cells, key=lambda name: (-sum(cells[name].device_ns.values()), name))[:MAX_SUBJECTS]


def _peers(stretches: Iterable[WorkerStretch], name: str) -> set[str]:
    """Workers of the same model on a device of the same kind, at the same price: they should be as fast."""
    kinds = {stretch.worker: (stretch.model, stretch.device, stretch.price_per_hour) for stretch in stretches}
    return {other for other, kind in kinds.items() if other != name and kind == kinds.get(name)}


def _named(stretches: Iterable[WorkerStretch], names: set[str]) -> list[WorkerStretch]:
    return [stretch for stretch in stretches if stretch.worker in names]
