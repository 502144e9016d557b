"""Every setting of the system: one frozen struct per component, each field with its unit and the reason it exists.

Defaults live here and nowhere else; the command line's options, the keys of `tokenworks.toml`, the environment names
and the reference page are all made from these structs. A component receives its own struct, never the whole.
A value of 0 or "" in a field that says so means "derived at start".
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the sections of `tokenworks.toml`."""


class GatewaySettings(_Section, frozen=True):
    """The HTTP face."""

    host: Annotated[str, Meta(description="Address to listen on; 0.0.0.0 serves other machines.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port of the HTTP API; 0 takes a free one.")] = 8000
    model_name: Annotated[str, Meta(description="Name clients use in `model`; empty: the directory's name.")] = ""
    worker_address: Annotated[
        str, Meta(description="ZeroMQ address where workers dial in; empty: a private socket on this machine.")
    ] = ""
    max_body_bytes: Annotated[int, Meta(ge=1024, description="Largest request body read, in bytes.")] = 8 << 20
    lease_s: Annotated[float, Meta(gt=0, description="Seconds of silence after which a worker counts as dead.")] = 10.0


class EngineSettings(_Section, frozen=True):
    """One worker's engine."""

    dtype: Annotated[
        Literal["auto", "bfloat16", "float32"],
        Meta(description="Arithmetic of weights and activations; auto: the checkpoint's where this CPU is fast at it."),
    ] = "auto"
    quantize: Annotated[
        Literal["none", "int8", "int4"],
        Meta(
            description="Round the weights at load, and keep them so on disk for the next start: less to read a step."
        ),
    ] = "none"
    max_context_tokens: Annotated[
        int, Meta(ge=0, description="Longest prompt plus output, in tokens; 0: what the model and its KV allow.")
    ] = 0
    kv_bytes: Annotated[
        int, Meta(ge=0, description="Bytes of KV cache per worker; 0: a share of the free memory, touched as used.")
    ] = 0
    kv_dtype: Annotated[
        Literal["auto", "int8"],
        Meta(description="How KV is stored; auto: as `dtype`; int8: half the bytes of bfloat16, a little less exact."),
    ] = "auto"
    block_tokens: Annotated[int, Meta(ge=1, le=1024, description="Tokens per KV block; one value per pool.")] = 32
    max_running: Annotated[int, Meta(ge=1, description="Sequences in one step at most.")] = 64
    max_step_tokens: Annotated[
        int, Meta(ge=1, description="Tokens in one step at most; long prompts are cut into such chunks.")
    ] = 512
    kernels: Annotated[
        Literal["auto", "native", "portable"],
        Meta(description="Code of the forward step; auto: native (C++, AVX-512) where it was built and can run."),
    ] = "auto"
    speculation: Annotated[
        Literal["auto", "off"],
        Meta(description="Guess ahead from the text so far, verified token by token; auto: while measured to pay."),
    ] = "auto"
    threads: Annotated[int, Meta(ge=0, description="CPU threads per worker; 0: the cores shared out evenly.")] = 0
    price_per_hour: Annotated[
        float, Meta(ge=0, description="What a worker costs per hour, for its card; 0: not stated.")
    ] = 0.0
    watts: Annotated[float, Meta(ge=0, description="Power a worker draws, for its card; 0: not stated.")] = 0.0


class FleetSettings(_Section, frozen=True):
    """The supervisor."""

    workers: Annotated[int, Meta(ge=1, le=1024, description="Worker processes on this machine.")] = 1
    drain_s: Annotated[
        float, Meta(ge=0, description="Seconds that open requests are given to finish after SIGTERM.")
    ] = 300.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="How much the processes log to stderr.")
    ] = "info"


class Settings(_Section, frozen=True):
    """The whole of `tokenworks.toml`."""

    model: Annotated[str, Meta(description="Checkpoint directory; empty: the embedded model.")] = ""
    gateway: GatewaySettings = GatewaySettings()
    engine: EngineSettings = EngineSettings()
    fleet: FleetSettings = FleetSettings()
