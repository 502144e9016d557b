"""Who talks to the store, and what each of them holds there: granted places, pinned blocks, blocks that it awaits."""

from __future__ import annotations

import msgspec

from tokenworks.contract.kv import BlockName
from tokenworks.kv.grants import Grants
from tokenworks.kv.host import Block


class Request(msgspec.Struct):
    """A client's `Get` that it has not said `Done` to."""

    pinned: list[Block] = []
    waiting: set[BlockName] = set()


class Session(msgspec.Struct, eq=False):
    """One attached client."""

    identity: bytes  # of its socket
    client_id: str
    block_bytes: int  # of one of its blocks, header and payload
    last_heard_s: float
    grants: Grants
    requests: dict[str, Request] = {}


Waiter = tuple[bytes, str]
"""A client's socket and its request."""


class Waiters:
    """Which requests wait for which block."""

    def __init__(self) -> None:
        self._by_name: dict[BlockName, dict[Waiter, None]] = {}

    def add(self, name: BlockName, waiter: Waiter) -> None:
        """`waiter` waits for this block."""
        self._by_name.setdefault(name, {})[waiter] = None

    def remove(self, name: BlockName, waiter: Waiter) -> bool:
        """It does not any more; whether nobody does now."""
        waiters = self._by_name.get(name, {})
        waiters.pop(waiter, None)
        if not waiters:
            self._by_name.pop(name, None)
        return not waiters

    def take(self, name: BlockName) -> list[Waiter]:
        """Everybody who waits for it; they do not any more."""
        return list(self._by_name.pop(name, {}))
