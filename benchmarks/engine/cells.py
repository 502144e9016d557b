"""What is measured: prefill of `batch` prompts of `length` tokens, and decode of `batch` sequences at `length` tokens.

Runs inside the peers' environments: standard library only.
"""

from __future__ import annotations

import fnmatch
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_NAME: Final = re.compile(r"(?:prefill (\d+)x(\d+)|decode (\d+) at (\d+))")
SLOW_TOKENS: Final = 16_000
"""Prompt tokens in a decode cell from which on fewer steps are timed: the prompts take most of the time anyway."""
CHUNK_TOKENS: Final = 256
"""Prompt tokens per step that the slowest engine is taken to compute; see `Cell.max_tokens`."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the table."""

    is_prefill: bool
    batch: int  # sequences
    length: int  # prompt tokens of each

    @property
    def name(self) -> str:
        """Such as `prefill 1x512` or `decode 8 at 16`."""
        return f"prefill {self.batch}x{self.length}" if self.is_prefill else f"decode {self.batch} at {self.length}"

    @property
    def prompt_tokens(self) -> int:
        """Of all its sequences."""
        return self.batch * self.length

    @property
    def steps(self) -> int:
        """Decode steps that are timed; 0 in prefill."""
        if self.is_prefill:
            return 0
        return 32 if self.prompt_tokens >= SLOW_TOKENS else 64

    @property
    def max_tokens(self) -> int:
        """Output tokens to ask for, so that no sequence ends before the timed steps do.

        While later prompts are computed, chunk by chunk, earlier sequences already decode: they run ahead by as many
        tokens as there are chunks.
        """
        if self.is_prefill:
            return 1
        return self.steps + 16 + -(-self.prompt_tokens // CHUNK_TOKENS)

    @property
    def window_tokens(self) -> int:
        """Longest sequence."""
        return self.length + self.max_tokens

    def prompts(self, vocab_size: int, source: random.Random) -> list[list[int]]:
        """Fresh random token ids, so that no prefix cache can hold a block of them."""
        low, high = min(100, vocab_size // 2), min(30_000, vocab_size) - 1
        return [[source.randint(low, high) for _ in range(self.length)] for _ in range(self.batch)]


PREFILL: Final = tuple(Cell(True, batch, length) for batch, length in ((1, 512), (4, 512), (1, 2048)))
DECODE: Final = tuple(Cell(False, batch, length) for length in (16, 512, 2000) for batch in (1, 8, 32))
CELLS: Final = PREFILL + DECODE
QUICK: Final = (PREFILL[0], *DECODE[:3], DECODE[3])
"""A few minutes an engine: one prefill, decode of 1, 8 and 32 at 16, of 1 at 512."""


def parse_cell(name: str) -> Cell:
    """The cell of a name; raises ValueError."""
    match = _NAME.fullmatch(name.strip())
    if match is None:
        raise ValueError(f"no cell {name!r}: write it as 'prefill 1x512' or 'decode 8 at 16'")
    groups = [int(group) for group in match.groups() if group is not None]
    cell = Cell(match[1] is not None, groups[0], groups[1])
    if min(groups) < 1:
        raise ValueError(f"no cell {name!r}: batch and length are at least 1")
    return cell


def select_cells(patterns: Sequence[str], cells: Iterable[Cell] = CELLS) -> list[Cell]:
    """The cells that match a pattern such as `decode 1 at *`; a pattern that is a new cell's name adds that cell."""
    known = list(cells)
    chosen: list[Cell] = []
    for pattern in patterns:
        found = [cell for cell in known if fnmatch.fnmatchcase(cell.name, pattern.strip())] or [parse_cell(pattern)]
        chosen += [cell for cell in found if cell not in chosen]
    return chosen


def cheapest_first(cells: Iterable[Cell]) -> list[Cell]:
    """By prompt tokens: where an engine's time runs out, the dear cells are the ones that go missing."""
    return sorted(cells, key=lambda cell: (cell.prompt_tokens, not cell.is_prefill, cell.batch))
