"""Who takes part: this engine and each peer, at each precision, and how each is started.

A variant's process runs from the repository's root with the Python of its own environment.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OURS: Final = "tokenworks"
PRECISIONS: Final = ("bf16", "int8", "int4")
PEERS: Final = ("openvino", "vllm", "llamacpp")
ROOT: Final = Path(__file__).resolve().parents[2]

_FORMATS: Final = {
    "openvino": {"bf16": "fp16", "int8": "int8", "int4": "int4"},
    "vllm": {"bf16": "bf16"},
    "llamacpp": {"bf16": "bf16", "int8": "q8_0", "int4": "q4_0"},
    OURS: {"bf16": "bf16", "int8": "int8", "int4": "int4"},
}
TITLES: Final = {OURS: "tokenworks", "openvino": "OpenVINO GenAI", "vllm": "vLLM CPU", "llamacpp": "llama.cpp"}


@dataclass(frozen=True, slots=True)
class Variant:
    """One engine at one precision."""

    engine: str
    precision: str  # the row of the table: bf16, int8 or int4
    python: Path

    @property
    def format(self) -> str:
        """What the engine itself calls the precision; fp16 and bf16 are the same bytes."""
        return _FORMATS[self.engine][self.precision]

    @property
    def title(self) -> str:
        """For tables and progress."""
        return f"{TITLES[self.engine]} {self.format}"

    @property
    def command(self) -> list[str]:
        """The start of its command line."""
        module = "benchmarks.engine.ours" if self.engine == OURS else f"benchmarks.engine.peers.{self.engine}"
        return [str(self.python), "-m", module]


def find_variants(peers: Path, precisions: Sequence[str], engines: Sequence[str]) -> list[Variant]:
    """This engine and every installed peer of `engines`, at the precisions that each has; ours come first."""
    found = []
    for precision in precisions:
        for engine in (OURS, *PEERS):
            python = Path(sys.executable) if engine == OURS else peer_python(peers, engine)
            if engine in engines and precision in _FORMATS[engine] and python.exists():
                found.append(Variant(engine, precision, python))
    return found


def peer_python(peers: Path, engine: str) -> Path:
    """The interpreter of a peer's environment, there or not."""
    return peers / engine / "bin" / "python"
