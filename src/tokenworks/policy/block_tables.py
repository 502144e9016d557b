"""The block tables of one engine's sequences: begun with what the pool has, extended, named as they fill, given back.

Pure. Who may have blocks, and when, is the scheduler's to decide; here is only how a table and the pool stay in step.

Invariant: a table covers its sequence's computed tokens, and every block in it has a reference of that sequence's.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.contract.kv import BlockName
from tokenworks.policy.block_pool import BlockPool
from tokenworks.policy.sequence import Sequence


@dataclass(frozen=True, slots=True)
class NamedBlock:
    """A block that a step fills."""

    name: BlockName
    parent: BlockName
    index: int  # in its sequence: its first token's position, in blocks
    request_id: str  # its sequence's


class BlockTables:
    """Tables over `pool`, in blocks of `block_tokens`."""

    def __init__(self, pool: BlockPool, block_tokens: int) -> None:
        self.named: list[NamedBlock] = []  # by the last step
        self.reused: list[BlockName] = []  # blocks of the pool that sequences admitted in the last step began with
        self._pool = pool
        self._block_tokens = block_tokens

    def begin_step(self) -> None:
        """Forget what the last step named and reused."""
        self.named, self.reused = [], []

    def cached(self, sequence: Sequence) -> list[int]:
        """The longest cached prefix, short of the last token, which must be computed to sample from it."""
        return self._pool.match(sequence.names_of_full_blocks(len(sequence.token_ids) - 1))

    def begin(self, sequence: Sequence) -> None:
        """Its cached prefix, instead of what it held while it waited; those tokens count as computed."""
        cached, held = self.cached(sequence), sequence.block_table
        self._pool.acquire(cached)
        self._pool.release(held)
        sequence.block_table = cached
        sequence.num_computed = len(cached) * self._block_tokens
        names = sequence.block_names[: len(cached)]
        self.reused += [name for index, name in enumerate(names) if index not in sequence.fetched]

    def room_for(self, sequence: Sequence) -> int:
        """Tokens that its table could cover with all free blocks."""
        return (len(sequence.block_table) + self._pool.num_free) * self._block_tokens

    def extend(self, sequence: Sequence, num_tokens: int) -> None:
        """Cover its first `num_tokens` tokens."""
        table = sequence.block_table
        table += self._pool.allocate(sequence.blocks_for(num_tokens) - len(table))

    def name_filled(self, sequence: Sequence, start: int, end: int) -> None:
        """Make those blocks findable that the tokens `[start, end)` fill up."""
        names = sequence.names_of_full_blocks(end)
        for index in range(start // self._block_tokens, len(names)):
            if self._pool.give_name(sequence.block_table[index], names[index]):
                parent = names[index - 1] if index else sequence.root
                self.named.append(NamedBlock(names[index], parent, index, sequence.request.id))

    def cut(self, sequence: Sequence) -> None:
        """Give back the blocks beyond its computed tokens."""
        num_blocks = sequence.blocks_for(sequence.num_computed)
        self._pool.release(sequence.block_table[num_blocks:])
        del sequence.block_table[num_blocks:]

    def forget(self, sequence: Sequence, start: int) -> None:
        """Nobody may find its blocks from that of token `start` on: they were not computed."""
        for block in sequence.block_table[start // self._block_tokens :]:
            self._pool.forget(block)

    def release(self, sequence: Sequence) -> None:
        """Give back all, and count nothing as computed."""
        self._pool.release(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed = 0
