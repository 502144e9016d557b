"""The native library against dense float32 formulas, against `transformers`, and against itself in other batches."""

from __future__ import annotations

import random
from collections.abc import Callable
from ctypes import byref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenworks.contract.kv import KVSpec
from tokenworks.contract.request import Sampling
from tokenworks.engine.batch import SPLIT_TOKENS, DecodeRows, PrefillChunk, StepBatch
from tokenworks.engine.kv_cache import KVCache
from tokenworks.engine.linear import Linear
from tokenworks.engine.linear_quantized import QuantizedLinear
from tokenworks.engine.native import library
from tokenworks.engine.native.packing import pack
from tokenworks.engine.native.step import NativeDecoder, batch_struct, kv_struct
from tokenworks.engine.quantize import QuantizedWeight, quantize

pytestmark = pytest.mark.skipif(library.missing() is not None, reason=f"native library: {library.missing()}")
BLOCK = 16
RandomCache = Callable[[KVSpec, int], KVCache]
NAMES = [
    "llama3",
    "llama-biases-linear-rope",
    "qwen2-sliding",
    "qwen3-tied",
    "qwen3-yarn",
    "mistral-sliding",
    "qwen3-moe",
    "qwen3-moe-unnormed-biases",
    "qwen3-moe-some-layers-sliding",
    "mixtral",
]


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7, 13, 48, 49, 130])
@pytest.mark.parametrize(("outputs", "inputs"), [(64, 32), (192, 64), (1024, 544), (1000, 1056)])
def test_products(outputs: int, inputs: int, rows: int) -> None:
    torch.manual_seed(rows)
    weight, bias = torch.randn(outputs, inputs).bfloat16(), torch.randn(outputs)
    x, out = torch.randn(rows, inputs).bfloat16(), torch.empty(rows, outputs, dtype=torch.bfloat16)
    linear = Linear([weight], [bias], torch.bfloat16)
    struct = library.LinearStruct(0, outputs, inputs, 0, linear.blocked_address, None, bias.data_ptr())
    space = library.WorkspaceStruct()
    library.load().tw_linear(byref(struct), x.data_ptr(), rows, out.data_ptr(), byref(space), 2)
    expected = (x.double() @ weight.double().T + bias.double()).float()
    torch.testing.assert_close(out.float(), expected, rtol=2**-8, atol=1e-3 * inputs**0.5)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6, 7, 20, 49, 130])
@pytest.mark.parametrize(("outputs", "inputs"), [(64, 32), (192, 64), (1000, 384), (128, 1024)])
@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_products(bits: int, outputs: int, inputs: int, rows: int) -> None:
    """The same as the portable loops, which round the rows in the same way, up to float32 sums and the bf16 result."""
    torch.manual_seed(rows)
    quantized, bias = quantize(torch.randn(outputs, inputs), bits), torch.randn(outputs)
    x, out = torch.randn(rows, inputs).bfloat16(), torch.empty(rows, outputs, dtype=torch.bfloat16)
    x[0, :32] = 0  # a group without a scale
    linear = QuantizedLinear([quantized], [bias])
    expected = linear(x.float())
    packed = pack(linear)
    groups = rows * inputs // quantized.group_size
    codes = torch.empty(rows * inputs, dtype=torch.int8), torch.empty(groups), torch.empty(groups, dtype=torch.int32)
    addresses = (memory.data_ptr() for memory in codes)
    space = library.WorkspaceStruct(**dict(zip(("codes", "code_scales", "code_sums"), addresses, strict=True)))
    library.load().tw_linear(byref(packed.struct), x.data_ptr(), rows, out.data_ptr(), byref(space), 2)
    torch.testing.assert_close(out.float(), expected, rtol=2**-8, atol=1e-4 * inputs**0.5)


def test_int4_scales_that_float16_would_round_are_kept_exactly() -> None:
    values = torch.randint(-8, 8, (64, 64), dtype=torch.int8)
    scales = torch.full((64, 2), 1 + 2**-20)
    x, out = torch.ones(1, 64).bfloat16(), torch.empty(1, 64, dtype=torch.bfloat16)
    packed = pack(QuantizedLinear([QuantizedWeight(values, scales, 4, 32)], None))
    codes = torch.empty(64, dtype=torch.int8), torch.empty(2), torch.empty(2, dtype=torch.int32)
    space = library.WorkspaceStruct(codes=codes[0].data_ptr(), code_scales=codes[1].data_ptr())
    space.code_sums = codes[2].data_ptr()
    library.load().tw_linear(byref(packed.struct), x.data_ptr(), 1, out.data_ptr(), byref(space), 1)
    assert packed.struct.kind == 1  # int8, whose scales are float32
    torch.testing.assert_close(out[0].float(), values.float().sum(dim=1), rtol=2**-8, atol=1e-3)


