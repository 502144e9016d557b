"""What a step has to compute and to read, whatever computes it: the numerators of MFU and MBU.

FLOPs are those of the matrix products and of attention, two for each multiply-add: 2 x parameters x rows (Kaplan et
al., "Scaling Laws for Neural Language Models", 2020, table 1), less the embedding, which is looked up, and with the
output projection for sampled rows alone; and for each query and key that meet, 2 x head_dim for their product and as
many for the value, in every head (Korthikanti et al., "Reducing Activation Recomputation", 2022, appendix A). Norms,
rotary embedding, softmax and sampling are left out, as they are there.

Bytes are what a step cannot do without: each packed weight that has a row, once, and the keys and values of each
chunk's context, once. What lies in a cache from the step before is not deducted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

from tokenworks.contract.kv import KVSpec
from tokenworks.engine.model_config import ModelConfig
from tokenworks.policy.accounts import Computed
from tokenworks.policy.step_plan import Chunk


class Arithmetic:
    """Of one model and its KV."""

    def __init__(self, config: ModelConfig, spec: KVSpec, step_bytes: Callable[[int], int]) -> None:
        """`step_bytes` is `Model.step_bytes`; what it says is kept, because every step asks."""
        self._row_flops = 2 * row_parameters(config)
        self._sample_flops = 2 * config.hidden_size * config.vocab_size
        self._pair_flops = 4 * config.num_heads * config.head_dim  # of one layer
        self._token_bytes = spec.bytes_per_token / config.num_layers  # of one layer
        self._weight_bytes = lru_cache(maxsize=4096)(step_bytes)
        self._windows = Counter(config.windows)  # window: layers

    def count(self, computed: Computed) -> tuple[float, float]:
        """FLOPs and bytes of a step or a run of steps. O(chunks) for each kind of window."""
        chunks, num_steps = computed
        num_rows = sum([chunk.num_tokens for chunk in chunks])
        num_sampled = sum([chunk.num_sampled for chunk in chunks])
        flops = float(num_steps * (num_rows * self._row_flops + num_sampled * self._sample_flops))
        num_bytes = float(num_steps * self._weight_bytes(num_rows))
        for window, num_layers in self._windows.items():
            pairs = sum([pairs_in_window(chunk.start, chunk.num_tokens * num_steps, window) for chunk in chunks])
            flops += num_layers * self._pair_flops * pairs
            num_bytes += num_layers * self._token_bytes * (pairs if num_steps > 1 else _context(chunks, window))
        return flops, num_bytes


def pairs_in_window(start: int, num_tokens: int, window: int | None) -> int:
    """Keys that tokens `[start, start + num_tokens)` attend to, together: each to itself and `window` - 1 before."""
    end = start + num_tokens
    low, high = (start, end) if window is None else (min(start, window), min(end, window))
    growing = (low + 1 + high) * (high - low) // 2  # low + 1, ..., high
    return growing if window is None else growing + (num_tokens - (high - low)) * window


def _context(chunks: Sequence[Chunk], window: int | None) -> int:
    """Tokens whose keys and values a step reads: of each chunk, all that any of its rows attends to."""
    if window is None:
        return sum([chunk.start + chunk.num_tokens for chunk in chunks])
    return sum([min(chunk.start + chunk.num_tokens, window + chunk.num_tokens - 1) for chunk in chunks])


def row_parameters(config: ModelConfig) -> int:
    """Weights of all layers' matrix products that one token passes through: of experts, those that it is sent to."""
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = config.hidden_size * (2 * query + 2 * key)
    return sum(attention + _feed_forward(config, layer) for layer in range(config.num_layers))


def _feed_forward(config: ModelConfig, layer: int) -> int:
    experts = config.experts_of(layer)
    if experts is None:
        return 3 * config.hidden_size * config.intermediate_size
    router = config.hidden_size * experts.num_experts
    return router + experts.num_per_token * 3 * config.hidden_size * experts.intermediate_size
