"""What the endpoints share: the served model, the way to the workers, the metrics, and whether work is still taken.

Built once by `process.py` and handed to every endpoint; holds no state of any single request.
"""

from __future__ import annotations

import time

from tokenworks.contract.errors import Draining, ModelNotFound, Unavailable
from tokenworks.gateway.http.exchange import Exchange
from tokenworks.gateway.http.observer_client import ObserverClient
from tokenworks.gateway.http.prompts import PromptReader
from tokenworks.gateway.keys.keys import Keys
from tokenworks.gateway.metrics.metrics import Metrics
from tokenworks.gateway.pool.dispatch import Dispatcher
from tokenworks.gateway.records.recorder import Recorder
from tokenworks.text.tokenizer import Tokenizer


class Service:
    """One gateway, serving one model."""

    def __init__(
        self,
        model_name: str,
        tokenizer: Tokenizer,
        reader: PromptReader,
        dispatcher: Dispatcher,
        metrics: Metrics,
        keys: Keys,
        recorder: Recorder,
        max_body_bytes: int,
        *,
        observer: ObserverClient,
        is_sharing_kv: bool = False,
    ) -> None:
        self.model_name = model_name
        self.tokenizer = tokenizer
        self.reader = reader
        self.dispatcher = dispatcher
        self.metrics = metrics
        self.keys = keys
        self.recorder = recorder
        self.max_body_bytes = max_body_bytes
        self.observer = observer
        self.is_sharing_kv = is_sharing_kv  # whether tenants may find each other's blocks
        self.created = int(time.time())
        self.is_draining = False
        self.num_open = 0  # requests that are being answered

    def identify(self, exchange: Exchange) -> None:
        """Find out who asks; raises Unauthorized."""
        exchange.caller = self.keys.caller(exchange.authorization)

    def check_takes_work(self) -> None:
        """Raises Draining or Unavailable where a request cannot be run now."""
        if self.is_draining:
            raise Draining("the server is shutting down and takes no new requests; please retry")
        if not self.dispatcher.takes_work:
            raise Unavailable("no worker is ready; the system is starting or recovering, please retry")

    def check_model(self, name: str | None) -> None:
        """Raises ModelNotFound for any name but the served model's; leaving it out means the served model."""
        if name not in (None, self.model_name):
            raise ModelNotFound(f"the model `{name}` is not served here; use `{self.model_name}`", param="model")

    def has_store(self) -> bool:
        """Whether KV may come from beyond the workers' own memory."""
        return any(worker.hello.has_store for worker in self.dispatcher.workers)

    def window(self) -> int:
        """Tokens of prompt and output together: the smallest that any ready worker takes, or the model's own."""
        windows = [worker.hello.max_context_tokens for worker in self.dispatcher.workers.ready()]
        return min(windows) if windows else self.tokenizer.files.max_context_tokens or 0
