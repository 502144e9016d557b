"""Whether another worker computes a request's prompt first, so that the one that answers only fetches its KV.

Pure. The whole request on the worker that placement names (direct) is compared with every pair of workers that share a
store (split), each by a cost in seconds:

    cost = weight(scenario) x predicted TTFT + seconds by which sequences that decode are held up, summed over them

A prefill holds up each sequence that decodes on its worker by as long as it takes, however it is cut into steps. So a
split pays in two ways: the first token comes sooner (no queue, a faster card), or decoders are spared. Seconds are
those of the workers' cards, and the transfer's follow from the speed that the caller gives.

The default is not to split: it must be predicted to gain `MARGIN` of the cost and `MIN_GAIN_S` at least. A worker whose
card says nothing predicts nothing, and is never split for. Roles are advice:

- `both` takes everything; `prefill` takes first halves, and whole requests only where nobody else is ready;
- `decode` takes second halves and short prompts. A long prompt goes to a `both` worker instead where there is one, and
  counts on a `decode` worker as holding up one sequence at least: it is kept free for those that will come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from tokenworks.contract.card import Card
from tokenworks.contract.kv import KVSpec
from tokenworks.contract.request import Scenario
from tokenworks.contract.wire import Role
from tokenworks.policy.placement import Candidate, pick_worker

MARGIN: Final = 0.2
"""Part of the direct cost that a split must be predicted to save: cards are predictions, a split is work for three."""
MIN_GAIN_S: Final = 0.05
SHORT_PREFILL_S: Final = 0.25
"""A prompt that takes less is never sent around: no reader notices a pause of that length, in a text or before it."""
HANDOFF_S: Final = 0.01
"""Messages between gateway, workers and store that a split takes beyond the bytes."""
TTFT_WEIGHTS: Final = {Scenario.ONLINE: 1.0, Scenario.REALTIME: 1.0, Scenario.OFFLINE: 0.1}
"""Nobody waits for the first token of an offline request; but what delays it for long costs throughput."""


class Reason(StrEnum):
    """Why it was decided so."""

    ONLY = "only worker"  # there is nothing to choose
    SHARED = "shared prompt"  # several choices of one prompt go side by side
    SHORT = "short prompt"
    ALONE = "no partner"  # no two workers share a store
    NO_GAIN = "no gain"
    SOONER = "sooner"  # the first token comes sooner by the margin
    SPARES = "spares decoders"  # it does not, but others are held up less


class Prompt(msgspec.Struct, frozen=True):
    """What is to be computed, for whom."""

    num_tokens: int
    scenario: Scenario = Scenario.ONLINE


class Option(msgspec.Struct, frozen=True):
    """A worker that could take part, and what predicting its seconds takes."""

    candidate: Candidate
    card: Card
    queued_tokens: int = 0  # of prompts that are ahead in its queue
    decoding: int = 0  # sequences that a prefill there would hold up
    kv: KVSpec | None = None  # None: it does not exchange KV now

    @property
    def id(self) -> str:
        """The worker's."""
        return self.candidate.worker_id

    @property
    def role(self) -> Role:
        """What the worker is for."""
        return self.candidate.role

    @property
    def queue_s(self) -> float:
        """Seconds until it comes to what is sent to it now."""
        return self.prefill_s(self.queued_tokens, 0)

    @property
    def num_held_up(self) -> int:
        """Sequences that a long prefill there is taken to hold up."""
        return max(self.decoding, int(self.role is Role.DECODE))

    def handed_tokens(self, prompt: Prompt) -> int:
        """What it would compute for others: the full blocks, short of the last token, which must be sampled from."""
        assert self.kv is not None
        return (prompt.num_tokens - 1) // self.kv.block_tokens * self.kv.block_tokens

    def prefill_s(self, end: int, start: int) -> float:
        """Predicted seconds for the prompt's tokens `[start, end)`."""
        return self.card.prefill_s(end - start, start) if end > start else 0.0


class Cost(msgspec.Struct, frozen=True):
    """What one way is predicted to take."""

    ttft_s: float
    held_up_s: float  # summed over the sequences that are held up

    def total(self, scenario: Scenario) -> float:
        """One number to compare."""
        return TTFT_WEIGHTS[scenario] * self.ttft_s + self.held_up_s


class Decision(msgspec.Struct, frozen=True):
    """Who runs a request, who computes its prompt first, and the predicted seconds to its first token either way."""

    worker_id: str
    reason: Reason
    direct_s: float = 0.0
    prefill_id: str | None = None  # None: nobody, the request goes to `worker_id` at once
    prefill_tokens: int = 0  # how many of the prompt's tokens are computed first
    split_s: float | None = None  # of the best pair; None: there is none

    @property
    def way(self) -> str:
        """In a word."""
        return "direct" if self.prefill_id is None else "split"

    @property
    def predicted_s(self) -> float:
        """Seconds to the first token, the way it was decided."""
        return self.direct_s if self.prefill_id is None or self.split_s is None else self.split_s


