"""How the time of something that several used together is shared out among them, in whole nanoseconds.

A step computes for many sequences at once. Each is charged in proportion to what the card says its part would have
cost: the step's prompts as if they were a step of their own, its decoding sequences as if they were another (what a
group pays in proportion to its stand-alone costs is never more than them, as long as sharing a step saves anything).
Within a group the base, which is the reading of all weights, is split evenly, and the rest goes by rows and context.

Invariant: the shares are whole, none is negative, and together they are the total, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from tokenworks.contract.card import Card
from tokenworks.policy.step_plan import Chunk


class Prices(NamedTuple):
    """A card's latency models: see `Card.prefill_s` and `Card.decode_s`. Only their proportions matter here."""

    prefill_base_s: float
    per_token_s: float
    per_pair_s: float
    decode_base_s: float
    per_row_s: float  # in decode: of a sequence, and of each draft
    per_context_token_s: float

    @classmethod
    def of(cls, card: Card) -> Prices:
        """As the worker measured itself."""
        return cls(
            card.prefill_base_s,
            card.prefill_per_token_s,
            card.prefill_per_pair_s,
            card.decode_base_s,
            card.decode_per_sequence_s,
            card.decode_per_context_token_s,
        )


def chunk_costs(chunks: Sequence[Chunk], prices: Prices) -> list[float]:
    """What each chunk of a step would cost by the card. A draft's row costs what one more sequence costs, its KV less.

    O(chunks), in every step: kept plain.
    """
    prefill_base_s, per_token_s, per_pair_s, decode_base_s, per_row_s, per_context_s = prices
    num_decoding = sum([chunk.num_sampled == chunk.num_tokens for chunk in chunks])
    decode_s = decode_base_s / max(num_decoding, 1)
    prefill_s = prefill_base_s / max(len(chunks) - num_decoding, 1)
    costs = []
    for chunk in chunks:
        rows, start = chunk.num_tokens, chunk.start
        if rows == chunk.num_sampled:
            costs.append(decode_s + per_row_s * rows + per_context_s * start)
        else:
            costs.append(prefill_s + rows * (per_token_s + per_pair_s * (start + rows / 2)))
    return costs


def share_out(total: int, costs: Sequence[float]) -> list[int]:
    """`total` in parts as `costs` are to each other; evenly where these say nothing. `total` must be below 2**53.

    The bounds between the parts are rounded, not the parts: so nothing is lost, and no part is off by more than one.
    """
    sums = list(accumulate(costs))
    if sums and not 0 < sums[-1] < math.inf:
        sums = list(accumulate([1.0] * len(costs)))
    bounds = [int(total * (each / sums[-1])) for each in sums]
    return [end - start for start, end in pairwise([0, *bounds])]
