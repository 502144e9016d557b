"""Which alerts fire, by what the ledger says: for those who have no Prometheus, and by the same rules as for it.

The objectives burn an error budget: 1 - `success_ratio` of all requests that were promised something may be broken.
Alerts ask how fast that is used up, over a long window, so that they mean something, and over a short one, so that they
end soon after the trouble does (Beyer et al.: "The Site Reliability Workbook", chapter 5, multiwindow multi-burn-rate).
14.4 times for an hour is 2 % of a month's budget, 6 times for six hours 5 %, once for three days 10 %.

`deploy/prometheus/rules.yml` says the same in PromQL; a test holds that windows and factors are these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from tokenworks.contract.config import ObjectiveSettings
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Gap, Incident
from tokenworks.observe.cell import Cell, merged
from tokenworks.observe.ledger import Ledger, StoreStretch, Window
from tokenworks.observe.observer.figures import FeatureFigure

PAGE: Final = "page"  # somebody must act now
TICKET: Final = "ticket"  # somebody must act this week
MIN_BROKEN: Final = 5  # in the long window: one failed request of three is no outage
RECENT_S: Final = 300
GAP_WINDOW_S: Final = 3600
CACHE_WINDOW_S: Final = 1800
CACHE_BEFORE_S: Final = 86400
CACHE_MIN_SHARE: Final = 0.1  # of prompt tokens cached before: else there is nothing to collapse
CACHE_MIN_TOKENS: Final = 10_000  # prompt tokens in the short window
CACHE_COLLAPSE: Final = 0.5
LOST: Final = "worker_lost"
NOT_STARTED: Final = "worker_not_started"
_FRESHNESS: Final = 100
_NS: Final = 10**9


class Alert(NamedTuple):
    """A condition that holds now. `name` and `subject` together say which it is, for as long as it lasts."""

    name: str
    subject: str
    severity: str
    summary: str

    @property
    def key(self) -> str:
        """The same for every time that it fires."""
        return f"{self.name}/{self.subject}/{self.severity}"


class BurnRule(NamedTuple):
    """Fires where the budget burns `factor` times as fast as it may, over both windows."""

    factor: float
    long_s: int
    short_s: int
    severity: str


BURN_RULES: Final = (
    BurnRule(14.4, 3600, 300, PAGE),
    BurnRule(6.0, 6 * 3600, 1800, PAGE),
    BurnRule(1.0, 3 * 86400, 6 * 3600, TICKET),
)


class CellsByLength:
    """Cells of windows that end now, by scenario, read again once they are stale by a hundredth of their length.

    Three days of cells are read a hundred times as rarely as the last minutes, and matter as little.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[int, dict[str, Cell]]] = {}

    def read(self, ledger: Ledger, seconds: int, now_ns: int) -> dict[str, Cell]:
        """Of the last `seconds`, or nearly; raises LedgerError."""
        at_ns, cells = self._kept.get(seconds, (0, {}))
        if abs(now_ns - at_ns) >= seconds * _NS // _FRESHNESS:
            cells = ledger.cells(_last(seconds, now_ns), "scenario")
            self._kept[seconds] = now_ns, cells
        return cells


