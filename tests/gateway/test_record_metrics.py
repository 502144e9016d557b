"""Metrics of finished records: what they sum to, the conventions' names and buckets, exemplars, and their bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from prometheus_client.samples import Sample

from tests.observe.made import record
from tokenworks.cli.reference import _NothingYet
from tokenworks.contract.config import CostSettings, ObjectiveSettings
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import PICO, Costs, Leg, Record, Stage, Work
from tokenworks.contract.request import Scenario
from tokenworks.gateway.metrics.metrics import Metrics
from tokenworks.gateway.metrics.record_metrics import MAX_TENANTS, RecordMetrics, cost_by_stage
from tokenworks.observe.cell import cell_of, merged
from tokenworks.observe.tables.cost import costs_of
from tokenworks.policy.top_names import OTHER

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
TRACE = "0af7651916cd43dd8448eb211c80319c"
CHAT = "/v1/chat/completions"


def metrics() -> Metrics:
    return Metrics(_NothingYet())


def observed(records: Iterable[Record]) -> Metrics:
    found = metrics()
    for each in records:
        found.observe_records([each])
    return found


def samples(found: Metrics | RecordMetrics) -> list[Sample]:
    """As a scraper reads them."""
    if isinstance(found, RecordMetrics):
        registry = CollectorRegistry()
        registry.register(found)
        text = generate_latest(registry)
    else:
        text, _ = found.exposition()
    return [sample for family in read_text(text.decode()) for sample in family.samples]


def value(found: Metrics | RecordMetrics, name: str, labels: Mapping[str, str] | None = None) -> float:
    """The sum of the samples of that name with those labels."""
    wanted = (labels or {}).items()
    values = [sample.value for sample in samples(found) if sample.name == name and wanted <= sample.labels.items()]
    assert values, f"no {name} with {labels}"
    return sum(values)


def test_the_conventions_histograms_have_their_names_labels_and_buckets() -> None:
    found = observed([record(endpoint=CHAT, e2e_ns=3 * 10**9, ttft_ns=50_000_000)])
    lines = [sample for sample in samples(found) if sample.name == "gen_ai_server_request_duration_seconds_bucket"]
    assert [sample.labels["le"] for sample in lines][:3] == ["0.01", "0.02", "0.04"]
    assert [sample.labels["le"] for sample in lines][-2:] == ["81.92", "+Inf"]
    assert [sample.value for sample in lines if sample.labels["le"] in ("2.56", "5.12")] == [0, 1]
    del (labels := lines[0].labels)["le"]
    assert labels == {
        "gen_ai_operation_name": "chat",
        "gen_ai_provider_name": "tokenworks",
        "gen_ai_request_model": "qwen",
        "gen_ai_response_model": "qwen",
        "tokenworks_scenario": "online",
        "error_type": "",
    }
    assert value(found, "gen_ai_server_time_to_first_token_seconds_bucket", {"le": "0.04"}) == 0
    assert value(found, "gen_ai_server_time_to_first_token_seconds_bucket", {"le": "0.06"}) == 1
    assert value(found, "gen_ai_server_time_per_output_token_seconds_sum") == pytest.approx(2.95 / 4)
    assert value(found, "gen_ai_client_token_usage_sum", {"gen_ai_token_type": "input"}) == 10
    assert value(found, "gen_ai_client_token_usage_sum", {"gen_ai_token_type": "output"}) == 5


def test_a_value_on_a_bound_belongs_to_its_bucket() -> None:
    found = observed([record(endpoint=CHAT, prompt_tokens=16)])
    assert value(found, "gen_ai_client_token_usage_bucket", {"gen_ai_token_type": "input", "le": "16.0"}) == 1


def test_failed_requests_have_a_duration_by_error_and_no_latency_of_tokens() -> None:
    found = observed([record(endpoint=CHAT, outcome="worker_lost", status=502)])
    assert value(found, "gen_ai_server_request_duration_seconds_count", {"error_type": "worker_lost"}) == 1
    names = {sample.name for sample in samples(found)}
    assert "gen_ai_server_time_to_first_token_seconds_count" not in names


def test_latencies_carry_the_trace_id_where_the_scraper_takes_openmetrics_and_only_there() -> None:
    found = observed([record(endpoint=CHAT, trace_id=TRACE, ttft_ns=50_000_000)])
    text, content_type = found.exposition(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    exemplars = {
        sample.name: sample.exemplar
        for family in read_openmetrics(text.decode())
        for sample in family.samples
        if sample.exemplar is not None
    }
    seen = exemplars["gen_ai_server_time_to_first_token_seconds_bucket"]
    assert (seen.labels, seen.value) == ({"trace_id": TRACE}, 0.05)
    assert "gen_ai_server_request_duration_seconds_bucket" in exemplars
    plain, content_type = found.exposition("text/plain")
    assert content_type.startswith("text/plain")
    assert TRACE.encode() not in plain


def test_sums_are_those_of_the_ledgers_cell() -> None:
    objectives = ObjectiveSettings()
    records = [
        record(1),
        record(2, cached_tokens={Tier.DEVICE: 4, Tier.HOST: 2}),
        record(3, outcome="worker_lost", status=502, legs=[Leg("w0", outcome="lost"), *record(3).legs]),
        record(4, outcome="invalid_value", status=400, legs=[]),
        record(5, outcome="client_gone", status=0),
        record(6, outcome="no_worker", status=503, legs=[]),
        record(7, e2e_ns=60 * 10**9, ttft_ns=30 * 10**9),
        record(8, scenario=Scenario.OFFLINE),
    ]
    found = observed(records)
    for scenario in Scenario:
        mine = [each for each in records if each.scenario is scenario]
        if not mine:
            continue
        cell = merged([cell_of(each, costs_of(each, CostSettings()), objectives) for each in mine])
        label = {"scenario": scenario.value}
        assert value(found, "tokenworks_records_total", label) == cell.requests
        results = {"kept": cell.good, "broken": cell.promised - cell.good, "not_promised": cell.invalid + cell.gone}
        for result, count in results.items():
            assert value(found, "tokenworks_objective_requests_total", {**label, "result": result}) == count
        assert value(found, "tokenworks_tokens_total", {**label, "kind": "prompt"}) == cell.prompt_tokens
        assert value(found, "tokenworks_tokens_total", {**label, "kind": "output"}) == cell.output_tokens
        assert value(found, "tokenworks_stage_seconds_total", label) == pytest.approx(cell.e2e_ns / 1e9)
        assert value(found, "tokenworks_device_seconds_total", {**label, "work": "decode"}) == pytest.approx(
            cell.device_ns[Work.DECODE] / 1e9
        )
        assert value(found, "tokenworks_cost_total", label) == pytest.approx(cell.cost / PICO)
        assert value(found, "tokenworks_cost_wasted_total", label) == pytest.approx(cell.cost_wasted / PICO)
    assert value(found, "tokenworks_cached_tokens_by_tier_total", {"tier": "host"}) == 2
    assert value(found, "tokenworks_leg_failures_total", {"reason": "lost"}) == 1


def test_every_part_of_a_cost_is_shown() -> None:
    costs = Costs(device={Work.PREFILL: 5}, kv={Tier.HOST: 7}, transfer=11, energy=13, saved=17)
    assert sum(cost_by_stage(costs).values()) == costs.total
    found = RecordMetrics("EUR", ObjectiveSettings())
    found.add(record(), costs)
    shown = {
        sample.labels["stage"]: sample.value for sample in samples(found) if sample.name == "tokenworks_cost_total"
    }
    assert shown == {"prefill": 5 / PICO, "kv_host": 7 / PICO, "transfer": 11 / PICO, "energy": 13 / PICO}
    assert value(found, "tokenworks_cost_saved_total") == 17 / PICO
    assert value(found, "tokenworks_cost_currency", {"currency": "EUR"}) == 1


def test_a_million_tenants_and_tags_do_not_blow_up_the_exposition() -> None:
    found = metrics()
    hostile = '"} evil_metric 1\n# HELP '
    for number in range(9_000):  # each number is a tenant and a tag that nobody had before
        turned_away = record(
            number,
            tenant=f"{hostile}{number}",
            tags={f"key-{number}": f"value-{number}"},
            endpoint=CHAT,
            legs=[],
            outcome="model_not_found",
            status=404,
        )
        found.observe_records([turned_away])
    text, _ = found.exposition()
    assert len(text) < 100_000
    tenants = {sample.labels["tenant"] for sample in samples(found) if "tenant" in sample.labels}
    assert len(tenants) <= MAX_TENANTS + 1
    assert OTHER in tenants
    assert value(found, "tokenworks_tenant_requests_total") == 9_000
    assert b"value-1" not in text
    assert not [sample for sample in samples(found) if sample.name == "evil_metric"]


def test_a_tenant_that_uses_more_takes_a_place_and_the_line_of_the_other_ends() -> None:
    found = RecordMetrics("USD", ObjectiveSettings())
    for number in range(MAX_TENANTS):
        found.add(record(tenant=f"small-{number}"), Costs())
    for _ in range(10):
        found.add(record(tenant="large", prompt_tokens=1000), Costs(energy=PICO))
    tenants = {sample.labels["tenant"] for sample in samples(found) if "tenant" in sample.labels}
    assert "large" in tenants
    assert len([name for name in tenants if name.startswith("small")]) == MAX_TENANTS - 1
    assert value(found, "tokenworks_tenant_cost_total", {"tenant": "large"}) == 10


def test_stages_stay_a_partition_in_the_exposition() -> None:
    each = record(stages_ns={Stage.QUEUE: 250_000_000, Stage.PREFILL: 750_000_000})
    found = observed([each])
    assert value(found, "tokenworks_stage_seconds_total") == each.e2e_ns / 1e9
