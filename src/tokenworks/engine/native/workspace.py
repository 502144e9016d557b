"""Memory that the native step uses between its operations, grown to the largest step so far and kept."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from tokenworks.engine.experts_config import ExpertsConfig
from tokenworks.engine.model_config import ModelConfig
from tokenworks.engine.native.library import WorkspaceStruct

OWN_ROWS: Final = 8
"""kOwnRows of `csrc/api.h`."""


class Workspace:
    """Buffers for one model; see `csrc/api.h` for what each holds."""

    def __init__(self, config: ModelConfig, num_threads: int) -> None:
        self._config = config
        self._least_rows = num_threads * OWN_ROWS
        self._rows = self._pieces = 0  # that there is room for
        self._buffers: dict[str, Tensor] = {}
        self._struct = WorkspaceStruct()
        self._lent: dict[str, Tensor] = {}
        self._logits = torch.empty(0, config.vocab_size)

    def rows(self, name: str, rows: int, width: int) -> Tensor:
        """[rows, width] at the start of a buffer, for a product computed elsewhere."""
        return self._buffers[name].view(-1)[: rows * width].view(rows, width)

    def lend(self, name: str, product: Tensor) -> None:
        """Let the struct point to a product's result, which is kept until the next one of that name."""
        self._lent[name] = product
        setattr(self._struct, name, product.data_ptr())

    def take_back(self, name: str) -> None:
        """Let the struct point to its own buffer again."""
        setattr(self._struct, name, self._buffers[name].data_ptr())

    def logits(self, rows: int) -> Tensor:
        """float32 [rows, vocab], the same memory each time: a fresh one would be paged in anew each step."""
        if rows > len(self._logits):
            self._logits = torch.empty(rows, self._config.vocab_size)
        return self._logits[:rows]

    def of(self, rows: int, pieces: int) -> WorkspaceStruct:
        """The buffers, large enough for a step of `rows` rows whose decode contexts are cut into `pieces` pieces."""
        if rows > self._rows or pieces > self._pieces:
            self._rows, self._pieces = max(rows, self._rows, self._least_rows), max(pieces, self._pieces)
            self._buffers.update(self._row_buffers(self._rows))
            self._buffers.update(self._piece_buffers(self._pieces))
            self._struct = WorkspaceStruct(**{name: buffer.data_ptr() for name, buffer in self._buffers.items()})
        return self._struct

    def _row_buffers(self, rows: int) -> dict[str, Tensor]:
        config = self._config
        query = config.num_heads * config.head_dim
        choices = config.experts.num_per_token if config.experts else 1
        expert_width = choices * config.experts.intermediate_size if config.experts else 0
        inner = max(config.intermediate_size, expert_width)
        widest = max(config.hidden_size, query, inner)

        def half(width: int) -> Tensor:
            return torch.empty(rows, width, dtype=torch.bfloat16)

        return {
            "residual": torch.empty(rows, config.hidden_size),
            "normed": half(config.hidden_size),
            "qkv": half(query + 2 * config.num_kv_heads * config.head_dim),
            "query": half(query),
            "attention": half(query),
            "inner": half(inner),
            "codes": torch.empty(rows, widest, dtype=torch.int8),
            "code_scales": torch.empty(rows, widest // 32),
            "code_sums": torch.empty(rows, widest // 32, dtype=torch.int32),
            **(self._expert_buffers(config.experts, rows) if config.experts else {}),
        }

    def _expert_buffers(self, experts: ExpertsConfig, rows: int) -> dict[str, Tensor]:
        places = rows * experts.num_per_token
        return {
            "expert_out": torch.empty(places, self._config.hidden_size),
            "router_logits": torch.empty(rows, experts.num_experts),
            "routes": torch.empty(3 * places + experts.num_experts + 1, dtype=torch.int32),
            "route_weights": torch.empty(places),
        }

    def _piece_buffers(self, pieces: int) -> dict[str, Tensor]:
        heads = self._config.num_heads
        return {
            "partial_values": torch.empty(pieces, heads, self._config.head_dim),
            "partial_stats": torch.empty(pieces, heads, 2),
        }
