"""The columns of the table, as data: what each is called, how it is computed and what it says.

A formula is one word (`quantities`), one over another, or a percentile of a sketch ("p99 ttft"). A figure that cannot
be had (nothing to divide by, no price, machines that other rows use too) is None, and never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final, Literal

import msgspec

from tokenworks.contract.errors import InvalidRequest
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Stage
from tokenworks.observe.cell import SKETCHES
from tokenworks.observe.tables.facts import Facts
from tokenworks.observe.tables.presets import OVERVIEW, PRESETS
from tokenworks.observe.tables.quantities import is_of_requests, quantity

Unit = Literal["number", "share", "s", "1/s", "tokens", "tokens/s", "currency", "bytes", "bytes/s", "J"]
Better = Literal["higher", "lower", ""]
PERCENTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p999": 0.999}


class Column(msgspec.Struct, frozen=True):
    """One column."""

    key: str  # in JSON and CSV
    heading: str
    unit: Unit
    better: Better
    formula: str
    help: str  # what it says, in a sentence

    @property
    def quantile(self) -> tuple[str, float] | None:
        """The sketch and the share that it is a percentile of; None: it is none."""
        first, _, sketch = self.formula.partition(" ")
        return (sketch, PERCENTILES[first]) if first in PERCENTILES else None

    @property
    def words(self) -> tuple[str, str]:
        """What stands above and below the line; "": nothing."""
        above, _, below = self.formula.partition(" / ")
        return above, below

    @property
    def is_proportion(self) -> bool:
        """Whether each request that is counted below the line is counted above it once or not at all."""
        return self.unit == "share" and self.words[1] in ("requests", "valid", "promised")

    @property
    def can_vary(self) -> bool:
        """Whether slices of the window can say how sure the figure is: a percentile, or a quotient of sums."""
        return self.quantile is not None or all(is_of_requests(word) for word in self.words)

    def of(self, facts: Facts) -> float | None:
        """The figure in the column's unit: seconds, shares of 1, bytes, the currency."""
        if self.quantile is not None:
            name, share = self.quantile
            sketch = facts.sketch(name)
            return sketch.quantile(share) / 1e9 if len(sketch) else None
        above, below = (quantity(word)(facts) if word else 1.0 for word in self.words)
        return None if above is None or not below else above / below


def columns_named(keys: list[str]) -> list[Column]:
    """Those columns; raises InvalidRequest that names the nearest one."""
    for key in keys:
        if key not in COLUMNS:
            nearest = get_close_matches(key, COLUMNS, n=1, cutoff=0.0)
            raise InvalidRequest(f"there is no column {key!r}; the nearest one is {nearest[0]!r}", param="columns")
    return [COLUMNS[key] for key in keys]