def firing(
    ledger: Ledger,
    now_ns: int,
    objectives: ObjectiveSettings,
    drift: Iterable[FeatureFigure] = (),
    kept: CellsByLength | None = None,
) -> list[Alert]:
    """All that hold at a moment; `drift` is what was last found. Raises LedgerError."""
    kept = kept or CellsByLength()
    windows = sorted({seconds for rule in BURN_RULES for seconds in (rule.long_s, rule.short_s)})
    cells = {seconds: kept.read(ledger, seconds, now_ns) for seconds in windows}
    found = [
        *burning(cells, objectives),
        *lost_workers(ledger.incidents(_last(RECENT_S, now_ns))),
        *refused(ledger, _last(RECENT_S // 5, now_ns)),
        *down_tiers(
            ledger.stores(Window(now_ns - RECENT_S * _NS, now_ns - RECENT_S * _NS // 2)),
            ledger.stores(Window(now_ns - RECENT_S * _NS // 2, now_ns)),
        ),
        *missing(ledger.gaps(_last(GAP_WINDOW_S, now_ns))),
        *collapsed(
            _all(kept.read(ledger, CACHE_WINDOW_S, now_ns)),
            _all(kept.read(ledger, CACHE_BEFORE_S, now_ns - CACHE_WINDOW_S * _NS)),
        ),
        *drifted(drift),
    ]
    return list({alert.key: alert for alert in reversed(found)}.values())[::-1]


def burning(cells: Mapping[int, Mapping[str, Cell]], objectives: ObjectiveSettings) -> Iterator[Alert]:
    """By scenario; `cells` holds for each window, in seconds, the cell of each scenario."""
    budget = 1 - objectives.success_ratio
    for rule in BURN_RULES:
        for scenario, long in cells[rule.long_s].items():
            short = cells[rule.short_s].get(scenario, Cell())
            rate = min(_broken_share(long), _broken_share(short)) / budget
            if rate > rule.factor and _broken(long) >= MIN_BROKEN:
                summary = (
                    f"{_broken(long)} of {long.promised} {scenario} requests in {_words(rule.long_s)} failed or broke "
                    f"their objectives, {_broken_share(short):.1%} of those in {_words(rule.short_s)}: the error "
                    f"budget burns at least {rate:.1f} times as fast as it may "
                    f"({objectives.success_ratio:.4g} is promised)"
                )
                yield Alert("ErrorBudgetBurn", scenario, rule.severity, summary)


def lost_workers(incidents: Iterable[Incident]) -> Iterator[Alert]:
    """One for each worker that died or fell silent lately, or that could not start."""
    for incident in incidents:
        name, text = incident.subject, incident.text
        if incident.kind == LOST:
            yield Alert("WorkerLost", name, TICKET, f"worker {name} was lost: {text}")
        elif incident.kind == NOT_STARTED:
            yield Alert("WorkerCannotStart", name, TICKET, f"worker {name} could not start: {text}")


def refused(ledger: Ledger, window: Window) -> Iterator[Alert]:
    """Requests were turned away because no worker was ready."""
    records = (ended.record for ended in ledger.records(window, limit=500))
    if count := sum(record.num_alike for record in records if record.outcome == "no_worker"):
        yield Alert("NoReadyWorker", "", PAGE, f"{count} requests of the last minute found no worker that was ready")


def down_tiers(before: Iterable[StoreStretch], now: Iterable[StoreStretch]) -> Iterator[Alert]:
    """One for each tier that did not answer in most samples of either half of the last minutes."""
    was_down = set(_down(before))
    for store, tier in _down(now):
        if (store, tier) in was_down:
            summary = f"the {tier.value} tier of {store} cannot be used: the store's log says why"
            yield Alert("KVTierDown", f"{store} {tier.value}", TICKET, summary)


def missing(gaps: Iterable[Gap]) -> Iterator[Alert]:
    """Records are missing."""
    known = list(gaps)
    if known:
        frames = sum(gap.frames for gap in known)
        reasons = ", ".join(sorted({gap.reason for gap in known if gap.reason})) or "unknown"
        yield Alert("LedgerGap", "", TICKET, f"{frames} records of the last hour are missing in the ledger: {reasons}")


def collapsed(recent: Cell, before: Cell) -> Iterator[Alert]:
    """The share of prompt tokens that were cached fell to less than half of what it was the day before."""
    was, now = _cached_share(before), _cached_share(recent)
    if was >= CACHE_MIN_SHARE and recent.prompt_tokens >= CACHE_MIN_TOKENS and now < CACHE_COLLAPSE * was:
        summary = f"{now:.0%} of prompt tokens were cached in the last half hour, {was:.0%} the day before"
        yield Alert("CacheCollapse", "", TICKET, summary)


def drifted(features: Iterable[FeatureFigure]) -> Iterator[Alert]:
    """One for each feature that moved."""
    for each in features:
        if each.moved:
            windows = f"{each.before} before, {each.after} now"
            summary = f"{each.feature} drifted, PSI {each.psi:.2f}: {each.change} of all; {windows}"
            yield Alert("Drift", each.feature, TICKET, summary)


def _down(stores: Iterable[StoreStretch]) -> Iterator[tuple[str, Tier]]:
    for each in stores:
        for tier, bytes_per_s in each.read_bytes_per_s.items():
            if not bytes_per_s:
                yield each.store, tier


def _last(seconds: int, now_ns: int) -> Window:
    return Window(now_ns - seconds * _NS, now_ns)


def _all(cells: Mapping[str, Cell]) -> Cell:
    return merged(cells.values())


def _broken(cell: Cell) -> int:
    return cell.promised - cell.good


def _broken_share(cell: Cell) -> float:
    return _broken(cell) / cell.promised if cell.promised else 0.0


def _cached_share(cell: Cell) -> float:
    return sum(cell.cached_tokens.values()) / cell.prompt_tokens if cell.prompt_tokens else 0.0


def _words(seconds: int) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= unit:
            return f"{seconds // unit} {name}" if seconds > unit else f"one {name[:-1]}"
    return f"{seconds} s"
