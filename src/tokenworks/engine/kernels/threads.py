"""One place that sets how many threads compute: PyTorch's operators and our kernels share the cores.

Our kernels run on OpenMP where Numba has it, because that is the pool that PyTorch's operators use: a second pool would
fight with the first one's threads, which keep spinning for a while after each operator.
"""

from __future__ import annotations

from typing import Any

import numba
import torch


def set_threads(count: int) -> None:
    """Compute on `count` threads from now on; called once, before the first kernel runs."""
    config: Any = numba.config
    torch.set_num_threads(count)
    config.THREADING_LAYER_PRIORITY = ["omp", "workqueue", "tbb"]
    numba.set_num_threads(min(count, config.NUMBA_NUM_THREADS))
