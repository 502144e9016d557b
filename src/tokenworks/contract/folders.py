"""Where on this machine things are kept from one start to the next."""

from __future__ import annotations

import os
from pathlib import Path


def quantized_folder() -> Path:
    """Weights that were quantised at a start, below the user's cache folder (XDG base directory specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    cache = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"  # the specification: others are ignored
    return cache / "tokenworks" / "quantized"
