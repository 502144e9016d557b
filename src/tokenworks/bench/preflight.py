"""What is settled before the load starts: that the server is there, its model, and how it takes prompts.

One small request, not part of the measurement, shows whether the server accepts token ids and the fields that force a
length; it also opens the first connection. A server that rejects it (starting or overloaded) is asked again for a
while. Each way this can go wrong has one exception that says what to change: `Unreachable` where nothing answers,
`Refused` where the server does not want what would be sent.
"""

from __future__ import annotations

import asyncio
import time

import aiohttp
import msgspec

from tokenworks.bench.arrivals import PlannedRequest
from tokenworks.bench.client import LoadClient, PreparedRequest, Target, describe_network_error
from tokenworks.bench.measure import RequestResult
from tokenworks.bench.prompts import PromptStyle, probe_body
from tokenworks.bench.stream import UNREADABLE

MODELS_TIMEOUT_S = 10.0
READY_WAIT_S = 30.0
READY_PAUSE_S = 0.25
NETWORK_REASONS = ("timeout", "connect_failed", "connection_dropped")
IS_IT_THERE = " (is the server running, and is this its address?)"
PROBE = PlannedRequest(index=-1, arrival_s=0.0, input_tokens=4, output_tokens=1)


class Unreachable(Exception):
    """Nothing answers HTTP at the address."""


class Refused(Exception):
    """The server answers, but would refuse every request of this run."""


class _Model(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_Model]


async def find_model(session: aiohttp.ClientSession, target: Target) -> str:
    """The first model that the server lists."""
    url = target.base_url + "/v1/models"
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=MODELS_TIMEOUT_S)) as response:
            status, body = response.status, await response.read()
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise Unreachable(f"no answer from {url}: {describe_network_error(error)}{IS_IT_THERE}") from error
    if status in (401, 403):
        raise Refused(f"{url} answers {status}: give the server's key with --api-key")
    try:
        return msgspec.json.decode(body, type=_ModelList).data[0].id
    except (*UNREADABLE, IndexError) as error:
        raise Refused(f"{url} answers {status} and names no model: give one with --model") from error


async def settle_style(
    session: aiohttp.ClientSession,
    target: Target,
    style: PromptStyle,
    *,
    may_use_text: bool,
    ready_wait_s: float = READY_WAIT_S,
) -> tuple[PromptStyle, str]:
    """The style to use and, where something is not as wished, a note that says so. Raises Unreachable or Refused."""
    result = await _probe_until_ready(session, target, style, ready_wait_s)
    if result.outcome == "rejected":
        return style, f"The server took no request for {ready_wait_s:g} s before the run ({result.reason})."
    if not (_is_refusal(result) and style.sends_ids and may_use_text):
        _raise_if_hopeless(result, target)
        return style, ""
    as_text = msgspec.structs.replace(style, kind="text")
    _raise_if_hopeless(await _probe(session, target, as_text), target)
    return as_text, f"The server refused token ids ({result.message}): prompts are text, input lengths are approximate."


async def _probe_until_ready(
    session: aiohttp.ClientSession, target: Target, style: PromptStyle, ready_wait_s: float
) -> RequestResult:
    """Ask again while the server rejects for overload or because it is starting."""
    deadline_s = time.monotonic() + ready_wait_s
    result = await _probe(session, target, style)
    while result.outcome == "rejected" and time.monotonic() < deadline_s:
        await asyncio.sleep(READY_PAUSE_S)
        result = await _probe(session, target, style)
    return result


async def _probe(session: aiohttp.ClientSession, target: Target, style: PromptStyle) -> RequestResult:
    return await LoadClient(session, target, style).send(PreparedRequest(PROBE, probe_body(style)), None)


def _is_refusal(result: RequestResult) -> bool:
    return result.reason.startswith(("400", "422"))


def _raise_if_hopeless(result: RequestResult, target: Target) -> None:
    """Failures on the server's side are not hopeless: they are what a load run is there to count."""
    if result.reason in NETWORK_REASONS:
        raise Unreachable(f"{target.base_url} gave no answer to a one-token request: {result.message}{IS_IT_THERE}")
    if result.outcome == "failed" and result.reason[:1] == "4":
        raise Refused(f"the server refuses a one-token request: {result.reason}: {result.message}{_advice(result)}")


def _advice(result: RequestResult) -> str:
    advice = {
        "400": " (an ignore_eos that it does not know can be left out with --no-ignore-eos)",
        "422": " (an ignore_eos that it does not know can be left out with --no-ignore-eos)",
        "401": " (give the server's key with --api-key)",
        "403": " (give the server's key with --api-key)",
        "404": " (check the address, --model and --endpoint)",
    }
    return advice.get(result.reason[:3], "")
