"""What a load run comes to: results of single requests in, distributions, rates and goodput out.

Pure arithmetic on `RequestResult`s; all times are seconds. Percentiles interpolate linearly between the two nearest
samples (NumPy's default, what other load clients print). A percentile p needs 1 / (1 - p) samples to be more than the
maximum in disguise; with fewer it is listed in `thin`. Latencies, ITL and token counts cover the requests that
succeeded; rates divide by the wall time from the first send to the last end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
import numpy as np

Outcome = Literal["ok", "failed", "rejected"]
PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p99_9": 99.9}


class RequestResult(msgspec.Struct, frozen=True):
    """How one request went. Instants are seconds from the start of the run; what never happened is None."""

    index: int
    outcome: Outcome
    sent_s: float
    e2e_s: float  # send to last byte, or to the failure
    due_s: float | None = None  # when the open-loop schedule wanted it sent
    reason: str = ""  # what failures are counted by
    message: str = ""
    ttft_s: float | None = None
    itl_s: Sequence[float] = ()
    input_tokens: int | None = None
    output_tokens: int = 0
    asked_output_tokens: int = 0
    cached_tokens: int | None = None
    cached_tokens_by_tier: dict[str, int] = {}  # where the server says it
    token_events: int = 0
    has_usage: bool = False

    @property
    def tpot_s(self) -> float | None:
        """(E2E - TTFT) / (output tokens - 1); undefined for fewer than two tokens."""
        if self.ttft_s is None or self.output_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)


class Objectives(msgspec.Struct, frozen=True):
    """Latency objectives in seconds; None asks for nothing. ITL is met when every gap of the request is."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    itl_s: float | None = None
    e2e_s: float | None = None

    def given(self) -> dict[str, float]:
        """The objectives that were set, by metric name."""
        limits = {name.removesuffix("_s"): limit for name, limit in msgspec.structs.asdict(self).items()}
        return {name: limit for name, limit in limits.items() if limit is not None}


class Distribution(msgspec.Struct, frozen=True):
    """Sample count and the usual marks; None without samples. `thin` names the percentiles with too few samples."""

    count: int
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    p99_9: float | None = None
    max: float | None = None
    thin: tuple[str, ...] = ()


class Reason(msgspec.Struct, frozen=True):
    """Failures or rejections that share a code, with the first message as an example."""

    outcome: Outcome
    code: str
    count: int
    example: str


class Goodput(msgspec.Struct, frozen=True):
    """Requests that met all objectives: per second, as a share of all that ended, and what the others missed."""

    requests_per_s: float
    share: float
    met: int
    missed: dict[str, int]


class Tokens(msgspec.Struct, frozen=True):
    """Token totals of the successful requests, and where the counts come from."""

    input: int
    output: int
    input_per_s: float
    output_per_s: float
    cached: int | None  # None where no usage says
    cached_by_tier: dict[str, int]  # of those, as far as the server says it
    token_events: int
    uncounted_requests: int  # no usage: events were counted in place of tokens
    short_requests: int  # gave fewer tokens than were asked for


class Summary(msgspec.Struct, frozen=True):
    """Every figure of one run."""

    ok: int
    failed: int
    rejected: int
    reasons: tuple[Reason, ...]
    wall_s: float
    requests_per_s: float
    tokens: Tokens
    ttft_s: Distribution
    itl_s: Distribution
    tpot_s: Distribution
    e2e_s: Distribution
    send_lag_s: Distribution
    goodput: Goodput | None


