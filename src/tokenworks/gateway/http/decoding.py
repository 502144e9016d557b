"""From the bytes of a request body to its struct, or to a refusal that names the parameter at fault.

A body that fits its struct is decoded in one pass. Only one that does not is looked at again, field by field, to say
why. Parameters that other servers know and this one does not are taken where they ask for nothing (`"tools": []`),
since clients send such defaults, and refused by name where they ask for something.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final, TypeVar

import msgspec

from tokenworks.contract.errors import InvalidRequest, UnsupportedParameter
from tokenworks.gateway.http.bodies import Body

B = TypeVar("B", bound=Body)

_NOTHING: Final[tuple[Any, ...]] = (None, False, "", [], {})
_NO_OPS: Final[Mapping[str, tuple[Any, ...]]] = {
    "response_format": (*_NOTHING, {"type": "text"}),
    "modalities": (*_NOTHING, ["text"]),
    "tool_choice": (*_NOTHING, "none", "auto"),
    "function_call": (*_NOTHING, "none", "auto"),
    "parallel_tool_calls": (*_NOTHING, True),
    "length_penalty": (None, 1.0),
    "min_tokens": (None, 0),
    "priority": (None, 0),
    "spaces_between_special_tokens": (None, True),
    "detokenize": (None, True),
    "top_a": (None, 0),
    "typical_p": (None, 1),
}
_UNSUPPORTED: Final = frozenset(
    {
        "allowed_token_ids",
        "audio",
        "bad_words",
        "chat_template",
        "detokenize",
        "documents",
        "echo",
        "function_call",
        "functions",
        "guided_choice",
        "guided_decoding_backend",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        "kv_transfer_params",
        "length_penalty",
        "logit_bias",
        "logits_processors",
        "min_tokens",
        "mm_processor_kwargs",
        "modalities",
        "parallel_tool_calls",
        "prediction",
        "priority",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_logprobs",
        "reasoning",
        "reasoning_effort",
        "request_id",
        "response_format",
        "return_tokens_as_token_ids",
        "safety_identifier",
        "spaces_between_special_tokens",
        "store",
        "structured_outputs",
        "suffix",
        "tool_choice",
        "tools",
        "top_a",
        "truncate_prompt_tokens",
        "typical_p",
        "use_beam_search",
        "verbosity",
        "vllm_xargs",
        "web_search_options",
    }
)


def decode_body(content: bytes, kind: type[B], decoder: msgspec.json.Decoder[B]) -> B:
    """The body as `kind`; raises InvalidRequest."""
    try:
        return decoder.decode(content)
    except msgspec.ValidationError:
        return _without_no_ops(_json_object(content), kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from error


class NoObject(InvalidRequest):
    """The body is no JSON object: nothing of the request could be understood."""


def _malformed(error: Exception) -> InvalidRequest:
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return NoObject(f"the request body is not valid JSON in UTF-8: {reason}")


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from error
    if not isinstance(found, dict):
        raise NoObject("the request body must be a JSON object")
    return found


def _without_no_ops(found: dict[str, Any], kind: type[B]) -> B:
    """The struct of a body that did not decode at once: strip what asks for nothing, name what is wrong."""
    known = kind.__struct_fields__
    for name in list(found):
        if name not in known:
            _refuse_unless_no_op(name, found.pop(name), known)
    try:
        return msgspec.convert(found, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _wrong_type(str(error)) from error


def _refuse_unless_no_op(name: str, value: Any, known: tuple[str, ...]) -> None:
    if name in _UNSUPPORTED:
        if not _is_one_of(value, _NO_OPS.get(name, _NOTHING)):
            raise UnsupportedParameter(f"`{name}` is not supported here; leave it out", param=name)
        return
    near = get_close_matches(name, known, 1)
    hint = f"did you mean `{near[0]}`?" if near else "leave it out"
    raise UnsupportedParameter(f"unknown parameter `{name}`; {hint}", param=name)


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Equality that tells false from 0 and true from 1 is not wanted here: clients send either."""
    return any(value == each for each in allowed)


def _wrong_type(message: str) -> InvalidRequest:
    """msgspec's sentence ("Expected `int`, got `str` - at `$.n`"), with the parameter set apart."""
    at = re.search(r" - at `\$\.?(.*)`$", message)
    missing = re.search(r"missing required field `(\w+)`", message)
    path = ".".join(filter(None, [at.group(1) if at else "", missing.group(1) if missing else ""]))
    return InvalidRequest(message.replace("`$.", "`").replace("`$`", "the body"), param=path or None)
