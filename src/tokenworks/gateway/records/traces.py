"""Which trace a request belongs to: W3C Trace Context, read strictly.

A `traceparent` that is not exactly of the recommendation's form is ignored, as that demands, and a new trace begins. A
later version's header may go on after the fields that this one knows. `traceresponse`, the header that would tell the
client its trace, is a draft that few send and fewer read: `x-request-id` is what an answer is found by.
"""

from __future__ import annotations

import random
import re
from typing import Final

import msgspec

_FIELDS: Final = rb"-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}"
_TRACE_PARENT: Final = re.compile(rb"(?:00%b|(?!00|ff)[0-9a-f]{2}%b(?:-.*)?)" % (_FIELDS, _FIELDS))
_TRACE_DIGITS: Final = 32
_SPAN_BITS: Final = 64
_BOTH_BYTES: Final = 24


class Trace(msgspec.Struct, frozen=True, gc=False):
    """Ids in hex digits: 32 of the trace, 16 of a span."""

    trace_id: str
    span_id: str  # of the request's own span
    parent_span_id: str = ""  # of the client's; empty: there is none


def new_traces(number: int) -> list[Trace]:
    """Traces that begin here, drawn at once. Nobody's secret: they must be unlike others, not unguessable."""
    drawn = random.randbytes(number * _BOTH_BYTES).hex()
    return [
        Trace(drawn[at : at + _TRACE_DIGITS], drawn[at + _TRACE_DIGITS : at + 2 * _BOTH_BYTES])
        for at in range(0, len(drawn), 2 * _BOTH_BYTES)
    ]


def trace_of(header: bytes | None) -> Trace:
    """The trace that a `traceparent` header names, or a new one."""
    match = None if header is None else _TRACE_PARENT.fullmatch(header)
    if match is None:
        return new_traces(1)[0]
    trace_id, parent_span_id = (part.decode() for part in match.groups() if part is not None)
    return Trace(trace_id, f"{random.getrandbits(_SPAN_BITS):016x}", parent_span_id)
