"""Incremental detokenisation: token ids in, the text they add out, for one sequence.

Tokens are turned into bytes and the bytes into text by an incremental UTF-8 decoder, which holds back at most three
bytes of a character that is not complete. So no character is emitted before it is whole, none twice, and the work per
token is constant however much garbage a model writes.

Invariant: the concatenated output equals the tokenizer's own `decode` of all tokens. One stated exception, for byte
fallback tokenizers: their `decode` replaces *every* byte of a run of byte tokens when the run as a whole is not UTF-8.
A stream cannot know that a run will go wrong later; here the run's good characters stay and each bad part is one
U+FFFD.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Sequence

from tokenworks.text.token_bytes import TokenBytes


class Detokenizer:
    """The text side of one output sequence.

    `is_continuation` keeps the space at the start of the first word, which SentencePiece decoders strip from a text of
    its own: a completion is read as the prompt's continuation, a chat answer as a new text.
    """

    def __init__(
        self, token_bytes: TokenBytes, hidden_ids: frozenset[int] = frozenset(), *, is_continuation: bool = False
    ) -> None:
        self._bytes_of = token_bytes
        self._hidden_ids = hidden_ids
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")
        self._to_strip = 0 if is_continuation else token_bytes.spec.max_stripped

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that became certain with these tokens."""
        shown = [token_id for token_id in token_ids if token_id not in self._hidden_ids]
        if self._to_strip:
            return self._decoder.decode(self._strip_start(shown))
        return self._decoder.decode(self._bytes_of.join(shown))

    def flush(self) -> str:
        """What is left at the end: a U+FFFD where the last character never completed."""
        return self._decoder.decode(b"", final=True)

    def _strip_start(self, token_ids: Sequence[int]) -> bytes:
        shown = [token_id for token_id in token_ids if self._bytes_of[token_id]]  # unknown ids are no first token
        if not shown:
            return b""
        if self._to_strip < 0:
            self._to_strip = 0
            return self._bytes_of[shown[0]].replace(b" ", b"") + self._bytes_of.join(shown[1:])
        found = self._bytes_of.join(shown)
        num_spaces = min(self._to_strip, len(found) - len(found.lstrip(b" ")))
        self._to_strip = 0 if num_spaces < len(found) else self._to_strip - num_spaces
        return found[num_spaces:]
