"""The bytes that each token stands for, worked out from the `decoder` section of `tokenizer.json`.

Output text is the UTF-8 decoding of these bytes, one token after the other: that is what makes incremental decoding
exact and cheap, and it is what the API reports as a token's `bytes`. Three families cover the models served: byte-level
BPE (Llama 3, Qwen, newer Mistral), SentencePiece with byte fallback (Llama 2, older Mistral) and plain Metaspace. Any
other decoder is refused when the checkpoint is loaded, so that no text is ever decoded by a guess.

Looked up lazily and kept: a vocabulary has 150,000 entries, a conversation uses a few thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from tokenworks.contract.errors import CheckpointError


class DecoderSpec(msgspec.Struct, frozen=True):
    """A `decoder` section, reduced to what it does to one token and to the start of the text."""

    is_byte_level: bool = False
    has_byte_fallback: bool = False
    is_joined_by_spaces: bool = False  # no decoder at all: tokens are words
    replacements: tuple[tuple[str, str], ...] = ()
    max_stripped: int = 0  # spaces taken off the start of a text; -1: all that its first token starts with


def decoder_spec(decoder: Any) -> DecoderSpec:
    """The spec of a `decoder` section; raises CheckpointError for one that is not understood."""
    if decoder is None:
        return DecoderSpec(is_joined_by_spaces=True, max_stripped=1)
    steps = decoder["decoders"] if decoder.get("type") == "Sequence" else [decoder]
    spec = DecoderSpec()
    for step in steps:
        spec = _with_step(spec, step)
    return spec


def _with_step(spec: DecoderSpec, step: Any) -> DecoderSpec:
    change = _STEPS.get(step.get("type"), _unknown)(step)
    if "replacements" in change:
        change["replacements"] = spec.replacements + change["replacements"]
    return msgspec.structs.replace(spec, **change)


def _metaspace(step: Any) -> dict[str, Any]:
    keeps_first = step.get("prepend_scheme", "always") == "never" or step.get("add_prefix_space") is False
    return {"replacements": ((step.get("replacement", "▁"), " "),), "max_stripped": 0 if keeps_first else -1}


def _replace(step: Any) -> dict[str, Any]:
    pattern = step["pattern"]
    return {"replacements": ((pattern["String"], step["content"]),)} if "String" in pattern else _unknown(step)


def _strip(step: Any) -> dict[str, Any]:
    is_plain = step.get("content") == " " and not step.get("stop")
    return {"max_stripped": step["start"]} if is_plain else _unknown(step)


def _unknown(step: Any) -> dict[str, Any]:
    raise CheckpointError(
        f"tokenizer.json uses the decoder {msgspec.json.encode(step).decode()[:200]}, which is not supported; these "
        "are: ByteLevel, Metaspace, and sequences of Replace (of a string), ByteFallback, Fuse and Strip (of spaces)"
    )


_STEPS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "ByteLevel": lambda step: {"is_byte_level": True},
    "ByteFallback": lambda step: {"has_byte_fallback": True},
    "Fuse": lambda step: {},
    "Metaspace": _metaspace,
    "Replace": _replace,
    "Strip": _strip,
}


class TokenBytes(dict[int, bytes]):
    """Token id to bytes. An id that the tokenizer does not know stands for no bytes, as in its own decoder."""

    def __init__(self, spec: DecoderSpec, token_of: Callable[[int], str | None]) -> None:
        super().__init__()
        self.spec = spec
        self._token_of = token_of
        self._byte_of = {char: byte for byte, char in enumerate(byte_level_alphabet())}

    def __missing__(self, token_id: int) -> bytes:
        token = self._token_of(token_id)
        found = b"" if token is None else self._bytes(token)
        self[token_id] = found
        return found

    def join(self, token_ids: Iterable[int]) -> bytes:
        """The bytes of several tokens."""
        return b"".join([self[token_id] for token_id in token_ids])

    def _bytes(self, token: str) -> bytes:
        if self.spec.is_byte_level:
            return self._byte_level(token)
        if self.spec.has_byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes.fromhex(token[3:5])
        for old, new in self.spec.replacements:
            token = token.replace(old, new)
        return (" " + token if self.spec.is_joined_by_spaces else token).encode()

    def _byte_level(self, token: str) -> bytes:
        """One byte a character; a token with a character outside the alphabet (an added one) stands for itself."""
        try:
            return bytes([self._byte_of[char] for char in token])
        except KeyError:
            return token.encode()


def byte_level_alphabet() -> str:
    """The 256 printable characters that byte-level BPE writes for the bytes 0 to 255 (the GPT-2 table)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))
