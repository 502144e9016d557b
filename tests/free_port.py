"""A port for a server that is started later.

Not one of those that the system gives to whoever asks for any: by the time the server binds it, such a port may be a
connection's or another test's, and a client that tries it meanwhile may be answered by a stranger.
"""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path

_FIRST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_choose = random.SystemRandom()  # whatever seed a test has set: two processes must not choose alike


def free_port() -> int:
    """One of this machine's that nobody listens on."""
    given_from = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 49_152  # IANA's first dynamic port
    while True:
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", _choose.randrange(_FIRST, max(given_from, _FIRST + 1000))))
            return int(probe.getsockname()[1])
