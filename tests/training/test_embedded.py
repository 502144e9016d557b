"""The files of the embedded model, as a reader of the Hugging Face layout sees them.

The text itself is judged only as far as any training run must pass: English
letters, and an end. What it says is not tested.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

FOLDER = Path(__file__).parents[2] / "src" / "tokenworks" / "embedded"
PROMPTS = ("What does os.path.join do?", "Explain list comprehensions.", "Hello")


def config(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return content


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> Any:
    return Qwen3ForCausalLM.from_pretrained(FOLDER)


def answer(model: Any, tokenizer: Any, question: str) -> list[int]:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    tokens = torch.tensor([prompt])
    produced = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=256, do_sample=False)
    return [int(token) for token in produced[0, len(prompt) :]]


def test_the_folder_stays_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 12_000_000


def test_the_configuration_names_a_qwen3_model_in_bfloat16() -> None:
    model_config = config("config.json")
    assert model_config["architectures"] == ["Qwen3ForCausalLM"]
    assert model_config["torch_dtype"] == "bfloat16"
    assert model_config["tie_word_embeddings"] is True


def test_generation_stops_at_both_ends(tokenizer: Any) -> None:
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert config("generation_config.json")["eos_token_id"] == ends
    assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.parametrize(
    "text", ["plain words", " two  spaces\n\ttab", "naïve café", "日本語のテキスト", "🙂👩‍👩‍👧 🇫🇷", "\x00\x7f"]
)
def test_any_text_survives_a_round_trip(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_chat_template_renders_chatml(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert rendered == expected


@pytest.mark.parametrize("question", PROMPTS)
def test_a_greedy_answer_is_english_and_ends(model: Any, tokenizer: Any, question: str) -> None:
    tokens = answer(model, tokenizer, question)
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    letters = sum(char.isascii() and (char.isalpha() or char.isspace()) for char in text)
    assert tokens[-1] == tokenizer.eos_token_id
    assert len(text) > 20
    assert letters > 0.8 * len(text)
