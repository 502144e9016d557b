"""What is derived at start: arithmetic, KV capacity, window."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tokenworks.contract.config import EngineSettings, KVSettings
from tokenworks.contract.errors import ConfigError, ContextLengthExceeded, InvalidRequest, StartupError
from tokenworks.contract.kv import KVSpec
from tokenworks.contract.request import Request, Sampling
from tokenworks.engine import build
from tokenworks.engine.build import Capacity, choose_dtype, plan_capacity, plan_limits

SPEC = KVSpec("f", num_layers=2, num_kv_heads=2, head_dim=16, block_tokens=32, dtype="bfloat16")  # 256 bytes a token


def test_kv_bytes_are_kept_to_the_block() -> None:
    capacity = plan_capacity(EngineSettings(kv_bytes=100 * 32 * 256 + 5000), SPEC, 10_000, 0)
    assert (capacity.num_blocks, capacity.max_context_tokens) == (100, 3200)


def test_unset_kv_bytes_take_a_share_of_free_memory_but_no_more_than_is_of_use() -> None:
    assert plan_capacity(EngineSettings(), SPEC, 64, 1 << 40).num_blocks == 64 * 2  # max_running windows of 2 blocks
    share = plan_capacity(EngineSettings(), SPEC, 100_000, 100 * 32 * 256)
    assert share.num_blocks == int(100 * build.FREE_MEMORY_SHARE)
    assert share.max_context_tokens == share.num_blocks * 32


def test_no_room_for_one_block_says_what_to_do() -> None:
    with pytest.raises(StartupError, match="no KV block fits.*Raise kv_bytes"):
        plan_capacity(EngineSettings(kv_bytes=100), SPEC, 64, 1 << 40)


def test_auto_dtype_follows_checkpoint_and_cpu(references: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = build.read_model_config(references("qwen2").directory)
    assert config.dtype == "float32"
    assert choose_dtype("auto", config) == torch.float32
    assert choose_dtype("bfloat16", config) == torch.bfloat16
    half: Any = type("Half", (), {"dtype": "bfloat16"})
    for has_bf16, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(build, "has_fast_bf16", lambda value=has_bf16: value)
        assert choose_dtype("auto", half) == expected
    assert choose_dtype("float32", half) == torch.float32


def test_a_window_that_cannot_be_had_is_told(caplog: pytest.LogCaptureFixture) -> None:
    plan_limits(EngineSettings(max_context_tokens=3200), Capacity(100, 3200))
    assert caplog.messages == []
    plan_limits(EngineSettings(max_context_tokens=9999), Capacity(100, 3200))
    assert caplog.messages == [
        "max_context_tokens = 9999 cannot be had: model and KV memory allow 3200; longer requests will be refused"
    ]


def test_the_window_is_the_smallest_of_model_setting_and_memory(references: Any) -> None:
    reference = references("qwen2")
    assert reference.engine(num_blocks=400).limits.max_context_tokens == 512
    assert reference.engine(num_blocks=10).limits.max_context_tokens == 80
    assert reference.engine(max_context_tokens=100).limits.max_context_tokens == 100
    assert reference.engine(max_context_tokens=9999).limits.max_context_tokens == 512


def test_a_request_that_can_never_run_is_refused(references: Any) -> None:
    engine = references("qwen2").engine(num_blocks=10)
    with pytest.raises(ContextLengthExceeded, match="70 prompt tokens and max_tokens of 11 exceed.* 80"):
        engine.add(Request("r", "m", [1] * 70, Sampling(max_tokens=11)))
    with pytest.raises(InvalidRequest, match="empty"):
        engine.add(Request("r", "m", [], Sampling(max_tokens=11)))
    for token_id in (-1, 512, 2**40):
        with pytest.raises(InvalidRequest, match="from 0 to 511"):
            engine.add(Request("r", "m", [1, token_id], Sampling(max_tokens=11)))
    assert not engine.has_work


def test_contradicting_limits_are_a_config_error(references: Any) -> None:
    with pytest.raises(ConfigError, match="max_running may not exceed max_step_tokens"):
        references("qwen2").engine(max_running=65, max_step_tokens=64)


def test_what_the_store_has_taken_is_not_taken_off_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "free_memory_bytes", lambda: 1000)
    for taken, left in ((0, 600), (300, 900), (400, 1000), (9999, 1000)):
        monkeypatch.setattr(build, "store_memory_bytes", lambda value=taken: value)
        assert build.free_bytes(KVSettings(host_bytes=400), 2) == left // 2