class Attention:
    """One layer of attention over a random cache, natively and densely."""

    def __init__(self, heads: int, window: int | None, cache: KVCache) -> None:
        self.heads, self.window, self.cache = heads, window, cache

    def native(self, query_THD: Tensor, batch: StepBatch) -> Tensor:
        """Through the library, layer 1."""
        kv_heads, head_dim = self.cache.spec.num_kv_heads, self.cache.spec.head_dim
        layers = (library.LayerStruct * 2)(*[library.LayerStruct(window=self.window or 0)] * 2)
        model = library.ModelStruct(
            num_layers=2, num_heads=self.heads, num_kv_heads=kv_heads, head_dim=head_dim, layers=layers
        )
        pieces = batch.decode.splits(self.window)
        out = torch.full_like(query_THD, torch.nan)
        partial = torch.empty(len(pieces.rows) * self.heads, head_dim), torch.empty(len(pieces.rows) * self.heads, 2)
        space = library.WorkspaceStruct(
            query=query_THD.data_ptr(),
            attention=out.data_ptr(),
            partial_values=partial[0].data_ptr(),
            partial_stats=partial[1].data_ptr(),
        )
        kv, rows = kv_struct(self.cache), batch_struct(batch, [pieces])
        library.load().tw_attend(byref(model), byref(kv), byref(rows), byref(space), 1, 2)
        return out

    def dense(self, query_HD: Tensor, slots: Tensor) -> Tensor:
        """One query over the keys and values in `slots`, float32."""
        seen = slots if self.window is None else slots[-self.window :]
        groups = self.heads // self.cache.spec.num_kv_heads
        key, value = (
            plane.read(seen, torch.float32).repeat_interleave(groups, 1).transpose(0, 1)
            for plane in (self.cache.keys(1), self.cache.values(1))
        )
        return F.scaled_dot_product_attention(query_HD.float()[:, None], key, value)[:, 0]


SHAPES = [(4, 4, 32), (6, 2, 64), (16, 8, 128), (3, 1, 96), (8, 1, 160), (2, 1, 256)]


def no_rows() -> DecodeRows:
    return DecodeRows(np.zeros((0, 0), np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32))


def step(decode: DecodeRows, prefill: tuple[PrefillChunk, ...], rows: int) -> StepBatch:
    nothing = torch.zeros(rows, dtype=torch.int64)
    return StepBatch(nothing, nothing, nothing, nothing[:0], decode, prefill)


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("window", [None, 1, 20, 1000])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), SHAPES)
def test_decode_attention(
    heads: int, kv_heads: int, head_dim: int, window: int | None, kv_dtype: str, random_cache: RandomCache
) -> None:
    torch.manual_seed(0)
    lengths = np.array([1, BLOCK, BLOCK + 1, SPLIT_TOKENS, SPLIT_TOKENS + 1, 3 * SPLIT_TOKENS - 5], np.int32)
    width = -(-int(lengths.max()) // BLOCK)
    cache = random_cache(KVSpec("f", 2, kv_heads, head_dim, BLOCK, kv_dtype), len(lengths) * width)
    attention = Attention(heads, window, cache)
    blocks = np.random.default_rng(0).permutation(len(lengths) * width).astype(np.int32).reshape(len(lengths), width)
    query = torch.randn(len(lengths), heads, head_dim).bfloat16()
    decode = DecodeRows(blocks, lengths, np.arange(len(lengths), dtype=np.int32))
    out = attention.native(query, step(decode, (), len(lengths)))
    for row, length in enumerate(lengths):
        slots = (torch.from_numpy(blocks[row]).long()[:, None] * BLOCK + torch.arange(BLOCK)).flatten()[:length]
        torch.testing.assert_close(out[row].float(), attention.dense(query[row], slots), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("window", [None, 1, 20, 1000])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), SHAPES)
