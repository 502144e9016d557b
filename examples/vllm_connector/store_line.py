"""The line to the store, looked at as often as vLLM calls us: which is never while it is idle."""

from __future__ import annotations

import time

import zmq

from tokenworks.contract.kv import KVSpec
from tokenworks.kv.client import KVClient

ATTACH_S = 2.0
LOOK_MS = 20


def open_line(
    context: zmq.Context[zmq.Socket[bytes]], address: str, client_id: str, spec: KVSpec, patience_s: float = ATTACH_S
) -> KVClient:
    """A client that is attached, where there is a store: or the first request would find none, and be computed.

    Without one after `patience_s` it is given back as it is, and attaches when there is a store and it is looked at.
    """
    client = KVClient(context, address, client_id, spec)
    end_s = time.monotonic() + patience_s
    client.receive()
    while not client.is_attached and time.monotonic() < end_s:
        client.socket.poll(LOOK_MS)
        client.receive()
    return client
