"""Whether a TCP port is free, found out before anything is started; it is held, or told who holds it."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tokenworks.contract.errors import StartupError

_LISTENING: Final = "0A"  # the state column of /proc/net/tcp


def claim_port(host: str, port: int) -> int:
    """`port` if it can be listened on, or a free one for 0; raises StartupError that says who is there."""
    with _bound(host, port) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def held_port(host: str, port: int) -> Iterator[int]:
    """What `claim_port` tells, and that nobody else gets it meanwhile; raises StartupError.

    The gateway listens on it only when it has been started, and is started again when it has died; until then a port
    that nobody holds may be given to a connection or to another program. On Linux a socket that does not listen holds
    it, and who sets SO_REUSEADDR, as the gateway does, may listen there all the same; elsewhere he may not, so that
    nothing is held.
    """
    with _bound(host, port) as holder:
        found = int(holder.getsockname()[1])
        if sys.platform != "linux":
            holder.close()
        yield found


def _bound(host: str, port: int) -> socket.socket:
    """A socket that does not listen."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise StartupError(f"cannot listen on {host!r}: {error.strerror}; give an address with --host") from error
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise StartupError(_why(host, port, error)) from error
    return bound


def _why(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(port) or "another program, perhaps another `tokenworks serve`"
        return f"port {port} is busy: {holder} listens on it. Stop that, or take another port with --port {port + 1}"
    if error.errno == errno.EACCES:
        return f"port {port} may not be used by this user; take one above 1023 with --port"
    return f"cannot listen on {host}:{port}: {error.strerror}; check --host"


def holder_of(port: int) -> str | None:
    """The process that listens on `port`, as far as Linux's /proc tells this user."""
    sockets = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(table, port)}
    for process in Path("/proc").glob("[0-9]*") if sockets else ():
        with suppress(OSError):
            if any(os.readlink(entry) in sockets for entry in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {process.name} ({command[:80]})"
    return None


def _listening(table: str, port: int) -> list[str]:
    with suppress(OSError):
        rows = [line.split() for line in Path("/proc/net", table).read_text().splitlines()[1:]]
        return [row[9] for row in rows if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port]
    return []
