"""The bars that this engine is held to, and whether a run meets them.

Each is for the Qwen3-0.6B shape on 2 cores: a ratio to the best peer's median in the cell, at the same precision, or a
share of a measured ceiling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.engine.standing import Standing


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure to reach: of `ratio`, `share` (MBU in decode, MFU in prefill) or `overhead` (where less is better)."""

    measure: str
    value: float

    def is_met(self, found: float) -> bool:
        """Whether `found` is as good."""
        return found <= self.value if self.measure == "overhead" else found >= self.value

    def __str__(self) -> str:
        if self.measure == "ratio":
            return f"{self.value:.2f}x"
        return (
            f"{self.value:.0%} of the ceiling"
            if self.measure == "share"
            else f"at most {self.value:.0%} outside kernels"
        )


@dataclass(frozen=True, slots=True)
class Bar:
    """Cells, and what they must and should reach."""

    cells: tuple[str, ...]
    precisions: tuple[str, ...]
    least: Goal
    aims: tuple[Goal, ...]


ALL_PRECISIONS: Final = ("bf16", "int8", "int4")
ONE: Final = ("decode 1 at 16", "decode 1 at 512")
MANY: Final = tuple(f"decode {batch} at {length}" for batch in (8, 32) for length in (16, 512, 2000))
BARS: Final = (
    Bar(
        ("prefill 1x512", "prefill 4x512", "prefill 1x2048"),
        ("bf16",),
        Goal("ratio", 1.15),
        (Goal("ratio", 1.5), Goal("share", 0.6)),
    ),
    Bar(ONE, ("bf16",), Goal("share", 0.85), (Goal("share", 0.92),)),
    Bar(ONE, ("int8",), Goal("ratio", 1.3), (Goal("share", 0.75),)),
    Bar(ONE, ("int4",), Goal("ratio", 1.3), (Goal("share", 0.65),)),
    Bar(MANY, ALL_PRECISIONS, Goal("ratio", 1.15), (Goal("ratio", 1.5),)),
    Bar(ONE, ALL_PRECISIONS, Goal("overhead", 0.05), (Goal("overhead", 0.02),)),
)


def judge(bar: Bar, standing: Standing) -> tuple[str, str]:
    """(What was found, verdict) for one cell of a bar."""
    found = _found(bar.least, standing)
    if found is None:
        return "-", "not measured"
    text = f"{found:.2f}x" if bar.least.measure == "ratio" else f"{found:.0%}"
    if not bar.least.is_met(found):
        return text, f"**missed** by {abs(found - bar.least.value) / bar.least.value:.0%}"
    unmet = [aim for aim in bar.aims if (value := _found(aim, standing)) is None or not aim.is_met(value)]
    return text, "met" if unmet else "met, aim reached"


def _found(goal: Goal, standing: Standing) -> float | None:
    return {"ratio": standing.ratio, "share": standing.share, "overhead": standing.overhead}[goal.measure]
