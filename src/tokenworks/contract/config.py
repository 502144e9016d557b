"""Every setting of the system: one frozen struct per component, each field with its unit and the reason it exists.

Defaults live here and nowhere else; the command line's options, the keys of `tokenworks.toml`, the environment names
and the reference page are all made from these structs. A component receives its own struct, never the whole.
A value of 0 or "" in a field that says so means "derived at start".
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

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
    auth: Annotated[
        Literal["auto", "required", "off"],
        Meta(description="Who needs an API key; auto: everybody, unless the gateway listens on loopback only."),
    ] = "auto"


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


DEFAULT_STORE_BYTES: Final = 1 << 30
"""The KV store's memory where only a disk or a remote tier is asked for: every block passes through it."""


class KVSettings(_Section, frozen=True):
    """The host's KV store: blocks kept beyond the workers' own memory, and shared among them."""

    host_bytes: Annotated[
        int, Meta(ge=0, description="Memory of the store; 0: none, or 1 GiB where a disk or a remote tier is set.")
    ] = 0
    disk_path: Annotated[str, Meta(description="Folder of the disk tier; empty: no disk tier.")] = ""
    disk_bytes: Annotated[int, Meta(ge=0, description="Most bytes in that folder.")] = 20 << 30
    remote: Annotated[
        str, Meta(description="Remote tier, redis://HOST:PORT or s3://BUCKET/PREFIX?endpoint=URL; empty: none.")
    ] = ""
    sync_s: Annotated[
        float, Meta(gt=0, description="A block that was put longer ago than this many seconds is safe on disk.")
    ] = 5.0
    store_address: Annotated[
        str, Meta(description="ZeroMQ address where workers reach the store; empty: a private socket on this machine.")
    ] = ""
    exchange: Annotated[
        Literal["exact", "any"],
        Meta(
            description="Whose blocks a worker takes: those of its own numerics class (exact), or any of the model's."
        ),
    ] = "exact"
    tenant_sharing: Annotated[bool, Meta(description="Whether tenants may find each other's blocks.")] = False

    @property
    def is_on(self) -> bool:
        """Whether there is a store at all."""
        return bool(self.host_bytes or self.disk_path or self.remote)

    @property
    def memory_bytes(self) -> int:
        """Of the store, where there is one."""
        return self.host_bytes or DEFAULT_STORE_BYTES


class WorkerGroup(_Section, frozen=True):
    """Workers of one kind: an entry of `[[workers]]`, which may hold any key of `[engine]` too, for these alone."""

    count: Annotated[int, Meta(ge=1, le=1024, description="How many of them.")] = 1
    role: Annotated[
        Literal["both", "prefill", "decode"],
        Meta(description="What they are for: whole requests, prompts for others, or what follows the prompt."),
    ] = "both"
    runs: Annotated[
        Literal["tokenworks", "openvino", "openai"],
        Meta(description="The engine: this one, OpenVINO, or any server with OpenAI's API at `url`."),
    ] = "tokenworks"
    device: Annotated[
        str, Meta(description="OpenVINO only: CPU; GPU and NPU are refused, as their KV cannot be exchanged yet.")
    ] = "CPU"
    url: Annotated[str, Meta(description="openai only: the server's base URL, such as http://10.0.0.7:8000/v1.")] = ""
    upstream_model: Annotated[
        str, Meta(description="openai only: the model's name there; empty: the first that it lists.")
    ] = ""
    engine: EngineSettings = EngineSettings()  # of the whole system, with what the entry says instead
    key_variable: Annotated[
        str, Meta(description="openai only: the environment variable that holds the server's API key; empty: no key.")
    ] = ""


class LedgerSettings(_Section, frozen=True):
    """Where the records of requests are kept, and for how long."""

    path: Annotated[
        str,
        Meta(description="Folder of journal, keys and database; empty: tokenworks below XDG_STATE_HOME; off: none."),
    ] = ""
    database: Annotated[
        str, Meta(description="Where records are kept, postgresql://USER@HOST/NAME; empty: SQLite in that folder.")
    ] = ""
    flush_s: Annotated[
        float, Meta(gt=0, le=10, description="A record is in the journal, safe from a kill, within this many seconds.")
    ] = 0.05
    sample_s: Annotated[
        float, Meta(ge=1, le=60, description="Seconds between samples of what each worker and KV store is at.")
    ] = 5.0
    detail_days: Annotated[float, Meta(ge=0, description="Days that waterfalls, tags and single gaps are kept.")] = 7.0
    address: Annotated[
        str, Meta(description="Where the observer is asked over HTTP, http://HOST:PORT; empty: a private socket here.")
    ] = ""
    record_days: Annotated[float, Meta(ge=0, description="Days that single records are kept; sums stay for ever.")] = (
        90.0
    )


class CostSettings(_Section, frozen=True):
    """Prices beside those of the workers' cards (`price_per_hour`, `watts`)."""

    currency: Annotated[str, Meta(description="What amounts are in.")] = "USD"
    energy_per_kwh: Annotated[float, Meta(ge=0, description="Of energy; 0: the cards' prices cover it.")] = 0.0
    host_per_gb_hour: Annotated[float, Meta(ge=0, description="Of KV kept in host memory.")] = 0.0
    disk_per_gb_hour: Annotated[float, Meta(ge=0, description="Of KV kept on disk.")] = 0.0
    remote_per_gb_hour: Annotated[float, Meta(ge=0, description="Of KV kept in the remote tier.")] = 0.0
    transfer_per_gb: Annotated[float, Meta(ge=0, description="Of KV moved between tiers.")] = 0.0


