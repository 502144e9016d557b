"""What OpenVINO is given at start, what it is refused, and how its blocks are named."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'tokenworks[openvino]'")

from tokenworks.contract.config import EngineSettings, KVSettings
from tokenworks.contract.errors import CheckpointError, ConfigError
from tokenworks.contract.request import Request, Sampling
from tokenworks.engine.build import has_fast_bf16
from tokenworks.engine.openvino.build import build_openvino_engine
from tokenworks.engine.quantize import quantize as quantized
from tokenworks.worker.machine import Machine
from tokenworks.worker.measure import measure_card
from tokenworks.worker.meter import Meter


@pytest.mark.parametrize("exchange", ["exact", "any"])
def test_in_float32_blocks_have_the_names_that_our_own_engine_gives_them(
    exchange: str, dense: Any, own_engine: Any, openvino_engine: Any
) -> None:
    assert openvino_engine(dense, exchange=exchange).spec == own_engine(dense, exchange=exchange).spec


def test_in_bf16_blocks_are_shared_only_where_any_will_do(
    references: Any, own_engine: Any, openvino_engine: Any
) -> None:
    reference = references("qwen3-tied")
    specs = {
        (maker, exchange): maker(reference, exchange=exchange, dtype="bfloat16").spec
        for maker in (own_engine, openvino_engine)
        for exchange in ("exact", "any")
    }
    assert specs[own_engine, "any"].fingerprint == specs[openvino_engine, "any"].fingerprint
    assert specs[own_engine, "exact"].fingerprint != specs[openvino_engine, "exact"].fingerprint
    assert specs[openvino_engine, "exact"].numerics == "OpenVINO bfloat16"


@pytest.mark.parametrize("name", ["qwen3-moe", "mixtral"])
def test_experts_are_refused_by_name(name: str, references: Any, openvino_engine: Any) -> None:
    with pytest.raises(CheckpointError, match="(Qwen3Moe|Mixtral)ForCausalLM.*runs = tokenworks"):
        openvino_engine(references(name))


def test_an_exported_model_is_refused_with_what_to_take_instead(tmp_path: Path) -> None:
    (tmp_path / "openvino_model.xml").touch()
    with pytest.raises(CheckpointError, match="exported to OpenVINO: point at the Hugging Face checkpoint"):
        build_openvino_engine(tmp_path, EngineSettings(), KVSettings(), "CPU", 1, lambda done, total: None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"block_tokens": 16}, "block_tokens = 16.*multiple"),
        ({"kv_dtype": "int8"}, "kv_dtype = int8"),
        ({"kernels": "native"}, "kernels = native"),
        ({"max_running": 65, "max_step_tokens": 64}, "max_running may not exceed"),
    ],
)
def test_what_it_does_not_do_is_refused(
    given: dict[str, Any], message: str, references: Any, openvino_engine: Any
) -> None:
    with pytest.raises(ConfigError, match=message):
        openvino_engine(references("qwen2"), **given)


def test_a_device_that_is_not_there_is_refused_with_those_that_are(references: Any) -> None:
    with pytest.raises(ConfigError, match="no device 'TPU' here; set `device` to one of:.*CPU"):
        build_openvino_engine(
            references("qwen2").directory, EngineSettings(), KVSettings(), "TPU", 1, lambda done, total: None
        )


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_rounded_weights_give_the_tokens_of_a_model_whose_weights_were_rounded(
    quantize: str,
    references: Any,
    make_reference: Any,
    openvino_engine: Any,
    run_requests: Any,
    tokens_of: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reference = references("qwen2", is_wide=True)
    prompt = list(range(1, 60))
    model = copy.deepcopy(reference.model)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            bits = 4 if quantize == "int4" and name != "lm_head" else 8
            module.weight.data.copy_(quantized(module.weight.data, bits).dequantized())
    engine = openvino_engine(reference, quantize=quantize)
    found = tokens_of(run_requests(engine, {"r": (prompt, Sampling(max_tokens=24, temperature=0))})["r"])
    assert found == make_reference(tmp_path, model).greedy(prompt, 24)
    assert found != reference.greedy(prompt, 24)
    assert engine.model.num_bytes < openvino_engine(reference).model.num_bytes / 3


def test_both_engines_use_the_same_rounded_weights_on_disk(
    references: Any, own_engine: Any, openvino_engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reference = references("qwen2", is_wide=True)
    kept = []
    for make in (own_engine, openvino_engine):
        make(reference, quantize="int8")
        kept.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")})
    assert kept[0] == kept[1] != {}


@pytest.mark.skipif(not has_fast_bf16(), reason="this CPU does not multiply bf16")
def test_bf16_answers_as_float32_does_but_for_rounding(
    references: Any, openvino_engine: Any, run_requests: Any
) -> None:
    reference = references("qwen3-tied")
    prompt = list(range(1, 80))
    sampling = Sampling(max_tokens=1, temperature=0, num_logprobs=1)
    engines = [openvino_engine(reference, dtype=dtype) for dtype in ("float32", "bfloat16")]
    assert engines[1].model.dtype == torch.bfloat16
    outputs = [run_requests(engine, {"r": (prompt, sampling)})["r"][0] for engine in engines]
    assert outputs[0].token_ids == outputs[1].token_ids
    assert outputs[0].logprobs[0].chosen == pytest.approx(outputs[1].logprobs[0].chosen, abs=0.5)


def test_its_card_is_measured_as_any_other(references: Any, openvino_engine: Any) -> None:
    engine = openvino_engine(references("qwen2"), max_running=4)
    card = measure_card(engine, EngineSettings(max_running=4), 1, "OpenVINO CPU")
    assert card.device.startswith("OpenVINO CPU: ")
    assert card.decode_points
    assert card.prefill_points
    assert card.weight_bytes == engine.model.num_bytes > 0
    assert card.kv_capacity_tokens == engine.load.total_blocks * 32
    assert engine.held_blocks() == []


def test_its_steps_are_metered_as_any_others(references: Any, openvino_engine: Any) -> None:
    engine = openvino_engine(references("qwen2"))
    meter = Meter(engine, measure_card(engine, EngineSettings(max_running=4), 1), Machine(1))
    engine.add(request := Request("r", "model", list(range(1, 50)), Sampling(max_tokens=5, temperature=0)))
    meter.arrived(request, time.perf_counter_ns(), publishes=False)
    while engine.has_work:
        outputs = engine.step()
        meter.stepped(engine.last_step, outputs)
    end = meter.with_reports(outputs)[0].end
    meter.turned(is_idle=True)
    assert end.report.device_ns == meter.use.step_ns
    assert meter.use.read_bytes > 5 * engine.model.num_bytes
    assert meter.use.flops > 0
