"""The byte-level BPE tokenizer of the embedded model, and its files.

The alphabet holds all 256 bytes, so that any UTF-8 text survives a round trip
whatever the training text was. It knows nothing of the model.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from training.chat import CHAT_TEMPLATE, END, END_OF_TEXT, SPECIAL_TOKENS

VOCAB_SIZE = 4096
MAX_POSITIONS = 2048


def train(texts: Sequence[str]) -> Tokenizer:
    """A tokenizer of `VOCAB_SIZE` tokens learnt from these texts; the special tokens have the first ids."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"eos_token": END, "pad_token": END_OF_TEXT}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_POSITIONS,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "chat_template": CHAT_TEMPLATE,
        **named,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
    }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", named)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes indented JSON with a final line break."""
    path.write_text(json.dumps(content, indent=2) + "\n")
