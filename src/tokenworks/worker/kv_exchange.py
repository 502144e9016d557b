"""Between a worker's engine and its host's KV store: what a turn of the step loop does about both.

Before a step: take in what the store has said, copy blocks that have come, let sequences go on, ask for what new ones
lack, fill places that were granted. After it: offer what it computed, tell what it reused, and look at the store's
answers once more, so that what came during a step is not late by another one. Nothing here waits, but for three
milliseconds after a look-up; without a store, or with one that is gone, a worker computes everything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import zmq

from tokenworks.contract.card import Card
from tokenworks.contract.request import Request
from tokenworks.contract.wire import Load, SequenceOutput
from tokenworks.engine.engine import Engine
from tokenworks.kv.client import KVClient, StoreEvent, StoreLost
from tokenworks.kv.protocol import Found, Granted, Missing, Ready
from tokenworks.policy.accounts import Wait
from tokenworks.worker.kv_fetch import Fetcher
from tokenworks.worker.kv_publish import Publisher
from tokenworks.worker.kv_traffic import TrafficCounts
from tokenworks.worker.prefill_speed import PrefillSpeed

STORE_S: Final = 0.5
"""A store that runs answers a new worker within a tenth of a second; one that starts meanwhile is found later."""
ANSWER_S: Final = 0.003
"""A store answers what it holds within a millisecond; the step that a sequence would miss may take a second."""


class KVExchange:
    """One engine's exchange. Used by the step loop alone, but for `load`."""

    def __init__(
        self, engine: Engine, client: KVClient, card: Card, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._client = client
        self._clock = clock
        self._counts = TrafficCounts()
        self._speed = PrefillSpeed(card, engine.limits.max_step_tokens)
        self._fetcher = Fetcher(engine, client, self._speed, self._counts, clock)
        self._publisher = Publisher(engine, client, self._speed, self._counts)
        self._steps = engine.steps

    def wait_for_store(self, longest_s: float = STORE_S) -> None:
        """Until the store has told how fast its tiers are, or so long: who comes first then finds what it holds."""
        end_s = self._clock() + longest_s
        while not self._client.speeds and self._clock() < end_s:
            self._client.socket.poll(20)
            self._receive()

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """What to poll."""
        return self._client.socket

    @property
    def load(self) -> Load:
        """The engine's, with the traffic. Safe to read from another thread."""
        return msgspec.structs.replace(self._engine.load, kv=self._counts.snapshot)

    @property
    def has_backlog(self) -> bool:
        """Whether another turn would do something at once."""
        return self._fetcher.has_backlog or self._publisher.has_backlog

    @property
    def is_holding(self) -> bool:
        """Whether the end of a request is held back."""
        return self._publisher.is_holding

    def patience_s(self, longest_s: float) -> float:
        """How long the loop may sleep if nothing comes."""
        deadlines = [self._fetcher.next_deadline_s(), self._publisher.next_deadline_s()]
        now_s = self._clock()
        return max(0.0, min([longest_s, *(each - now_s for each in deadlines if each is not None)]))

    def before_step(self) -> None:
        """Bring in what has come, and ask for what is wanted."""
        self._receive()
        self._fetcher.copy()
        self._fetcher.settle()
        self._fetcher.look_up()
        self._hear_at_once()
        self._publisher.write()
        self._counts.publish_snapshot(self._client.is_attached)

    def _hear_at_once(self) -> None:
        """Take in the answers of a store that is quick, so that who was looked up now does not miss this step."""
        end_s = self._clock() + ANSWER_S
        while self._fetcher.is_asking and (left_s := end_s - self._clock()) > 0:
            if not self._client.socket.poll(math.ceil(1e3 * left_s)):
                return
            self._receive()
            self._fetcher.settle()

    def after_step(self, outputs: Sequence[SequenceOutput]) -> list[SequenceOutput]:
        """Publish what the step computed; the outputs that can be told now."""
        if self._engine.steps > self._steps:
            self._steps = self._engine.steps
            self._note_step()
        self._receive()
        now_s = self._clock()
        return self._publisher.hold_back(outputs, now_s) + self._publisher.take_released(now_s)

    def _note_step(self) -> None:
        tables = self._engine.scheduler.tables
        self._publisher.offer(tables.named)
        if tables.reused:
            self._client.touch(tables.reused)
        if self._engine.last_step is not None:
            self._speed.observe(self._engine.last_step)

    def publishes(self, request: Request) -> None:
        """This request, which the engine has been given, is a prefill for somebody else."""
        self._publisher.begin(request)

    def forget(self, request_id: str) -> None:
        """Nobody waits for this request any more."""
        self._fetcher.forget(request_id)
        self._publisher.forget(request_id)

    def take_waits(self) -> list[Wait]:
        """For what, and how long, sequences were held back since the last call."""
        return self._fetcher.take_waits()

    def take_published(self) -> list[tuple[str, int]]:
        """Blocks written to the store since the last call: who computed them, and their bytes."""
        return self._publisher.take_written()

    def close(self) -> None:
        """Leave the store."""
        self._client.close()

    def _receive(self) -> None:
        for event in self._client.receive():
            self._handle(event)
        self._fetcher.looked()

    def _handle(self, event: StoreEvent) -> None:
        match event:
            case Granted():
                self._publisher.on_granted(event)
            case Found():
                if not self._publisher.on_found(event):
                    self._fetcher.on_found(event)
            case Ready():
                self._fetcher.on_ready(event)
            case Missing():
                self._fetcher.on_missing(event)
            case StoreLost():
                self._fetcher.lost()
                self._publisher.lost()
