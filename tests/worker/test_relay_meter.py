"""A foreign server's time, shared among those who are there."""

from __future__ import annotations

import random

import pytest

from tokenworks.contract.record import SequenceReport, Stage, Work
from tokenworks.worker.relay.meter import RelayMeter


def test_two_at_once_share_evenly_and_nobody_is_idle_time() -> None:
    meter = RelayMeter(7, 1000)
    meter.begin("a", 1100)
    meter.begin("b", 1200)
    meter.first_output("a", 1300)
    first = meter.end("a", 1500)
    second = meter.end("b", 1600)
    assert first == SequenceReport({Stage.PREFILL: 200, Stage.DECODE: 200}, {Work.PREFILL: 150, Work.DECODE: 100})
    assert second == SequenceReport({Stage.PREFILL: 400}, {Work.PREFILL: 250})
    use = meter.use(1700)
    assert (use.started_ns, use.wall_ns, use.idle_ns, use.between_ns) == (7, 700, 200, 0)
    assert use.step_ns == {Work.PREFILL: 400, Work.DECODE: 100}


def test_who_is_not_known_has_no_report() -> None:
    assert RelayMeter(0, 0).end("a", 5) is None


@pytest.mark.parametrize("seed", range(20))
def test_shares_and_idle_time_are_all_the_time_there_was(seed: int) -> None:
    rng = random.Random(seed)
    meter, now_ns = RelayMeter(0, 0), 0
    reports: list[SequenceReport] = []
    begun: dict[str, int] = {}
    for count in range(200):
        now_ns += rng.randrange(1000)
        if rng.random() < 0.5 or not begun:
            meter.begin(f"{count}", now_ns)
            begun[f"{count}"] = now_ns
        else:
            name = rng.choice(sorted(begun))
            if rng.random() < 0.5:
                meter.first_output(name, now_ns)
                now_ns += rng.randrange(10)
            report = meter.end(name, now_ns)
            assert report is not None
            assert sum(report.stages_ns.values()) == now_ns - begun.pop(name)
            reports.append(report)
    reports += [report for name in list(begun) if (report := meter.end(name, now_ns))]
    use = meter.use(now_ns)
    assert use.wall_ns == now_ns == sum(use.step_ns.values()) + use.idle_ns
    assert sum(sum(report.device_ns.values()) for report in reports) == sum(use.step_ns.values())
