"""Templates render as transformers renders them, and whatever a template does wrong is a refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tokenworks.contract.errors import InvalidRequest
from tokenworks.text.chat_template import ChatTemplate

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CHATML = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or message.role == "assistant" %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
INST = """{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate') }}
{% endif %}
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}
{% else %}{{ message['content'] + eos_token }}{% endif %}
{% endfor %}"""
HEADERS = """{% set loop_messages = messages %}{% for message in loop_messages %}
{% if message.content == 'skip' %}{% continue %}{% endif %}
{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim %}
{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}
{% if loop.index0 > 3 %}{% break %}{% endif %}{% endfor %}
{% set ns = namespace(count=0) %}{% for message in messages %}{% set ns.count = ns.count + 1 %}{% endfor %}
{{ ns.count }}
{{ messages | tojson }}{{ {'b': '<é>', 'a': [1]} | tojson(indent=2) }}{{ strftime_now('%Y') }}
{% generation %}{{ messages[-1].content }}{% endgeneration %}{% if tools %}tools{% endif %}{{ unknown_token }}"""
TALK = [
    {"role": "user", "content": " Hi <b>there</b>, 你好 "},
    {"role": "assistant", "content": "Hello & welcome"},
    {"role": "user", "content": "skip"},
]


def by_transformers(template: str, messages: Sequence[Mapping[str, str]], **options: Any) -> str:
    rendered, _ = render_jinja_template(
        conversations=[list(messages)], chat_template=template, **{**SPECIAL, **options}
    )
    return str(rendered[0])


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("template", [CHATML, INST, HEADERS])
def test_renders_as_transformers_does(template: str, prompt: bool) -> None:
    mine = ChatTemplate(template, SPECIAL).render(TALK, add_generation_prompt=prompt)
    assert mine == by_transformers(template, TALK, add_generation_prompt=prompt)


def test_passes_the_clients_variables() -> None:
    variables = {"enable_thinking": False}
    mine = ChatTemplate(CHATML, SPECIAL).render(TALK, variables=variables)
    assert mine == by_transformers(CHATML, TALK, add_generation_prompt=True, **variables)
    assert "<think>" in mine


@pytest.mark.parametrize("last", ["to be con", " padded "])
def test_continues_the_final_message_as_transformers_does(last: str) -> None:
    talk = [*TALK[:1], {"role": "assistant", "content": last}]
    mine = ChatTemplate(CHATML, SPECIAL).render(talk, add_generation_prompt=False, continue_final_message=True)
    assert mine == by_transformers(CHATML, talk, continue_final_message=True)


def test_a_final_message_that_the_template_hides_cannot_be_continued() -> None:
    with pytest.raises(InvalidRequest, match="continue_final_message"):
        ChatTemplate("nothing of it", {}).render(TALK, continue_final_message=True)


def test_a_template_that_raises_refuses_with_its_own_words() -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        ChatTemplate(INST, SPECIAL).render(TALK[1:])


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages[9].content }}",
        "{{ 1 / 0 }}",
        "{{ messages + 1 }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ raise_exception('') }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_a_template_that_misbehaves_is_a_refusal(template: str) -> None:
    with pytest.raises(InvalidRequest, match="chat template refuses"):
        ChatTemplate(template, {}).render(TALK)


def test_a_broken_template_refuses_every_chat() -> None:
    with pytest.raises(InvalidRequest, match="broken"):
        ChatTemplate("{% for %}", {}).render(TALK)


def test_without_a_template_chat_is_refused_with_a_way_out() -> None:
    with pytest.raises(InvalidRequest, match="/v1/completions") as caught:
        ChatTemplate(None, {}).render(TALK)
    assert caught.value.param == "messages"
