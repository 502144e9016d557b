"""What a replay came to, system by system, as Markdown."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.kv.client import Answer

BASE = "no store"
TIERS = ("device", "host", "disk")


@dataclass(frozen=True)
class Replay:
    """One system's."""

    answers: list[Answer]  # in the order of the turns
    step_s: float  # that its worker computed

    @property
    def span_s(self) -> float:
        """From the first turn's sending to the last answer."""
        ends = [answer.sent_s + answer.e2e_s for answer in self.answers]
        return max(ends) - min(answer.sent_s for answer in self.answers)

    @property
    def busy(self) -> float:
        """Share of that time in steps."""
        return self.step_s / self.span_s

    @property
    def in_flight(self) -> float:
        """Turns that were being answered, or waited to be: the mean over that time."""
        return sum(answer.e2e_s for answer in self.answers) / self.span_s


def one_by_one(runs: Mapping[str, Replay]) -> Iterator[str]:
    """Of turns sent one after the other: the whole, and turns whose history came from a tier."""
    total_s = sum(answer.e2e_s for answer in runs[BASE].answers)
    yield "| system | tokens found | of those device / host / disk | whole replay | against no store |"
    yield "|---|---:|---|---:|---:|"
    for name, run in runs.items():
        took_s = sum(answer.e2e_s for answer in run.answers)
        yield f"| {name} | {found(run.answers)} | {took_s:.1f} s | {took_s / total_s - 1:+.0%} |"
    yield ""
    yield "| history came from | system | turns | TTFT P50 | of the same turns without a store | below it by |"
    yield "|---|---|---:|---:|---:|---:|"
    for name, run in runs.items():
        for tier in ("host", "disk"):
            yield from _same_turns(name, tier, run.answers, runs[BASE].answers)


def _same_turns(name: str, tier: str, answers: Sequence[Answer], base: Sequence[Answer]) -> Iterator[str]:
    """Turns that had half of their prompt or more from that tier, and nothing from the device without a store."""
    pairs = [
        (answer.ttft_s, before.ttft_s)
        for answer, before in zip(answers, base, strict=True)
        if answer.by_tier.get(tier, 0) >= answer.prompt_tokens / 2 and not before.cached_tokens
    ]
    if pairs:
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        saved = statistics.median(1 - after / before for after, before in pairs)
        yield f"| {tier} | {name} | {len(pairs)} | {ours:.3f} s | {theirs:.3f} s | {saved:.0%} |"


def as_they_came(runs: Mapping[str, Replay]) -> Iterator[str]:
    """Of turns sent at their instants: response times with the waiting in them, in seconds, and how busy it was."""
    yield (
        "| system | tokens found | of those device / host / disk | busy | in flight | span | "
        "E2E sum / mean / P50 / P95 | TTFT sum / mean / P50 / P95 | E2E against no store | TTFT |"
    )
    yield "|---|---:|---|---:|---:|---:|---|---|---:|---:|"
    base = runs.get(BASE)
    for name, run in runs.items():
        e2e, ttft = [answer.e2e_s for answer in run.answers], [answer.ttft_s for answer in run.answers]
        against = ["-", "-"]
        if base is not None:
            against = [
                f"{sum(e2e) / sum(answer.e2e_s for answer in base.answers) - 1:+.0%}",
                f"{sum(ttft) / sum(answer.ttft_s for answer in base.answers) - 1:+.0%}",
            ]
        yield (
            f"| {name} | {found(run.answers)} | {run.busy:.0%} | {run.in_flight:.1f} | {run.span_s:.0f} | "
            f"{spread(e2e)} | {spread(ttft)} | {' | '.join(against)} |"
        )


def offered(base: Replay, arrivals_s: float) -> str:
    """The load, where turns came within `arrivals_s`; how busy it was says less, for a backlog is worked off later."""
    return (
        f"offered: {base.step_s / arrivals_s:.0%} of what the system without a store can do "
        f"({base.step_s:.0f} s of its steps for turns that came within {arrivals_s:.0f} s)"
    )


def found(answers: Sequence[Answer]) -> str:
    """Two cells: the share of prompt tokens that were found, and in which tier."""
    prompt = sum(answer.prompt_tokens for answer in answers)
    tiers: Counter[str] = Counter()
    for answer in answers:
        tiers.update(answer.by_tier or {"device": answer.cached_tokens})
    cached = sum(answer.cached_tokens for answer in answers)
    return f"{cached / prompt:.1%} | {' / '.join(f'{tiers[tier] / prompt:.1%}' for tier in TIERS)}"


def spread(seconds: Sequence[float]) -> str:
    """Sum, mean, P50 and P95."""
    p50, p95 = np.percentile(seconds, [50, 95])
    return f"{sum(seconds):.0f} / {statistics.mean(seconds):.2f} / {p50:.2f} / {p95:.2f}"
