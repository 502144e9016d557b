"""What a foreign server is, as of now: how to speak to it, and the hello that presents it to the gateways."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import msgspec

from tokenworks.contract.config import Settings, WorkerGroup
from tokenworks.contract.errors import StartupError
from tokenworks.contract.wire import PROTOCOL, Hello, Role
from tokenworks.text.tokenizer import Tokenizer
from tokenworks.worker.relay.dialect import Dialect
from tokenworks.worker.relay.learn import Learnt, learn
from tokenworks.worker.relay.measure import measure_card
from tokenworks.worker.relay.upstream import Upstream

log = logging.getLogger(__name__)


class Introduction(msgspec.Struct, frozen=True):
    """Of one server."""

    hello: Hello
    dialect: Dialect


class Introducer:
    """Asks a server who it is: at start, and again whenever it has come back."""

    def __init__(
        self, settings: Settings, group: WorkerGroup, worker_id: str, upstream: Upstream, tokenizer: Tokenizer
    ) -> None:
        self._settings = settings
        self._group = group
        self._worker_id = worker_id
        self._upstream = upstream
        self._tokenizer = tokenizer

    async def ask(self) -> Introduction:
        """Learn and measure; raises UpstreamError or StartupError."""
        started = time.monotonic()
        learnt = await learn(self._upstream, self._group.upstream_model, self._tokenizer)
        window = self._window(learnt)
        card = await measure_card(self._upstream, learnt, self._tokenizer, window, self._group.engine)
        log.info(
            "measured %s in %.1f s: %.1f ms to the first token of 256, %.1f ms a token; it takes %s and honours %s",
            card.device,
            time.monotonic() - started,
            card.prefill_s(256, 0) * 1e3,
            card.decode_s(1, 256) * 1e3,
            "token ids" if learnt.dialect.takes_ids else "text only",
            ", ".join(sorted(learnt.dialect.honours)) or "nothing beyond the basics",
        )
        hello = Hello(
            protocol=PROTOCOL,
            worker_id=self._worker_id,
            pid=os.getpid(),
            model=self._settings.gateway.model_name or Path(self._settings.model).name,
            max_context_tokens=window,
            kv=None,
            card=card,
            role=Role(self._group.role),
        )
        return Introduction(hello, learnt.dialect)

    def _window(self, learnt: Learnt) -> int:
        """The smallest of what the server, the settings and the checkpoint say; raises StartupError where none does."""
        said = (
            learnt.max_context_tokens,
            self._group.engine.max_context_tokens,
            self._tokenizer.files.max_context_tokens,
        )
        known = [tokens for tokens in said if tokens]
        if not known:
            raise StartupError(f"{self._upstream.url} does not tell its context length; set `max_context_tokens`")
        return min(known)
