"""A store that answers at once, by hand: who is looked up and not held there runs in the very next step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.worker.kv.conftest import card
from tokenworks.contract.kv import BlockName, Tier
from tokenworks.contract.request import Request, Sampling
from tokenworks.kv.client import StoreEvent
from tokenworks.kv.protocol import Found, TierSpeed
from tokenworks.worker.kv_exchange import KVExchange


class QuickStore:
    """The client of a store that holds nothing, and is its own socket. Silent: it never says so."""

    def __init__(self, is_silent: bool) -> None:
        self.is_attached = True
        self.speeds = {Tier.HOST: TierSpeed(0.0005, 1e10)}
        self.socket = self
        self.polls_ms: list[int] = []
        self._is_silent = is_silent
        self._answers: list[StoreEvent] = []

    def find(self, request: str, names: Sequence[BlockName], recompute_s: float) -> None:
        if not self._is_silent:
            self._answers.append(Found(request, []))

    def poll(self, milliseconds: int) -> int:
        self.polls_ms.append(milliseconds)
        return len(self._answers)

    def receive(self) -> list[StoreEvent]:
        if not self.polls_ms:
            return []  # it has had no time yet
        answers, self._answers = self._answers, []
        return answers

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


@pytest.mark.parametrize("is_silent", [False, True])
def test_who_is_looked_up_misses_no_step_for_a_quick_store(references: Any, is_silent: bool) -> None:
    engine = references("qwen3-tied").engine()
    client = QuickStore(is_silent)
    exchange = KVExchange(engine, client, card(1e-3))  # type: ignore[arg-type]
    engine.add(Request("r", "model", list(range(10, 40)), Sampling(max_tokens=2, temperature=0)))
    exchange.before_step()
    engine.step()
    assert engine.steps == (0 if is_silent else 1)
    assert len(client.polls_ms) == 1
    assert 0 < client.polls_ms[0] <= 3


class LateStore(QuickStore):
    """It has told its speeds when it was looked at so often."""

    def __init__(self, looks: int) -> None:
        super().__init__(is_silent=True)
        self._told, self.speeds = self.speeds, {}
        self._looks = looks

    def receive(self) -> list[StoreEvent]:
        if len(self.polls_ms) >= self._looks:
            self.speeds = self._told
        return []


@pytest.mark.parametrize(("looks", "longest_s", "is_there"), [(3, 60.0, True), (10**9, 0.0, False)])
def test_a_worker_that_starts_waits_for_its_store_but_not_for_long(
    references: Any, looks: int, longest_s: float, is_there: bool
) -> None:
    client = LateStore(looks)
    exchange = KVExchange(references("qwen3-tied").engine(), client, card(1e-3))  # type: ignore[arg-type]
    exchange.wait_for_store(longest_s)
    assert bool(client.speeds) is is_there
    assert len(client.polls_ms) == (looks if is_there else 0)
