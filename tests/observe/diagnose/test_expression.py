"""Expressions over figures: what they compute, what they refuse, and that the unknown makes nothing true."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.contract.errors import ConfigError
from tokenworks.observe.diagnose.expression import MAX_CHARS, Expression

FIGURES = {"a": 4.0, "b": 0.5, "zero": 0.0, "unknown": math.nan}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a + b * 2 - 1", 4.0),
        ("-a / b", -8.0),
        ("max(a, b, 7) - min(a, b) - abs(-2)", 4.5),
        ("a > 3 and b < 1", 1.0),
        ("a > 5 or b >= 0.5", 1.0),
        ("1 < a <= 4", 1.0),
        ("a > 5", 0.0),
        ("a\n  > 3", 1.0),
    ],
)
def test_values(text: str, value: float) -> None:
    assert Expression(text).value(FIGURES.__getitem__) == value


@pytest.mark.parametrize(
    "text",
    ["unknown > 1", "unknown < 1", "a / zero > 1", "max(a, unknown) > 1", "min(unknown, a) < 9", "abs(unknown) > 0"],
)
def test_the_unknown_makes_nothing_true(text: str) -> None:
    assert Expression(text).value(FIGURES.__getitem__) == 0.0
    assert Expression(f"a > 3 or {text}").value(FIGURES.__getitem__) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a >",
        "a; b",
        "a = 1",
        "not a > 1",
        "a == 1",
        "a != 1",
        "2 ** 9",
        "a % 2",
        "'text' > 1",
        "f'{a}' > 1",
        "True",
        "None",
        "1j",
        "a.real",
        "a[0]",
        "[a]",
        "(lambda: a)()",
        "__import__('os')",
        "open(a)",
        "max()",
        "max(*a)",
        "max(a, key=b)",
        "a if b else 1",
        "1e300 * 1e300",
        "9" * 400,
        "(" * 300 + "a" + ")" * 300,
        "a + " * MAX_CHARS + "a",
    ],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Expression(text)


def test_names_are_told_without_functions() -> None:
    assert Expression("max(a, b) > min(a, c)").names == {"a", "b", "c"}


def test_arithmetic_is_shown_with_the_figures() -> None:
    assert Expression("max(a, 2) - b").filled(lambda name: f"{FIGURES[name]:g} s") == "max(4 s, 2) - 0.5 s"


@given(st.text(max_size=60))
def test_any_text_is_an_expression_or_an_error_of_ours(text: str) -> None:
    try:
        expression = Expression(text)
    except ConfigError:
        return
    expression.value(lambda _: 1.0)
