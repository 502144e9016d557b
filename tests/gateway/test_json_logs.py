"""A request's log line as JSON carries what it is found by: request, trace and tenant."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest

from tokenworks.fleet.json_lines import JsonFormatter

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture) -> Iterator[StringIO]:
    file = StringIO()
    handler = logging.StreamHandler(file)
    handler.setFormatter(JsonFormatter("gateway"))
    caplog.set_level(logging.INFO)
    logger = logging.getLogger("tokenworks.gateway.http.app")
    logger.addHandler(handler)
    yield file
    logger.removeHandler(handler)


def test_a_requests_line_names_its_trace_its_tenant_and_what_it_came_to(
    rig: Any, written: StringIO, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "x-request-id": "mine"}
    body = {"model": "tiny-echo", "prompt": "the fox", "max_tokens": 3}
    assert rig.http.post("/v1/completions", json=body, headers=headers).status_code == 200
    wait_until(lambda: lines_of(written, "mine"))  # the client may have its answer first
    (line,) = lines_of(written, "mine")
    assert (line["part"], line["level"], line["path"]) == ("gateway", "info", "/v1/completions")
    assert (line["trace_id"], line["tenant"]) == (TRACE, "anonymous")
    assert (line["outcome"], line["status"], line["output_tokens"]) == ("ok", 200, 3)
    assert len(line["span_id"]) == 16
    assert line["span_id"] != "00f067aa0ba902b7"


def lines_of(written: StringIO, request_id: str) -> list[dict[str, Any]]:
    """What is there so far, without a line that is only half written."""
    lines = [json.loads(line) for line in written.getvalue().splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if line.get("request_id") == request_id]


def test_a_refused_requests_line_says_why(
    rig: Any, written: StringIO, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    answer = rig.http.post("/v1/completions", content=b"{")
    assert answer.status_code == 400
    wait_until(lambda: lines_of(written, answer.headers["x-request-id"]))
    (line,) = lines_of(written, answer.headers["x-request-id"])
    assert (line["outcome"], line["status"]) == ("invalid_value", 400)
    assert "ttft_s" not in line
