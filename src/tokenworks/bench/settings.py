"""The settled wishes of one run: structs per concern, their cross-checks and the plan that follows from them.

Knows which combinations make sense and what the defaults are where one depends on another; does not know the command
line (options.py) or how a run is carried out. Invariant: a plan is bounded in count or in time, always in time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from tokenworks.bench.arrivals import LengthRange, PlannedRequest, plan_synthetic, plan_trace
from tokenworks.bench.client import Target
from tokenworks.bench.measure import Objectives
from tokenworks.bench.prompts import Endpoint, PromptStyle
from tokenworks.bench.report import TraceUse, Workload
from tokenworks.plan.traces import MOONCAKE_BLOCK_TOKENS, Trace, read_trace, scale_trace

DEFAULT_CONCURRENCY = 8
DEFAULT_REQUESTS = 100
DEFAULT_DURATION_S = 600.0
TRACE_GRACE = 1.1  # a replay may take this much longer than its trace, so that a late client drops no request

Struct = TypeVar("Struct", bound=msgspec.Struct)


class Load(msgspec.Struct, frozen=True):
    """How requests follow each other; None leaves a choice open."""

    rate: float | None = None
    concurrency: int | None = None
    max_requests: int | None = None
    duration_s: float | None = None
    seed: int = 0


class Shape(msgspec.Struct, frozen=True):
    """What one request looks like."""

    input_tokens: LengthRange
    output_tokens: LengthRange
    ignore_eos: bool
    prompts: Literal["auto", "ids", "text"]
    token_ids: LengthRange
    temperature: float
    extra_body: dict[str, Any]


class Replay(msgspec.Struct, frozen=True):
    """Which trace, and how it is fitted to this machine."""

    trace: Path | None = None
    trace_speed: float = 1.0
    length_scale: float = 1.0
    rate_scale: float = 1.0


class Server(msgspec.Struct, frozen=True):
    """Whom to ask; no model means the first that the server lists."""

    url: str
    model: str | None
    endpoint: Endpoint
    api_key: str | None
    timeout_s: float


class Output(msgspec.Struct, frozen=True):
    """Where results go besides the page."""

    json_path: str | None
    records_path: Path | None


class Settings(msgspec.Struct, frozen=True):
    """All of the above for one run."""

    load: Load
    shape: Shape
    replay: Replay
    server: Server
    output: Output
    objectives: Objectives

    @property
    def target(self) -> Target:
        return Target(self.server.url, self.server.api_key, self.server.timeout_s)


class Plan(msgspec.Struct, frozen=True):
    """The requests to send and their bounds; `concurrency` None makes the loop open, `total` None is not known."""

    requests: Iterable[PlannedRequest]
    total: int | None
    duration_s: float
    concurrency: int | None
    trace: Trace | None = None
    trace_use: TraceUse | None = None


def settings_from(options: Mapping[str, Any]) -> Settings:
    """Sort the command line's values into structs; raises ValueError where two of them contradict each other."""
    if options["rate"] is not None and options["concurrency"] is not None:
        raise ValueError("--rate (open loop) and --concurrency (closed loop) exclude each other")
    if options["endpoint"] == "chat" and options["prompts"] == "ids":
        raise ValueError("--endpoint chat takes text only: leave out --prompts ids")
    if options["trace"] is None and any(options[name] != 1.0 for name in ("trace_speed", "length_scale", "rate_scale")):
        raise ValueError("--trace-speed, --length-scale and --rate-scale change a trace: give one with --trace")
    for path in (options["json_path"], options["records_path"]):
        if path not in (None, "-") and not Path(path).parent.is_dir():
            raise ValueError(f"{path}: its directory does not exist")
    limits_ms = {name: options[f"slo_{name}_ms"] for name in ("ttft", "tpot", "itl", "e2e")}
    limits_s = {f"{name}_s": None if ms is None else ms / 1000.0 for name, ms in limits_ms.items()}
    return Settings(
        load=_pick(Load, options),
        shape=_pick(Shape, options),
        replay=_pick(Replay, options),
        server=_pick(Server, options),
        output=_pick(Output, options),
        objectives=Objectives(**limits_s),
    )


def _pick(struct: type[Struct], options: Mapping[str, Any]) -> Struct:
    return struct(**{name: options[name] for name in struct.__struct_fields__})


def make_plan(settings: Settings) -> Plan:
    """Raises TraceError or OSError where the trace cannot be read."""
    return _synthetic_plan(settings) if settings.replay.trace is None else _trace_plan(settings)


def _synthetic_plan(settings: Settings) -> Plan:
    load, shape = settings.load, settings.shape
    max_requests = load.max_requests or (DEFAULT_REQUESTS if load.duration_s is None else None)
    return Plan(
        requests=plan_synthetic(
            shape.input_tokens, shape.output_tokens, rate=load.rate, max_requests=max_requests, seed=load.seed
        ),
        total=max_requests,
        duration_s=load.duration_s or DEFAULT_DURATION_S,
        concurrency=load.concurrency or (DEFAULT_CONCURRENCY if load.rate is None else None),
    )


def _trace_plan(settings: Settings) -> Plan:
    load = settings.load
    trace, use = load_trace(settings.replay, load.seed)
    return Plan(
        requests=plan_trace(trace, rate=load.rate, max_requests=load.max_requests, seed=load.seed),
        total=min(len(trace.records), load.max_requests or len(trace.records)),
        duration_s=load.duration_s or max(DEFAULT_DURATION_S, TRACE_GRACE * trace.span_s),
        concurrency=load.concurrency,
        trace=trace,
        trace_use=use,
    )


def load_trace(replay: Replay, seed: int) -> tuple[Trace, TraceUse]:
    """The scaled trace and the account of its scaling."""
    assert replay.trace is not None, "called without a trace"
    whole = read_trace(replay.trace, seed=seed)
    scaled = scale_trace(whole, speed=replay.trace_speed, length=replay.length_scale, rate=replay.rate_scale, seed=seed)
    use = TraceUse(
        name=replay.trace.name,
        format=whole.format,
        speed=replay.trace_speed,
        length_scale=replay.length_scale,
        rate_scale=replay.rate_scale,
        records=len(whole.records),
        kept=len(scaled.records),
    )
    return scaled, use


def style_of(settings: Settings, plan: Plan, model: str) -> PromptStyle:
    """How bodies are made; text only where ids were not asked for or cannot be sent."""
    shape = settings.shape
    return PromptStyle(
        model=model,
        endpoint=settings.server.endpoint,
        kind="text" if shape.prompts == "text" or settings.server.endpoint == "chat" else "ids",
        token_ids=shape.token_ids,
        block_tokens=plan.trace.block_tokens if plan.trace else MOONCAKE_BLOCK_TOKENS,
        ignore_eos=shape.ignore_eos,
        temperature=shape.temperature,
        extra_body=shape.extra_body,
        seed=settings.load.seed,
    )


def workload_of(settings: Settings, plan: Plan, style: PromptStyle) -> Workload:
    """What the report says was asked for."""
    load, shape = settings.load, settings.shape
    return Workload(
        rate=load.rate,
        concurrency=plan.concurrency,
        max_requests=plan.total,
        duration_s=plan.duration_s,
        input_tokens="trace" if plan.trace else str(shape.input_tokens),
        output_tokens="trace" if plan.trace else str(shape.output_tokens),
        prompts="token ids" if style.sends_ids else "text",
        ignore_eos=style.ignore_eos,
        temperature=style.temperature,
        seed=load.seed,
        trace=plan.trace_use,
    )
