"""From what a client calls a prompt to token ids: normalises the forms, runs template and tokenizer, checks the window.

The work of one HTTP request is one visit to a thread: templates and tokenizers take milliseconds that an event loop
does not have. Prompts given as token ids take no visit at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Final, TypeVar, cast

from tokenworks.contract.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from tokenworks.gateway.http.bodies import ChatBody, ChatMessage, Prompt, TextPart, TokenizeBody
from tokenworks.text.chat_template import RESERVED_NAMES
from tokenworks.text.tokenizer import Tokenizer

T = TypeVar("T")

MAX_PROMPTS: Final = 1024  # in one request
_ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class PromptReader:
    """Turns prompts and messages into token ids, off the event loop."""

    def __init__(self, tokenizer: Tokenizer, executor: Executor) -> None:
        self._tokenizer = tokenizer
        self._executor = executor

    async def prompts(self, prompt: Prompt, *, add_special_tokens: bool) -> list[list[int]]:
        """The token ids of each prompt of a completion request."""
        texts, ids = _split_forms(prompt)
        if texts:
            ids = await self.in_thread(lambda: [self._encode(text, add_special_tokens) for text in texts])
        for token_ids in ids:
            if not token_ids:
                raise InvalidRequest("`prompt` is empty; give at least one token", param="prompt")
            self._tokenizer.check_ids(token_ids, "prompt")
        return ids

    async def chat(self, body: ChatBody | TokenizeBody) -> list[int]:
        """The token ids of a conversation, as the model's chat template writes it."""
        messages = plain_messages(body.messages or [])
        variables = _template_variables(body)
        continues = bool(body.continue_final_message)
        add_prompt = not continues if body.add_generation_prompt is None else body.add_generation_prompt
        if continues and add_prompt:
            raise InvalidRequest(
                "`continue_final_message` and `add_generation_prompt` exclude each other",
                param="continue_final_message",
            )

        def render() -> list[int]:
            text = self._tokenizer.chat_template.render(
                messages, add_generation_prompt=add_prompt, continue_final_message=continues, variables=variables
            )
            return self._encode(text, bool(body.add_special_tokens))

        token_ids = await self.in_thread(render)
        self._tokenizer.check_ids(token_ids, "messages")
        if not token_ids:
            raise InvalidRequest("the chat template makes an empty prompt of these messages", param="messages")
        return token_ids

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run tokenizer work, of whatever kind."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)


def output_budget(
    prompts: Sequence[Sequence[int]], wanted: int | None, default: int | None, window: int, param: str = "prompt"
) -> int:
    """How many tokens each choice may write; raises ContextLengthExceeded, which states the numbers.

    `default` applies where the client states nothing; None means the rest of the window. `param` is what the client
    calls its prompt.
    """
    longest = max(map(len, prompts))
    if longest >= window:
        raise ContextLengthExceeded(
            f"the prompt has {longest} tokens and the model's window is {window} tokens, output included; shorten it "
            f"to {window - 1} or fewer",
            param=param,
        )
    if wanted is not None and longest + wanted > window:
        raise ContextLengthExceeded(
            f"the prompt has {longest} tokens and {wanted} output tokens are asked for, {longest + wanted} in all; the "
            f"model's window is {window} tokens: shorten the prompt or ask for at most {window - longest}",
            param="max_tokens",
        )
    return wanted or min(default or window, window - longest)


def plain_messages(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    """Messages as templates take them: role and text."""
    if not messages:
        raise InvalidRequest("`messages` is empty; give at least one message", param="messages")
    return [_plain_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _plain_message(message: ChatMessage, where: str) -> dict[str, str]:
    for name in ("tool_calls", "tool_call_id", "function_call", "audio"):
        if getattr(message, name):
            raise UnsupportedParameter(f"`{where}.{name}` is not supported here; leave it out", param=f"{where}.{name}")
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidRequest(
            f"role `{message.role}` is not supported; use one of {', '.join(_ROLES)}", param=f"{where}.role"
        )
    plain = {"role": role, "content": _plain_content(message.content, f"{where}.content")}
    return plain if message.name is None else {**plain, "name": message.name}


def _plain_content(content: str | list[TextPart] | None, where: str) -> str:
    """The text of a message; the text parts of one message are lines."""
    if content is None:
        raise InvalidRequest(f"`{where}` is missing; give a string or text parts", param=where)
    if isinstance(content, str):
        return content
    for part in content:
        if part.type != "text":
            raise UnsupportedParameter(f"content of type `{part.type}` is not supported; send text only", param=where)
        if part.text is None:
            raise InvalidRequest(f"`{where}` has a text part without `text`", param=where)
    return "\n".join(part.text or "" for part in content)


def _template_variables(body: ChatBody | TokenizeBody) -> dict[str, Any]:
    variables = body.chat_template_kwargs or {}
    clash = sorted(RESERVED_NAMES & variables.keys())
    if clash:
        raise InvalidRequest(f"`chat_template_kwargs` must not set `{clash[0]}`", param="chat_template_kwargs")
    return variables


def _split_forms(prompt: Prompt) -> tuple[list[str], list[list[int]]]:
    """The prompt as texts or as lists of token ids; raises InvalidRequest for a mix.

    Types are told apart by set and cast: a Python loop over a thousand ids would be a tenth of the gateway's cost.
    """
    if isinstance(prompt, str):
        return [_non_empty(prompt)], []
    kinds = set(map(type, prompt))
    if len(prompt) > MAX_PROMPTS and kinds != {int}:
        raise InvalidRequest(f"`prompt` has {len(prompt)} prompts; send at most {MAX_PROMPTS} at once", param="prompt")
    if kinds == {str}:
        return [_non_empty(text) for text in cast(list[str], prompt)], []
    if kinds == {int}:
        return [], [cast(list[int], prompt)]
    if kinds == {list}:
        return [], cast(list[list[int]], prompt)
    reason = "is empty" if not kinds else "mixes texts and token ids"
    raise InvalidRequest(
        f"`prompt` {reason}; give a text, token ids, a list of texts or a list of lists of token ids", param="prompt"
    )


def _non_empty(text: str) -> str:
    if not text:
        raise InvalidRequest("`prompt` is empty; give at least one character", param="prompt")
    return text
