"""What an explanation says of a request: its stages, legs, spans and costs add up, and its sentence names the cause."""

from __future__ import annotations

import msgspec
import pytest

from tests.observe.made import NOON_NS, SECOND_NS, record
from tests.observe.memory_ledger import MemoryLedger
from tokenworks.contract.errors import NotFound
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Leg, Record, SequenceReport, Stage, Work
from tokenworks.observe.diagnose.explain import Explanation, explain
from tokenworks.observe.diagnose.explain_words import MEANINGS, reason_in_words
from tokenworks.observe.ledger import Span
from tokenworks.policy.split import Reason

TRACE = "a" * 32


def told(one: Record, *spans: Span) -> Explanation:
    return explain(MemoryLedger([one], spans=spans), one.id)


def in_trace(span_id: str, parent: str, start_s: float, seconds: float, service: str = "shop") -> Span:
    started_ns = NOON_NS + round(start_s * 1e9)
    return Span(TRACE, span_id, parent, service, f"do {span_id}", "internal", started_ns, round(seconds * 1e9))


def test_stages_stand_one_behind_the_other_and_sum_to_e2e() -> None:
    one = record(e2e_ns=4 * SECOND_NS)
    lines = told(one).stages
    assert sum(line.ns for line in lines) == one.e2e_ns
    assert [line.start_ns for line in lines] == [0, lines[0].ns]
    assert sum(line.share for line in lines) == pytest.approx(1)


def test_every_stage_and_every_reason_has_words() -> None:
    assert set(MEANINGS) == set(Stage)
    for reason in Reason:
        assert reason_in_words(Leg("w0", reason=reason.value)) != reason.value


@pytest.mark.parametrize("stage", Stage)
def test_the_sentence_names_the_longest_stage_and_what_shortens_it(stage: Stage) -> None:
    explanation = told(record(stages_ns={stage: 900_000_000, Stage.ADMIT: 100_000_000}))
    assert f"went to {stage.value}" in explanation.story
    assert explanation.advice.startswith("Faster would have been ")
    assert explanation.advice.endswith(" less.")


def test_preemption_is_told_with_its_figures() -> None:
    report = SequenceReport(preemptions=3, recomputed_tokens=700)
    one = record(stages_ns={Stage.PREEMPTED: SECOND_NS}, legs=[Leg("w0", report=report)])
    explanation = told(one)
    assert "taken from it 3 times, and 700 tokens were computed again" in explanation.story
    assert (explanation.preemptions, explanation.recomputed_tokens) == (3, 700)


def test_a_rejected_request_and_one_without_detail_are_told_as_such() -> None:
    assert "turned away" in told(record(outcome="no_worker", status=503, legs=[], stages_ns={})).story
    old = told(record(stages_ns={}))
    assert "no longer kept" in old.story
    assert old.advice == ""


def test_legs_tell_predicted_and_actual_and_what_was_lost() -> None:
    legs = [
        Leg("w0", reason="only worker", start_ns=10, span_ns=500, outcome="lost"),
        Leg("w1", kind="continuation", reason="short prompt", start_ns=1000, span_ns=9000, predicted_ns=2000),
    ]
    explanation = told(record(legs=legs, ttft_ns=4000, cached_tokens={Tier.HOST: 32}))
    assert explanation.migrations == 1
    assert explanation.legs[1].actual_ttft_ns == 3000
    assert explanation.legs[1].why.startswith("goes on where another worker was lost")
    assert explanation.legs[0].steps is None
    assert explanation.cached_tokens == {"host": 32}


def test_costs_are_told_by_work_and_sum_to_the_total() -> None:
    report = SequenceReport(device_ns={Work.PREFILL: SECOND_NS, Work.DECODE: 3 * SECOND_NS})
    explanation = told(record(legs=[Leg("w0", report=report, price_per_hour=3600.0)]))
    assert {line.name: line.amount for line in explanation.costs} == {"device: prefill": 1.0, "device: decode": 3.0}
    assert explanation.cost == 4.0


def test_the_application_around_it_is_shown_with_the_critical_path() -> None:
    one = record(
        ended_ns=NOON_NS + 3 * SECOND_NS, e2e_ns=SECOND_NS, trace_id=TRACE, span_id="m" * 16, parent_span_id="r"
    )
    spans = (in_trace("r", "", 0, 3), in_trace("s", "r", 0.5, 1.5), in_trace("cache", "r", 0.5, 0.2))
    lines = {line.name: line for line in told(one, *spans).spans}
    model = next(line for line in lines.values() if line.is_this)
    assert (model.start_ns, model.ns, model.critical_ns) == (0, SECOND_NS, SECOND_NS)
    assert lines["do s"].is_critical
    assert not lines["do cache"].is_critical
    assert lines["do r"].start_ns == -2 * SECOND_NS
    assert sum(line.critical_ns for line in lines.values()) == 3 * SECOND_NS


def test_gaps_are_told_by_nearest_rank() -> None:
    gaps_us = [70, 10, 20, 5000, *[30] * 196]
    gaps = told(record(gaps_us=b"".join(gap.to_bytes(4, "little") for gap in gaps_us))).gaps
    assert gaps is not None
    assert (gaps.count, gaps.p50_ns, gaps.p99_ns, gaps.longest_ns) == (200, 30_000, 30_000, 5_000_000)
    assert told(record(gaps_us=b"")).gaps is None


def test_alone_in_its_trace_it_has_no_application_around_it() -> None:
    assert told(record(trace_id=TRACE, span_id="m" * 16)).spans == []


def test_an_unknown_id_says_what_to_do() -> None:
    with pytest.raises(NotFound, match="tokenworks explain --last"):
        explain(MemoryLedger([]), "nobody")


def test_an_explanation_is_json() -> None:
    explanation = told(record())
    assert msgspec.json.decode(msgspec.json.encode(explanation), type=Explanation) == explanation
