"""One request against a real server on loopback, in each way it can go."""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec
import pytest

from tests.free_port import free_port
from tokenworks.bench.arrivals import PlannedRequest
from tokenworks.bench.client import LoadClient, Target, classify_network_error, open_session
from tokenworks.bench.measure import RequestResult
from tokenworks.bench.options import base_url_of
from tokenworks.bench.preflight import Refused, Unreachable, find_model, settle_style
from tokenworks.bench.prompts import PromptStyle, prompt_token_ids

PLANNED = PlannedRequest(index=5, arrival_s=0.0, input_tokens=12, output_tokens=6)


async def send(url: str, model: str, *, timeout_s: float = 20.0, **style_fields: Any) -> RequestResult:
    target = Target(url, api_key="secret", timeout_s=timeout_s)
    async with open_session(target) as session:
        client = LoadClient(session, target, PromptStyle(model=model, **style_fields))
        return await client.send(client.prepare(PLANNED), 0.25)


@pytest.mark.parametrize("model", ["plain", "split"])
async def test_a_good_stream_is_measured_and_counted_by_usage(server: Any, model: str) -> None:
    result = await send(server.url, model)
    assert (result.outcome, result.reason, result.index, result.due_s) == ("ok", "", 5, 0.25)
    assert (result.input_tokens, result.output_tokens, result.cached_tokens) == (12, 6, 6)
    assert result.cached_tokens_by_tier == {"device": 3, "host": 3}
    assert (result.token_events, len(result.itl_s), result.has_usage) == (6, 5, True)
    assert result.ttft_s is not None
    assert result.ttft_s + sum(result.itl_s) <= result.e2e_s  # one clock, read in this order
    assert server.bodies[0]["prompt"] == prompt_token_ids(PLANNED, PromptStyle(model="plain"))
    assert server.headers[0]["authorization"] == "Bearer secret"


async def test_chat_does_not_take_the_role_for_a_token(server: Any) -> None:
    result = await send(server.url, "plain", endpoint="chat")
    assert (result.outcome, result.token_events, result.output_tokens, result.input_tokens) == ("ok", 6, 6, 12)


async def test_events_of_several_tokens_are_counted_as_events(server: Any) -> None:
    result = await send(server.url, "wide")
    assert (result.output_tokens, result.token_events) == (6, 2)


async def test_without_usage_events_are_counted_and_the_input_is_known_only_for_ids(server: Any) -> None:
    as_ids, as_text = await send(server.url, "no-usage"), await send(server.url, "no-usage", kind="text")
    assert (as_ids.outcome, as_ids.output_tokens, as_ids.has_usage, as_ids.input_tokens) == ("ok", 6, False, 12)
    assert as_text.input_tokens is None


@pytest.mark.parametrize(
    ("model", "outcome", "reason", "message"),
    [
        ("error-event", "failed", "worker_lost", "the worker died"),
        ("dropped", "failed", "connection_dropped", ""),
        ("cut", "failed", "stream_cut", "without a finish reason"),
        ("not-a-stream", "failed", "not_a_stream", "application/json"),
        ("broken", "failed", "500 server_error", "out of luck"),
        ("missing", "failed", "404 model_not_found", "no such model"),
        ("draining", "rejected", "503 draining", "shutting down"),
    ],
)
async def test_each_failure_has_its_reason(server: Any, model: str, outcome: str, reason: str, message: str) -> None:
    result = await send(server.url, model)
    assert (result.outcome, result.reason) == (outcome, reason)
    assert message in result.message


async def test_a_429_is_a_rejection(server: Any) -> None:
    outcomes = [(await send(server.url, "busy")).outcome for _ in range(3)]
    assert outcomes == ["ok", "ok", "rejected"]


async def test_a_request_that_takes_too_long_is_a_timeout(server: Any) -> None:
    server.num_served = 10
    result = await send(server.url, "stalled", timeout_s=0.3)
    assert (result.outcome, result.reason) == ("failed", "timeout")


async def test_a_closed_port_is_a_failed_connection() -> None:
    result = await send(closed_port_url(), "plain")
    assert (result.outcome, result.reason, result.ttft_s) == ("failed", "connect_failed", None)


def closed_port_url() -> str:
    return f"http://127.0.0.1:{free_port()}"


def test_network_errors_have_stable_codes() -> None:
    errors = [TimeoutError(), ConnectionResetError(), aiohttp.ServerDisconnectedError(), aiohttp.InvalidURL("x")]
    codes = [classify_network_error(error) for error in errors]
    assert codes == ["timeout", "connection_dropped", "connection_dropped", "InvalidURL"]


def test_an_address_is_taken_with_or_without_v1() -> None:
    assert {base_url_of(f"http://h:1{tail}") for tail in ("", "/", "/v1", "/v1/")} == {"http://h:1"}
    with pytest.raises(ValueError, match="not an address"):
        base_url_of("localhost:8000")


async def settle(server: Any, model: str, wait_s: float = 20.0, **options: Any) -> tuple[PromptStyle, str]:
    target = Target(server.url, timeout_s=20.0)
    async with open_session(target) as session:
        style = PromptStyle(model=model, **options)
        return await settle_style(session, target, style, may_use_text=True, ready_wait_s=wait_s)


async def test_the_model_is_the_first_that_the_server_lists(server: Any) -> None:
    target = Target(server.url)
    async with open_session(target) as session:
        assert await find_model(session, target) == "plain"


@pytest.mark.parametrize(
    ("answer", "advice"),
    [((401, {}), "--api-key"), ((404, {"detail": "Not Found"}), "--model"), ((200, {"data": []}), "--model")],
)
async def test_a_server_that_names_no_model_gets_advice(server: Any, answer: tuple[int, Any], advice: str) -> None:
    server.models_answer = answer
    target = Target(server.url)
    async with open_session(target) as session:
        with pytest.raises(Refused, match=advice):
            await find_model(session, target)


async def test_token_ids_are_kept_where_the_server_takes_them(server: Any) -> None:
    assert await settle(server, "plain") == (PromptStyle(model="plain"), "")
    assert set(server.bodies[0]["prompt"]) == {1000, 3999}  # both ends of the range, so that none is refused later


async def test_a_server_that_refuses_ids_gets_text_and_the_report_says_so(server: Any) -> None:
    style, remark = await settle(server, "text-only")
    assert style == msgspec.structs.replace(PromptStyle(model="text-only"), kind="text")
    assert "prompt must be text" in remark


@pytest.mark.parametrize(
    ("model", "advice"), [("strict", "--no-ignore-eos"), ("missing", "--model"), ("locked", "--api-key")]
)
async def test_a_server_that_would_refuse_everything_stops_the_run_with_advice(
    server: Any, model: str, advice: str
) -> None:
    with pytest.raises(Refused, match=advice):
        await settle(server, model)


async def test_a_server_that_is_starting_is_waited_for(server: Any) -> None:
    assert await settle(server, "starting") == (PromptStyle(model="starting"), "")
    assert server.num_served == 3


async def test_overload_and_server_errors_are_left_to_the_run(server: Any) -> None:
    style, remark = await settle(server, "draining", wait_s=0.0)
    assert "503 draining" in remark
    assert (style.model, await settle(server, "broken")) == ("draining", (PromptStyle(model="broken"), ""))


async def test_nothing_at_the_address_is_unreachable() -> None:
    target = Target(closed_port_url(), timeout_s=5.0)
    async with open_session(target) as session:
        with pytest.raises(Unreachable):
            await find_model(session, target)
        with pytest.raises(Unreachable):
            await settle_style(session, target, PromptStyle(model="m"), may_use_text=True)
