"""Every line is one JSON object, whatever is logged and whoever wrote it."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from tokenworks.fleet.console import FleetConsole
from tokenworks.fleet.json_lines import JsonFormatter, is_json_line, json_line


@pytest.fixture
def written() -> tuple[logging.Logger, StringIO]:
    file = StringIO()
    handler = logging.StreamHandler(file)
    handler.setFormatter(JsonFormatter("w0"))
    logger = logging.Logger("tokenworks.test")
    logger.addHandler(handler)
    return logger, file


def lines(file: StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.getvalue().splitlines()]


def test_a_line_says_when_who_what_and_of_which_request(written: tuple[logging.Logger, StringIO]) -> None:
    logger, file = written
    fields = {"trace_id": "ab" * 16, "request_id": "r", "tenant": "anna", "absent": None, "e2e_s": 0.25}
    logger.info("done %d", 7, extra={"fields": fields})
    (line,) = lines(file)
    assert datetime.fromisoformat(line.pop("time")).utcoffset() is not None
    assert line == {
        "level": "info",
        "part": "w0",
        "logger": "tokenworks.test",
        "message": "done 7",
        "trace_id": "ab" * 16,
        "request_id": "r",
        "tenant": "anna",
        "e2e_s": 0.25,
    }


def test_an_exception_is_in_its_line(written: tuple[logging.Logger, StringIO]) -> None:
    logger, file = written
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("it failed")
    (line,) = lines(file)
    assert line["exception"].endswith("ValueError: two\nlines")


@pytest.mark.parametrize(
    "fields",
    [
        {"message": "forged", "level": "none", "part": "forged"},
        {"a": "half of a pair: \ud800"},
        {"a": {1, 2}},
        {"a": object()},
        {"a": {"b": object()}},
        {7: "number"},
        {"a": float("nan")},
        "no table",
    ],
)
def test_nothing_that_is_logged_breaks_the_line(written: tuple[logging.Logger, StringIO], fields: object) -> None:
    logger, file = written
    logger.warning("it\nis \x1b[31mred", extra={"fields": fields})
    (line,) = lines(file)
    assert (line["message"], line["part"], line["level"]) == ("it\nis \x1b[31mred", "w0", "warning")


def test_the_console_passes_json_on_and_wraps_the_rest(written: tuple[logging.Logger, StringIO]) -> None:
    logger, file = written
    logger.info("from a logger [bold]")
    shown = StringIO()
    console = FleetConsole(
        Console(file=shown, markup=False, emoji=False, highlight=False, soft_wrap=True, width=40), is_json=True
    )
    console.pass_on("w0", file.getvalue().strip())
    console.pass_on("w1", "Fatal Python error: " + "x" * 100)
    console.pass_on("w1", "")
    console.wait_for(["w1"])
    console.say("bye")
    console.close()
    assert [(line["part"], line["message"]) for line in lines(shown)] == [
        ("w0", "from a logger [bold]"),
        ("w1", "Fatal Python error: " + "x" * 100),
        ("tokenworks", "waiting for w1"),
        ("tokenworks", "bye"),
    ]


@pytest.mark.parametrize("text", ['{"time":"forged', '{"time":"x"} and more', '{"time":"x"', "{}", "[1]", ""])
def test_a_line_that_only_looks_like_one_is_wrapped(text: str) -> None:
    assert not is_json_line(text)
    assert json.loads(json_line("w0", text))["message"] == text
