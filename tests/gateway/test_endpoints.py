"""Models, tokenising, health and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tokenizers
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from tests.gateway.conftest import Rig, WaitUntil


MESSAGES = [{"role": "user", "content": "the dog"}]


def test_the_served_model_is_listed(rig: Rig) -> None:
    listed = rig.openai.models.list().data
    assert [model.id for model in listed] == ["tiny-echo"]
    assert rig.openai.models.retrieve("tiny-echo").owned_by == "tokenworks"
    assert rig.http.get("/v1/models").json()["data"][0]["max_model_len"] == 256


def test_tokenize_and_detokenize_are_inverse(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    answer = rig.post("/tokenize", prompt="the quick 🙂", return_token_strs=True).json()
    assert answer["tokens"] == backend.encode("the quick 🙂").ids
    assert (answer["count"], answer["max_model_len"]) == (len(answer["tokens"]), 256)
    assert answer["token_strs"][0] == backend.decode(answer["tokens"][:1])
    assert rig.post("/detokenize", tokens=answer["tokens"]).json() == {"prompt": "the quick 🙂"}


def test_tokenize_renders_messages(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    answer = rig.post("/tokenize", model="tiny-echo", messages=MESSAGES, add_generation_prompt=False).json()
    text = "<|im_start|>user\nthe dog<|im_end|>\n"
    assert backend.decode(answer["tokens"], skip_special_tokens=False) == text
    assert answer["token_strs"] is None
    longer = rig.post("/tokenize", messages=MESSAGES).json()
    assert longer["count"] > answer["count"]


def test_tokenize_takes_an_empty_prompt(rig: Rig) -> None:
    assert rig.post("/tokenize", prompt="").json()["tokens"] == []


@pytest.mark.parametrize("body", [{}, {"prompt": "x", "messages": MESSAGES}])
def test_tokenize_wants_one_of_the_two(rig: Rig, body: dict[str, Any]) -> None:
    assert rig.post("/tokenize", **body).status_code == 400


def test_detokenize_refuses_unknown_ids(rig: Rig) -> None:
    response = rig.post("/detokenize", tokens=[10**6])
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tokens")


def test_health_tells_live_from_ready(bare_rig: Rig) -> None:
    assert bare_rig.http.get("/health/live").status_code == 200
    for path in ("/health/ready", "/health"):
        response = bare_rig.http.get(path)
        assert (response.status_code, response.json()["workers"]) == (503, [])
        assert response.json()["reason"] == "no worker is ready"
    bare_rig.add_worker()
    ready = bare_rig.http.get("/health/ready")
    assert (ready.status_code, ready.json()["workers"]) == (200, ["w0"])
    assert ready.json()["loads"]["w0"]["total_blocks"] == 100


def test_without_a_worker_a_request_is_told_to_come_back(bare_rig: Rig) -> None:
    response = bare_rig.post("/v1/completions", prompt="x")
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["error"]["code"] == "no_worker"


def samples(rig: Rig) -> dict[tuple[str, ...], float]:
    """Every sample by name and labels."""
    families = text_string_to_metric_families(rig.http.get("/metrics").text)
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


def test_metrics_count_what_happened(bare_rig: Rig, wait_until: WaitUntil) -> None:
    bare_rig.add_worker()
    bare_rig.post("/v1/completions", prompt=[100, 101], max_tokens=4)
    list(bare_rig.openai.completions.create(model="tiny-echo", prompt=[100], max_tokens=3, stream=True))
    bare_rig.post("/v1/completions", prompt=[])
    bare_rig.post("/v1/completions", nonsense=1)
    wait_until(lambda: samples(bare_rig).get(("tokenworks_requests_total", "/v1/completions", "unsupported_parameter")))
    wait_until(lambda: samples(bare_rig)["tokenworks_worker_running", "w0"] == 0)
    found = samples(bare_rig)
    assert found["tokenworks_requests_total", "/v1/completions", "ok"] == 2
    assert found["tokenworks_requests_total", "/v1/completions", "invalid_value"] == 1
    assert found["tokenworks_requests_total", "/v1/completions", "unsupported_parameter"] == 1
    assert found["tokenworks_output_tokens_sum",] == 7
    assert found["tokenworks_prompt_tokens_sum",] == 3
    assert found["tokenworks_cached_tokens_total",] == 8
    for name in ("ttft", "e2e", "gateway_ingress"):
        assert found[f"tokenworks_{name}_seconds_count",] == 2
    assert found["tokenworks_gateway_egress_seconds_count",] == 1
    assert found["tokenworks_workers_ready",] == 1
    assert found["tokenworks_sequences_in_flight",] == 0
    for name, value in {"waiting": 0, "kv_blocks_used": 10, "kv_blocks": 100}.items():
        assert found[f"tokenworks_worker_{name}", "w0"] == value
    assert found["tokenworks_worker_preemptions_total", "w0"] == 3
    assert found["tokenworks_worker_draft_tokens_total", "w0"] == 20
    assert found["tokenworks_worker_accepted_tokens_total", "w0"] == 15