def decide(
    options: Sequence[Option], prompt: Prompt, transfer_bytes_per_s: float, *, may_split: bool = True
) -> Decision | None:
    """Who takes a request; None where no worker is ready. Quadratic in workers, for long prompts alone."""
    direct = _direct(options, prompt)
    if direct is None:
        return None
    plain = _direct_cost(direct, prompt)
    if not may_split:
        return Decision(direct.id, Reason.SHARED, plain.ttft_s)
    if not _is_long(direct, prompt):
        return Decision(direct.id, Reason.SHORT, plain.ttft_s)
    pairs = [
        (_split_cost(first, second, prompt, transfer_bytes_per_s), first, second)
        for first, second in _pairs(options, prompt)
    ]
    if not pairs:
        return Decision(direct.id, Reason.ALONE, plain.ttft_s)
    cost, first, second = min(pairs, key=lambda pair: (pair[0].total(prompt.scenario), pair[1].id, pair[2].id))
    if not _is_gain(plain.total(prompt.scenario), cost.total(prompt.scenario)):
        return Decision(direct.id, Reason.NO_GAIN, plain.ttft_s, split_s=cost.ttft_s)
    reason = Reason.SOONER if _is_gain(plain.ttft_s, cost.ttft_s) else Reason.SPARES
    return Decision(second.id, reason, plain.ttft_s, first.id, first.handed_tokens(prompt), cost.ttft_s)


def second_half(candidates: Sequence[Candidate], first_id: str) -> str | None:
    """Who goes on after `first_id` has computed the prompt: anybody else, rather; None where no worker is ready."""
    others = (each for each in candidates if each.worker_id != first_id and each.role is not Role.PREFILL)
    return pick_worker(others) or pick_worker(candidates)


def _direct(options: Sequence[Option], prompt: Prompt) -> Option | None:
    """Who would take the whole request."""
    chosen = _pick(options)
    if chosen is not None and chosen.role is Role.DECODE and _is_long(chosen, prompt):
        return _pick(option for option in options if option.role is Role.BOTH) or chosen
    return chosen


def _pick(options: Iterable[Option]) -> Option | None:
    by_id = {option.id: option for option in options}
    chosen = pick_worker(option.candidate for option in by_id.values())
    return None if chosen is None else by_id[chosen]


def _is_long(option: Option, prompt: Prompt) -> bool:
    return option.prefill_s(prompt.num_tokens, option.candidate.held_tokens) > SHORT_PREFILL_S


def _pairs(options: Sequence[Option], prompt: Prompt) -> list[tuple[Option, Option]]:
    """Every (first, second) that could exchange a block of this prompt."""
    able = [option for option in options if option.candidate.is_ready and option.kv is not None]
    firsts = [option for option in able if option.role is not Role.DECODE]
    seconds = [option for option in able if option.role is not Role.PREFILL]
    return [(first, second) for first in firsts for second in seconds if _can_hand_over(first, second, prompt)]


def _can_hand_over(first: Option, second: Option, prompt: Prompt) -> bool:
    assert first.kv is not None
    assert second.kv is not None
    is_same_model = (first.kv.fingerprint, first.kv.block_tokens) == (second.kv.fingerprint, second.kv.block_tokens)
    has_work = first.handed_tokens(prompt) > second.candidate.held_tokens
    return first.id != second.id and is_same_model and has_work


def _direct_cost(option: Option, prompt: Prompt) -> Cost:
    prefill_s = option.prefill_s(prompt.num_tokens, option.candidate.held_tokens)
    return Cost(option.queue_s + prefill_s, prefill_s * option.num_held_up)


def _split_cost(first: Option, second: Option, prompt: Prompt, bytes_per_s: float) -> Cost:
    """The second worker's queue shortens while the first one computes; its copying holds up its decoders too."""
    assert first.kv is not None
    handed = first.handed_tokens(prompt)
    prefill_s = first.prefill_s(handed, first.candidate.held_tokens)
    moved_bytes = (handed - second.candidate.held_tokens) * first.kv.bytes_per_token
    moving_s = HANDOFF_S + moved_bytes / bytes_per_s
    tail_s = second.prefill_s(prompt.num_tokens, handed)
    handed_over_s = max(first.queue_s + prefill_s, second.queue_s)
    held_up_s = prefill_s * first.decoding + (moving_s + tail_s) * second.decoding
    return Cost(handed_over_s + moving_s + tail_s, held_up_s)


def _is_gain(before_s: float, after_s: float) -> bool:
    return after_s <= before_s * (1 - MARGIN) and after_s <= before_s - MIN_GAIN_S
