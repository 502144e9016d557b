"""How a notice looks to each kind of receiver, and what its answer means. Pure: no clock, no network.

- webhook: JSON, signed as Standard Webhooks 1.0 has it (HMAC-SHA256 over "id.timestamp.body") where there is a secret.
- dingtalk: a custom robot's Markdown message; with a secret, `timestamp` and `sign` in the URL, where sign is the
  base64 of HMAC-SHA256(secret, "timestamp\\nsecret").
- wecom: a group robot's Markdown message, of at most 4096 bytes.
- pagerduty: Events API v2; the alert's key is `dedup_key`, so that a repeat is no new incident and an end resolves it.

The two robots answer 200 whatever happens; what became of it is in `errcode`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from enum import Enum, auto
from typing import Any, Final, NamedTuple
from urllib.parse import quote_plus

import msgspec

from tokenworks.observe.alerting.alert_book import Notice
from tokenworks.observe.alerting.alert_rules import PAGE
from tokenworks.observe.alerting.receiver import PAGERDUTY_URL, Kind, Receiver

MAX_SUMMARY_CHARS: Final = 1000
_BUSY: Final = {"dingtalk": {-1, 130101, 130102}, "wecom": {-1, 45009, 45033}}
"""`errcode` of those that may succeed later: the system is busy, or messages come too fast."""


class Outgoing(NamedTuple):
    """One HTTP POST."""

    url: str
    body: bytes
    headers: dict[str, str]


class Verdict(Enum):
    """What a receiver's answer means."""

    DELIVERED = auto()
    AGAIN = auto()  # later
    REFUSED = auto()  # it will never take this


def outgoing(notice: Notice, receiver: Receiver, now_s: float) -> Outgoing:
    """The POST that tells of a notice; `now_s` since 1970, which signatures cover."""
    make = {"webhook": _webhook, "dingtalk": _dingtalk, "wecom": _wecom, "pagerduty": _pagerduty}[receiver.kind]
    url, body, headers = make(notice, receiver, now_s)
    return Outgoing(url, body, {"content-type": "application/json", **headers})


def verdict(kind: Kind, status: int, body: bytes) -> Verdict:
    """What an answer means."""
    if status in (408, 425, 429) or status >= 500:
        return Verdict.AGAIN
    if not 200 <= status < 300:
        return Verdict.REFUSED
    if kind not in _BUSY:
        return Verdict.DELIVERED
    code = _errcode(body)
    if code == 0:
        return Verdict.DELIVERED
    return Verdict.AGAIN if code in _BUSY[kind] else Verdict.REFUSED


def _errcode(body: bytes) -> int | None:
    try:
        answer = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None
    return answer.get("errcode") if isinstance(answer, dict) else None


def _webhook(notice: Notice, receiver: Receiver, now_s: float) -> tuple[str, bytes, dict[str, str]]:
    alert = notice.alert
    body = msgspec.json.encode(
        {
            "version": 1,
            "source": receiver.source,
            "status": notice.status,
            "key": alert.key,
            "alert": alert.name,
            "subject": alert.subject,
            "severity": alert.severity,
            "summary": alert.summary[:MAX_SUMMARY_CHARS],
            "since": _iso(notice.since_ns),
            "at": _iso(notice.at_ns),
        }
    )
    identity = hashlib.sha256(f"{alert.key}/{notice.status}/{notice.at_ns}".encode()).hexdigest()[:32]
    stamp = str(int(now_s))
    headers = {"webhook-id": identity, "webhook-timestamp": stamp}
    if receiver.secret:
        signed = hmac.digest(_webhook_key(receiver.secret), f"{identity}.{stamp}.".encode() + body, "sha256")
        headers["webhook-signature"] = "v1," + base64.b64encode(signed).decode()
    return receiver.url, body, headers


def _webhook_key(secret: str) -> bytes:
    """Standard Webhooks writes a secret as "whsec_" and base64; any other text is taken as it is."""
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        return secret.encode()


def _dingtalk(notice: Notice, receiver: Receiver, now_s: float) -> tuple[str, bytes, dict[str, str]]:
    url = receiver.url
    if receiver.secret:
        stamp = round(now_s * 1000)
        signed = hmac.digest(receiver.secret.encode(), f"{stamp}\n{receiver.secret}".encode(), "sha256")
        sign = quote_plus(base64.b64encode(signed))
        url += f"{'&' if '?' in url else '?'}timestamp={stamp}&sign={sign}"
    markdown = {"title": _title(notice), "text": _markdown(notice, receiver)}
    return url, msgspec.json.encode({"msgtype": "markdown", "markdown": markdown}), {}


def _wecom(notice: Notice, receiver: Receiver, now_s: float) -> tuple[str, bytes, dict[str, str]]:
    content = _markdown(notice, receiver).encode()[:4096].decode(errors="ignore")
    return receiver.url, msgspec.json.encode({"msgtype": "markdown", "markdown": {"content": content}}), {}


def _pagerduty(notice: Notice, receiver: Receiver, now_s: float) -> tuple[str, bytes, dict[str, str]]:
    alert = notice.alert
    event: dict[str, Any] = {
        "routing_key": receiver.secret,
        "event_action": "resolve" if notice.is_resolved else "trigger",
        "dedup_key": f"{receiver.source}/{alert.key}"[:255],
    }
    if not notice.is_resolved:
        event["client"] = "Tokenworks"
        event["payload"] = {
            "summary": f"{_title(notice)}: {alert.summary}"[:MAX_SUMMARY_CHARS],
            "source": receiver.source,
            "severity": "critical" if alert.severity == PAGE else "warning",
            "timestamp": _iso(notice.at_ns),
            "component": alert.subject or alert.name,
            "class": alert.name,
            "custom_details": {"since": _iso(notice.since_ns), "severity": alert.severity},
        }
    return receiver.url or PAGERDUTY_URL, msgspec.json.encode(event), {}


def _title(notice: Notice) -> str:
    alert = notice.alert
    state = "resolved" if notice.is_resolved else alert.severity
    return f"[{state}] {alert.name} {alert.subject}".rstrip()


def _markdown(notice: Notice, receiver: Receiver) -> str:
    """Both robots know headings, bold and quotes."""
    lines = [f"### {_plain(_title(notice))}", f"> {_plain(notice.alert.summary[:MAX_SUMMARY_CHARS])}", ""]
    lines += [f"**system** {_plain(receiver.source)}", "", f"**since** {_iso(notice.since_ns)}"]
    if notice.is_resolved:
        lines += ["", f"**until** {_iso(notice.at_ns)}"]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text without what Markdown or the robots' HTML would act on."""
    kept = "".join(character if character.isprintable() else " " for character in text)
    return kept.translate(_HARMLESS)


_HARMLESS: Final = str.maketrans({"<": "‹", ">": "›", "[": "(", "]": ")", "`": "'", "*": "·", "_": " ", "#": "♯"})


def _iso(at_ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_ns // 10**9))
