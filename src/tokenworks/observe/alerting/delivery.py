"""Sends notices to one receiver, without anybody waiting for it.

What is to be told lies in an outbox, the latest of each alert: while a receiver cannot be reached, an alert that began
and ended there is told of as it is now, and the outbox cannot grow beyond the number of alerts. A notice is tried again
after 1 s, 2 s, ... 60 s, with jitter, for as long as `GIVE_UP_S`; one that the receiver refuses is logged and dropped,
since asking again would not change its mind.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_delay, wait_random_exponential

from tokenworks.observe.alerting.alert_book import Notice
from tokenworks.observe.alerting.notices import Verdict, outgoing, verdict
from tokenworks.observe.alerting.receiver import Receiver

log = logging.getLogger(__name__)

GIVE_UP_S: Final = 3600.0
TIMEOUT_S: Final = 10.0
_LONGEST_WAIT_S: Final = 60.0
_MAX_ANSWER_BYTES: Final = 4096


class _TryAgain(Exception):
    """The receiver could not be reached, or is busy."""


class NoticeRefused(Exception):
    """The receiver will not take it; the message says why."""


class Delivery:
    """Of one receiver; an async context manager around the time that it may send in."""

    def __init__(self, receiver: Receiver, *, first_wait_s: float = 1.0, give_up_s: float = GIVE_UP_S) -> None:
        self._receiver = receiver
        self._outbox: dict[str, Notice] = {}
        self._is_filled = asyncio.Event()
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type(_TryAgain),
            wait=wait_random_exponential(multiplier=first_wait_s, max=_LONGEST_WAIT_S),
            stop=stop_after_delay(give_up_s),
        )

    async def __aenter__(self) -> Delivery:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        self._sending = asyncio.create_task(self._send_all())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
        await self._session.close()

    def tell(self, notices: Iterable[Notice]) -> None:
        """Send those of these that the receiver is told of, soon."""
        for notice in notices:
            if notice.alert.severity in self._receiver.severities:
                self._outbox[notice.alert.key] = notice
                self._is_filled.set()

    async def send(self, notice: Notice) -> None:
        """Send one, now; raises NoticeRefused, also where the receiver could not be reached in all that time."""
        try:
            await self._retrying(self._try, notice)
        except RetryError as error:
            reason = error.last_attempt.exception()
            raise NoticeRefused(f"{self.where} did not take it in time: {reason}") from reason

    async def _send_all(self) -> None:
        while True:
            await self._is_filled.wait()
            self._is_filled.clear()
            while self._outbox:
                notice = self._outbox[key := next(iter(self._outbox))]
                try:
                    await self._retrying(self._try_latest, key)
                except (NoticeRefused, RetryError) as error:
                    log.error("alert %s (%s) was not delivered: %s", key, notice.status, error)
                except Exception:
                    log.exception("alert %s (%s) was not delivered: this is a bug; others are", key, notice.status)
                self._outbox.pop(key, None)

    async def _try_latest(self, key: str) -> None:
        """Send what the outbox holds of an alert; what came while it was sent is sent too."""
        while (notice := self._outbox.get(key)) is not None:
            await self._try(notice)
            if self._outbox.get(key) is notice:
                return

    async def _try(self, notice: Notice) -> None:
        post = outgoing(notice, self._receiver, time.time())
        try:
            async with self._session.post(
                post.url, data=post.body, headers=post.headers, allow_redirects=False
            ) as answer:
                body = await answer.content.read(_MAX_ANSWER_BYTES)
                found = verdict(self._receiver.kind, answer.status, body)
        except aiohttp.InvalidURL:  # its words are the URL, which may hold a token
            raise NoticeRefused(f"{self.where} cannot be reached at its url: correct that") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _TryAgain(f"{self.where}: {type(error).__name__}: {error}") from error
        told = f"{self.where} answered {answer.status}: {body[:200].decode(errors='replace')}"
        if found is Verdict.AGAIN:
            raise _TryAgain(told)
        if found is Verdict.REFUSED:
            raise NoticeRefused(told)

    @property
    def where(self) -> str:
        """The receiver without what is secret in its URL."""
        return f"{self._receiver.kind} at {urlsplit(self._receiver.url).hostname or 'its own address'}"
