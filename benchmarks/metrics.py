"""What metrics cost a gateway: microseconds a record, and milliseconds and bytes a scrape, by number of tenants.

    python benchmarks/metrics.py [--tenants 1,50,100000] [--records 5000]

Each record has eight stages and one leg with what its worker told. Processor time, the best of five rounds, so that
what else runs on the machine counts little; beside it a gap between tokens in our histogram and in the library's.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Histogram

from tokenworks.cli.reference import _NothingYet
from tokenworks.contract.record import Leg, Record, SequenceReport, Stage, Work
from tokenworks.contract.request import Scenario
from tokenworks.gateway.metrics import tally
from tokenworks.gateway.metrics.metrics import Metrics

GAP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
STAGES = (
    Stage.RECEIVE,
    Stage.TOKENISE,
    Stage.ADMIT,
    Stage.ROUTE,
    Stage.WIRE,
    Stage.PREFILL,
    Stage.DECODE,
    Stage.WRITE,
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tenants", default="1,50,100000")
    parser.add_argument("--records", type=int, default=5000)
    options = parser.parse_args()
    library = Histogram("peer_seconds", "For scale.", buckets=GAP_S, registry=CollectorRegistry())
    ours = tally.Histogram("ours_seconds", "As the gateway has it.", GAP_S)
    for name, histogram in (("the library's", library), ("our", ours)):
        print(f"one value into {name} histogram: {best_us(partial(histogram.observe, 0.02), 20_000):.2f} us")
    print()
    print("| tenants | a record, us | a scrape, ms | with exemplars, ms | bytes |")
    print("|---:|---:|---:|---:|---:|")
    for tenants in map(int, options.tenants.split(",")):
        print(row(tenants, options.records), flush=True)


def row(tenants: int, number: int) -> str:
    """One line of the table."""
    draw = random.Random(3)
    records = [record(draw, tenants) for _ in range(number)]
    metrics = Metrics(_NothingYet())
    each = iter(records * 5)
    record_us = best_us(lambda: metrics.observe_records([next(each)]), number)
    text, _ = metrics.exposition()
    plain_ms = best_us(metrics.exposition, 3) / 1e3
    exemplars_ms = best_us(lambda: metrics.exposition(OPENMETRICS), 3) / 1e3
    return f"| {tenants} | {record_us:.1f} | {plain_ms:.1f} | {exemplars_ms:.1f} | {len(text)} |"


def best_us(call: Callable[[], object], times: int) -> float:
    """Microseconds of a call: the mean of a round, in the best of five rounds."""
    rounds = []
    for _ in range(5):
        began_s = time.thread_time()
        for _ in range(times):
            call()
        rounds.append(time.thread_time() - began_s)
    return min(rounds) / times * 1e6


def record(draw: random.Random, tenants: int) -> Record:
    """A request that went well."""
    stages = {stage: draw.randrange(10**8) for stage in STAGES}
    report = SequenceReport(device_ns={Work.PREFILL: draw.randrange(10**8), Work.DECODE: draw.randrange(10**8)})
    return Record(
        id="benchmark",
        started_ns=time.time_ns(),
        e2e_ns=sum(stages.values()),
        tenant=f"tenant-{draw.randrange(tenants)}",
        model="qwen",
        scenario=draw.choice(list(Scenario)),
        outcome="ok",
        status=200,
        endpoint="/v1/chat/completions",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        prompt_tokens=draw.randrange(1, 4000),
        output_tokens=draw.randrange(2, 500),
        ttft_ns=stages[Stage.PREFILL],
        gaps_us=bytes(400),
        stages_ns=stages,
        legs=[Leg("w0", span_ns=10**8, report=report, price_per_hour=1.5)],
    )


if __name__ == "__main__":
    main()
