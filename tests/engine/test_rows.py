"""The row kernels against the same arithmetic in PyTorch, in float32, for few rows and for many."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tokenworks.engine.kernels.bits import bits_of, narrow, shift_of, widen
from tokenworks.engine.kernels.rows import HeadPreparation, add_rms_norm, rms_norm
from tokenworks.engine.kv_cache import Plane

EPS = 1e-5
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
ROWS = pytest.mark.parametrize("num_rows", [1, 3, 700])  # the last one goes to the thread pool


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual.float(), expected.float(), atol=tolerance, rtol=tolerance)


def test_narrowing_rounds_as_pytorch_does() -> None:
    values = torch.cat((torch.randn(10_000), torch.tensor([0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, 1e30, 1e-30])))
    out = torch.empty(len(values), dtype=torch.bfloat16)
    narrow(bits_of(values), shift_of(torch.bfloat16), bits_of(out))
    assert torch.equal(out, values.bfloat16())
    back = torch.empty(len(values))
    widen(bits_of(out), shift_of(torch.bfloat16), bits_of(back))
    assert torch.equal(back, out.float())


@DTYPES
@ROWS
def test_norms(num_rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, delta = torch.randn(num_rows, 96).to(dtype), torch.randn(num_rows, 96).to(dtype)
    weight = torch.randn(96)
    close(rms_norm(x, weight, EPS), F.rms_norm(x.float(), (96,), weight, EPS))
    total = x.float() + delta.float()
    close(add_rms_norm(x, delta, weight, EPS), F.rms_norm(total, (96,), weight, EPS))
    assert torch.equal(x, total.to(dtype))  # the sum is left in x


@DTYPES
@ROWS
@pytest.mark.parametrize("has_norm", [True, False])
def test_heads_are_normed_rotated_and_stored(num_rows: int, dtype: torch.dtype, has_norm: bool) -> None:
    torch.manual_seed(1)
    heads, kv_heads, head_dim, num_slots = 6, 2, 32, 1000
    qkv = torch.randn(num_rows, (heads + 2 * kv_heads) * head_dim).to(dtype)
    norms = (torch.randn(head_dim), torch.randn(head_dim)) if has_norm else None
    angles = torch.rand(50, head_dim // 2) * 6
    rope = torch.stack((angles.cos(), angles.sin()), dim=1)
    positions = torch.randint(0, 50, (num_rows,))
    slots = torch.randperm(num_slots)[:num_rows]
    keys, values = torch.zeros(2, num_slots, kv_heads, head_dim, dtype=dtype)
    query = HeadPreparation(heads, norms, EPS)(qkv, rope, positions, slots, Plane(keys), Plane(values))

    q, k, v = torch.split(qkv.float().view(num_rows, -1, head_dim), [heads, kv_heads, kv_heads], dim=1)
    if norms is not None:
        q, k = F.rms_norm(q, (head_dim,), norms[0], EPS), F.rms_norm(k, (head_dim,), norms[1], EPS)
    cos, sin = rope[positions, None, 0], rope[positions, None, 1]

    def turned(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    close(query, turned(q))
    close(keys[slots], turned(k))
    assert torch.equal(values[slots].float(), v)
    untouched = torch.ones(num_slots, dtype=torch.bool)
    untouched[slots] = False
    assert not keys[untouched].any()
    assert not values[untouched].any()
