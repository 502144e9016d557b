"""Whether a TCP port is free, found out before anything is started, and who holds it if not."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from tokenworks.contract.errors import StartupError

_LISTENING: Final = "0A"  # the state column of /proc/net/tcp


def claim_port(host: str, port: int) -> int:
    """`port` if it can be listened on, or a free one for 0; raises StartupError that says who is there."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise StartupError(f"cannot listen on {host!r}: {error.strerror}; give an address with --host") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise StartupError(_why(host, port, error)) from error
        return int(probe.getsockname()[1])


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
