"""What finished requests came to, in Prometheus' form: by scenario, and by tenant as far as there is room.

Fed once a record, many at a time (`add_all`, a few microseconds each), so that these figures are those of the ledger
and of the table. Money is summed in whole pico of the currency and becomes a decimal number only when it is shown. What
an objective speaks of, and whether it was kept, is decided where the ledger decides it: in `observe.cell`.

Tags have no lines here, whatever their number: the ledger keeps those. Tenants have lines up to `MAX_TENANTS`, those
with the most tokens; all others are `(other)`. A tenant's line begins at zero when it gets its place, and ends when it
loses it: rates are right, and sums over all tenants are those of all requests while no place has changed hands.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tokenworks.contract.config import ObjectiveSettings
from tokenworks.contract.record import PICO, Costs, Record
from tokenworks.gateway.metrics.gen_ai_metrics import MAX_LABEL_CHARS, GenAiMetrics, Kind
from tokenworks.observe.cell import is_invalid, keeps, promises_of
from tokenworks.observe.tables.cost import NO_COSTS
from tokenworks.policy.top_names import TopNames

MAX_TENANTS: Final = 50
KEPT: Final = "kept"
BROKEN: Final = "broken"
NOT_PROMISED: Final = "not_promised"  # the client's own doing: a bad request, or it left
RESULTS: Final = (KEPT, BROKEN, NOT_PROMISED)


class _ScenarioSums:
    """Of one scenario."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()  # by outcome and result
        self.prompt_tokens = self.output_tokens = 0
        self.cached_tokens: dict[str, int] = defaultdict(int)  # by tier; as are the next two, quicker than a Counter
        self.stages_ns: dict[str, int] = defaultdict(int)
        self.device_ns: dict[str, int] = defaultdict(int)  # by work
        self.costs: dict[str, int] = defaultdict(int)  # by stage, pico
        self.wasted = self.saved = 0  # pico
        self.resends: Counter[str] = Counter()  # by the outcome of the leg before


class _TenantSums:
    """Of one tenant, or of all that have no place."""

    def __init__(self) -> None:
        self.results = dict.fromkeys(RESULTS, 0)
        self.prompt_tokens = self.output_tokens = 0
        self.cost = 0  # pico


