"""W3C trace context: what is taken, and what is passed over for a new trace."""

from __future__ import annotations

import re

import pytest

from tokenworks.gateway.records.traces import trace_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "header",
    [f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00", f"cc-{TRACE}-{PARENT}-01", f"cc-{TRACE}-{PARENT}-01-more"],
)
def test_a_trace_goes_on(header: str) -> None:
    trace = trace_of(header.encode())
    assert (trace.trace_id, trace.parent_span_id) == (TRACE, PARENT)
    assert re.fullmatch("[0-9a-f]{16}", trace.span_id)
    assert trace.span_id != PARENT


@pytest.mark.parametrize(
    "header",
    [
        "",
        "garbage",
        f"ff-{TRACE}-{PARENT}-01",  # never a version
        f"0-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",  # version 00 ends there
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01\n",
        f" 00-{TRACE}-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01.more",
    ],
)
def test_what_is_malformed_begins_a_new_trace(header: str) -> None:
    trace = trace_of(header.encode())
    assert trace.parent_span_id == ""
    assert trace.trace_id not in (TRACE, "0" * 32)
    assert re.fullmatch("[0-9a-f]{32}", trace.trace_id)


def test_without_a_header_every_request_is_a_trace_of_its_own() -> None:
    first, second = trace_of(None), trace_of(None)
    assert len({first.trace_id, second.trace_id, first.span_id, second.span_id}) == 4
