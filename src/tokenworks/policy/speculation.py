"""Decides which sequences run ahead of themselves in a step, and how far. Pure: no clock, no model.

A draft is a guess at a token (`drafting`, from `prompt_lookup`). It takes one more row of the step: the model computes
it beside the real token, and it is kept where it equals what is sampled before it. Which tokens a client gets does not
depend on what is decided here, only how fast they come.

What pays: a step over `n` sequences with `c` drafts among `r` rows gives `n + (sum of the drafts' chances)` tokens in
`T(n) + T(r + c) - T(r)` seconds, where T is the measured cost by rows (`step_costs`) and rows that are not decoded (a
prompt's) count only by making further rows dearer. A draft's chance is the product of the acceptance estimates along
its chain (`acceptance`). Chances fall along each chain, so the best `c` drafts are the `c` likeliest of all; the number
is the one with most tokens per second. Where not even an almost certain draft would pay, nothing is looked up.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Final

from tokenworks.policy.acceptance import Acceptance
from tokenworks.policy.drafting import Drafting
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.step_costs import StepCosts

MAX_DRAFTS: Final = 15
"""Of one sequence in one step: with its real token 16 rows, about where a CPU's matrix units are full."""

LEAST_GAIN: Final = 1.02
"""Tokens per second over those of the plain step below which the difference is noise."""

SUREST_CHANCE: Final = 0.9
"""Where a draft pays only if it is surer than this, it is not worth looking for."""


class Speculator:
    """One engine's speculation."""

    def __init__(self) -> None:
        self.costs = StepCosts()
        self.is_paused = False
        self._acceptance = Acceptance()

    def draft(self, sequences: list[Sequence], num_rows: int, most: int) -> list[list[int]]:
        """Drafts for each of the sequences that decode in a step of `num_rows` rows: at most `most` of them in all."""
        if self.is_paused or most < 1 or not sequences or not can_pay(self.costs, len(sequences), num_rows):
            return [[] for _ in sequences]
        proposals = [self._propose(sequence) for sequence in sequences]
        counts = choose(self.costs, [chances for _, chances in proposals], num_rows, most)
        return [drafts[:count] for (drafts, _), count in zip(proposals, counts, strict=True)]

    def _propose(self, sequence: Sequence) -> tuple[list[int], list[float]]:
        """What may follow, and the chance of each to be reached."""
        if sequence.drafting is None:
            sequence.drafting = Drafting(self._acceptance)
        sampling = sequence.request.sampling
        most = min(MAX_DRAFTS, sampling.max_tokens - sequence.num_output - 1)  # a step gives one token more
        drafts = sequence.drafting.propose(sequence.token_ids, most, sampling.stop_token_ids)
        return drafts, sequence.drafting.chances()


def can_pay(costs: StepCosts, num_sequences: int, num_rows: int) -> bool:
    """Whether one more row costs clearly less than a token does, so that a draft that is almost certain is worth it."""
    extra_s = costs.seconds(num_rows + 1) - costs.seconds(num_rows)
    return extra_s < SUREST_CHANCE * costs.seconds(num_sequences) / num_sequences


def choose(costs: StepCosts, chains: list[list[float]], num_rows: int, most: int) -> list[int]:
    """How many drafts of each chain to compute: those that together give most tokens per second."""
    ranked = sorted(((chance, at) for at, chain in enumerate(chains) for chance in chain), reverse=True)[:most]
    best, best_speed = 0, LEAST_GAIN * len(chains) / costs.seconds(len(chains))
    for count, gain in enumerate(accumulate(chance for chance, _ in ranked), 1):
        speed = _speed(costs, len(chains), num_rows, count, gain)
        if speed > best_speed:
            best, best_speed = count, speed
    counts = [0] * len(chains)
    for _, at in ranked[:best]:
        counts[at] += 1
    return counts


def _speed(costs: StepCosts, num_sequences: int, num_rows: int, num_drafts: int, gain: float) -> float:
    """Tokens per second of decoding with drafts of which `gain` are expected to be right."""
    extra_s = costs.seconds(num_rows + num_drafts) - costs.seconds(num_rows)
    return (num_sequences + gain) / (costs.seconds(num_sequences) + extra_s)
