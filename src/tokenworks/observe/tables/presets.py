"""Which columns answer a question together. Names alone, so that a command's help need not know what they mean."""

from __future__ import annotations

from typing import Final

from tokenworks.contract.record import Stage

OVERVIEW: Final = "overview"
PRESETS: Final[dict[str, tuple[str, ...]]] = {
    "overview": (
        *(
            "requests",
            "success_rate",
            "kept_rate",
            "goodput",
            "ttft_p50",
            "ttft_p99",
            "tpot_p50",
            "tpot_p99",
            "e2e_p99",
        ),
        *("output_tokens_per_s", "hit_rate", "cost", "full_cost_per_m_tokens"),
    ),
    "online": (
        *("requests", "success_rate", "kept_rate", "ttft_p50", "ttft_p99", "queue_p99", "tpot_p99"),
        "full_cost_per_m_tokens",
    ),
    "offline": (
        *("requests", "success_rate", "input_tokens_per_s", "output_tokens_per_s", "concurrency", "hit_rate"),
        *("busy", "mfu", "mbu", "wasted_rate", "joules_per_token", "full_cost_per_m_tokens"),
    ),
    "realtime": (
        *("requests", "success_rate", "kept_rate", "ttft_p99", "itl_p50", "itl_p99", "itl_p999", "jitter_p99"),
        "stragglers",
    ),
    "waterfall": ("requests", "e2e_p50", "e2e_p99", *(f"stage_{stage.value}" for stage in Stage)),
    "all": (),
}
"""Columns that answer a question together, () being every one; docs/guides/the-table.md argues for each."""
