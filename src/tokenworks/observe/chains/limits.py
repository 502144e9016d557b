"""How much of a ledger one question about chains reads."""

from __future__ import annotations

from typing import Final

MAX_TRACES: Final = 2000
"""Of the latest requests; each is walked through, span by span."""