class RecordMetrics(Collector):
    """Since the gateway started."""

    def __init__(self, currency: str, objectives: ObjectiveSettings) -> None:
        self._currency = currency
        self._objectives = objectives
        self._promises = promises_of(objectives)
        self._gen_ai = GenAiMetrics()
        self._scenarios: dict[str, _ScenarioSums] = {}
        self._tenants: dict[str, _TenantSums] = {}
        self._places = TopNames(MAX_TENANTS)

    def add(self, record: Record, costs: Costs) -> None:
        """Count a record and what it cost."""
        self.add_all([record], [costs])

    def add_all(self, records: Sequence[Record], costs: Sequence[Costs]) -> None:
        """Count records and what each cost: by kind, so that what they have in common is looked up once."""
        by_kind: dict[tuple[str, str, str, str], tuple[list[Record], list[Costs]]] = defaultdict(lambda: ([], []))
        for record, each in zip(records, costs, strict=True):
            alike, their_costs = by_kind[record.endpoint, record.model, record.scenario, record.outcome]
            alike.append(record)
            their_costs.append(each)
            if record.num_alike > 1:
                alike += [record] * (record.num_alike - 1)
                their_costs += [each] * (record.num_alike - 1)
        for key, (alike, their_costs) in by_kind.items():
            self._add_kind(Kind(*key), alike, their_costs)

    def _add_kind(self, kind: Kind, records: Sequence[Record], costs: Sequence[Costs]) -> None:
        results = [self._result(record) for record in records]
        self._gen_ai.add(kind, records)
        self._add_to_scenario(kind, records, [each for each in costs if each is not NO_COSTS], results)
        by_tenant: dict[str, list[tuple[Record, Costs, str]]] = defaultdict(list)
        for each in zip(records, costs, results, strict=True):
            by_tenant[each[0].tenant].append(each)
        for tenant, its in by_tenant.items():
            self._add_to_tenant(tenant, *zip(*its, strict=True))

    def collect(self) -> Iterable[Metric]:
        """Every family, also those that have no lines yet."""
        yield from self._gen_ai.families()
        yield from self._scenario_families()
        yield from self._tenant_families()
        objective = GaugeMetricFamily(
            "tokenworks_objective_success_ratio", "Share of requests that must keep their objectives."
        )
        objective.add_metric([], self._objectives.success_ratio)
        currency = GaugeMetricFamily("tokenworks_cost_currency", "1; what amounts are in.", labels=["currency"])
        currency.add_metric([self._currency], 1)
        yield from (objective, currency)

    def _result(self, record: Record) -> str:
        if record.outcome == "ok":
            return KEPT if keeps(record, self._promises) else BROKEN
        return NOT_PROMISED if record.outcome == "client_gone" or is_invalid(record) else BROKEN

    def _add_to_scenario(
        self, kind: Kind, records: Sequence[Record], costs: Sequence[Costs], results: Sequence[str]
    ) -> None:
        sums = self._scenarios.get(kind.scenario)
        if sums is None:
            sums = self._scenarios[kind.scenario] = _ScenarioSums()
        for result, count in Counter(results).items():
            sums.outcomes[kind.outcome, result] += count
        sums.prompt_tokens += sum([record.prompt_tokens for record in records])
        sums.output_tokens += sum([record.output_tokens for record in records])
        _add_tables(sums.cached_tokens, [record.cached_tokens for record in records])
        _add_tables(sums.stages_ns, [record.stages_ns for record in records])
        legs = [leg for record in records for leg in record.legs]
        _add_tables(sums.device_ns, [leg.report.device_ns for leg in legs if leg.report is not None])
        for reason in [leg.outcome for leg in legs if leg.outcome in _FAILED]:
            sums.resends[reason] += 1
        if costs:
            _add_tables(sums.costs, [cost_by_stage(each) for each in costs])
            sums.saved += sum([each.saved for each in costs])
            sums.wasted += sum([each.total for each in costs]) if kind.outcome != "ok" else 0

    def _add_to_tenant(
        self, tenant: str, records: Sequence[Record], costs: Sequence[Costs], results: Sequence[str]
    ) -> None:
        prompt_tokens = sum([record.prompt_tokens for record in records])
        output_tokens = sum([record.output_tokens for record in records])
        weight = len(records) + prompt_tokens + output_tokens
        name, dropped = self._places.place(tenant[:MAX_LABEL_CHARS], weight, len(records))
        if dropped is not None:
            self._tenants.pop(dropped, None)
        sums = self._tenants.get(name)
        if sums is None:
            sums = self._tenants[name] = _TenantSums()
        for result, count in Counter(results).items():
            sums.results[result] += count
        sums.prompt_tokens += prompt_tokens
        sums.output_tokens += output_tokens
        sums.cost += sum([each.total for each in costs if each is not NO_COSTS])

    def _scenario_families(self) -> Iterable[Metric]:
        families = {name: CounterMetricFamily(name, text, labels=labels) for name, text, labels in _SCENARIO_FAMILIES}
        for scenario, sums in self._scenarios.items():
            lines: dict[str, Mapping[str, float]] = {
                "tokenworks_records": _by(sums.outcomes, 0),
                "tokenworks_objective_requests": dict.fromkeys(RESULTS, 0) | _by(sums.outcomes, 1),
                "tokenworks_tokens": {"prompt": sums.prompt_tokens, "output": sums.output_tokens},
                "tokenworks_cached_tokens_by_tier": sums.cached_tokens,
                "tokenworks_stage_seconds": _seconds(sums.stages_ns),
                "tokenworks_device_seconds": _seconds(sums.device_ns),
                "tokenworks_cost": {stage: pico / PICO for stage, pico in sums.costs.items()},
                "tokenworks_leg_failures": sums.resends,
            }
            for name, values in lines.items():
                for key, value in values.items():
                    families[name].add_metric([scenario, key], value)
            families["tokenworks_cost_wasted"].add_metric([scenario], sums.wasted / PICO)
            families["tokenworks_cost_saved"].add_metric([scenario], sums.saved / PICO)
        return families.values()

    def _tenant_families(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "tokenworks_tenant_requests", "Requests of a tenant, by what became of its objectives.", labels=_RESULT
        )
        tokens = CounterMetricFamily("tokenworks_tenant_tokens", "Tokens of a tenant.", labels=["tenant", "kind"])
        cost = CounterMetricFamily("tokenworks_tenant_cost", "What a tenant's requests cost.", labels=["tenant"])
        for tenant, sums in self._tenants.items():
            for result, count in sums.results.items():
                requests.add_metric([tenant, result], count)
            tokens.add_metric([tenant, "prompt"], sums.prompt_tokens)
            tokens.add_metric([tenant, "output"], sums.output_tokens)
            cost.add_metric([tenant], sums.cost / PICO)
        return [requests, tokens, cost]


