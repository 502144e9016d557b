"""The tokenizer of a checkpoint: `tokenizer.json` and what the files beside it say about special tokens.

Prompts are encoded with the tokenizer's own special tokens (such as a leading `<s>`), text from a chat template without
them, because the template writes its own. Truncation and padding that a file may ask for are switched off.

Encoding takes about a microsecond a token and releases the interpreter lock: call it from a thread, not from an event
loop. All methods may be called from several threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from tokenworks.contract.errors import CheckpointError, InvalidRequest
from tokenworks.text.byte_bpe import ByteBpe, Description, byte_bpe
from tokenworks.text.chat_template import ChatTemplate
from tokenworks.text.detokenizer import Detokenizer
from tokenworks.text.model_files import ModelFiles, decode_json, read_bytes, read_model_files
from tokenworks.text.token_bytes import TokenBytes, decoder_spec


class _TokenizerFile(Description, frozen=True):
    """The part of `tokenizer.json` that the library does not show."""

    decoder: dict[str, Any] | None = None


class Tokenizer:
    """Text to token ids and back. `vocab_size` is the model's: the ids that a prompt may contain."""

    def __init__(
        self, backend: tokenizers.Tokenizer, fast: ByteBpe | None, token_bytes: TokenBytes, files: ModelFiles
    ) -> None:
        self._backend = backend
        self._fast = fast
        self.token_bytes = token_bytes
        self.files = files
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.vocab_size = files.vocab_size or backend.get_vocab_size()
        self.eos_token_ids = self._eos_token_ids()
        self.chat_template = ChatTemplate(files.chat_template, files.special_tokens)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text."""
        if self._fast and (found := self._fast.encode(text, add_special_tokens=add_special_tokens)) is not None:
            return found
        ids: list[int] = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        return ids

    def check_ids(self, token_ids: Sequence[int], param: str) -> None:
        """Raises InvalidRequest where an id is not in the model's vocabulary."""
        if token_ids and not (min(token_ids) >= 0 and max(token_ids) < self.vocab_size):
            wrong = next(token_id for token_id in token_ids if not 0 <= token_id < self.vocab_size)
            raise InvalidRequest(
                f"token id {wrong} is not in the model's vocabulary; ids go from 0 to {self.vocab_size - 1}",
                param=param,
            )

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids, decoded as a text of its own."""
        detokenizer = self.detokenizer(skip_special_tokens=skip_special_tokens)
        return detokenizer.push(token_ids) + detokenizer.flush()

    def detokenizer(self, *, skip_special_tokens: bool = True, is_continuation: bool = False) -> Detokenizer:
        """A detokeniser for one output sequence."""
        hidden = self.special_ids if skip_special_tokens else frozenset()
        return Detokenizer(self.token_bytes, hidden, is_continuation=is_continuation)

    def _eos_token_ids(self) -> tuple[int, ...]:
        own = self._backend.token_to_id(self.files.special_tokens.get("eos_token", ""))
        return tuple(sorted({*self.files.eos_token_ids, *(() if own is None else (own,))}))


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint directory; raises CheckpointError that names the file at fault."""
    files = read_model_files(directory)
    path = Path(directory) / "tokenizer.json"
    content = read_bytes(path)
    description = decode_json(path, content, _TokenizerFile)
    spec = decoder_spec(description.decoder)
    try:
        backend = tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises bare Exception for whatever it cannot read
        raise CheckpointError(f"{path} is malformed: {error}; copy or download the file again") from error
    backend.no_truncation()
    backend.no_padding()
    return Tokenizer(backend, byte_bpe(description, backend), TokenBytes(spec, backend.id_to_token), files)
