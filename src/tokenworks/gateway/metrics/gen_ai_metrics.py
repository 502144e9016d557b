"""The metrics that OpenTelemetry's semantic conventions for generative AI name, fed from finished records.

Names, labels and buckets are those of the conventions (open-telemetry/semantic-conventions-genai, docs/gen-ai/
gen-ai-metrics.md, status: development), written as its Prometheus mapping has it: dots become underscores, the unit a
suffix. `tokenworks_scenario` is ours. TTFT and TPOT are those of requests that ended well, as the conventions want it.

A record names the model that is served, never what a client made up, so labels are few whatever comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from tokenworks.contract.record import Record
from tokenworks.gateway.metrics.tally import Buckets, Tally
from tokenworks.observe.cell import tpot_ns
from tokenworks.observe.chains.own_spans import OPERATIONS
from tokenworks.policy.top_names import OTHER

PROVIDER: Final = "tokenworks"
MAX_LABEL_CHARS: Final = 128
_LABELS: Final = (
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "gen_ai_response_model",
    "tokenworks_scenario",
)
_DURATION: Final = Buckets([0.01 * 2**power for power in range(14)])
_TTFT: Final = Buckets([0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0])
_TPOT: Final = Buckets([0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5])
_TOKENS: Final = Buckets([float(4**power) for power in range(14)])


class Kind(NamedTuple):
    """What records have in common that are counted together."""

    endpoint: str
    model: str
    scenario: str
    outcome: str


class _Series:
    """What requests of one operation, model and scenario came to."""

    __slots__ = ("durations", "input_tokens", "output_tokens", "tpot", "ttft")

    def __init__(self) -> None:
        self.durations: dict[str, Tally] = {}  # by outcome, "" where it was well
        self.ttft = Tally(_TTFT)
        self.tpot = Tally(_TPOT)
        self.input_tokens = Tally(_TOKENS)
        self.output_tokens = Tally(_TOKENS)


class GenAiMetrics:
    """Since the gateway started."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, str], _Series] = {}  # by endpoint, model and scenario

    def add(self, kind: Kind, records: Sequence[Record]) -> None:
        """Count records, all of one kind."""
        key = (kind.endpoint, kind.model, kind.scenario)
        if (series := self._series.get(key)) is None:
            series = self._series[key] = _Series()
        error = "" if kind.outcome == "ok" else kind.outcome
        if (durations := series.durations.get(error)) is None:
            durations = series.durations[error] = Tally(_DURATION)
        _add(durations, [record.e2e_ns / 1e9 for record in records], records)
        placed = [record for record in records if record.legs]
        _add(series.input_tokens, [record.prompt_tokens for record in placed], placed)
        _add(series.output_tokens, [record.output_tokens for record in placed], placed)
        if not error:
            begun = [record for record in records if record.ttft_ns is not None]
            _add(series.ttft, [(record.ttft_ns or 0) / 1e9 for record in begun], begun)
            paces_ns = [tpot_ns(record) for record in begun]
            paced = [record for record, pace_ns in zip(begun, paces_ns, strict=True) if pace_ns is not None]
            _add(series.tpot, [pace_ns / 1e9 for pace_ns in paces_ns if pace_ns is not None], paced)

    def families(self) -> Iterable[Metric]:
        """All of it."""
        duration = _family(
            "gen_ai_server_request_duration_seconds", "Request received to last byte sent.", "error_type"
        )
        ttft = _family("gen_ai_server_time_to_first_token_seconds", "Request received to first token sent, ended well.")
        tpot = _family(
            "gen_ai_server_time_per_output_token_seconds", "Mean time per token after the first, ended well."
        )
        usage = _family("gen_ai_client_token_usage", "Tokens of a request that reached a worker.", "gen_ai_token_type")
        for (endpoint, model, scenario), series in self._series.items():
            labels = (OPERATIONS.get(endpoint, OTHER), PROVIDER, model, model, scenario)
            for error, durations in series.durations.items():
                durations.show(duration, (*labels, error))
            lines = (
                (series.ttft, ttft, labels),
                (series.tpot, tpot, labels),
                (series.input_tokens, usage, (*labels, "input")),
                (series.output_tokens, usage, (*labels, "output")),
            )
            for tally, family, its_labels in lines:
                if tally:
                    tally.show(family, its_labels)
        return [duration, ttft, tpot, usage]


def _add(tally: Tally, values: Sequence[float], records: Sequence[Record]) -> None:
    """One value of each record."""
    for index, at in tally.add_all(values):
        record = records[at]
        tally.show_for(index, values[at], record.trace_id, (record.started_ns + record.e2e_ns) / 1e9)


def _family(name: str, text: str, *labels: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, text, labels=[*_LABELS, *labels])
