"""A stretch of mixed traffic, made up from a seed: three scenarios, three tenants, two workers, a store.

The names are as hostile as names may be: whoever shows them must show them as text.
"""

from __future__ import annotations

import random
from array import array
from typing import Final

from tokenworks.contract.kv import Tier
from tokenworks.contract.record import (
    Frame,
    Incident,
    Leg,
    Record,
    SequenceReport,
    Stage,
    StoreSample,
    Work,
    WorkerSample,
    WorkerUse,
)
from tokenworks.contract.request import Scenario

SECOND_NS: Final = 10**9
MARKUP: Final = "<img src=x onerror=\"document.title='hacked'\">"
SCRIPT: Final = "</script><script>document.title='hacked'</script>"
TENANTS: Final = ("acme", "blue & sons", MARKUP)
PRICE: Final = 0.5
_WORKERS: Final = ("w0", "w1")
_SAMPLE_S: Final = 5


def mixed_traffic(end_ns: int, seconds: int, per_s: float = 1.0, seed: int = 0) -> list[Frame]:
    """Frames of a system that started `seconds` before `end_ns`."""
    dice = random.Random(seed)
    start_ns = end_ns - seconds * SECOND_NS
    ends = sorted(dice.uniform(2.0, seconds - 0.1) for _ in range(int(seconds * per_s)))
    records = [_record(dice, number, start_ns + round(at_s * SECOND_NS)) for number, at_s in enumerate(ends)]
    samples = [
        sample
        for at_s in range(0, seconds, _SAMPLE_S)
        for sample in _samples(records, start_ns, start_ns + at_s * SECOND_NS)
    ]
    incidents: list[Frame] = [Incident(start_ns, "worker joined", worker, "ready") for worker in _WORKERS]
    incidents.append(Incident(start_ns + SECOND_NS, "role changed", "w1", f"to decode, by {SCRIPT}"))
    return [*incidents, *records, *samples]


def _record(dice: random.Random, number: int, ended_ns: int) -> Record:
    worker = dice.choice(_WORKERS)
    prompt, cached, output = dice.randint(50, 900), dice.choice((0, 0, 32)), dice.randint(4, 60)
    gaps_us = array("I", (round(dice.lognormvariate(9.6, 0.35)) for _ in range(output - 1)))
    decode_ns = sum(gaps_us) * 1000
    prefill_ns = prompt * dice.randint(200_000, 400_000)
    queue_ns = round(dice.expovariate(1 / 0.05) * SECOND_NS)
    stages = {
        Stage.RECEIVE: 180_000,
        Stage.TOKENISE: 900_000,
        Stage.WIRE: 600_000,
        Stage.QUEUE: queue_ns,
        Stage.PREFILL: prefill_ns,
        Stage.DECODE: decode_ns,
        Stage.WRITE: 90_000,
    }
    e2e_ns = sum(stages.values())
    is_ok = dice.random() > 0.04
    report = SequenceReport(
        {Stage.QUEUE: queue_ns, Stage.PREFILL: prefill_ns, Stage.DECODE: decode_ns},
        {Work.PREFILL: prefill_ns // 2, Work.DECODE: decode_ns // 4},
        steps=output,
        prefill_chunks=2,
        computed_tokens=prompt + output - cached,
        fetched_bytes={Tier.HOST: cached << 12} if cached else {},
    )
    leg = Leg(worker, reason="least_loaded", start_ns=1_500_000, span_ns=e2e_ns - 1_600_000, report=report)
    leg_priced = Leg(**{name: getattr(leg, name) for name in leg.__struct_fields__} | {"price_per_hour": PRICE})
    return Record(
        id=f"request-{number}" if number else SCRIPT,
        started_ns=ended_ns - e2e_ns,
        e2e_ns=e2e_ns,
        tenant=dice.choice(TENANTS),
        model="embedded",
        scenario=dice.choice(list(Scenario)),
        outcome="ok" if is_ok else "engine_failed",
        status=200 if is_ok else 500,
        version="v1",
        endpoint="/v1/completions",
        is_stream=True,
        tags={"feature": MARKUP, SCRIPT: "search"},
        prompt_tokens=prompt,
        cached_tokens={Tier.HOST: cached} if cached else {},
        output_tokens=output,
        finish_reasons=["length"] if is_ok else [],
        ttft_ns=e2e_ns - decode_ns - 90_000,
        gaps_us=gaps_us.tobytes(),
        stages_ns=stages,
        legs=[leg_priced],
    )


def _samples(records: list[Record], start_ns: int, at_ns: int) -> list[Frame]:
    samples: list[Frame] = [_worker_sample(worker, records, start_ns, at_ns) for worker in _WORKERS]
    share = (at_ns - start_ns) / (600 * SECOND_NS)
    used = {Tier.HOST: int(min(0.8, share) * (1 << 30)), Tier.DISK: int(share * (1 << 31))}
    limits = {Tier.HOST: 1 << 30, Tier.DISK: 20 << 30}
    hits = {Tier.HOST: int(900 * share), Tier.DISK: int(70 * share)}
    samples.append(StoreSample(at_ns, "kv0", used, limits, hits, {Tier.HOST: int(50 * share)}, misses=int(400 * share)))
    return samples


def _worker_sample(worker: str, records: list[Record], start_ns: int, at_ns: int) -> WorkerSample:
    """What the records that ended until then came to; the rest of its time was between steps and idle."""
    steps: dict[Work, int] = {}
    for record in records:
        report = record.legs[0].report
        if record.legs[0].worker == worker and record.started_ns + record.e2e_ns <= at_ns and report is not None:
            for work, spent_ns in report.device_ns.items():
                steps[work] = steps.get(work, 0) + spent_ns
    stepped_ns = sum(steps.values())
    wall_ns = max(at_ns - start_ns, stepped_ns)
    between_ns = (wall_ns - stepped_ns) // 20
    use = WorkerUse(
        start_ns,
        wall_ns,
        steps,
        between_ns,
        wall_ns - stepped_ns - between_ns,
        flops=stepped_ns * 60.0,
        read_bytes=stepped_ns * 9.0,
        cpu_s=stepped_ns / 1e9,
        rss_bytes=900 << 20,
    )
    return WorkerSample(
        at_ns,
        worker,
        "embedded",
        use,
        version="v1",
        device="cpu: made up, 1 thread",
        price_per_hour=PRICE,
        peak_flops=200e9,
        peak_bytes_per_s=20e9,
        running=2,
        waiting=1,
        free_blocks=60,
        total_blocks=100,
    )
