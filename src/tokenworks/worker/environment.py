"""Process-wide settings that must stand before torch and Numba are loaded; imports neither.

OpenMP's threads spin between operators, with libgomp's defaults for milliseconds. Where anything else runs on the same
cores (the gateway, a load client, another service), a spinning thread keeps the one that it waits for off its core:
with one busy neighbour on 2 cores a decode step of a 0.6 B model took 256 ms instead of 68. Threads that sleep at once
take 94 ms there, but 10 to 20 % more than spinning ones on a quiet machine. A short spin covers the gaps inside a step
and gives way soon after: 120 ms busy, and no measurable loss quiet.

Numba keeps what it has compiled beside the code, and raises on import where it can keep it nowhere: a system user
without a home, a container whose image is read-only.
"""

from __future__ import annotations

import os
import tempfile
from typing import Final

from tokenworks.contract.folders import BESIDE_THE_CODE, KERNELS_VARIABLE, kernel_folder

SPIN_ITERATIONS: Final = 5000


def prepare_environment() -> None:
    """Let waiting threads spin briefly, then sleep, and kernels be kept; what the user has set already stands."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_ITERATIONS))
    folder = kernel_folder()
    if folder is None:  # a private one, since whoever writes there has the worker run it
        os.environ[KERNELS_VARIABLE] = tempfile.mkdtemp(prefix="tokenworks-kernels-")
    elif folder != BESIDE_THE_CODE:
        os.environ[KERNELS_VARIABLE] = str(folder)