def test_prefill_attention(
    heads: int, kv_heads: int, head_dim: int, window: int | None, kv_dtype: str, random_cache: RandomCache
) -> None:
    """Chunks of many lengths, with and without a prefix, in one step."""
    torch.manual_seed(0)
    shapes = [(2, 0), (7, 0), (64, 0), (65, 3), (100, 64), (9, 130), (200, 1)]
    total = sum(new + before for new, before in shapes)
    cache = random_cache(KVSpec("f", 2, kv_heads, head_dim, BLOCK, kv_dtype), -(-total // BLOCK))
    attention = Attention(heads, window, cache)
    free = torch.randperm(total)
    chunks, first_row = [], 0
    for new, before in shapes:
        slots, free = free[: new + before].contiguous(), free[new + before :]
        chunks.append(PrefillChunk(first_row, new, before, slots))
        first_row += new
    query = torch.randn(first_row, heads, head_dim).bfloat16()
    out = attention.native(query, step(no_rows(), tuple(chunks), first_row))
    for chunk in chunks:
        for i in {0, chunk.num_tokens // 2, chunk.num_tokens - 1}:
            row = chunk.first_row + i
            expected = attention.dense(query[row], chunk.slots[: chunk.context_tokens + i + 1])
            torch.testing.assert_close(out[row].float(), expected, atol=2e-2, rtol=2e-2)


class Tap:
    """A model that keeps the logits it gave."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config
        self.logits: list[Tensor] = []

    def __call__(self, batch: StepBatch, cache: KVCache) -> Tensor:
        logits: Tensor = self.model(batch, cache)
        if len(logits):
            self.logits.append(logits.clone())
        return logits


def last_logits(
    reference: Any, kernels: str, prompts: list[list[int]], matrix_rows: int | None = None, **settings: Any
) -> Tensor:
    """Logits behind each prompt, in bf16; a chunk of 16 at a time, so that those of 17 end in a decode row."""
    engine = reference.engine(dtype="bfloat16", kernels=kernels, max_step_tokens=16, speculation="off", **settings)
    assert isinstance(engine.model, NativeDecoder) == (kernels == "native")
    if matrix_rows is not None:
        engine.model = NativeDecoder(engine.model.decoder, 2, matrix_rows)
    engine.model = tap = Tap(engine.model)
    for index, prompt in enumerate(prompts):
        engine.add(request(f"r{index}", prompt))
        while engine.has_work:
            engine.step()
    return torch.cat(tap.logits)


def request(name: str, prompt: list[int]) -> Any:
    from tokenworks.contract.request import Request

    return Request(name, "model", prompt, Sampling(max_tokens=1, temperature=0))


@pytest.mark.parametrize("matrix_rows", [None, 1, 5])
@pytest.mark.parametrize("name", NAMES)
def test_a_native_step_is_as_close_to_float32_as_a_portable_one(
    name: str, matrix_rows: int | None, references: Callable[..., Any]
) -> None:
    """Also with products by oneDNN from so many rows on, as on CPUs with AMX."""
    reference = references(name, is_wide=True)
    rng = random.Random(3)
    prompts = [[rng.randrange(512) for _ in range(length)] for length in (1, 2, 16, 17, 33, 40, 65, 100)]
    with torch.inference_mode():
        exact = torch.stack([reference.model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts])
    portable = last_logits(reference, "portable", prompts) - exact
    native = last_logits(reference, "native", prompts, matrix_rows) - exact
    assert typical(native) < 1.25 * typical(portable)
    assert typical(native) < 0.05 * exact.std()


def typical(errors: Tensor) -> Tensor:
    """Root mean square of a typical prompt: a router's near tie, which rounding may turn, spoils one or two."""
    return errors.square().mean(dim=1).sqrt().median()


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("name", ["llama-biases-linear-rope", "qwen3-tied", "qwen3-moe"])
def test_a_quantised_native_step_is_the_portable_one_up_to_rounding(
    name: str, kind: str, references: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reference = references(name, is_wide=True)
    rng = random.Random(4)
    prompts = [[rng.randrange(512) for _ in range(length)] for length in (1, 17, 33, 65)]
    portable, native = (last_logits(reference, kernels, prompts, quantize=kind) for kernels in ("portable", "native"))
    assert typical(native - portable) < 0.1 * portable.std()


@pytest.mark.parametrize("name", ["qwen3-tied", "mistral-sliding", "qwen3-moe"])
def test_a_row_is_the_same_bit_for_bit_whoever_else_is_in_the_batch(
    name: str, references: Callable[..., Any], run_requests: Any
) -> None:
    reference = references(name, is_wide=True)
    rng = random.Random(5)
    sampling = Sampling(max_tokens=12, temperature=0, num_logprobs=3)
    requests = {
        f"r{length}": ([rng.randrange(512) for _ in range(length)], sampling) for length in (2, 8, 17, 40, 90, 130)
    }

    def engine() -> Any:
        return reference.engine(dtype="bfloat16", kernels="native", max_step_tokens=512, speculation="off")

    together = run_requests(engine(), requests)
    for request_id, one in requests.items():
        assert run_requests(engine(), {request_id: one})[request_id] == together[request_id]


@pytest.mark.parametrize(("temperature", "kv_dtype"), [(0.0, "auto"), (0.9, "auto"), (0.9, "int8")])
def test_speculation_changes_no_bit(
    temperature: float, kv_dtype: str, references: Callable[..., Any], run_requests: Any
) -> None:
    reference = references("qwen3-tied", is_wide=True)
    phrase = [7, 8, 9, 10, 11, 12, 13, 14]
    sampling = Sampling(max_tokens=48, temperature=temperature, seed=3, num_logprobs=2)
    requests = {f"r{n}": (phrase * n, sampling) for n in (3, 6, 9)}
    answers = []
    for speculation in ("off", "auto"):
        settings = {"dtype": "bfloat16", "kernels": "native", "kv_dtype": kv_dtype, "speculation": speculation}
        engine = reference.engine(max_step_tokens=512, **settings)
        outputs = run_requests(engine, requests)
        answers.append({name: [(o.token_ids, o.logprobs) for o in outputs[name]] for name in outputs})
    flat = [
        {name: [pair for ids, logs in got for pair in zip(ids, logs, strict=True)] for name, got in answer.items()}
        for answer in answers
    ]
    assert flat[0] == flat[1]
