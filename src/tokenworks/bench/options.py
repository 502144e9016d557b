"""The command line of `tokenworks bench`: its options, in groups, and the value types they take.

Each option belongs to a group that `--help` shows under one heading. Values are checked here, so that a typing error
ends as a usage error (exit code 2) before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from tokenworks.bench.arrivals import parse_length

Command = TypeVar("Command", bound=Callable[..., Any])
ABOVE_ZERO = click.FloatRange(min=0.0, min_open=True)
AT_LEAST_ZERO = click.FloatRange(min=0.0)
COUNT = click.IntRange(min=1)
PAGE_WIDTH = 110
"""Where the output is not a terminal that has its own."""


class GroupedOption(click.Option):
    """An option that knows under which heading of the help text it stands."""

    def __init__(self, *args: Any, group: str = "Other", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help lists its options by group, in the order of their declaration."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        for group, members in groupby(options, key=lambda option: getattr(option, "group", "Other")):
            with formatter.section(group):
                formatter.write_dl([record for option in members if (record := option.get_help_record(ctx))])


def _parsed_by(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """An option callback that turns the ValueError of `parse` into a usage error with its message."""

    def convert(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return convert


def base_url_of(url: str) -> str:
    """The address without a trailing `/v1`; raises ValueError for anything but http(s)."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} is not an address: give one such as http://127.0.0.1:8000")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def parse_json_object(text: str) -> dict[str, Any]:
    """Raises ValueError for anything but a JSON object."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ValueError(f"{text!r} is not a JSON object: {error}") from error


as_url, as_length, as_json_object = (_parsed_by(parse) for parse in (base_url_of, parse_length, parse_json_object))


def _option(group: str, *names: str, **attributes: Any) -> Callable[[Command], Command]:
    attributes.setdefault("show_default", attributes.get("default") is not None)
    return click.option(*names, cls=GroupedOption, group=group, **attributes)


def _declarations() -> list[Callable[[Any], Any]]:
    return [*_load_options(), *_length_options(), *_trace_options(), *_objective_options(), *_target_options()]


def bench_options(command: Command) -> Command:
    """Attach every option, so that the help lists them in the order written below."""
    for declare in reversed([*_declarations(), *_output_options()]):
        command = declare(command)
    return command


def _load_options() -> list[Callable[[Any], Any]]:
    group = "Load (give --rate, --concurrency or --trace; without any: 8 in flight)"
    rate = "Open loop: Poisson arrivals per second; never waits for earlier answers."
    requests = "Send at most this many.  [default: 100; no limit with --trace or --duration]"
    duration = "Start no request after this.  [default: 600; a trace's span if longer]"
    return [
        _option(group, "--rate", type=ABOVE_ZERO, metavar="REQ/S", help=rate),
        _option(group, "--concurrency", type=COUNT, metavar="N", help="Closed loop: keep N requests in flight."),
        _option(group, "--requests", "--max-requests", "max_requests", type=COUNT, metavar="N", help=requests),
        _option(group, "--duration", "duration_s", type=ABOVE_ZERO, metavar="S", help=duration),
        _option(group, "--seed", type=int, default=0, metavar="N", help="Same seed, same load."),
    ]


def _length_options() -> list[Callable[[Any], Any]]:
    group = "Prompts and answers (lengths come from the trace where one is given)"
    eos = "Force the output length, so that runs compare; turn off for servers that do not know the field."
    prompts = "Token ids need no tokenizer but only /v1/completions takes them; auto tries ids first."
    ids, body = "Range that prompt ids are from; must lie inside the vocabulary.", "Merged into each request's body."
    length = {"callback": as_length, "metavar": "N|uniform:A:B"}
    return [
        _option(group, "--input-tokens", **length, default="512", help="Prompt length."),
        _option(group, "--output-tokens", **length, default="128", help="Answer length."),
        _option(group, "--ignore-eos/--no-ignore-eos", default=True, help=eos),
        _option(group, "--prompts", type=click.Choice(["auto", "ids", "text"]), default="auto", help=prompts),
        _option(group, "--token-ids", **length, default="uniform:1000:3999", help=ids),
        _option(group, "--temperature", type=AT_LEAST_ZERO, default=0.0, metavar="T", help="Of sampling."),
        _option(group, "--extra-body", callback=as_json_object, metavar="JSON", default="{}", help=body),
    ]


def _trace_options() -> list[Callable[[Any], Any]]:
    group = "Trace (Mooncake .jsonl or Azure .csv, plain or .gz)"
    path = click.Path(exists=True, dir_okay=False, path_type=Path)
    length = "Multiply input and output lengths; prefix sharing stays."
    factor = {"type": ABOVE_ZERO, "default": 1.0, "metavar": "X"}
    share = factor | {"type": click.FloatRange(0.0, 1.0, min_open=True)}
    rate = "Keep this share of the conversations, each one whole."
    return [
        _option(group, "--trace", type=path, metavar="PATH", help="Replay its arrivals, lengths and shared prefixes."),
        _option(group, "--trace-speed", **factor, help="2 replays an hour in half an hour."),
        _option(group, "--length-scale", **factor, help=length),
        _option(group, "--rate-scale", **share, help=rate),
    ]


def _objective_options() -> list[Callable[[Any], Any]]:
    group = "Objectives (goodput counts the requests that meet all that are given)"
    helps = {
        "ttft": "Send to first token event.",
        "tpot": "(E2E - TTFT) / (output tokens - 1).",
        "itl": "Every gap between two token events of the request.",
        "e2e": "Send to last byte.",
    }
    return [_option(group, f"--slo-{name}-ms", type=ABOVE_ZERO, metavar="MS", help=helps[name]) for name in helps]


def _target_options() -> list[Callable[[Any], Any]]:
    group = "Server"
    endpoint = click.Choice(["completions", "chat"])
    timeout = "Each request, from connecting to its last byte."
    return [
        _option(group, "--model", help="Model name.  [default: the first of /v1/models]"),
        _option(group, "--endpoint", type=endpoint, default="completions", help="Which OpenAI endpoint to call."),
        _option(group, "--api-key", envvar="TOKENWORKS_API_KEY", show_envvar=True, help="Sent as a bearer token."),
        _option(group, "--timeout", "timeout_s", type=ABOVE_ZERO, default=300.0, metavar="S", help=timeout),
    ]


def _output_options() -> list[Callable[[Any], Any]]:
    group = "Output"
    json = "Where the one-line JSON report goes; - prints it alone on stdout.  [default: after the table, in a pipe]"
    records = "Also write one JSON line per request, with its instants and gaps."
    file = click.Path(dir_okay=False, path_type=Path)
    return [
        _option(group, "--json", "json_path", type=click.Path(dir_okay=False), metavar="PATH|-", help=json),
        _option(group, "--records", "records_path", type=file, metavar="PATH", help=records),
        click.help_option("-h", "--help", cls=GroupedOption, group=group),
    ]
