"""What will be asked and when: the schedule of a load run, settled before the first request leaves.

A plan is an iterable of `PlannedRequest` in order of arrival. Instants come from a Poisson process or a trace, lengths
from a fixed number, a uniform range or a trace; both depend only on their arguments and the seed, so two runs with the
same seed ask for exactly the same work. A closed loop takes the same plan and ignores its instants.

Knows nothing of prompts' content, HTTP or how the server copes: that is what makes an open loop open.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count, islice, repeat

import msgspec

from tokenworks.plan.traces import Trace

MAX_LENGTH = 2**31 - 1  # of a prompt, and of a token id: no model has more


class PlannedRequest(msgspec.Struct, frozen=True):
    """One request to send: when (seconds from the start), how long, and which trace blocks its prompt is made of."""

    index: int
    arrival_s: float
    input_tokens: int
    output_tokens: int
    block_ids: tuple[int, ...] = ()


class LengthRange(msgspec.Struct, frozen=True):
    """Token counts drawn uniformly from `low` to `high`, both included; equal bounds make a fixed length."""

    low: int
    high: int

    def draw(self, rng: random.Random) -> int:
        return self.low if self.low == self.high else rng.randint(self.low, self.high)

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"uniform {self.low} to {self.high}"


def parse_length(text: str) -> LengthRange:
    """Read `128` or `uniform:64:256`; raises ValueError with what is allowed."""
    kind, _, bounds = text.partition(":")
    low, _, high = bounds.partition(":") if kind == "uniform" else (text, ":", text)
    if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high) <= MAX_LENGTH):
        raise ValueError(f"{text!r} is not a length: give a number such as 128, or uniform:64:256")
    return LengthRange(int(low), int(high))


def poisson_arrivals_s(rate: float, seed: int) -> Iterator[float]:
    """Endless arrival instants of a Poisson process of `rate` per second; the first one is at 0."""
    rng = random.Random(f"{seed}/arrivals")
    instant_s = 0.0
    while True:
        yield instant_s
        instant_s += rng.expovariate(rate)


def plan_synthetic(
    inputs: LengthRange, outputs: LengthRange, *, rate: float | None, max_requests: int | None, seed: int
) -> Iterator[PlannedRequest]:
    """Requests of drawn lengths, endless where `max_requests` is None; without a rate all arrive at 0."""
    arrivals_s = repeat(0.0) if rate is None else poisson_arrivals_s(rate, seed)
    rng = random.Random(f"{seed}/lengths")
    for index, arrival_s in islice(zip(count(), arrivals_s, strict=False), max_requests):
        yield PlannedRequest(index, arrival_s, inputs.draw(rng), outputs.draw(rng))


def plan_trace(trace: Trace, *, rate: float | None, max_requests: int | None, seed: int) -> Iterator[PlannedRequest]:
    """The trace's requests at its own instants, or, where a rate is given, its lengths at Poisson instants."""
    own_s = (record.arrival_s for record in trace.records)
    arrivals_s = own_s if rate is None else poisson_arrivals_s(rate, seed)
    for index, (record, arrival_s) in enumerate(islice(zip(trace.records, arrivals_s, strict=False), max_requests)):
        lengths = max(1, record.input_tokens), max(1, record.output_tokens)
        yield PlannedRequest(index, arrival_s, *lengths, record.block_ids)
