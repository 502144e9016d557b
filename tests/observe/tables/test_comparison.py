"""Two windows or two versions: what changed is found, and what did not is left alone."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable

import pytest

from tests.observe.conftest import MakeLedger
from tokenworks.contract.config import Settings
from tokenworks.contract.errors import InvalidRequest
from tokenworks.contract.record import Leg, Record, SequenceReport, Work
from tokenworks.contract.request import Scenario
from tokenworks.observe.ledger import Window
from tokenworks.observe.tables.comparison import Comparison, Side, compare, parse_against, slice_ns

SECOND_NS = 10**9
START_NS = 1_772_359_200 * SECOND_NS
MINUTE = Window(START_NS, START_NS + 60 * SECOND_NS)
NEXT = Window(MINUTE.end_ns, MINUTE.end_ns + 60 * SECOND_NS)
Compare = Callable[[list[Record], Side, Side], Comparison]
COLUMNS = ("requests", "success_rate", "ttft_p50", "e2e_p99", "requests_per_s", "cost_per_m_tokens", "busy")


def traffic(
    window: Window, seed: int, *, slower: float = 1.0, failing: float = 0.02, version: str = "a", rate: int = 8
) -> list[Record]:
    """So many requests a second for the whole window."""
    chance = random.Random(seed)
    records = []
    for number in range(int(window.seconds * rate)):
        e2e_ns = int(chance.lognormvariate(0, 0.4) * 0.1 * slower * SECOND_NS)
        ended_ns = window.start_ns + int(chance.random() * (window.end_ns - window.start_ns))
        outcome = "engine_failed" if chance.random() < failing else "ok"
        report = SequenceReport(device_ns={Work.DECODE: e2e_ns // 8})
        records.append(
            Record(
                f"{version}{seed}-{number}",
                ended_ns - e2e_ns,
                e2e_ns,
                "acme",
                "m",
                Scenario.ONLINE,
                outcome,
                200,
                version=version,
                prompt_tokens=100,
                output_tokens=20,
                ttft_ns=e2e_ns // 2,
                gaps_us=array("I", [e2e_ns // 50_000] * 19).tobytes(),
                legs=[Leg("w0", report=report, price_per_hour=1.0)],
            )
        )
    return records


@pytest.fixture
def compared(make_ledger: MakeLedger) -> Compare:
    def compare_records(records: list[Record], first: Side, second: Side) -> Comparison:
        return compare(make_ledger(records, Settings()), Settings(), first, second, columns=COLUMNS)

    return compare_records


def verdicts(found: Comparison) -> dict[str, str]:
    return {row.column.key: row.verdict for row in found.rows}


def test_the_same_traffic_twice_differs_by_noise_alone(compared: Compare) -> None:
    wrong = []
    for seed in range(0, 6, 2):
        records = [*traffic(MINUTE, seed), *traffic(NEXT, seed + 1)]
        found = verdicts(compared(records, Side(MINUTE, {}, "before"), Side(NEXT, {}, "now")))
        assert found.pop("requests") == found.pop("busy") == "unknown"
        wrong += [key for key, verdict in found.items() if verdict not in ("noise", "unknown")]
    assert len(wrong) <= 1  # promised for one comparison of twenty


def test_a_slower_and_dearer_window_that_fails_more_is_told_so(compared: Compare) -> None:
    records = [*traffic(MINUTE, 1), *traffic(NEXT, 2, slower=1.5, failing=0.2)]
    found = compared(records, Side(MINUTE, {}, "before"), Side(NEXT, {}, "now"))
    told = verdicts(found)
    assert {told[key] for key in ("success_rate", "ttft_p50", "cost_per_m_tokens")} == {"worse"}
    change = {row.column.key: row.change for row in found.rows}
    assert change["ttft_p50"] is not None
    assert change["ttft_p50"].low < 1.5 < change["ttft_p50"].high
    assert change["success_rate"] is not None
    assert change["success_rate"].low < -0.18 < change["success_rate"].high
    back = verdicts(compared(records, Side(NEXT, {}, "before"), Side(MINUTE, {}, "now")))
    assert {back[key] for key in ("success_rate", "ttft_p50", "cost_per_m_tokens")} == {"better"}


def test_two_versions_in_one_window(compared: Compare) -> None:
    records = [*traffic(MINUTE, 1, version="a"), *traffic(MINUTE, 2, version="b", slower=0.5)]
    found = compared(records, Side(MINUTE, {"version": "a"}, "a"), Side(MINUTE, {"version": "b"}, "b"))
    assert verdicts(found)["ttft_p50"] == "better"
    assert found.as_json()["rows"][2]["verdict"] == "better"


def test_the_figures_are_the_tables(compared: Compare) -> None:
    records = [*traffic(MINUTE, 1), *traffic(NEXT, 2)]
    found = compared(records, Side(MINUTE, {}, "before"), Side(NEXT, {}, "now"))
    for row in found.rows:
        assert (row.first, row.second) == tuple(table.total[row.column.key] for table in found.tables)


def test_a_few_requests_say_nothing(compared: Compare) -> None:
    records = [*traffic(MINUTE, 1)[:3], *traffic(NEXT, 2)[:3]]
    found = verdicts(compared(records, Side(MINUTE, {}, "before"), Side(NEXT, {}, "now")))
    assert set(found.values()) <= {"unknown", "noise"}
    assert found["ttft_p50"] == found["e2e_p99"] == "unknown"


def test_nothing_against_nothing_is_no_error(compared: Compare) -> None:
    found = compared([], Side(MINUTE, {}, "before"), Side(NEXT, {}, "now"))
    assert set(verdicts(found).values()) == {"unknown", "noise"}
    assert not any(row.first or row.second or row.change for row in found.rows)


@pytest.mark.parametrize(
    ("length_s", "slice_s"),
    [(0.5, 1), (7, 1), (61, 2), (719, 12), (720, 60), (5400, 120), (43_200, 3600), (2_592_000, 86_400), (1e7, 172_800)],
)
def test_slices_are_of_whole_units_of_time(length_s: float, slice_s: int) -> None:
    assert slice_ns(int(length_s * SECOND_NS)) == slice_s * SECOND_NS


def test_throughput_of_windows_with_unlike_slices_can_be_compared(compared: Compare) -> None:
    long = Window(START_NS + SECOND_NS // 3, START_NS + 1000 * SECOND_NS)  # of whole minutes, the ends cut short
    found = compared(traffic(long, 1, rate=1), Side(long, {}, "long"), Side(NEXT, {}, "short"))
    change = {row.column.key: row.change for row in found.rows}["requests_per_s"]
    assert change is not None
    assert change.low < 1 < change.high
    assert change.value == pytest.approx(1, abs=0.4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("before", Side(MINUTE, {"tenant": "t"}, "before")),
        ("1m", Side(MINUTE, {"tenant": "t"}, "1m")),
        ("2m..1m", Side(MINUTE, {"tenant": "t"}, "2m..1m")),
        ("version=a", Side(NEXT, {"tenant": "t", "version": "a"}, "version=a")),
    ],
)
def test_the_other_side_as_people_write_it(text: str, expected: Side) -> None:
    assert parse_against(text, NEXT, {"tenant": "t"}, NEXT.end_ns) == expected


@pytest.mark.parametrize("text", ["now", "tomorrow", "a..b", "colour=red", "..", "2100-01-01"])
def test_an_other_side_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_against(text, NEXT, {}, NEXT.end_ns)
