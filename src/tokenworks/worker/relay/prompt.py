"""The prompt as a foreign server takes it: token ids, or the text that they stand for."""

from __future__ import annotations

from tokenworks.contract.request import Request
from tokenworks.text.tokenizer import Tokenizer
from tokenworks.worker.relay.dialect import Dialect
from tokenworks.worker.relay.upstream import UpstreamRefusal


def upstream_prompt(request: Request, dialect: Dialect, tokenizer: Tokenizer) -> str | list[int]:
    """Raises UpstreamRefusal where the ids stand for no text and only text is taken."""
    if dialect.takes_ids:
        return request.token_ids
    text = tokenizer.decode(request.token_ids)
    if "\ufffd" in text:
        raise UpstreamRefusal(
            "the prompt's token ids are not whole characters, and the server that would run this takes text only",
            param="prompt",
        )
    return text
