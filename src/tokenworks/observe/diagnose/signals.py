"""The named figures that rules speak of: each with its unit, its meaning, and how it is computed from a side.

A rule says NAME for what its subject is like now, `before_NAME` for before the window, `others_NAME` for the others of
its kind and `all_NAME` for the whole window; beside these there are the objectives of a scenario, `objective_NAME`.
A figure that cannot be had (nothing happened, no baseline, no price) is NaN.

Of a percentile there are two more figures, `_low` and `_high`: within them it lies with 95 % confidence, by the order
statistics of as many values as there were requests (gaps between tokens of one request are no independent values).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from tokenworks.contract.kv import Tier
from tokenworks.contract.record import PICO, Stage, Work
from tokenworks.observe.cell import SKETCHES
from tokenworks.observe.diagnose.sides import Side
from tokenworks.observe.diagnose.slow import PACE_STAGES, START_STAGES, pace_share, start_share
from tokenworks.observe.diagnose.use_signals import USE_SIGNALS


class Signal(NamedTuple):
    """One figure."""

    unit: str  # "s", "share", "count", "per_s", "tokens", "bytes", "money", "times", ""
    meaning: str
    of: Callable[[Side], float]


_Z: Final = 1.96
_IN_STEPS: Final = (Stage.PREFILL, Stage.DECODE)
_QUANTILES: Final = (("p50", 0.5), ("p99", 0.99))
_SKETCH_MEANINGS: Final = {
    "ttft": "seconds to the first token",
    "tpot": "mean seconds per further token of a request",
    "itl": "seconds between two token events",
    "e2e": "seconds of a whole request",
    "queue": "seconds of waiting (admit, route, queue)",
    "jitter": "standard deviation of a request's gaps between tokens",
}


def quantile(side: Side, name: str, share: float, shift: int = 0) -> float:
    """A percentile in seconds, or the lower (-1) or upper (1) bound of its 95 % confidence interval."""
    sketch = side.cell.sketch(name)
    if not len(sketch):
        return math.nan
    values = min(len(sketch), max(side.cell.requests, 1))
    margin = shift * _Z * math.sqrt(share * (1 - share) / values)
    return sketch.quantile(min(1.0, max(0.0, share + margin))) / 1e9


def over(value: float, base: float) -> float:
    """A ratio; unknown where there is nothing to divide by."""
    return value / base if base else math.nan


def _percentiles() -> Iterator[tuple[str, Signal]]:
    for name in SKETCHES:
        for label, share in _QUANTILES:
            meaning = f"{label.upper()} of {_SKETCH_MEANINGS[name]}"
            for suffix, shift, bound in (("", 0, ""), ("_low", -1, ", lower bound"), ("_high", 1, ", upper bound")):
                key = f"{name}_{label}{suffix}_s"
                yield key, Signal("s", meaning + bound, _quantile_of(name, share, shift))


def _quantile_of(name: str, share: float, shift: int) -> Callable[[Side], float]:
    return lambda side: quantile(side, name, share, shift)


def _stages() -> Iterator[tuple[str, Signal]]:
    for stage in Stage:
        yield f"{stage.value}_share", Signal("share", f"part of E2E spent in `{stage.value}`", _stage_share(stage))
        yield f"{stage.value}_s", Signal("s", f"mean seconds of a request in `{stage.value}`", _stage_s(stage))
    for stage in START_STAGES:
        meaning = f"of what the slowest first tokens take longer than usual, the part in `{stage.value}`"
        yield f"slow_start_{stage.value}_share", Signal("share", meaning, _start_share(stage))
    for stage in PACE_STAGES:
        meaning = f"of what the slowest tokens take longer than usual, the part in `{stage.value}`"
        yield f"slow_pace_{stage.value}_share", Signal("share", meaning, _pace_share(stage))


def _stage_share(stage: Stage) -> Callable[[Side], float]:
    return lambda side: over(side.cell.stages_ns.get(stage, 0), side.cell.e2e_ns)


def _stage_s(stage: Stage) -> Callable[[Side], float]:
    return lambda side: over(side.cell.stages_ns.get(stage, 0) / 1e9, side.cell.requests)


def _start_share(stage: Stage) -> Callable[[Side], float]:
    return lambda side: start_share(side.records, stage)


def _pace_share(stage: Stage) -> Callable[[Side], float]:
    return lambda side: pace_share(side.records, stage)


def _works() -> Iterator[tuple[str, Signal]]:
    for work in Work:
        meaning = f"part of the device time of requests that went to `{work.value}`"
        yield f"device_{work.value}_share", Signal("share", meaning, _work_share(work))


def _work_share(work: Work) -> Callable[[Side], float]:
    return lambda side: over(side.cell.device_ns.get(work, 0), sum(side.cell.device_ns.values()))


def _part(name: str, meaning: str) -> tuple[str, Signal]:
    return f"{name}_share", Signal("share", meaning, lambda side: over(getattr(side.cell, name), side.cell.requests))


def _each(name: str, meaning: str) -> tuple[str, Signal]:
    figure = Signal("times", meaning, lambda side: over(getattr(side.cell, name), side.cell.requests))
    return f"{name}_per_request", figure


def _device_s(side: Side) -> float:
    return sum(side.cell.device_ns.values()) / 1e9


def _tokens(side: Side) -> int:
    return side.cell.prompt_tokens + side.cell.output_tokens


def _cached(side: Side) -> int:
    return sum(side.cell.cached_tokens.values())


def _hits(tier: Tier) -> Callable[[Side], float]:
    return lambda side: over(side.cell.cached_tokens.get(tier, 0), side.cell.prompt_tokens)


def _computed(side: Side) -> int:
    """Tokens that were computed once at least: of prompts what was not cached, and all output."""
    return max(0, side.cell.prompt_tokens - _cached(side)) + side.cell.output_tokens


COUNT_SIGNALS: Final[dict[str, Signal]] = {
    "requests": Signal("count", "requests that ended", lambda side: side.cell.requests),
    "seconds": Signal("s", "length of the window", lambda side: side.seconds),
    "requests_per_s": Signal("per_s", "requests per second", lambda side: over(side.cell.requests, side.seconds)),
    **dict(
        [
            _part("ok", "part of requests that ended well"),
            _part("good", "part of requests that ended well and kept every objective of their scenario"),
            _part("invalid", "part of requests that their client has to change (HTTP 4xx)"),
            _part("rejected", "part of requests, valid ones, that were turned away before any worker had them"),
            _part("timeouts", "part of requests that ran into a deadline"),
            _part("gone", "part of requests whose client left"),
            _part("failed", "part of requests that failed otherwise"),
            _each("preemptions", "times that a request lost its KV to others"),
            _each("retries", "times that a worker refused a request"),
            _each("migrations", "times that a request lost its worker"),
        ]
    ),
    "concurrency": Signal("count", "requests at a time, mean", lambda side: over(side.cell.e2e_ns / 1e9, side.seconds)),
    "prompt_tokens_mean": Signal("tokens", "tokens of a prompt", lambda s: over(s.cell.prompt_tokens, s.cell.requests)),
    "output_tokens_mean": Signal(
        "tokens", "tokens of an answer", lambda side: over(side.cell.output_tokens, side.cell.requests)
    ),
    "prompt_tokens": Signal("tokens", "prompt tokens in all", lambda side: side.cell.prompt_tokens),
    "output_tokens": Signal("tokens", "output tokens in all", lambda side: side.cell.output_tokens),
    "output_tokens_per_s": Signal("per_s", "output tokens per second", lambda s: over(s.cell.output_tokens, s.seconds)),
    "tokens_per_s": Signal("per_s", "tokens per second, in and out", lambda side: over(_tokens(side), side.seconds)),
    "hit_share": Signal(
        "share", "part of prompt tokens found in a cache", lambda s: over(_cached(s), s.cell.prompt_tokens)
    ),
    "miss_share": Signal(
        "share",
        "part of prompt tokens that were in no cache",
        lambda s: over(s.cell.prompt_tokens - _cached(s), s.cell.prompt_tokens),
    ),
    **{
        f"{tier.value}_hit_share": Signal("share", f"part of prompt tokens found in the {tier.value} tier", _hits(tier))
        for tier in (Tier.HOST, Tier.DISK, Tier.REMOTE)
    },
    "recomputed_share": Signal(
        "share",
        "tokens computed again after a preemption, per token computed once",
        lambda side: over(side.cell.recomputed_tokens, _computed(side)),
    ),
    "wrong_draft_share": Signal(
        "share", "part of guessed tokens that were wrong", lambda s: over(s.cell.rejected_tokens, s.cell.draft_tokens)
    ),
    "device_s": Signal("s", "device time of requests", _device_s),
    "device_s_per_token": Signal(
        "s", "device time per token that was computed", lambda s: over(_device_s(s), _computed(s))
    ),
    "prefill_s_per_token": Signal(
        "s",
        "device time of prompts, per token that was not cached",
        lambda s: over(s.cell.device_ns.get(Work.PREFILL, 0) / 1e9, s.cell.prompt_tokens - _cached(s)),
    ),
    "batch_mean": Signal(
        "count",
        "sequences in a step, mean over the time that requests were in steps",
        lambda s: over(sum(s.cell.stages_ns.get(stage, 0) for stage in _IN_STEPS), sum(s.cell.device_ns.values())),
    ),
    "decode_s_per_token": Signal(
        "s",
        "device time of output, per token",
        lambda s: over(s.cell.device_ns.get(Work.DECODE, 0) / 1e9, s.cell.output_tokens),
    ),
    "fetched_bytes_per_s": Signal(
        "bytes", "KV fetched, bytes per second", lambda s: over(sum(s.cell.fetched_bytes.values()), s.seconds)
    ),
    "cost": Signal("money", "cost of requests", lambda side: over(side.cell.cost / PICO, 1)),
    "cost_per_mtoken": Signal(
        "money", "cost of requests per million tokens, in and out", lambda s: over(s.cell.cost / PICO * 1e6, _tokens(s))
    ),
    "wasted_share": Signal(
        "share", "part of the cost for requests that did not end well", lambda s: over(s.cell.cost_wasted, s.cell.cost)
    ),
    "device_price_per_hour": Signal(
        "money",
        "price of an hour of the devices that were used",
        lambda s: over(sum(s.cell.cost_device.values()) / PICO * 3600, _device_s(s)),
    ),
}

SIGNALS: Final[dict[str, Signal]] = {
    **COUNT_SIGNALS,
    **dict(_percentiles()),
    **dict(_stages()),
    **dict(_works()),
    **{name: Signal(*figure) for name, figure in USE_SIGNALS.items()},
}