def summarise(results: Sequence[RequestResult], objectives: Objectives) -> Summary:
    """Add up a run. O(n log n) in the number of token gaps."""
    ok = [result for result in results if result.outcome == "ok"]
    wall_s = _wall_s(results)
    return Summary(
        ok=len(ok),
        failed=sum(result.outcome == "failed" for result in results),
        rejected=sum(result.outcome == "rejected" for result in results),
        reasons=count_reasons(results),
        wall_s=wall_s,
        requests_per_s=_per_s(len(ok), wall_s),
        tokens=_count_tokens(ok, wall_s),
        ttft_s=distribution(result.ttft_s for result in ok),
        itl_s=distribution(gap_s for result in ok for gap_s in result.itl_s),
        tpot_s=distribution(result.tpot_s for result in ok),
        e2e_s=distribution(result.e2e_s for result in ok),
        send_lag_s=distribution(result.sent_s - result.due_s for result in results if result.due_s is not None),
        goodput=measure_goodput(results, objectives, wall_s),
    )


def distribution(samples: Iterable[float | None]) -> Distribution:
    """Marks of the samples that are not None."""
    values = np.fromiter((sample for sample in samples if sample is not None), np.float64)
    if not values.size:
        return Distribution(count=0)
    marks = np.percentile(values, list(PERCENTILES.values())).tolist()
    return Distribution(
        count=values.size,
        mean=float(values.mean()),
        max=float(values.max()),
        thin=tuple(name for name, percent in PERCENTILES.items() if values.size < samples_needed(percent)),
        **dict(zip(PERCENTILES, marks, strict=True)),
    )


def samples_needed(percent: float) -> int:
    """Fewest samples of which one lies beyond this percentile: 20 for P95, 1000 for P99.9."""
    return round(100.0 / (100.0 - percent))


def count_reasons(results: Iterable[RequestResult]) -> tuple[Reason, ...]:
    """Failures and rejections by code, the most frequent first."""
    counts: dict[tuple[Outcome, str], Reason] = {}
    for result in results:
        if result.outcome != "ok":
            key = result.outcome, result.reason
            known = counts.get(key, Reason(*key, count=0, example=result.message))
            counts[key] = msgspec.structs.replace(known, count=known.count + 1)
    return tuple(sorted(counts.values(), key=lambda reason: (-reason.count, reason.code)))


def measure_goodput(results: Sequence[RequestResult], objectives: Objectives, wall_s: float) -> Goodput | None:
    """Requests that succeeded and met all objectives; None when there are none to meet or none ended."""
    limits = objectives.given()
    if not limits or not results:
        return None
    missed = dict.fromkeys(limits, 0)
    met = 0
    for result in results:
        misses = [name for name, limit in limits.items() if not _is_met(result, name, limit)]
        met += result.outcome == "ok" and not misses
        for name in misses if result.outcome == "ok" else ():
            missed[name] += 1
    return Goodput(requests_per_s=_per_s(met, wall_s), share=met / len(results), met=met, missed=missed)


def _is_met(result: RequestResult, name: str, limit_s: float) -> bool:
    """Gaps that a short answer does not have cannot be missed; a first token that never came is."""
    value_s = max(result.itl_s, default=None) if name == "itl" else getattr(result, f"{name}_s")
    return name != "ttft" if value_s is None else value_s <= limit_s


def _count_tokens(ok: Sequence[RequestResult], wall_s: float) -> Tokens:
    num_input = sum(result.input_tokens or 0 for result in ok)
    num_output = sum(result.output_tokens for result in ok)
    cached = [result.cached_tokens for result in ok if result.cached_tokens is not None]
    return Tokens(
        input=num_input,
        output=num_output,
        input_per_s=_per_s(num_input, wall_s),
        output_per_s=_per_s(num_output, wall_s),
        cached=sum(cached) if cached else None,
        cached_by_tier=_sums(result.cached_tokens_by_tier for result in ok),
        token_events=sum(result.token_events for result in ok),
        uncounted_requests=sum(not result.has_usage for result in ok),
        short_requests=sum(result.output_tokens < result.asked_output_tokens for result in ok),
    )


def _sums(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def _wall_s(results: Sequence[RequestResult]) -> float:
    if not results:
        return 0.0
    start_s = min(result.sent_s for result in results)
    return max(result.sent_s + result.e2e_s for result in results) - start_s


def _per_s(amount: float, wall_s: float) -> float:
    return amount / wall_s if wall_s > 0 else 0.0
