"""OpenTelemetry's own SDK, sending to the gateway, which understands OTLP over HTTP at /v1/traces."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

DELAY_MS = 500  # until a span is sent: the SDK's 5 s is long when one waits to see it


def start(service: str, zone: str, gateway: str) -> trace.Tracer:
    """Begin to send this process's spans; what is left is sent at its exit."""
    resource = Resource.create({"service.name": service, "cloud.availability_zone": zone})
    provider = TracerProvider(resource=resource)
    exporter = OTLPSpanExporter(endpoint=f"{gateway}/v1/traces", timeout=5)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=DELAY_MS))
    trace.set_tracer_provider(provider)
    return provider.get_tracer(service)


def context_of(headers: Mapping[str, str]) -> Context:
    """The trace that a caller's `traceparent` names."""
    return propagate.extract(headers)


def headers() -> dict[str, str]:
    """`traceparent` of the span that is current here: what makes the next service's span a child of it."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def trace_id() -> str:
    """Of the span that is current here, in hexadecimal."""
    return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)
