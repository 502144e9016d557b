"""Where the observer answers HTTP: a socket file in the state folder, or the address that was set for it.

The socket's name must fit into `LONGEST_SOCKET_PATH`, and a state folder may lie deeper than that: such a one is named
through a descriptor of the folder, which Linux shows below /proc/self/fd.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final, NamedTuple

from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.folders import LONGEST_SOCKET_PATH, state_folder
from tokenworks.contract.http_address import http_address

SOCKET_FILE: Final = "observer.sock"
_BACKLOG: Final = 128


class TcpAddress(NamedTuple):
    """Where an observer on another machine, or in another container, answers."""

    host: str
    port: int


def tcp_address(address: str) -> TcpAddress:
    """The parts of `[ledger] address`; raises ConfigError."""
    parts = http_address(address)
    if parts is None or parts.scheme != "http" or not parts.port or parts.path not in ("", "/"):
        raise ConfigError(
            f"{address!r} is no address of an observer: write http://HOST:PORT, such as http://127.0.0.1:7070"
        )
    return TcpAddress(parts.hostname or "", parts.port)


def socket_path(settings: LedgerSettings) -> str | None:
    """The observer's socket, in a form that can be bound and connected to by this process; None: there is no ledger.

    Where the name is too long, a descriptor of the folder stays open for as long as the process lives.
    """
    folder = state_folder(settings)
    if folder is None:
        return None
    path = folder / SOCKET_FILE
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return str(path)
    folder.mkdir(parents=True, exist_ok=True)
    return f"/proc/self/fd/{os.open(folder, os.O_PATH | os.O_CLOEXEC)}/{SOCKET_FILE}"


def listen(settings: LedgerSettings) -> socket.socket:
    """A listening socket, of which the observer is the only owner: its process holds the folder's lock.

    A socket file can be reached by this user alone. Raises ConfigError, and OSError where it cannot be had.
    """
    if settings.address:
        return socket.create_server(tcp_address(settings.address), backlog=_BACKLOG)
    path = socket_path(settings)
    assert path is not None
    Path(path).unlink(missing_ok=True)  # left by one that was killed
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    return listener
