"""A request's stages and the router's reasons in words that need no glossary, and what shortens each stage.

`story_of` names what took most of the time, with the figures that belong to it; `advice_for` says what would have made
it shorter, and by how much at most. Both speak of one request: whether it was a rule or an exception is `diagnose`'s.
"""

from __future__ import annotations

from typing import Final

from tokenworks.contract.record import Leg, Record, Stage

MEANINGS: Final = {
    Stage.RECEIVE: "the request came in",
    Stage.TOKENISE: "template and tokenizer",
    Stage.ADMIT: "checked and let in",
    Stage.ROUTE: "a worker was chosen, or waited for",
    Stage.WIRE: "between gateway and worker",
    Stage.QUEUE: "waited in the worker",
    Stage.FETCH_HOST: "KV came from host memory",
    Stage.FETCH_DISK: "KV came from disk",
    Stage.FETCH_REMOTE: "KV came from afar",
    Stage.PREFILL: "its prompt was computed",
    Stage.PUBLISH: "KV was handed on",
    Stage.DECODE: "its tokens were computed",
    Stage.PREEMPTED: "lost its KV to others",
    Stage.STALL: "it was in no step: others ran, or the worker was between steps",
    Stage.LOST: "on a worker that was lost",
    Stage.DETOKENISE: "tokens became text",
    Stage.WRITE: "the client took the answer",
}
_ADVICE: Final = {
    Stage.RECEIVE: "a client with a faster connection, or a shorter body",
    Stage.TOKENISE: "a gateway with a free core: look at what else runs beside it",
    Stage.ADMIT: "more room: another worker, or fewer requests at a time",
    Stage.ROUTE: "a worker that was ready: look for losses and restarts with `tokenworks diagnose`",
    Stage.WIRE: "a shorter or less busy network between gateway and worker",
    Stage.QUEUE: "another worker, or fewer requests at a time",
    Stage.FETCH_HOST: "more KV memory on the worker itself (--kv-bytes)",
    Stage.FETCH_DISK: "more host memory before the disk (--kv-host-bytes), or a faster disk",
    Stage.FETCH_REMOTE: "a host or disk tier before the remote one (--kv-host-bytes, --kv-disk-path)",
    Stage.PREFILL: "a prompt whose beginning is the same as others' and so found in the cache, or a faster worker",
    Stage.PUBLISH: "a worker that does prompt and output itself, or a faster store",
    Stage.DECODE: "fewer output tokens, smaller weights (--quantize int8), or a faster worker",
    Stage.PREEMPTED: "more KV memory (--kv-bytes, --kv-dtype int8), or fewer sequences at a time (--max-running)",
    Stage.STALL: "less beside it: other programs on its cores, long prompts (--max-step-tokens, a worker for prompts)",
    Stage.LOST: "a worker that does not die: see why in the log, and `tokenworks diagnose`",
    Stage.DETOKENISE: "a gateway with a free core: look at what else runs beside it",
    Stage.WRITE: "a client that reads faster: the answer was ready",
}
_REASONS: Final = {
    "only worker": "it was the only worker",
    "lost": "the worker that had it was lost",
    "shared prompt": "choices of one prompt stay together",
    "returned": "it had come while no worker was there, and waited for one to come back",
    "short prompt": "the prompt is short: the least busy worker with the longest cached prefix",
    "no partner": "no other worker shares its KV store",
    "no gain": "computing the prompt elsewhere was predicted to gain nothing",
    "sooner": "the first token was predicted to come sooner this way",
    "spares decoders": "it spares sequences that others are waiting for",
}


def reason_in_words(leg: Leg) -> str:
    """Why this worker, as a sentence; the router's own word where it is not known here."""
    words = _REASONS.get(leg.reason, leg.reason or "no reason was noted")
    if leg.kind == "prefill":
        return f"computes the prompt for another worker: {words}"
    if leg.kind == "continuation":
        return f"goes on where another worker was lost: {words}"
    return words


def story_of(record: Record) -> str:
    """Where the time went, in one sentence."""
    if record.is_rejected:
        told = f"It was turned away before any worker had it, with {record.outcome} (HTTP {record.status})."
        others = record.num_alike - 1
        return f"{told} It stands for {others} more that were, in the same moment." if others else told
    stage = longest_stage(record)
    if stage is None:
        return "Its waterfall is no longer kept (ledger.detail_days); its sums are in the table."
    ns = record.stages_ns[stage]
    ended = "" if record.outcome == "ok" else f", and it ended as {record.outcome}"
    share = ns / max(record.e2e_ns, 1)
    return f"{share:.0%} of its {_seconds(record.e2e_ns)} went to {stage.value}: {_detail(record, stage, ns)}{ended}."


def advice_for(record: Record) -> str:
    """What would have made it faster, and by how much at most; empty where nothing is known."""
    stage = longest_stage(record)
    if record.is_rejected or stage is None:
        return ""
    ns = record.stages_ns[stage]
    return f"Faster would have been {_ADVICE[stage]}: at most {_seconds(ns)} less."


def longest_stage(record: Record) -> Stage | None:
    """The stage that took most of the time."""
    taken = {stage: ns for stage, ns in record.stages_ns.items() if ns > 0}
    return max(taken, key=lambda stage: taken[stage]) if taken else None


def _detail(record: Record, stage: Stage, ns: int) -> str:
    if stage is Stage.PREFILL:
        cached = sum(record.cached_tokens.values())
        if not cached:
            return f"its prompt of {record.prompt_tokens:,} tokens was computed"
        computed = record.prompt_tokens - cached
        return f"{computed:,} of its prompt's {record.prompt_tokens:,} tokens were computed, the others were in a cache"
    sequences = max(record.num_sequences, 1)
    if stage is Stage.DECODE and record.output_tokens > sequences:
        later = record.output_tokens - sequences  # the first of each comes with the prompt's last step
        return f"{later:,} tokens after the first, {_seconds(ns * sequences / later)} each"
    if stage is Stage.PREEMPTED:
        reports = [leg.report for leg in record.legs if leg.report is not None]
        times = sum(report.preemptions for report in reports)
        again = sum(report.recomputed_tokens for report in reports)
        return f"its KV was taken from it {times:,} times, and {again:,} tokens were computed again"
    if stage is Stage.QUEUE:
        return f"it waited in {record.legs[-1].worker if record.legs else 'a worker'} behind others"
    lost = next((leg for leg in record.legs if leg.outcome == "lost"), None)
    if stage is Stage.ROUTE and lost is not None:
        return f"{lost.worker} was lost while it had the request, which then waited for another worker"
    return MEANINGS[stage]


def _seconds(ns: float) -> str:
    if ns < 1e6:
        return f"{ns / 1e3:.0f} µs"
    return f"{ns / 1e6:.0f} ms" if ns < 1e9 else f"{ns / 1e9:.2f} s"
