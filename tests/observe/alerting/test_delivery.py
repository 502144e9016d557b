"""Delivery against a real receiver over HTTP that checks format and signature as each kind of receiver does."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from tests.observe.made import NOON_NS, SECOND_NS
from tokenworks.contract.config import AlertReceiver, AlertSettings
from tokenworks.contract.errors import ConfigError
from tokenworks.observe.alerting.alert_book import Notice
from tokenworks.observe.alerting.alert_rules import PAGE, TICKET, Alert
from tokenworks.observe.alerting.delivery import Delivery, NoticeRefused
from tokenworks.observe.alerting.receiver import Kind, Receiver, receivers_of

SECRET = "SEC-not-to-be-told"
ALERT = Alert("ErrorBudgetBurn", "online", PAGE, "20 of 100 online requests failed")
FIRING = Notice(ALERT, False, NOON_NS, NOON_NS + SECOND_NS)
RESOLVED = Notice(ALERT, True, NOON_NS, NOON_NS + 60 * SECOND_NS)
PATIENCE_S = 60.0  # a bound for a busy machine, not an expectation

Answer = tuple[int, str]


class Desk:
    """A receiver: answers what it is told to, in turn, and then that all is well."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[tuple[web.Request, bytes]] = []
        self.url = ""
        self._answers = list(answers)
        self._changed = asyncio.Condition()

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        status, text = self._answers.pop(0) if self._answers else (200, '{"errcode": 0, "errmsg": "ok"}')
        async with self._changed:
            self.requests.append((request, body))
            self._changed.notify_all()
        return web.Response(status=status, text=text)

    async def has(self, number: int) -> None:
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: len(self.requests) >= number)

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, body in self.requests]


