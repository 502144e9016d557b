"""Figures as people read them."""

from __future__ import annotations

import math

import pytest

from tokenworks.cli.terminal_text import printable
from tokenworks.observe.units import UNITS, amount, duration, figure, money, number, shown, size


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (12345, "12,345"),
        (12345.6, "12,346"),
        (1234.5, "1,234"),
        (9.999, "10"),
        (1.234, "1.23"),
        (0.01234, "0.0123"),
        (-0.5, "-0.500"),
        (0.0000123, "1.23e-5"),
        (3.0, "3"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.0000425, "0.0000425"), (-0.00001239, "-0.0000124"), (1e-12, "0.00000000000100"), (1234.5, "1,234")],
)
def test_money_is_plain_however_small(value: float, shown: str) -> None:
    assert (money(value), figure(value, "currency")) == (shown, shown)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (5e-9, "0.00500 µs"),
        (9.999, "10 s"),
        (4.2e-4, "420 µs"),
        (0.0123, "12.3 ms"),
        (0.9999, "1,000 ms"),
        (4.0, "4 s"),
        (119.9, "120 s"),
        (600, "10 min"),
        (7200, "2 h"),
        (864_000, "10 d"),
    ],
)
def test_durations_are_in_the_unit_that_suits(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0, "0.0%"),
        (1, "100.0%"),
        (0.5, "50.0%"),
        (0.9996, "99.96%"),
        (0.9999999, "~100%"),
        (1e-9, "~0%"),
        (-1e-9, "~0%"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_nothing(share: float, shown: str) -> None:
    assert figure(share, "share") == shown


@pytest.mark.parametrize(
    ("num_bytes", "shown"),
    [(0, "0 B"), (1023, "1,023 B"), (1536, "1.50 KiB"), (3 << 30, "3 GiB"), (1 << 61, "2,048 PiB")],
)
def test_sizes_are_powers_of_1024(num_bytes: float, shown: str) -> None:
    assert size(num_bytes) == shown
    assert figure(num_bytes, "bytes/s") == f"{shown}/s"


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_cannot_be_had_is_no_zero(value: float | None) -> None:
    assert figure(value, "s") == "–"


def test_amounts_of_one_bill_have_the_same_decimals() -> None:
    assert [amount(value, 0.5133) for value in (0.5133, 0.0009, -0.2)] == ["0.5133", "0.0009", "-0.2000"]
    assert [amount(value, 87_072.0) for value in (87_072.0, 0.001)] == ["87,072.00", "~0"]
    assert [amount(value, 1.4194) for value in (0.0002, -0.0003, 0.0)] == ["~0", "~0", "0.000"]
    assert amount(0.0, 0.0) == "0.00"


@pytest.mark.parametrize("unit", UNITS)
def test_a_figure_of_a_rule_says_its_unit(unit: str) -> None:
    wanted = {"s": "1.50 s", "share": "150.0%", "per_s": "1.50/s", "tokens": "1.50 tokens", "bytes": "1.50 B"}
    wanted |= {"money": "1.50 EUR", "times": "1.50x"}
    assert shown(1.5, unit, "EUR") == wanted.get(unit, "1.50")
    assert shown(math.inf, unit) == "unknown"


def test_text_of_others_moves_no_cursor_and_stays_short() -> None:
    assert printable("a\x1b[2Jb\nc\u202ed") == r"a\x1b[2Jb\nc\u202ed"
    assert printable("x" * 100, 10) == "x" * 9 + "…"
    assert len(printable("\x1b" * 100, 10)) == 10
