"""Spans in the observer: those of others on their way into the ledger, and ours on their way to a collector."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from functools import partial
from typing import Final

from starlette.routing import Route

from tokenworks.contract.errors import LedgerBusy
from tokenworks.contract.record import Frame, Record
from tokenworks.observe.chains.otlp_export import SpanExporter
from tokenworks.observe.chains.otlp_target import target_of
from tokenworks.observe.chains.span_intake import SpanIntake
from tokenworks.observe.ledger import Span
from tokenworks.observe.observer.context import ObserverContext

PATIENCE_S: Final = 5.0
"""With a ledger that is locked or away; exporters give up after ten."""


def traces_route(context: ObserverContext) -> Route:
    """`POST /v1/traces`. It is answered when the spans are in the ledger: what was accepted is lost by no kill."""

    async def take_in(spans: Sequence[Span]) -> None:
        kept = context.tell(spans)
        if kept is None:
            raise LedgerBusy("spans come faster than the ledger takes them in; send these again")
        try:
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(kept)), PATIENCE_S)
        except TimeoutError:
            raise LedgerBusy("the ledger cannot take spans in now; send these again") from None

    return Route("/v1/traces", SpanIntake(take_in, context.spans).traces, methods=["POST"])


async def export_spans(context: ObserverContext) -> None:
    """Send what is recorded to the collector, if one is named; never in the way of taking in."""
    target = target_of(context.settings.export, os.environ)
    if target is None:
        return
    exporter = SpanExporter(target, context.settings.export.zone, context.spans)
    hand_over = partial(_hand_over, asyncio.get_running_loop(), exporter)
    context.listeners.append(hand_over)
    try:
        await exporter.run()
    finally:
        context.listeners.remove(hand_over)


def _hand_over(loop: asyncio.AbstractEventLoop, exporter: SpanExporter, frames: Sequence[Frame]) -> None:
    """From the thread that takes in to the loop that sends."""
    records = [frame for frame in frames if isinstance(frame, Record) and frame.trace_id]
    if records and not loop.is_closed():
        loop.call_soon_threadsafe(exporter.offer, records)
