"""The token state of one request inside an engine.

A sequence is its token ids, how many of them have their keys and values computed, and the blocks that hold those.
`num_computed < len(token_ids)` always: the last token is what the next step computes and samples from. Prefill, decode
and recomputation after preemption are thus one thing: computing what is not computed yet.
"""

from __future__ import annotations

from tokenworks.contract.errors import InvalidRequest
from tokenworks.contract.kv import BlockName, Tier, child_name, root_name
from tokenworks.contract.request import Request
from tokenworks.policy.drafting import Drafting
from tokenworks.policy.token_counts import TokenCounts


class Sequence:
    """Mutable; owned by the scheduler, read by the runner during a step.

    Raises InvalidRequest where the request says that more was generated before than can be.
    """

    __slots__ = (
        "block_names",
        "block_table",
        "block_tokens",
        "cached_tokens",
        "drafting",
        "fetched",
        "fetched_tokens",
        "is_looked_up",
        "num_computed",
        "preemptions",
        "request",
        "root",
        "token_counts",
        "token_ids",
    )

    def __init__(self, request: Request, block_tokens: int, fingerprint: str) -> None:
        if not 0 <= request.num_generated < min(len(request.token_ids), request.sampling.max_tokens):
            raise InvalidRequest(f"{request.num_generated} tokens cannot have been generated of this request before")
        self.request = request
        self.block_tokens = block_tokens
        self.token_ids = list(request.token_ids)
        self.num_computed = 0
        self.block_table: list[int] = []
        self.root = root_name(fingerprint, request.salt)
        self.block_names: list[BlockName] = []
        self.cached_tokens: int | None = None  # prompt tokens found in the cache at first admission
        self.fetched_tokens: dict[Tier, int] | None = None  # of those, what came from beyond the device
        self.is_looked_up = False  # whether somebody was asked for the blocks that the pool does not have: see arriving
        self.fetched: dict[int, Tier] = {}  # the blocks that then came, by their index, and where they were
        self.preemptions = 0
        self.drafting: Drafting | None = None  # what speculation, where it is on, has noted of this sequence
        self.token_counts: TokenCounts | None = None  # what the sampler, where there are penalties, has counted

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return self.request.num_prompt

    @property
    def num_output(self) -> int:
        """Tokens generated so far, by whomever: where another worker had begun, its tokens count."""
        return len(self.token_ids) - self.request.num_prompt

    @property
    def num_uncomputed(self) -> int:
        """Tokens whose keys and values are still to be computed."""
        return len(self.token_ids) - self.num_computed

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that `num_tokens` tokens fill, the last one perhaps in part."""
        return -(-num_tokens // self.block_tokens)

    def names_of_full_blocks(self, num_tokens: int) -> list[BlockName]:
        """Chained names of the full blocks among the first `num_tokens` tokens; each is hashed once."""
        size = self.block_tokens
        wanted = num_tokens // size
        while len(self.block_names) < wanted:
            index = len(self.block_names)
            parent = self.block_names[-1] if index else self.root
            self.block_names.append(child_name(parent, self.token_ids[index * size : (index + 1) * size]))
        return self.block_names[:wanted]
