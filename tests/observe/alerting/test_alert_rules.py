"""The observer's own alert rules: each fires where it must and is silent where it must be, as Prometheus' do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.observe.made import HOUR_NS, MINUTE_NS, NOON_NS, SECOND_NS, record
from tests.observe.memory_ledger import MemoryLedger
from tokenworks.contract.config import ObjectiveSettings
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Frame, Gap, Incident, StoreSample
from tokenworks.contract.request import Scenario
from tokenworks.observe.alerting.alert_rules import BURN_RULES, MIN_BROKEN, PAGE, TICKET, Alert, CellsByLength, firing
from tokenworks.observe.cell import Cell
from tokenworks.observe.ledger import Window
from tokenworks.observe.observer.figures import FeatureFigure

NOW = NOON_NS
numbers = count()
RULES = Path(__file__).parents[3] / "deploy" / "prometheus" / "rules.yml"


def ended(minutes_ago: float, number: int = 1, **fields: object) -> list[Frame]:
    """So many requests that ended then; by the same millisecond each."""
    at_ns = NOW - round(minutes_ago * MINUTE_NS)
    return [record(next(numbers), ended_ns=at_ns, **fields) for _ in range(number)]


def broken(minutes_ago: float, number: int = 1, **fields: object) -> list[Frame]:
    return ended(minutes_ago, number, **({"outcome": "worker_lost", "status": 502} | fields))


def fired(frames: Iterable[Frame], objectives: ObjectiveSettings | None = None) -> list[Alert]:
    objectives = objectives or ObjectiveSettings()
    return firing(MemoryLedger(frames, objectives=objectives), NOW, objectives)


def burning(frames: Iterable[Frame], objectives: ObjectiveSettings | None = None) -> set[tuple[str, str]]:
    return {(alert.subject, alert.severity) for alert in fired(frames, objectives) if alert.name == "ErrorBudgetBurn"}


def test_nothing_fires_over_an_empty_ledger_or_healthy_traffic() -> None:
    assert fired([]) == []
    healthy = [each for minutes in range(1, 240) for each in ended(minutes, 10)]
    assert fired([*healthy, *broken(30), *broken(100)]) == []


def test_an_outage_pages_and_ends_soon_after_it_is_over() -> None:
    outage = [*ended(2, 80), *broken(2, 20)]
    assert burning(outage) == {("online", PAGE), ("online", TICKET)}
    over = [*ended(40, 80), *broken(40, 20), *ended(2, 5)]
    assert burning(over) == {("online", TICKET)}
    (alert,) = [each for each in fired(over) if each.name == "ErrorBudgetBurn"]
    assert alert.summary == (
        "20 of 105 online requests in 3 days failed or broke their objectives, 19.0% of those in 6 hours: the error "
        "budget burns at least 19.0 times as fast as it may (0.99 is promised)"
    )


def test_a_slow_burn_is_a_ticket_and_wakes_nobody() -> None:
    frames = [each for hours in range(70) for each in (*ended(60 * hours + 3, 97), *broken(60 * hours + 3, 3))]
    assert burning(frames) == {("online", TICKET)}


def test_requests_that_break_their_objectives_burn_as_those_that_fail() -> None:
    slow = ended(2, 20, e2e_ns=60 * SECOND_NS, ttft_ns=30 * SECOND_NS)
    assert burning(slow) == {("online", PAGE), ("online", TICKET)}
    assert burning(slow, ObjectiveSettings(online_ttft_s=0, online_tpot_s=0)) == set()


def test_scenarios_burn_apart() -> None:
    frames = [*ended(2, 50), *broken(2, 20, scenario=Scenario.OFFLINE)]
    assert {subject for subject, _ in burning(frames)} == {"offline"}


def test_what_the_client_did_wrong_or_did_not_wait_for_burns_nothing() -> None:
    bad = ended(2, 50, outcome="invalid_value", status=400, legs=[])
    gone = ended(2, 50, outcome="client_gone", status=200)
    assert burning([*ended(2, 10), *bad, *gone]) == set()


def test_a_few_failures_of_a_few_requests_are_no_outage() -> None:
    assert burning(broken(2, MIN_BROKEN - 1)) == set()
    assert burning(broken(2, MIN_BROKEN)) != set()


def test_a_stricter_promise_burns_faster() -> None:
    frames = [*ended(2, 990), *broken(2, 10)]
    assert burning(frames) == set()
    assert ("online", PAGE) in burning(frames, ObjectiveSettings(success_ratio=0.9995))


def test_a_summary_says_how_many_of_how_many() -> None:
    (alert,) = [each for each in fired([*ended(2, 80), *broken(2, 20)]) if each.severity == PAGE]
    assert "20 of 100 online requests in one hour" in alert.summary
    assert "20.0 times as fast as it may" in alert.summary


def test_a_lost_worker_is_told_of_once_and_for_five_minutes() -> None:
    lost = [Incident(NOW - minutes * MINUTE_NS, "worker_lost", "w1", "killed by signal 9") for minutes in (1, 2)]
    others = [Incident(NOW - MINUTE_NS, "worker_left", "w2"), Incident(NOW - 6 * MINUTE_NS, "worker_lost", "w3")]
    (alert,) = fired([*lost, *others])
    assert (alert.name, alert.subject, alert.severity) == ("WorkerLost", "w1", TICKET)
    assert "killed by signal 9" in alert.summary


def test_a_worker_that_cannot_start_is_told_of_with_its_last_words() -> None:
    (alert,) = fired([Incident(NOW - MINUTE_NS, "worker_not_started", "w1", "exited with code 3: no memory")])
    assert (alert.name, alert.subject, alert.severity) == ("WorkerCannotStart", "w1", TICKET)
    assert alert.summary == "worker w1 could not start: exited with code 3: no memory"


def test_requests_that_found_no_worker_page() -> None:
    refused = {"outcome": "no_worker", "status": 503, "legs": []}
    names = {alert.name: alert for alert in fired(ended(0.5, 3, **refused))}
    assert names["NoReadyWorker"].severity == PAGE
    assert names["NoReadyWorker"].summary.startswith("3 requests")
    (flood,) = [each for each in fired(ended(0.5, 1, num_alike=40, **refused)) if each.name == "NoReadyWorker"]
    assert flood.summary.startswith("40 requests")
    assert "NoReadyWorker" not in {alert.name for alert in fired(ended(2, 3, **refused))}


def test_a_gap_in_the_ledger_is_told_of() -> None:
    gap = Gap(NOW - 20 * MINUTE_NS, NOW - 19 * MINUTE_NS, 40, "no space left on device")
    (alert,) = fired([gap])
    assert alert.name == "LedgerGap"
    assert alert.summary == "40 records of the last hour are missing in the ledger: no space left on device"
    assert fired([Gap(NOW - 3 * HOUR_NS, NOW - 2 * HOUR_NS, 40)]) == []


@pytest.mark.parametrize(
    ("cached_now", "cached_before", "prompt_tokens", "fires"),
    [
        (0.1, 0.5, 1000, True),
        (0.4, 0.5, 1000, False),  # not half of it
        (0.0, 0.05, 1000, False),  # there was nothing to collapse
        (0.1, 0.5, 10, False),  # hardly any traffic
    ],
)
def test_caches_that_find_less_than_half_of_what_they_did_are_told_of(
    cached_now: float, cached_before: float, prompt_tokens: int, fires: bool
) -> None:
    def traffic(minutes: float, share: float) -> list[Frame]:
        return ended(minutes, 20, prompt_tokens=prompt_tokens, cached_tokens={Tier.HOST: round(prompt_tokens * share)})

    names = [alert.name for alert in fired([*traffic(120, cached_before), *traffic(10, cached_now)])]
    assert names == (["CacheCollapse"] if fires else [])


def test_features_that_moved_are_told_of_by_name() -> None:
    features = [
        FeatureFigure(
            "input_tokens", 0.5, 0.01, True, "P50 100, P90 900", "P50 300, P90 2700", "above 250: 20% -> 70%"
        ),
        FeatureFigure("tenant", 0.1, 0.01, False),
    ]
    (alert,) = firing(MemoryLedger(), NOW, ObjectiveSettings(), features)
    assert (alert.name, alert.subject) == ("Drift", "input_tokens")
    assert alert.summary == (
        "input_tokens drifted, PSI 0.50: above 250: 20% -> 70% of all; P50 100, P90 900 before, P50 300, P90 2700 now"
    )


def test_long_windows_are_read_rarely_and_short_ones_always() -> None:
    class Counting(MemoryLedger):
        read: list[int] = []

        def cells(self, window: Window, *arguments: Any) -> dict[str, Cell]:
            self.read.append(round(window.seconds))
            return super().cells(window, *arguments)

    ledger, kept = Counting(), CellsByLength()
    for step in range(40):  # twenty minutes
        firing(ledger, NOW + step * 30 * SECOND_NS, ObjectiveSettings(), (), kept)
    times = Counter(ledger.read)
    assert times[300] == 40
    assert times[3600] == 20
    assert times[6 * 3600] <= 6
    assert times[3 * 86400] == 1


def test_prometheus_has_the_same_windows_and_factors() -> None:
    rules = RULES.read_text()
    units = {"m": 60, "h": 3600, "d": 86400}
    ratio = r"broken_ratio:rate(\w+) > ([\d.]+) .*\n"
    pattern = re.compile(rf"{ratio}.*{ratio}.*>= (\d+)\n.*\n *severity: (\w+)")
    found = [
        (float(factor), int(long[:-1]) * units[long[-1]], int(short[:-1]) * units[short[-1]], severity)
        for long, factor, short, same, least, severity in pattern.findall(rules)
        if factor == same and int(least) == MIN_BROKEN
    ]
    assert found == [tuple(rule) for rule in BURN_RULES]


def told(minutes_ago: float, **bytes_per_s: float) -> StoreSample:
    """A store's sample; 0 of a tier that does not answer."""
    at_ns = NOW - round(minutes_ago * MINUTE_NS)
    speeds = {Tier(name): speed for name, speed in bytes_per_s.items()}
    return StoreSample(at_ns, "kv0", read_bytes_per_s=speeds, started_ns=1, alive_ns=at_ns)


def test_a_kv_tier_that_stays_away_is_a_ticket() -> None:
    away = [told(minutes, host=1e9, remote=0.0) for minutes in (4.5, 3.5, 2.0, 1.0)]
    [alert] = fired(away)
    assert (alert.name, alert.subject, alert.severity) == ("KVTierDown", "kv0 remote", TICKET)


def test_a_kv_tier_that_is_back_or_only_just_gone_is_none() -> None:
    assert (
        fired([*(told(minutes, remote=0.0) for minutes in (4.5, 3.5)), told(2.0, remote=1e9), told(1.0, remote=1e9)])
        == []
    )
    assert (
        fired([*(told(minutes, remote=1e9) for minutes in (4.5, 3.5)), told(2.0, remote=0.0), told(1.0, remote=0.0)])
        == []
    )
    assert fired([told(2.0, remote=0.0), told(1.0, remote=0.0)]) == []  # a system that has just started