@asynccontextmanager
async def open_desk(*answers: Answer) -> AsyncIterator[Desk]:
    desk = Desk(*answers)
    app = web.Application()
    app.router.add_post("/{path:.*}", desk.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    desk.url = f"http://{host}:{port}/hook?access_token=abc"
    try:
        yield desk
    finally:
        await runner.cleanup()


def delivery(desk: Desk, kind: Kind, secret: str = SECRET, **options: float) -> Delivery:
    return Delivery(Receiver(kind, desk.url, secret, "host-1"), first_wait_s=0.01, **options)


async def sent(kind: Kind, notice: Notice, secret: str = SECRET) -> tuple[web.Request, bytes]:
    """What arrived."""
    async with open_desk() as desk, delivery(desk, kind, secret) as sending:
        await sending.send(notice)
        (request,) = desk.requests
        return request


async def test_a_webhook_gets_json_signed_as_standard_webhooks_has_it() -> None:
    request, body = await sent("webhook", FIRING)
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    assert request.headers["content-type"] == "application/json"
    assert json.loads(body) == {
        "version": 1,
        "source": "host-1",
        "status": "firing",
        "key": "ErrorBudgetBurn/online/page",
        "alert": "ErrorBudgetBurn",
        "subject": "online",
        "severity": "page",
        "summary": "20 of 100 online requests failed",
        "since": "2025-11-22T12:00:00Z",
        "at": "2025-11-22T12:00:01Z",
    }


async def test_a_webhook_secret_may_be_base64_and_may_be_missing() -> None:
    key = b"\x00\x01binary"
    request, body = await sent("webhook", RESOLVED, "whsec_" + base64.b64encode(key).decode())
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + body
    assert request.headers["webhook-signature"] == "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert json.loads(body)["status"] == "resolved"
    unsigned, _ = await sent("webhook", RESOLVED, "")
    assert "webhook-signature" not in unsigned.headers


async def test_a_dingtalk_robot_gets_markdown_and_the_signature_that_it_asks_for() -> None:
    request, body = await sent("dingtalk", FIRING)
    stamp = request.query["timestamp"]
    digest = hmac.new(SECRET.encode(), f"{stamp}\n{SECRET}".encode(), hashlib.sha256).digest()
    assert request.query["sign"] == base64.b64encode(digest).decode()
    assert request.query["access_token"] == "abc"
    assert len(stamp) == 13  # milliseconds
    message = json.loads(body)
    assert message["msgtype"] == "markdown"
    assert message["markdown"]["title"] == "[page] ErrorBudgetBurn online"
    assert "20 of 100 online requests failed" in message["markdown"]["text"]


async def test_a_wecom_robot_gets_markdown_of_at_most_4096_bytes() -> None:
    hostile = Alert("Drift", "租户" * 200, TICKET, "<script>alert(1)</script>[x](http://evil) `*_#\n" + "漂移" * 2000)
    _, body = await sent("wecom", Notice(hostile, False, NOON_NS, NOON_NS))
    message = json.loads(body)
    assert message["msgtype"] == "markdown"
    content = message["markdown"]["content"]
    assert len(content.encode()) <= 4096
    assert "<" not in content
    assert "](" not in content


async def test_pagerduty_gets_an_event_and_its_end_under_one_key() -> None:
    async with open_desk((202, '{"status": "success"}'), (202, "{}")) as desk, delivery(desk, "pagerduty") as sending:
        await sending.send(FIRING)
        await sending.send(RESOLVED)
    begin, end = desk.bodies
    assert begin["routing_key"] == end["routing_key"] == SECRET
    assert (begin["event_action"], end["event_action"]) == ("trigger", "resolve")
    assert begin["dedup_key"] == end["dedup_key"] == "host-1/ErrorBudgetBurn/online/page"
    payload = begin["payload"]
    assert {"summary", "source", "severity"} <= payload.keys()
    assert payload["severity"] == "critical"
    assert payload["timestamp"] == "2025-11-22T12:00:01Z"
    assert "payload" not in end


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("webhook", [(503, "down"), (429, "slow"), (500, "bug")]),
        ("pagerduty", [(429, "{}"), (502, "{}")]),
        ("dingtalk", [(200, '{"errcode": 130101, "errmsg": "send too fast"}'), (200, '{"errcode": -1}')]),
        ("wecom", [(200, '{"errcode": 45009, "errmsg": "api freq out of limit"}')]),
    ],
)
async def test_a_busy_receiver_is_asked_again_until_it_takes_it(kind: Kind, answers: list[Answer]) -> None:
    async with open_desk(*answers) as desk, delivery(desk, kind) as sending:
        await sending.send(FIRING)
    assert len(desk.requests) == len(answers) + 1


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("webhook", (404, "no such hook")),
        ("webhook", (302, "elsewhere")),
        ("pagerduty", (400, '{"status": "invalid event"}')),
        ("dingtalk", (200, '{"errcode": 310000, "errmsg": "sign not match"}')),
        ("dingtalk", (200, "[" * 4000)),
        ("wecom", (200, '{"errcode": 93000, "errmsg": "invalid webhook url"}')),
        ("wecom", (200, "<html>a login page</html>")),
        ("dingtalk", (200, "[]")),
    ],
)
async def test_a_receiver_that_refuses_is_not_asked_again_and_its_words_are_told(kind: Kind, answer: Answer) -> None:
    async with open_desk(answer) as desk, delivery(desk, kind) as sending:
        with pytest.raises(NoticeRefused) as refusal:
            await sending.send(FIRING)
    assert len(desk.requests) == 1
    assert answer[1][:100] in str(refusal.value)
    assert SECRET not in str(refusal.value)
    assert "abc" not in str(refusal.value)  # the token in the URL


async def test_a_receiver_that_is_not_there_is_given_up_after_a_time() -> None:
    async with open_desk() as desk:
        pass
    async with delivery(desk, "webhook", give_up_s=0.1) as sending:
        with pytest.raises(NoticeRefused, match="did not take it in time"):
            await sending.send(FIRING)


