"""What is known of a request when it has ended: one record, from which every figure that anyone sees is computed.

Every generation request that the gateway has understood ends with exactly one `Record`, however it ends. Beside the
records stand samples of what is there whether somebody asks or not: what each worker's time went to (`WorkerSample`),
what each store holds (`StoreSample`), what happened to the system (`Incident`), and where records are missing (`Gap`).
Together they are the frames of a gateway's journal, in the order in which they were written.

Times are integer nanoseconds: `..._ns` a duration by a monotonic clock, `at_ns` and `started_ns` since 1970 by the wall
clock. Amounts of money are integers too: `PICO` of the currency, so that sums are exact.

What a request leaves behind is not watched by the garbage collector (`gc=False`): none of it can refer to itself, and
there are thousands of them a second.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from tokenworks.contract.kv import Tier
from tokenworks.contract.request import Scenario

PICO: Final = 10**12
"""Parts that an amount of money is counted in: one is 1e-12 of the currency."""


class Stage(StrEnum):
    """Where a request's time went. A record's stages do not overlap and sum to its E2E."""

    RECEIVE = "receive"  # the request's first byte to its body's last
    TOKENISE = "tokenise"  # chat template and tokenizer, with the wait for a thread
    ADMIT = "admit"  # checks, and waiting to be let in
    ROUTE = "route"  # a worker is chosen; waiting for one to come, and for another after one was lost
    WIRE = "wire"  # between gateway and worker, both ways
    QUEUE = "queue"  # in the worker, before its first step
    FETCH_HOST = "fetch_host"  # held back while blocks come from the store's memory
    FETCH_DISK = "fetch_disk"
    FETCH_REMOTE = "fetch_remote"
    PREFILL = "prefill"  # in steps that computed its prompt
    PUBLISH = "publish"  # blocks on their way to the store, for the worker that goes on
    DECODE = "decode"  # in steps that gave it tokens
    PREEMPTED = "preempted"  # waiting again after its blocks were taken from it, and computing them again
    STALL = "stall"  # admitted, and not in the step that ran, or between steps
    LOST = "lost"  # on a worker that died, or refused it in the end
    DETOKENISE = "detokenise"  # tokens to text to bytes, after the last tokens have come
    WRITE = "write"  # the client takes the last bytes


class Work(StrEnum):
    """What a worker's device was busy with for a sequence."""

    PREFILL = "prefill"
    DECODE = "decode"
    RECOMPUTE = "recompute"  # what preemption had thrown away
    DRAFT = "draft"  # guesses at tokens that proved wrong


class SequenceReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What one worker spent on one sequence; told with its end."""

    stages_ns: dict[Stage, int] = {}  # from the request's arrival at the worker to its last token: no gap, no overlap
    device_ns: dict[Work, int] = {}  # its share of the steps it was in: all shares of a step sum to the step
    steps: int = 0
    prefill_chunks: int = 0
    computed_tokens: int = 0  # rows computed for it, of prompt and output
    recomputed_tokens: int = 0  # of those, computed before and lost by preemption
    draft_tokens: int = 0  # guessed and computed
    rejected_tokens: int = 0  # of those, wrong
    preemptions: int = 0
    kv_byte_s: float = 0.0  # bytes of device KV that it held, times seconds
    fetched_bytes: dict[Tier, int] = {}
    published_bytes: int = 0


class WorkerUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a worker's time and machine went to since it started. `wall_ns` = `step_ns` + `between_ns` + `idle_ns`."""

    started_ns: int = 0  # since 1970: names this life of the worker
    wall_ns: int = 0
    step_ns: dict[Work, int] = {}  # in steps, by what they computed
    between_ns: int = 0  # with work to do, and not in a step
    idle_ns: int = 0  # with nothing to do
    flops: float = 0.0  # of matrix products and attention
    read_bytes: float = 0.0  # of weights and KV, that steps had to read
    cpu_s: float = 0.0  # of the process, all threads
    rss_bytes: int = 0
    disk_read_bytes: int = 0
    disk_write_bytes: int = 0
    energy_j: float | None = None  # of the package, where the machine measures it