class ObjectiveSettings(_Section, frozen=True):
    """What each scenario promises; a request that kept all of its scenario's promises is goodput. 0: no promise."""

    online_ttft_s: Annotated[float, Meta(ge=0, description="First token, seconds.")] = 5.0
    online_tpot_s: Annotated[float, Meta(ge=0, description="Mean time per further token, seconds.")] = 0.2
    online_e2e_s: Annotated[float, Meta(ge=0, description="Last byte, seconds.")] = 0.0
    offline_ttft_s: Annotated[float, Meta(ge=0, description="First token, seconds.")] = 0.0
    offline_tpot_s: Annotated[float, Meta(ge=0, description="Mean time per further token, seconds.")] = 0.0
    offline_e2e_s: Annotated[float, Meta(ge=0, description="Last byte, seconds.")] = 3600.0
    realtime_ttft_s: Annotated[float, Meta(ge=0, description="First token, seconds.")] = 2.0
    realtime_itl_s: Annotated[float, Meta(ge=0, description="Every gap between tokens, seconds.")] = 0.2
    realtime_e2e_s: Annotated[float, Meta(ge=0, description="Last byte, seconds.")] = 0.0
    success_ratio: Annotated[
        float, Meta(gt=0, lt=1, description="Share of requests that must succeed and keep their promises.")
    ] = 0.99


class ExportSettings(_Section, frozen=True):
    """What leaves for other systems of observation."""

    otlp_endpoint: Annotated[
        str,
        Meta(
            description="Collector of our spans, OTLP over HTTP, http://HOST:4318; empty: OTEL_EXPORTER_OTLP_ENDPOINT."
        ),
    ] = ""
    zone: Annotated[
        str, Meta(description="Availability zone where this runs, to tell calls that cross zones; empty: not stated.")
    ] = ""


class AlertReceiver(_Section, frozen=True):
    """Somebody who is told of alerts: an entry of `[[alerts.receivers]]`."""

    kind: Annotated[
        Literal["webhook", "dingtalk", "wecom", "pagerduty"], Meta(description="Who receives them: see `alerts.kind`.")
    ] = "webhook"
    url: Annotated[str, Meta(description="As `alerts.url`.")] = ""
    secret_variable: Annotated[str, Meta(description="As `alerts.secret_variable`.")] = ""
    severities: tuple[Literal["page", "ticket"], ...] = ("page", "ticket")  # what they are told of


class AlertSettings(_Section, frozen=True):
    """Where alerts are sent, and how far traffic may drift; the observer looks after both."""

    kind: Annotated[
        Literal["off", "webhook", "dingtalk", "wecom", "pagerduty"],
        Meta(description="Who receives alerts; off: they are shown, and sent to nobody."),
    ] = "off"
    url: Annotated[
        str, Meta(description="Where to send them: the robot's or receiver's URL; empty: PagerDuty's own, for that.")
    ] = ""
    secret_variable: Annotated[
        str,
        Meta(description="Environment variable with the signing secret, or PagerDuty's routing key; empty: no secret."),
    ] = ""
    interval_s: Annotated[float, Meta(ge=1, le=60, description="Seconds between two looks at the ledger.")] = 30.0
    drift_psi: Annotated[
        float, Meta(gt=0, description="Drift is told of above this population stability index, less chance's share.")
    ] = 0.2
    drift_hours: Annotated[
        float, Meta(gt=0, description="Hours that are compared, up to now; whole days have every hour of the day once.")
    ] = 24.0
    drift_reference_hours: Annotated[
        float, Meta(gt=0, description="Hours before those that they are compared with.")
    ] = 168.0
    receivers: tuple[AlertReceiver, ...] = ()  # more of them than `kind` and `url` name


class FleetSettings(_Section, frozen=True):
    """The supervisor."""

    workers: Annotated[int, Meta(ge=1, le=1024, description="Worker processes on this machine.")] = 1
    drain_s: Annotated[
        float, Meta(ge=0, description="Seconds that open requests are given to finish after SIGTERM.")
    ] = 300.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="How much the processes log to stderr.")
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"], Meta(description="Lines for people, or one JSON object a line, with trace ids.")
    ] = "text"


class Settings(_Section, frozen=True):
    """The whole of `tokenworks.toml`."""

    model: Annotated[str, Meta(description="Checkpoint directory; empty: the embedded model.")] = ""
    gateway: GatewaySettings = GatewaySettings()
    engine: EngineSettings = EngineSettings()
    kv: KVSettings = KVSettings()
    ledger: LedgerSettings = LedgerSettings()
    cost: CostSettings = CostSettings()
    objectives: ObjectiveSettings = ObjectiveSettings()
    export: ExportSettings = ExportSettings()
    alerts: AlertSettings = AlertSettings()
    fleet: FleetSettings = FleetSettings()
    workers: tuple[WorkerGroup, ...] = ()  # empty: `fleet.workers` of one kind