async def test_telling_never_waits_and_each_alert_is_sent_as_it_is_by_then() -> None:
    other = Notice(Alert("Drift", "tenant", TICKET, "others"), False, NOON_NS, NOON_NS)
    down = [(503, "down")] * 3
    async with open_desk(*down) as desk, delivery(desk, "webhook") as sending:
        sending.tell([FIRING, other])
        await desk.has(1)
        sending.tell([RESOLVED])
        await desk.has(5)
    delivered = {(body["alert"], body["status"]) for body in desk.bodies[3:]}
    assert delivered == {("ErrorBudgetBurn", "resolved"), ("Drift", "firing")}


async def test_a_notice_that_was_refused_is_logged_and_the_next_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    async with open_desk((404, "gone")) as desk, delivery(desk, "webhook") as sending:
        with caplog.at_level(logging.ERROR):
            sending.tell([FIRING])
            await desk.has(1)
            sending.tell([Notice(Alert("Drift", "tenant", TICKET, "others"), False, NOON_NS, NOON_NS)])
            await desk.has(2)
    assert "ErrorBudgetBurn/online/page (firing) was not delivered" in caplog.text


async def test_a_notice_that_cannot_be_put_into_words_does_not_end_the_telling(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unspeakable = FIRING._replace(alert=FIRING.alert._replace(subject="another", summary="half of a pair: \ud800"))
    async with open_desk() as desk, delivery(desk, "webhook") as sending:
        sending.tell([unspeakable, RESOLVED])
        await desk.has(1)
        assert [body["status"] for body in desk.bodies] == ["resolved"]
    assert "this is a bug" in caplog.text


@pytest.mark.parametrize(
    ("alerts", "environment", "complaint"),
    [
        (AlertSettings(url="https://x"), {}, "alerts.kind is off"),
        (AlertSettings(kind="webhook"), {}, "alerts.url is empty"),
        (AlertSettings(kind="wecom", url="qyapi.weixin.qq.com/x?key=hidden"), {}, "not an address"),
        (AlertSettings(kind="webhook", url="ftp://host/x"), {}, "not an address"),
        (AlertSettings(kind="pagerduty"), {}, "routing key"),
        (AlertSettings(kind="webhook", url="https://x", secret_variable="HOOK"), {}, "HOOK, which is not set"),
        (AlertSettings(kind="webhook", url="https://hooks..example.com/hidden"), {}, "is not an address such as https"),
        (AlertSettings(kind="webhook", url="https://[::1/hidden"), {}, "is not an address such as https"),
        (
            AlertSettings(receivers=(AlertReceiver(url="https://x"), AlertReceiver(kind="wecom"))),
            {},
            r"alerts.receivers\[1\].url is empty",
        ),
    ],
)
def test_settings_that_reach_nobody_are_refused_at_the_start(
    alerts: AlertSettings, environment: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint) as refusal:
        receivers_of(alerts, environment)
    assert "hidden" not in refusal.value.message


def test_settings_name_the_receivers() -> None:
    assert receivers_of(AlertSettings(), {}) == []
    more = (AlertReceiver(url="https://x", severities=("page",)), AlertReceiver(kind="wecom", url="https://y"))
    alerts = AlertSettings(kind="pagerduty", secret_variable="KEY", receivers=more)
    first, *others = receivers_of(alerts, {"KEY": "routing"})
    assert (urlsplit(first.url).hostname, first.secret) == ("events.pagerduty.com", "routing")
    assert first.severities == ("page", "ticket")
    assert [(each.kind, each.url, each.severities) for each in others] == [
        ("webhook", "https://x", ("page",)),
        ("wecom", "https://y", ("page", "ticket")),
    ]


async def test_a_receiver_is_told_of_its_severities_alone() -> None:
    ticket = Notice(Alert("Drift", "tenant", TICKET, "others"), False, NOON_NS, NOON_NS)
    async with open_desk() as desk:
        async with Delivery(Receiver("webhook", desk.url, severities=(TICKET,)), first_wait_s=0.01) as sending:
            sending.tell([FIRING, ticket])
            await desk.has(1)
        assert [body["alert"] for body in desk.bodies] == ["Drift"]
