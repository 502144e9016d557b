"""A record as spans: the request's own, and below it one for each stage that took time.

The names are those of OpenTelemetry's semantic conventions for generative AI and HTTP where they have one, and
`tokenworks.*` where not. Ids are made from the record's, so that the same record always gives the same spans.

A record says how long each stage took in all, and not when: stages that come in pieces (waiting between steps, above
all) are laid out as one, in the order in which a request passes them. So the spans are a partition of the request's
time with the right lengths; where one begins is exact for the first ones and modelled for the rest.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from tokenworks.contract.record import Record, Stage
from tokenworks.observe.ledger import Attribute, Span

SERVICE: Final = "tokenworks"
OPERATIONS: Final = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion"}
"""The conventions' words for what an endpoint is asked."""
_CLIENTS_OWN: Final = frozenset({"client_gone"})  # ends that are no error of the server's
_SERVER_ERROR: Final = 500
_SPAN_ID_BYTES: Final = 8
_BEFORE_A_RUN: Final = (Stage.RECEIVE, Stage.TOKENISE, Stage.ADMIT, Stage.ROUTE, Stage.LOST)
"""Before the last run, that is: what was lost was a run before it."""
_ORDER: Final = (*_BEFORE_A_RUN, *(stage for stage in Stage if stage not in _BEFORE_A_RUN))


def spans_of(record: Record, zone: str = "") -> list[Span]:
    """The request's span and its stages'; none where the record carries no trace. `zone` is where the gateway runs."""
    if not record.trace_id or not record.span_id:
        return []
    place: dict[str, Attribute] = {"cloud.availability_zone": zone} if zone else {}
    request = Span(
        trace_id=record.trace_id,
        span_id=record.span_id,
        parent_span_id=record.parent_span_id,
        service=SERVICE,
        name=f"{operation(record)} {record.model}",
        kind="server",
        started_ns=record.started_ns,
        duration_ns=record.e2e_ns,
        is_error=is_error(record),
        attributes={**request_attributes(record), **place},
    )
    return [request, *_stages(record, place)]


def operation(record: Record) -> str:
    """The conventions' word for what was asked."""
    return OPERATIONS.get(record.endpoint, "chat" if "chat" in record.endpoint else "text_completion")


def is_error(record: Record) -> bool:
    """Whether the server failed; by the conventions a server's span of a bad request is no error."""
    if record.outcome == "ok" or record.outcome in _CLIENTS_OWN:
        return False
    return record.status >= _SERVER_ERROR or record.status < 300  # below: a stream that had begun, or no answer at all


def stage_span_id(span_id: str, stage: Stage) -> str:
    """The id of a stage's span, 16 hex digits."""
    return blake2b(f"{span_id}/{stage.value}".encode(), digest_size=_SPAN_ID_BYTES).hexdigest()


def request_attributes(record: Record) -> dict[str, Attribute]:
    """What the request's span says beside its times."""
    found: dict[str, Attribute | None] = {
        "gen_ai.operation.name": operation(record),
        "gen_ai.provider.name": SERVICE,
        "gen_ai.request.model": record.model,
        "gen_ai.response.model": record.model,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": sum(record.cached_tokens.values()),
        "gen_ai.request.choice.count": record.num_sequences if record.num_sequences > 1 else None,
        "http.request.method": "POST",
        "http.route": record.endpoint or None,
        "http.response.status_code": record.status or None,
        "error.type": None if record.outcome == "ok" else record.outcome,
        "tokenworks.request.id": record.id,
        "tokenworks.tenant": record.tenant,
        "tokenworks.scenario": record.scenario.value,
        "tokenworks.ttft_s": None if record.ttft_ns is None else record.ttft_ns / 1e9,
        "tokenworks.worker": record.legs[-1].worker if record.legs else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _stages(record: Record, place: dict[str, Attribute]) -> list[Span]:
    spans, at_ns = [], record.started_ns
    for stage in _ORDER:
        duration_ns = record.stages_ns.get(stage, 0)
        if duration_ns > 0:
            spans.append(
                Span(
                    trace_id=record.trace_id,
                    span_id=stage_span_id(record.span_id, stage),
                    parent_span_id=record.span_id,
                    service=SERVICE,
                    name=stage.value,
                    kind="internal",
                    started_ns=at_ns,
                    duration_ns=duration_ns,
                    attributes=dict(place),
                )
            )
            at_ns += duration_ns
    return spans
