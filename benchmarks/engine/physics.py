"""From seconds to shares of the machine: MBU, bytes that a decode step must read over what memory gives in that time,
and MFU, operations that a prefill must do over what the matrix units give in that time.

Only what the mathematics needs is counted, once: weights, keys and values, multiplications of the causal half. Copies,
padding and recomputation are the engine's own affair, so no engine can look better by doing more.
"""

from __future__ import annotations

from typing import Any, Final

from benchmarks.engine.shape import ModelShape

WEIGHT_BYTES: Final = {"bf16": 2.0, "int8": 1.0, "int4": 0.5}
"""Per parameter, without scales: for an engine that does not say what it holds."""
CEILING_OF: Final = {
    "bf16": ("bf16_ops_per_s",),
    "int8": ("bf16_ops_per_s", "int8_ops_per_s"),
    "int4": ("bf16_ops_per_s", "int8_ops_per_s"),
}
"""The products that an engine may use at a precision: the faster one is the ceiling."""


def experts_read(shape: ModelShape, tokens: int) -> float:
    """Distinct experts of one layer that `tokens` tokens are sent to, if each picks `experts_per_token` at random.

    An expert is missed by one token with probability 1 - k/E, by all with (1 - k/E)^tokens.
    """
    miss = 1 - shape.experts_per_token / shape.num_experts
    return shape.num_experts * (1 - miss**tokens)


def parameters_read(shape: ModelShape, tokens: int) -> float:
    """Matrix parameters that a step of `tokens` rows reads: all of a dense model, the experts met of another."""
    layer = shape.attention_parameters + experts_read(shape, tokens) * shape.expert_parameters
    return shape.num_layers * layer + shape.head_parameters


def weight_bytes_read(shape: ModelShape, precision: str, tokens: int, about: dict[str, Any]) -> float:
    """Bytes of weights that a step of `tokens` rows reads.

    `about` is what the engine says of itself: `weight_bytes` that it holds, scales included, or `file_bytes` of what it
    has loaded, where an embedding that is only looked up is not read; without them, the precision's bytes.
    """
    if "weight_bytes" in about:
        in_all = float(about["weight_bytes"])
    elif "file_bytes" in about:
        in_all = float(about["file_bytes"]) * shape.matrix_parameters / shape.stored_parameters
    else:
        in_all = shape.matrix_parameters * WEIGHT_BYTES[precision]
    return in_all * parameters_read(shape, tokens) / shape.matrix_parameters


def kv_bytes_read(shape: ModelShape, batch: int, context_tokens: float, itemsize: float = 2) -> float:
    """Bytes of keys and values that a decode step reads: a layer with a window reads no more than that."""
    tokens = sum(min(window or context_tokens, context_tokens) for window in shape.layer_windows())
    return batch * tokens * itemsize * shape.kv_bytes_per_token(1) / shape.num_layers


def decode_bytes_read(
    shape: ModelShape, precision: str, batch: int, context_tokens: float, about: dict[str, Any]
) -> float:
    """Bytes of weights and KV of one decode step; KV of 16 bits unless `about` has `kv_bytes_per_token`."""
    weights = weight_bytes_read(shape, precision, batch, about)
    kv_itemsize = about.get("kv_bytes_per_token", shape.kv_bytes_per_token()) / shape.kv_bytes_per_token(1)
    return weights + kv_bytes_read(shape, batch, context_tokens, kv_itemsize)


def mbu(bytes_read: float, step_s: float, read_bytes_per_s: float) -> float:
    """Memory bandwidth utilisation: bytes read per second over the measured ceiling."""
    return bytes_read / step_s / read_bytes_per_s


def attended_pairs(length: int, window: int | None, context: int = 0) -> int:
    """(query, key) pairs of `length` new tokens after `context` older ones: each token sees itself and what precedes
    it, at most `window` in all."""
    first, last = context + 1, context + length
    if window is None or last <= window:
        return (first + last) * length // 2
    full = min(max(0, window - context), length)  # tokens that see less than the window, or just it
    return (first + context + full) * full // 2 + (length - full) * window


def prefill_operations(shape: ModelShape, batch: int, length: int) -> float:
    """Multiplications and additions of `batch` prompts of `length` tokens.

    2 per active matrix parameter and token; the output projection only for the one row a prompt that is sampled from;
    attention 4 per pair, head and head dimension: 2 for query times key, 2 for weight times value.
    """
    matrices = 2.0 * shape.active_layer_parameters * length + 2.0 * shape.head_parameters
    pairs = sum(attended_pairs(length, window) for window in shape.layer_windows())
    return batch * (matrices + 4.0 * shape.num_heads * shape.head_dim * pairs)


def mfu(operations: float, seconds: float, ops_per_s: float) -> float:
    """Model FLOP/s utilisation: operations per second over the measured ceiling."""
    return operations / seconds / ops_per_s


def decode_operations(shape: ModelShape, batch: int, context_tokens: float) -> float:
    """Multiplications and additions of one decode step, attention included."""
    matrices = 2.0 * (shape.active_layer_parameters + shape.head_parameters)
    pairs = sum(min(window or context_tokens, context_tokens) for window in shape.layer_windows())
    return batch * (matrices + 4.0 * shape.num_heads * shape.head_dim * pairs)


def floor_s(bytes_read: float, operations: float, read_bytes_per_s: float, ops_per_s: float) -> float:
    """No step or prefill is faster: it reads and it multiplies, at best both at once."""
    return max(bytes_read / read_bytes_per_s, operations / ops_per_s)