def _add_tables(sums: dict[str, int], tables: Iterable[Mapping[Any, int]]) -> None:
    """Those that have the same keys in the same order are added up together, which takes a third of the time."""
    alike: dict[tuple[str, ...], list[Iterable[int]]] = defaultdict(list)
    for table in tables:
        if table:
            alike[tuple(table)].append(table.values())
    for names, rows in alike.items():
        for name, total in zip(names, map(sum, zip(*rows, strict=True)), strict=True):
            sums[name] += total


def cost_by_stage(costs: Costs) -> Mapping[Any, int]:
    """What each part cost, in pico; they sum to the total."""
    if not (costs.kv or costs.transfer or costs.energy):
        return costs.device
    others = {f"kv_{tier}": pico for tier, pico in costs.kv.items()}
    others |= {name: pico for name, pico in (("transfer", costs.transfer), ("energy", costs.energy)) if pico}
    return costs.device | others


def _by(counts: Counter[tuple[str, str]], part: int) -> dict[str, int]:
    """Counts by one part of their keys."""
    sums: Counter[str] = Counter()
    for key, count in counts.items():
        sums[key[part]] += count
    return dict(sums)


def _seconds(sums_ns: Mapping[str, int]) -> dict[str, float]:
    return {name: nanoseconds / 1e9 for name, nanoseconds in sums_ns.items()}


_FAILED: Final = frozenset({"lost", "refused"})
_RESULT: Final = ["tenant", "result"]
_SCENARIO_FAMILIES: Final = (
    ("tokenworks_records", "Requests that have ended, by scenario and outcome.", ["scenario", "outcome"]),
    (
        "tokenworks_objective_requests",
        "Requests by what became of their objectives: kept, broken, not_promised.",
        ["scenario", "result"],
    ),
    ("tokenworks_tokens", "Prompt and output tokens of requests that have ended.", ["scenario", "kind"]),
    ("tokenworks_cached_tokens_by_tier", "Prompt tokens that were not computed, by tier.", ["scenario", "tier"]),
    ("tokenworks_stage_seconds", "Where the requests' time went; stages sum to their E2E.", ["scenario", "stage"]),
    ("tokenworks_device_seconds", "Device time of requests that have ended, by work.", ["scenario", "work"]),
    ("tokenworks_cost", "What requests cost, by stage, in the configured currency.", ["scenario", "stage"]),
    ("tokenworks_cost_wasted", "Of that, what went to requests that did not end well.", ["scenario"]),
    ("tokenworks_cost_saved", "What computing the cached tokens would have cost besides.", ["scenario"]),
    ("tokenworks_leg_failures", "Sendings to a worker that it refused, or died over.", ["scenario", "reason"]),
)
