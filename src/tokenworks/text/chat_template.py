"""A checkpoint's chat template: messages in, the prompt text out.

Templates are code from whoever made the checkpoint, so they run in Jinja's immutable sandbox, set up as `transformers`
does it (trimmed blocks, loop controls, `raise_exception`, `strftime_now`, a `tojson` that does not escape HTML, and
`{% generation %}`, which only marks and is rendered through). Whatever a template does wrong is a refusal of that
request, never a failure of the server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tokenworks.contract.errors import InvalidRequest

RESERVED_NAMES: Final = frozenset({"messages", "add_generation_prompt", "continue_final_message", "tools", "documents"})
"""Names that a client's `chat_template_kwargs` must not shadow."""


class ChatTemplate:
    """One compiled template. A template that does not compile refuses every chat with the reason."""

    def __init__(self, source: str | None, special_tokens: Mapping[str, str]) -> None:
        self._special_tokens = special_tokens
        self._template: jinja2.Template | None = None
        self._refusal = "this model has no chat template; use /v1/completions with a prompt of your own making"
        if source is not None:
            self._compile(source)

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text; raises InvalidRequest with the template's own message where it refuses."""
        if self._template is None:
            raise InvalidRequest(self._refusal, param="messages")
        context = {**self._special_tokens, **(variables or {}), "tools": None, "documents": None}
        try:
            text = self._template.render(messages=messages, add_generation_prompt=add_generation_prompt, **context)
        except Exception as error:  # a template is foreign code: whatever it raises is its refusal
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error or type(error).__name__}", param="messages"
            ) from error
        return _cut_after(text, messages[-1]["content"]) if continue_final_message else text

    def _compile(self, source: str) -> None:
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            self._refusal = f"this model's chat template is broken ({error}); use /v1/completions or mend the template"


def _cut_after(text: str, final_content: str) -> str:
    """The prompt up to the end of the last message, so that the model goes on with it."""
    final = final_content.strip()
    at = text.rfind(final)
    if not final or at < 0:
        raise InvalidRequest(
            "continue_final_message needs a last message that the chat template shows as it is", param="messages"
        )
    keeps_space = text.startswith(final_content.lstrip(), at)
    return text[: at + len(final_content.lstrip() if keeps_space else final)]


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}` renders what it encloses."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
