"""A store process: `python run_store.py ADDRESS GATEWAY LEASE_S HOST_BYTES [DISK_PATH [REMOTE [DISK_BYTES]]]`.

Its wall clock is mad: it jumps back and forth by decades with every look, which nothing in the store may mind.
"""

from __future__ import annotations

import logging
import random
import sys
import time

from tokenworks.contract.config import KVSettings, Settings
from tokenworks.kv.process import run_store


def main(
    address: str,
    gateway: str,
    lease_s: str,
    host_bytes: str,
    disk_path: str = "",
    remote: str = "",
    disk_bytes: str = str(1 << 30),
) -> None:
    """As `tokenworks kvstore` does it, but with a lease that a test can wait for."""
    time.time = lambda: random.uniform(0, 4e9)
    time.time_ns = lambda: random.randrange(4 * 10**18)
    logging.basicConfig(level="INFO", stream=sys.stderr)
    kv = KVSettings(
        store_address=address,
        host_bytes=int(host_bytes),
        disk_path=disk_path,
        disk_bytes=int(disk_bytes),
        remote=remote,
    )
    run_store(Settings(kv=kv), "kv0", [gateway], float(lease_s))


if __name__ == "__main__":
    main(*sys.argv[1:])