# fmt: off
_PLAIN: Final[tuple[tuple[str, str, Unit, Better, str, str], ...]] = (
    ("requests", "requests", "number", "", "requests", "Requests that ended in the window, however they ended."),
    ("invalid_rate", "invalid", "share", "", "invalid / requests",
     "Share that its client has to change (HTTP 4xx): no fault of the service, and left out of the shares below."),
    ("success_rate", "success", "share", "higher", "ok / valid", "Share that ended well, of the valid."),
    ("timeout_rate", "timeouts", "share", "lower", "timeouts / valid", "Share that ran out of its time, of the valid."),
    ("rejection_rate", "rejected", "share", "lower", "rejected / valid",
     "Share of the valid that was turned away before any worker had it."),
    ("failure_rate", "failed", "share", "lower", "failed / valid", "Share that failed in any other way, of the valid."),
    ("gone_rate", "gone", "share", "", "gone / valid", "Share whose client left before the end, of the valid."),
    ("kept_rate", "kept SLO", "share", "higher", "good / promised",
     "Of the valid whose client waited: share that ended well and kept every objective of its scenario."),
    ("goodput", "goodput", "1/s", "higher", "good / seconds",
     "Requests a second that ended well and kept every objective of their scenario."),
    ("requests_per_s", "requests/s", "1/s", "higher", "ok / seconds", "Requests a second that ended well."),
    ("input_tokens_per_s", "tokens/s in", "tokens/s", "higher", "prompt_tokens / seconds",
     "Prompt tokens a second, cached ones included."),
    ("output_tokens_per_s", "tokens/s out", "tokens/s", "higher", "output_tokens / seconds",
     "Output tokens a second."),
    ("input_tokens", "tokens in", "tokens", "", "prompt_tokens", "Prompt tokens, cached ones included."),
    ("output_tokens", "tokens out", "tokens", "", "output_tokens", "Output tokens."),
    ("concurrency", "concurrency", "number", "", "e2e_s / seconds",
     "Requests in the system on average, by Little's law."),
    ("hit_rate", "hits", "share", "higher", "cached_tokens / prompt_tokens",
     "Share of prompt tokens that were found instead of computed."),
    ("retries", "retries", "number", "lower", "retries", "Sendings that a worker refused."),
    ("migrations", "migrations", "number", "lower", "migrations", "Sendings whose worker was lost."),
    ("preemptions", "preemptions", "number", "lower", "preemptions",
     "Times that a running sequence lost its memory to another."),
    ("recomputed_rate", "recomputed", "share", "lower", "recomputed_tokens / tokens",
     "Tokens computed again after a preemption, over prompt and output tokens."),
    ("draft_hit_rate", "drafts right", "share", "higher", "right_drafts / draft_tokens",
     "Share of the tokens guessed ahead that proved right."),
    ("stragglers", "stragglers", "share", "lower", "stragglers / paced",
     "Share of requests whose TPOT is more than twice the row's median."),
    ("busy", "busy", "share", "", "step_s / wall_s", "Share of the workers' time that was in steps."),
    ("mfu", "MFU", "share", "higher", "flops / possible_flops",
     "FLOP/s in steps over the best peak that the workers have measured."),
    ("mbu", "MBU", "share", "higher", "read_bytes / possible_bytes",
     "Bytes/s of weights and KV that steps had to read, over the best peak that the workers have measured."),
    ("cpu_cores", "CPU cores", "number", "lower", "cpu_s / seconds", "Processor cores that the workers kept busy."),
    ("memory_bytes", "memory", "bytes", "lower", "rss_byte_s / seconds", "The workers' resident memory, on average."),
    ("kv_used", "KV used", "share", "", "used_block_s / wall_s", "Share of the workers' KV blocks in use, on average."),
    ("disk_read_bytes_per_s", "disk read", "bytes/s", "lower", "disk_read_bytes / seconds",
     "Bytes a second that the workers read from disk."),
    ("disk_write_bytes_per_s", "disk written", "bytes/s", "lower", "disk_write_bytes / seconds",
     "Bytes a second that the workers wrote to disk."),
    ("kv_moved_bytes_per_s", "KV moved", "bytes/s", "", "moved_bytes / seconds",
     "Bytes a second of KV that requests fetched from the store and published to it."),
    ("joules_per_token", "J/token", "J", "lower", "energy_j / tokens",
     "Energy of the workers, idle time included, per token; by the card's watts where nothing measures it."),
    ("cost", "cost", "currency", "", "cost", "What the requests' own work cost."),
    ("full_cost", "full cost", "currency", "", "full_cost",
     "Own work, and in proportion to it a share of the rest of the bill: idle time, what lay between, KV kept."),
    ("cost_per_m_tokens", "cost/M", "currency", "lower", "cost / million_tokens",
     "Own work per million tokens, prompt and output."),
    ("cost_per_m_output", "cost/M out", "currency", "lower", "cost / million_output",
     "Own work per million output tokens."),
    ("full_cost_per_m_tokens", "full/M", "currency", "lower", "full_cost / million_tokens",
     "Full cost per million tokens, prompt and output."),
    ("full_cost_per_m_output", "full/M out", "currency", "lower", "full_cost / million_output",
     "Full cost per million output tokens."),
    ("wasted_rate", "wasted", "share", "lower", "wasted / cost",
     "Share of the cost that went to requests which did not end well."),
    ("saved", "saved", "currency", "higher", "saved", "What computing the tokens that were found would have cost."),
)
_LATENCIES: Final = {
    "ttft": ("TTFT", "From the request's arrival to its first token's leaving"),
    "tpot": ("TPOT", "Mean time per token after the first, of each request"),
    "itl": ("ITL", "Every single gap between two tokens of an answer"),
    "e2e": ("E2E", "From the request's arrival to its last byte's leaving, without the rejected"),
    "queue": ("queue", "Waiting at the gateway and in the worker before the first step"),
    "jitter": ("jitter", "Standard deviation of the gaps between a request's tokens"),
}
# fmt: on


def _latency(sketch: str, percentile: str) -> Column:
    name, text = _LATENCIES[sketch]
    title = f"P{PERCENTILES[percentile] * 100:g}"
    formula = f"{percentile} {sketch}"
    return Column(f"{sketch}_{percentile}", f"{name} {title}", "s", "lower", formula, f"{text}: {title}.")


def _tier(tier: Tier) -> Column:
    help = f"Share of prompt tokens that were found in the tier {tier.value} instead of computed."
    formula = f"cached_{tier.value} / prompt_tokens"
    return Column(f"hit_rate_{tier.value}", f"{tier.value} hits", "share", "higher", formula, help)


def _stage(stage: Stage) -> Column:
    help = f"Share of all requests' time that was spent in the stage {stage.value}."
    name = stage.value.replace("_", " ")
    return Column(f"stage_{stage.value}", name, "share", "", f"{stage.value}_s / e2e_s", help)


COLUMNS: Final[dict[str, Column]] = {
    column.key: column
    for column in (
        *(Column(*entry) for entry in _PLAIN),
        *(_latency(sketch, percentile) for sketch in SKETCHES for percentile in PERCENTILES),
        *(_tier(tier) for tier in Tier),
        *(_stage(stage) for stage in Stage),
    )
}


def preset_columns(name: str) -> Sequence[str]:
    """The keys of a preset's columns, "" being the overview; raises InvalidRequest."""
    name = name or OVERVIEW
    if name not in PRESETS:
        raise InvalidRequest(f"there is no preset {name!r}; give one of {', '.join(PRESETS)}", param="preset")
    return PRESETS[name] or tuple(COLUMNS)
