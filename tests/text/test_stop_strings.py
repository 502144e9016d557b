"""The streaming matcher against a brute-force one, for any stop strings and any cutting of the text."""

from __future__ import annotations

import random

import pytest

from tokenworks.text.stop_strings import StopStrings


def brute_force(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Look at every prefix of the text in turn; of the stops that end it, the longest wins."""
    for end in range(1, len(text) + 1):
        matched = max((stop for stop in stops if text[:end].endswith(stop)), key=len, default=None)
        if matched is not None:
            return text[: end - len(matched)], matched
    return text, None


def run(text: str, stops: list[str], cuts: random.Random) -> tuple[str, str | None]:
    matcher = StopStrings(stops)
    shown, at = "", 0
    while at < len(text):
        size = cuts.randrange(1, 5)
        piece, matched = matcher.push(text[at : at + size])
        shown += piece
        if matched is not None:
            return shown, matched
        at += size
        assert not any(text[:at].endswith(stop[:1]) for stop in stops) or len(shown) < at
    return shown + matcher.flush(), None


@pytest.mark.parametrize("seed", range(300))
def test_any_cutting_gives_what_brute_force_finds(seed: int) -> None:
    random_ = random.Random(seed)
    stops = ["".join(random_.choices("ab", k=random_.randrange(1, 6))) for _ in range(random_.randrange(1, 5))]
    text = "".join(random_.choices("abc", k=40))
    expected = brute_force(text, stops)
    assert run(text, stops, random_) == expected


def test_only_what_may_become_a_stop_is_held_back() -> None:
    matcher = StopStrings(["</end>", "STOP"])
    assert matcher.push("hello </e") == ("hello ", None)
    assert matcher.push("m> ST") == ("</em> ", None)
    assert matcher.push("OP and more") == ("", "STOP")


def test_the_whole_alphabet_of_limits_at_once() -> None:
    stops = [f"{'x' * 1000}{number:04d}" for number in range(64)]
    matcher = StopStrings(stops)
    shown = "".join(matcher.push("x")[0] for _ in range(1500))
    assert len(shown) == 500
    assert matcher.push("0063") == ("", stops[63])


def test_held_text_comes_out_at_the_end() -> None:
    matcher = StopStrings(["abc"])
    assert matcher.push("xab") == ("x", None)
    assert matcher.flush() == "ab"
    assert matcher.flush() == ""
