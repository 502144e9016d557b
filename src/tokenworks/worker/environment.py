"""Process-wide settings of the thread pool, which must stand before torch is loaded. Imports nothing.

OpenMP's threads spin between operators unless told otherwise. Where anything else runs on the same cores (the gateway,
a load client, another service), a spinning thread keeps the thread that it waits for off its core: measured on 2 cores
with one busy neighbour, a step took 5 to 10 times as long as with sleeping threads.
"""

from __future__ import annotations

import os


def prepare_environment() -> None:
    """Let waiting threads sleep; what the user has set already stands."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