class Leg(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One sending of one sequence to one worker."""

    worker: str
    sequence: int = 0  # which of the request's sequences
    kind: str = "whole"  # "whole", "prefill" (for another worker), "continuation" (after a loss)
    reason: str = ""  # the router's, in its own word
    start_ns: int = 0  # after the record's start
    span_ns: int = 0  # sent, to its last word or its loss
    outcome: str = "ok"  # "ok", "lost", "refused", "cancelled", "failed"
    cached_tokens: int = 0  # that the router expected to find there
    predicted_ns: int | None = None  # to the first token, where it was predicted
    saved_ns: int = 0  # of the worker's time, that computing its cached tokens would have taken, by its card
    report: SequenceReport | None = None  # None: the worker never told
    price_per_hour: float | None = None  # of its card
    watts: float | None = None


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What a request cost, in pico of the currency."""

    device: dict[Work, int] = {}
    kv: dict[Tier, int] = {}  # KV held
    transfer: int = 0
    energy: int = 0
    saved: int = 0  # what computing the cached tokens would have cost; no part of the total

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.device.values()) + sum(self.kv.values()) + self.transfer + self.energy


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="record", gc=False):
    """One request that has ended."""

    id: str  # of the HTTP request, as in `x-request-id`
    started_ns: int
    e2e_ns: int
    tenant: str
    model: str
    scenario: Scenario
    outcome: str  # "ok", or the code of the error that ended it: see docs/reference/errors.md; "client_gone"
    status: int  # of HTTP; 0: nothing was sent
    gateway: str = ""
    answer_id: str = ""  # the `id` in the answer's body
    key: str = ""  # id of the API key; empty: none
    version: str = ""  # fingerprint of the weights, short
    endpoint: str = ""
    is_stream: bool = False
    trace_id: str = ""  # W3C, 32 hex digits
    span_id: str = ""  # of the request's own span, 16 hex digits
    parent_span_id: str = ""
    tags: dict[str, str] = {}  # the client's `metadata`
    num_sequences: int = 1
    prompt_tokens: int = 0
    cached_tokens: dict[Tier, int] = {}
    output_tokens: int = 0
    finish_reasons: list[str] = []  # one a sequence that finished
    mean_logprob: float | None = None  # of the output tokens, where log probabilities were asked for
    ttft_ns: int | None = None
    gaps_us: bytes = b""  # between token events of a sequence, all sequences: uint32 each, little endian, microseconds
    stages_ns: dict[Stage, int] = {}  # sums to e2e_ns; with several sequences, those of the one that ended last
    legs: list[Leg] = []  # of all sequences, by start
    num_alike: int = 1  # requests that this record stands for, itself among them: see `gateway.records.floods`

    @property
    def is_rejected(self) -> bool:
        """Whether it was turned away before any worker had it."""
        return self.outcome != "ok" and not self.legs


class WorkerSample(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="worker"):
    """A worker, as last heard: written every few seconds, at its coming and at its end."""

    at_ns: int
    worker: str
    model: str
    use: WorkerUse
    version: str = ""
    device: str = ""
    price_per_hour: float | None = None
    watts: float | None = None
    peak_flops: float = 0.0  # per second, as measured at start; 0: not
    peak_bytes_per_s: float = 0.0
    running: int = 0
    waiting: int = 0
    free_blocks: int = 0
    total_blocks: int = 0
    preemptions: int = 0
    evictions: int = 0  # prompts that missed a cached block which had given way to others
    is_last: bool = False  # it has left, or was lost


class StoreSample(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="store"):
    """A KV store, as last heard; counters count since it started."""

    at_ns: int
    store: str
    used_bytes: dict[Tier, int] = {}
    limit_bytes: dict[Tier, int] = {}
    hits: dict[Tier, int] = {}
    evictions: dict[Tier, int] = {}
    faults: dict[str, int] = {}
    misses: int = 0
    read_bytes_per_s: dict[Tier, float] = {}  # as measured lately; 0: the tier does not answer; none: not measured
    started_ns: int = 0  # names the store's life; 0: it did not say
    alive_ns: int = 0


class Incident(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="incident"):
    """Something that happened to the system: a worker came, left or was lost, a role changed, a gateway started."""

    at_ns: int
    kind: str
    subject: str
    text: str = ""
    life_ns: int = 0  # of a worker, the start that names its life: several gateways see the same one come and go


class Gap(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="gap"):
    """Frames that could not be written down."""

    from_ns: int
    until_ns: int
    frames: int
    reason: str = ""


Frame = Record | WorkerSample | StoreSample | Incident | Gap
