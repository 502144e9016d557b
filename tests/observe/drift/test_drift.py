"""Drift over a ledger: steady traffic is steady, each kind of change is found and named, samples stay bounded."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.observe.made import HOUR_NS, MINUTE_NS, NOON_NS, SECOND_NS, record
from tests.observe.memory_ledger import MemoryLedger
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Record
from tokenworks.contract.request import Scenario
from tokenworks.observe.drift.drift import MIN_VALUES, FeatureDrift, compare, drift
from tokenworks.observe.drift.traffic_sample import sampled
from tokenworks.observe.ledger import Window
from tokenworks.plan.traces import Trace, read_trace
from tokenworks.policy.top_names import OTHER

BEFORE = Window(NOON_NS, NOON_NS + HOUR_NS)
AFTER = Window(NOON_NS + HOUR_NS, NOON_NS + 2 * HOUR_NS)
TRACES = Path(os.environ.get("TOKENWORKS_TRACES", Path(__file__).parents[4] / "shared" / "traces"))


def traffic(
    window: Window,
    seed: int,
    *,
    num: int = 600,
    input_scale: float = 1.0,
    output_scale: float = 1.0,
    cached: float = 0.5,
    rate: float = 1.0,
    tenants: tuple[str, ...] = ("anna", "anna", "bert"),
    scenario: Scenario = Scenario.ONLINE,
    short: float = 0.05,
    finish: str = "stop",
    logprob: float | None = None,
) -> Iterator[Record]:
    """Chat-like requests that end within a window: lognormal lengths, Poisson arrivals."""
    draw = random.Random(seed)
    at_ns = window.start_ns
    for number in range(num):
        at_ns += round(draw.expovariate(rate / 5) * SECOND_NS)
        if at_ns >= window.end_ns - SECOND_NS:
            return
        prompt = max(1, round(draw.lognormvariate(6, 1) * input_scale))
        is_short = draw.random() < short
        output = draw.randint(3, 30) if is_short else max(40, round(draw.lognormvariate(5, 0.7) * output_scale))
        yield record(
            10_000 * seed + number,
            ended_ns=at_ns + SECOND_NS,
            prompt_tokens=prompt,
            output_tokens=output,
            cached_tokens={Tier.DEVICE: round(prompt * cached * draw.random())},
            tenant=draw.choice(tenants),
            scenario=scenario,
            finish_reasons=["stop" if is_short else finish],
            mean_logprob=None if logprob is None else draw.gauss(logprob, 0.1),
        )


def found(**change: object) -> dict[str, FeatureDrift]:
    """Drift between usual traffic and traffic with a change."""
    usual = {"logprob": -0.5} if "logprob" in change else {}
    frames = [*traffic(BEFORE, 1, **usual), *traffic(AFTER, 2, **(usual | change))]  # type: ignore[arg-type]
    return {each.feature: each for each in drift(MemoryLedger(frames), AFTER, BEFORE)}


def moved(features: dict[str, FeatureDrift]) -> set[str]:
    return {name for name, each in features.items() if each.moved}


@pytest.mark.parametrize("seed", range(10, 20))
def test_traffic_of_one_kind_is_steady(seed: int) -> None:
    frames = [*traffic(BEFORE, 2 * seed, logprob=-0.5), *traffic(AFTER, 2 * seed + 1, logprob=-0.5)]
    features = {each.feature: each for each in drift(MemoryLedger(frames), AFTER, BEFORE)}
    assert len(features) == 11
    assert moved(features) == set()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"input_scale": 2.5}, {"input_tokens"}),
        ({"output_scale": 0.4}, {"output_tokens"}),
        ({"cached": 0.0}, {"prefix_share"}),
        ({"rate": 3.0}, {"arrival_gap_s"}),
        ({"tenants": ("carl",)}, {"tenant"}),
        ({"scenario": Scenario.OFFLINE}, {"scenario"}),
        ({"finish": "length"}, {"finish_reason"}),
        pytest.param({"short": 0.5}, {"short_answers", "output_tokens"}, id="short"),  # a set's text has no fixed order
        ({"logprob": -0.9}, {"mean_logprob"}),
    ],
    ids=str,
)
def test_each_change_is_found_and_nothing_else_is_accused(change: dict[str, object], expected: set[str]) -> None:
    assert moved(found(**change)) == expected


def test_a_finding_says_from_what_to_what() -> None:
    tenant = found(tenants=("carl",))["tenant"]
    assert tenant.before.startswith("anna 6")
    assert tenant.after == "carl 100%"
    assert [(each.label, each.before == 0, each.after) for each in tenant.bins] == [
        ("anna", False, 0),
        ("bert", False, 0),
        (OTHER, True, 1),
    ]
    lengths = found(input_scale=2.5)["input_tokens"]
    assert lengths.psi > lengths.noise > lengths.expected > 0
    assert sum(each.before for each in lengths.bins) == pytest.approx(1)
    assert sum(each.after for each in lengths.bins) == pytest.approx(1)
    assert lengths.bins[0].label.startswith("up to ")
    assert lengths.bins[-1].label.startswith("above ")


def lengths_of(window: Window, *lengths: int, cached: float = 0.0) -> list[list[Record]]:
    """Requests with these prompt lengths in turn, of which that share was cached; 400 of them."""
    made = []
    for number in range(400):
        tokens = lengths[number % len(lengths)]
        found = {Tier.DEVICE: round(tokens * cached) if number % 2 else 0}
        made.append(record(number, window.start_ns + number, prompt_tokens=tokens, cached_tokens=found))
    return [made]


def compared(before: list[list[Record]], after: list[list[Record]], feature: str = "input_tokens") -> FeatureDrift:
    return {each.feature: each for each in compare(before, after)}[feature]


def test_one_more_digit_in_every_prompt_is_no_drift() -> None:
    digit = compared(lengths_of(BEFORE, 203, 203, 203, 48), lengths_of(AFTER, 204, 204, 204, 49))
    assert digit.psi > 10 * digit.noise  # bins alone cannot tell
    assert digit.nearby_psi == pytest.approx(0, abs=1e-6)
    assert (digit.moved, digit.is_near) == (False, True)


def test_what_moved_by_more_than_next_to_nothing_has_moved() -> None:
    for length, is_moved in ((212, False), (216, True), (194, False), (190, True)):
        assert compared(lengths_of(BEFORE, 203), lengths_of(AFTER, length)).moved == is_moved
    few = [compared(lengths_of(BEFORE, 10), lengths_of(AFTER, length)).moved for length in (13, 14)]
    assert few == [False, True]  # of few tokens, three are next to nothing


def test_shares_of_two_peaks_jitter_within_their_peaks() -> None:
    share = compared(
        lengths_of(BEFORE, 203, 204, cached=0.94), lengths_of(AFTER, 230, 231, cached=0.96), "prefix_share"
    )
    assert not share.moved


def test_two_peaks_that_change_places_are_told_by_what_grew_and_not_by_a_median_that_jumped() -> None:
    before, after = lengths_of(BEFORE, 50, 50, 50, 203), lengths_of(AFTER, 50, 203, 204, 204)
    grown = compared(before, after)
    assert grown.moved
    assert grown.change == "above 50: 25% -> 75%"
    assert compared(after, before).change == "50: 25% -> 75%"
    shrunk = compared(lengths_of(BEFORE, 50, 120, 203, 400), lengths_of(AFTER, 50, 203, 203, 400))
    assert shrunk.change == "120 to 203: 25% -> 50%"
    cached = compared(lengths_of(BEFORE, 200, cached=0.9), lengths_of(AFTER, 200), "prefix_share")
    assert cached.change == "0: 50% -> 100%"


def test_a_word_that_nobody_had_before_is_told_by_its_name() -> None:
    assert found(tenants=("carl",))["tenant"].change == "carl: 0% -> 100%"


def test_what_moved_comes_first_and_most_first() -> None:
    order = list(found(input_scale=2.5, short=0.5).values())
    assert [each.moved for each in order] == sorted([each.moved for each in order], reverse=True)
    excess = [each.psi - each.expected for each in order if each.moved]
    assert excess == sorted(excess, reverse=True)


def test_a_window_with_hardly_any_requests_accuses_nobody() -> None:
    few = [*traffic(BEFORE, 1), *traffic(AFTER, 2, num=MIN_VALUES - 1, input_scale=50)]
    assert drift(MemoryLedger(few), AFTER, BEFORE) == []
    assert drift(MemoryLedger(), AFTER, BEFORE) == []


def test_a_sample_is_bounded_and_spread_as_the_traffic_is() -> None:
    quiet = Window(BEFORE.start_ns, BEFORE.start_ns + 30 * MINUTE_NS)
    busy = Window(quiet.end_ns, BEFORE.end_ns)
    frames = [*traffic(quiet, 1, num=9999, rate=0.5), *traffic(busy, 2, num=9999, rate=5)]
    runs = sampled(MemoryLedger(frames), BEFORE, 200)
    times = [record.started_ns for run in runs for record in run]
    assert 150 <= len(times) <= 280
    share = sum(at >= busy.start_ns for at in times) / len(times)
    assert share == pytest.approx(10 / 11, abs=0.08)
    for run in runs:
        assert [record.started_ns for record in run] == sorted(record.started_ns for record in run)


def test_a_sample_gives_the_gaps_of_the_traffic_itself() -> None:
    ledger = MemoryLedger(traffic(BEFORE, 3, num=9999, rate=10))
    whole, part = sampled(ledger, BEFORE, 99_999), sampled(ledger, BEFORE, 800)
    assert len(whole) == 1
    gaps = {feature.feature: feature for feature in compare(whole, part)}["arrival_gap_s"]
    assert not gaps.moved


def records_of(trace: Trace) -> list[Record]:
    """What an endless machine would have recorded of a trace; a block that was seen before is cached."""
    seen: set[int] = set()
    found = []
    for number, each in enumerate(trace.records):
        known = next((at for at, block in enumerate(each.block_ids) if block not in seen), len(each.block_ids))
        seen.update(each.block_ids)
        found.append(
            record(
                number,
                ended_ns=NOON_NS + round((each.arrival_s + 1) * SECOND_NS),
                prompt_tokens=each.input_tokens,
                output_tokens=each.output_tokens,
                cached_tokens={Tier.DEVICE: min(each.input_tokens, round(known * trace.block_tokens))},
                finish_reasons=["stop"],
            )
        )
    return found


@pytest.mark.skipif(not TRACES.exists(), reason="the public traces are not here; TOKENWORKS_TRACES says where they are")
def test_public_traces_agree_with_themselves_and_not_with_each_other() -> None:
    mooncake = records_of(read_trace(TRACES / "mooncake" / "conversation_trace.jsonl.gz"))
    azure = records_of(read_trace(TRACES / "azure2023" / "AzureLLMInferenceTrace_conv.csv.gz"))
    steady = ("input_tokens", "output_tokens")
    for one in (mooncake, azure):
        halves = [[one[: len(one) // 2]], [one[len(one) // 2 :]]]
        within = {each.feature: each for each in compare(*halves)}
        assert not [name for name in steady if within[name].moved]
    between = {each.feature: each for each in compare([mooncake], [azure])}
    assert all(between[name].moved for name in steady)
