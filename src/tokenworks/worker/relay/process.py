"""The worker process for a foreign server: ask it who it is, measure it, dial in, relay until told to drain.

What keeps it from serving is a StartupError before the hello. A server that is only busy, such as one that still loads
its model, is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Sequence
from typing import Final

import uvloop

from tokenworks.contract.config import Settings, WorkerGroup
from tokenworks.contract.errors import StartupError
from tokenworks.contract.wire import Role
from tokenworks.text.tokenizer import load_tokenizer
from tokenworks.worker.relay.introduction import Introducer, Introduction
from tokenworks.worker.relay.member import Member
from tokenworks.worker.relay.upstream import UpstreamBusy, UpstreamDown, UpstreamError, open_upstream

log = logging.getLogger(__name__)

LOADING_S: Final = 600.0  # that a server may be busy before it is given up at start
RETRY_S: Final = 2.0


def run_relay(settings: Settings, group: WorkerGroup, worker_id: str, gateways: Sequence[str]) -> None:
    """Serve the pool of `settings.model` with the server at `group.url`, until drained. Raises StartupError."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_until_signal(settings, group, worker_id, gateways))


async def _until_signal(settings: Settings, group: WorkerGroup, worker_id: str, gateways: Sequence[str]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await relay(settings, group, worker_id, gateways, stop)


async def relay(
    settings: Settings, group: WorkerGroup, worker_id: str, gateways: Sequence[str], stop: asyncio.Event
) -> None:
    """Serve until `stop`, then finish what there is. Raises StartupError."""
    if Role(group.role) is Role.PREFILL:
        raise StartupError('a worker with runs = "openai" has no KV to publish; give it the role "both" or "decode"')
    tokenizer = load_tokenizer(settings.model)
    async with open_upstream(group.url, api_key(group)) as upstream:
        introducer = Introducer(settings, group, worker_id, upstream, tokenizer)
        known = await first_introduction(introducer, stop)
        if known is not None:
            await Member(worker_id, upstream, tokenizer, known, introducer.ask).serve(gateways, stop)


def api_key(group: WorkerGroup) -> str:
    """The server's key; raises StartupError where its place is empty."""
    key = os.environ.get(group.key_variable, "") if group.key_variable else ""
    if group.key_variable and not key:
        raise StartupError(f"`key_variable` names {group.key_variable}, which is not set; export it with the API key")
    return key


async def first_introduction(introducer: Introducer, stop: asyncio.Event) -> Introduction | None:
    """Who the server is; None where `stop` came first. Raises StartupError."""
    deadline = time.monotonic() + LOADING_S
    while not stop.is_set():
        try:
            return await introducer.ask()
        except UpstreamBusy as error:
            if time.monotonic() > deadline:
                raise StartupError(f"{error.message}; it was waited for in vain") from error
            log.info("waiting: %s", error)
        except UpstreamDown as error:
            raise StartupError(f"{error.message}; start that server first, or correct its `url`") from error
        except UpstreamError as error:
            raise StartupError(error.message) from error
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), RETRY_S)
    return None
