"""Whose blocks bear the same names: exact classes of numerics, or any engine of one checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokenworks.contract.kv import KVSpec

KINDS: dict[str, dict[str, str]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "float32, KV int8": {"kv_dtype": "int8"},
    "float32, weights int8": {"quantize": "int8"},
    "bfloat16, weights int4, KV int8": {"dtype": "bfloat16", "quantize": "int4", "kv_dtype": "int8"},
}


@pytest.fixture(autouse=True)
def _own_cache_of_quantised_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def specs(references: Any, exchange: str) -> dict[str, KVSpec]:
    return {kind: references("qwen3-tied").engine(exchange=exchange, **given).spec for kind, given in KINDS.items()}


def test_each_class_of_numerics_is_said_in_words(references: Any) -> None:
    assert {kind: spec.numerics for kind, spec in specs(references, "exact").items()} == {kind: kind for kind in KINDS}


def test_exact_classes_do_not_meet(references: Any) -> None:
    assert len({spec.fingerprint for spec in specs(references, "exact").values()}) == len(KINDS)


def test_any_engine_of_one_checkpoint_meets_all_others_also_out_of_the_cache(references: Any) -> None:
    prints = {spec.fingerprint for _ in range(2) for spec in specs(references, "any").values()}
    assert len(prints) == 1
    assert references("qwen2").engine(exchange="any").spec.fingerprint not in prints
