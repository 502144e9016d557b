"""Every rule fires on a ledger in which its trouble is written down, and stays silent on those where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.observe.made import MINUTE_NS
from tests.observe.scenes import BEFORE, NO_PROMISES, NOW, Scene
from tokenworks.contract.config import ObjectiveSettings, Settings
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Gap, Record, Stage, StoreSample, Work, WorkerSample
from tokenworks.contract.request import Scenario
from tokenworks.observe.diagnose.diagnosis import Finding, diagnose, diagnosis
from tokenworks.observe.diagnose.rules import own_rules
from tokenworks.observe.ledger import Window

SETTINGS = Settings(objectives=NO_PROMISES)
Added = Callable[[Scene], Scene]


def found(scene: Scene, settings: Settings = SETTINGS, window: Window = NOW) -> list[Finding]:
    return diagnose(scene.ledger(), window, settings)


def names(findings: list[Finding]) -> set[str]:
    return {finding.rule for finding in findings}


def clean(seed: int = 1, **second: Any) -> Scene:
    """A usual run: two tenants, two workers, all of it as before; `second`: of the second worker's samples."""
    scene = Scene(seed)
    for window, count in ((BEFORE, 80), (NOW, 25)):
        for tenant, worker in (("anna", "w0"), ("bert", "w1")):
            scene.usual(window, count, tenant=tenant, worker=worker)
    whole = Window(BEFORE.start_ns, NOW.end_ns)
    return scene.worker(whole, "w0").worker(whole, "w1", **second).store(BEFORE).store(NOW)


def usual_before(count: int = 80) -> Scene:
    return Scene().usual(BEFORE, count)


def uneven() -> Scene:
    whole = Window(BEFORE.start_ns, NOW.end_ns)
    return usual_before().usual(NOW).worker(whole, "w0", 0.95, waiting=4).worker(whole, "w1", 0.05)


def grown(after: int, busy: float, stages_ms: dict[Stage, float] | None = None) -> Scene:
    """A second worker comes with the window; `after` requests end in it."""
    scene = usual_before(80).worker(Window(BEFORE.start_ns, NOW.end_ns), "w0", busy).worker(NOW, "w1", busy)
    return scene.requests(NOW, after, stages_ms)


def uneven_speed(**slower: Any) -> Scene:
    """Of two workers one takes three times as long for a token."""
    scene = Scene().worker(Window(BEFORE.start_ns, NOW.end_ns), "w0")
    scene.worker(Window(BEFORE.start_ns, NOW.end_ns), "w1", **slower)
    for window in (BEFORE, NOW):
        scene.usual(window, 60).requests(window, 60, {Stage.DECODE: 1300}, worker="w1", tenant="bert")
    return scene


def idle_behind_gateway(stages_ms: dict[Stage, float]) -> Scene:
    """Two workers with little to do, and many requests that are open for long."""
    whole = Window(BEFORE.start_ns, NOW.end_ns)
    return usual_before().requests(NOW, 300, stages_ms).worker(whole, "w0", 0.1).worker(whole, "w1", 0.1)


def two_tenants(before: int = 80, **bert: Any) -> Scene:
    """Anna asks as before; bert, less often, so."""
    scene = Scene().usual(BEFORE, 80).usual(NOW, 60)
    scene.usual(BEFORE, before, tenant="bert", worker="w1")
    return scene.usual(NOW, 25, **{"tenant": "bert", "worker": "w1", **bert})


def with_loss(times: int) -> Scene:
    scene = clean().incident("worker_lost", "w9", times)
    minute = (NOW.end_ns - NOW.start_ns) // 10
    for life in range(times):
        scene.worker(Window(NOW.start_ns + life * minute, NOW.start_ns + (life + 1) * minute), "w9")
    return scene


def starved() -> Scene:
    """One life, of which the processor gave less from noon on."""
    scene = Scene().worker(Window(BEFORE.start_ns - 5 * MINUTE_NS, NOW.end_ns), "w0", cores=1.9)
    samples = [frame for frame in scene.frames if isinstance(frame, WorkerSample)]
    noon_s = next(sample.use.cpu_s for sample in samples if sample.at_ns == NOW.start_ns)
    for at, sample in enumerate(samples):
        if sample.at_ns > NOW.start_ns:
            use = msgspec.structs.replace(sample.use, cpu_s=noon_s + (sample.use.cpu_s - noon_s) / 2)
            scene.frames[at] = msgspec.structs.replace(sample, use=use)
    scene.usual(BEFORE, 80)
    return scene.requests(NOW, 50, {Stage.PREFILL: 120, Stage.DECODE: 800})


USUAL_WORK = {Work.PREFILL: 60.0, Work.DECODE: 100.0}
TAIL = 0.08  # of the requests, so that the slowest hundredth of a window is surely of them
FAULTS: dict[str, Callable[[], Scene]] = {
    "system_cannot_start": lambda: Scene().incident("gateway_not_started", "gateway", 1),
    "worker_cannot_start": lambda: clean().incident("worker_not_started", "w9", 1),
    "restart_loop": lambda: with_loss(3),
    "worker_lost": lambda: with_loss(1),
    "missing_records": lambda: _with_gap(clean()),
    "failing": lambda: usual_before().usual(NOW, 45).usual(NOW, 5, outcome="worker_lost"),
    "turned_away": lambda: usual_before().usual(NOW, 80).usual(NOW, 20, outcome="no_worker", worker=""),
    "leaving_clients": lambda: usual_before().usual(NOW, 40).usual(NOW, 20, outcome="client_gone"),
    "wrong_requests": lambda: usual_before().usual(NOW, 80).usual(NOW, 20, outcome="invalid_value", worker=""),
    "preemption_thrashing": lambda: usual_before().requests(
        NOW, 60, {Stage.PREEMPTED: 300}, preemptions=2, recomputed_tokens=90
    ),
    "cache_lost": lambda: usual_before().usual(NOW, 60, cached=0).worker(_half(0), "w0").worker(_half(1), "w0"),
    "cache_evicted": lambda: usual_before().usual(NOW, 60, cached=0).store(BEFORE, 10).store(NOW, 5000),
    "cache_collapse": lambda: usual_before().usual(NOW, 60, cached=0).store(BEFORE).store(NOW),
    "tenant_cache_collapse": lambda: two_tenants(cached=0),
    "noisy_neighbour": lambda: clean().requests(NOW, 200, tenant="carl").requests(NOW, 50, {Stage.QUEUE: 900}),
    "hot_tenant": lambda: clean().requests(NOW, 200, tenant="carl"),
    "slow_worker": lambda: uneven_speed(rates=(10e9, 1e9)),
    "starved_worker": starved,
    "uneven_load": uneven,
    "no_gain_from_workers": lambda: grown(22, busy=0.9),
    "workers_wait_for_gateway": lambda: idle_behind_gateway({Stage.TOKENISE: 3000, Stage.WIRE: 3000}),
    "host_bound": lambda: usual_before().usual(NOW).worker(NOW, busy=0.3, between=0.5),
    "idle_devices": lambda: _idle(),
    "disk_stall": lambda: usual_before().requests(NOW, 100, slow=(TAIL, {Stage.FETCH_DISK: 1500})),
    "remote_stall": lambda: usual_before().requests(NOW, 100, slow=(TAIL, {Stage.FETCH_REMOTE: 1500})),
    "late_by_preemption": lambda: usual_before().requests(NOW, 100, slow=(TAIL, {Stage.PREEMPTED: 3000})),
    "late_by_loss": lambda: usual_before().requests(NOW, 100, slow=(TAIL, {Stage.LOST: 2500})),
    "slow_network": lambda: usual_before().requests(NOW, 60, {Stage.WIRE: 300}),
    "slow_client": lambda: usual_before().requests(NOW, 60, {Stage.WRITE: 400}),
    "gateway_bound": lambda: usual_before().requests(NOW, 60, {Stage.TOKENISE: 200}),
    "prefill_interference": lambda: (
        usual_before()
        .requests(NOW, 60, slow=(TAIL, {Stage.DECODE: 2500}), spikes=(3, 400.0))
        .requests(NOW, 20, {Stage.PREFILL: 2000}, prompt=4000, cached=0, scenario=Scenario.OFFLINE)
    ),
    "late_by_prompt": lambda: usual_before().requests(NOW, 100, slow=(TAIL, {Stage.PREFILL: 2500})),
    "late_by_queue": lambda: usual_before().requests(NOW, 100, slow=(TAIL, {Stage.QUEUE: 2500})),
    "jitter": lambda: usual_before().usual(
        NOW, 60, spikes=(4, 150.0), work_ms={Work.PREFILL: 20.0, Work.DECODE: 140.0}
    ),
    "busier": lambda: usual_before().requests(NOW, 200, {Stage.DECODE: 1200}, work_ms=USUAL_WORK),
    "slowed_down": lambda: usual_before().requests(NOW, 60, {Stage.DECODE: 900}),
    "cost_by_price": lambda: usual_before().usual(NOW, 60, price=7.2),
    "cost_by_waste": lambda: usual_before().usual(NOW, 50).usual(NOW, 40, outcome="client_gone", output=2, gap_ms=10.0),
    "cost_by_cache": lambda: usual_before().usual(
        NOW, 60, cached=20, work_ms={Work.PREFILL: 130.0, Work.DECODE: 100.0}
    ),
    "cost_by_batch": lambda: usual_before().usual(NOW, 60, work_ms={Work.PREFILL: 60.0, Work.DECODE: 300.0}),
    "cost_by_speed": lambda: usual_before().requests(NOW, 60, {Stage.PREFILL: 120, Stage.DECODE: 1200}),
}


def _half(number: int) -> Window:
    middle = (NOW.start_ns + NOW.end_ns) // 2
    return Window(NOW.start_ns, middle) if number == 0 else Window(middle, NOW.end_ns)


def _with_gap(scene: Scene) -> Scene:
    scene.frames.append(Gap(NOW.start_ns, NOW.start_ns + MINUTE_NS, 7, "disk full"))
    return scene


def _idle() -> Scene:
    scene = usual_before().usual(NOW)
    for number in range(4):
        scene.worker(Window(BEFORE.start_ns, NOW.end_ns), f"w{number}", busy=0.02, between=0.0)
    return scene


def test_every_rule_has_its_fault_here() -> None:
    assert set(FAULTS) == {rule.name for rule in own_rules().rules}


@pytest.mark.parametrize("rule", FAULTS)
def test_a_fault_is_found(rule: str) -> None:
    findings = found(FAULTS[rule]())
    assert rule in names(findings), names(findings)
    [finding] = [finding for finding in findings if finding.rule == rule][:1]
    assert "unknown" not in finding.signal + finding.cause + finding.action
    assert finding.evidence


@pytest.mark.parametrize("rule", [rule.name for rule in own_rules().rules if rule.min_requests])
def test_a_fault_of_a_few_requests_is_no_finding(rule: str) -> None:
    scene = FAULTS[rule]()
    late = [frame for frame in scene.frames if isinstance(frame, Record) and frame.started_ns >= NOW.start_ns]
    gone = {record.id for record in late[5:]}
    scene.frames = [frame for frame in scene.frames if not (isinstance(frame, Record) and frame.id in gone)]
    assert rule not in names(found(scene))


COMPARED = [rule for rule in FAULTS if rule.startswith(("late_by", "cost_by", "cache_"))] + [
    "jitter",
    "disk_stall",
    "slowed_down",
]


@pytest.mark.parametrize("rule", COMPARED)
def test_what_was_so_before_is_no_finding_where_nothing_was_promised(rule: str) -> None:
    told = diagnosis(FAULTS[rule]().ledger(), NOW, SETTINGS, baseline=NOW)
    assert rule not in names(told.findings)


@pytest.mark.parametrize("rule", ["late_by_queue", "late_by_prompt", "late_by_preemption"])
def test_a_missed_objective_is_a_finding_whatever_was_before(rule: str) -> None:
    promised = Settings(objectives=ObjectiveSettings(online_ttft_s=0.5, online_tpot_s=0.03))
    told = diagnosis(FAULTS[rule]().ledger(), NOW, promised, baseline=NOW)
    assert rule in names(told.findings)


def test_findings_are_worst_first_and_say_what_they_rest_on() -> None:
    findings = found(with_loss(3).usual(NOW, 50, outcome="no_worker", worker=""))
    assert [finding.severity for finding in findings] == sorted(
        (finding.severity for finding in findings), key=["critical", "warning", "notice"].index
    )
    assert findings[0].rule == "restart_loop"
    assert findings[0].window == NOW
    assert findings[0].baseline.end_ns == NOW.start_ns


def test_what_happened_is_told_with_the_findings() -> None:
    told = diagnosis(with_loss(3).ledger(), NOW, Settings())
    assert [(each.kind, each.subject) for each in told.incidents] == [("worker_lost", "w9")] * 3
    assert told.num_incidents == 3


def test_an_outage_hurts_those_who_were_turned_away() -> None:
    scene = with_loss(3).usual(NOW, 50, outcome="no_worker", worker="")
    findings = {finding.rule: finding for finding in found(scene)}
    for rule in ("restart_loop", "turned_away"):
        assert findings[rule].severity == "critical"
        assert findings[rule].hurt[0].name == "rejected_share"


def test_time_without_a_system_dilutes_nothing() -> None:
    hour = Window(NOW.end_ns - 60 * MINUTE_NS, NOW.end_ns)
    scene = Scene().usual(NOW, 100, outcome="no_worker", worker="").worker(NOW)
    findings = {finding.rule: finding for finding in diagnose(scene.ledger(), hour, Settings())}
    [workers] = [each for each in findings["turned_away"].evidence if each.name == "workers"]
    assert workers.value == pytest.approx(1.0, abs=0.11)


def test_growth_after_a_time_without_workers_is_none() -> None:
    """The only worker had died, and comes back: `before` has requests, and nobody for them."""
    down, up = _half(0), _half(1)
    scene = Scene().usual(down, 40, outcome="no_worker", worker="").usual(up, 40).worker(up, "w0")
    scene.worker(Window(down.start_ns + MINUTE_NS, down.start_ns + 2 * MINUTE_NS + 1), "w0")  # its life before
    assert "no_gain_from_workers" not in names(diagnose(scene.ledger(), NOW, Settings()))


def test_a_gain_is_told_with_its_arithmetic() -> None:
    [finding] = found(FAULTS["slow_client"]())
    assert finding.gain_value == pytest.approx(0.4, rel=0.1)
    assert finding.arithmetic.startswith("write_s + receive_s = ")
    assert finding.arithmetic.endswith(f" = {finding.gain.split('up to ')[1].removesuffix(' a request')}")
    [write] = [each for each in finding.evidence if each.name == "write_s"]
    assert write.before


def test_a_slowdown_is_told_of_though_every_promise_was_kept() -> None:
    """Of the 100 ms that are promised, a token takes 7 instead of 2.5: no finding of lateness."""
    promised = Settings(objectives=ObjectiveSettings(online_ttft_s=0.5, online_tpot_s=0.1))
    before = Scene().requests(BEFORE, 80, {Stage.DECODE: 100}, work_ms=USUAL_WORK, price=0.0).frames
    slower, as_fast = Scene(2), Scene(3)
    for scene, decode_ms in ((slower, 280), (as_fast, 180)):
        scene.frames += before
        work_ms = {**USUAL_WORK, Work.DECODE: decode_ms}
        scene.requests(NOW, 60, {Stage.DECODE: decode_ms}, work_ms=work_ms, price=0.0)
    [finding] = diagnose(slower.ledger(), NOW, promised)
    assert (finding.rule, finding.severity, finding.subject) == ("slowed_down", "notice", "online")
    assert diagnose(as_fast.ledger(), NOW, promised) == []


def test_more_workers_than_needed_is_no_finding_where_they_were_needed_for_a_moment() -> None:
    scene = usual_before().usual(NOW)
    for number in range(4):
        scene.worker(Window(BEFORE.start_ns, NOW.end_ns), f"w{number}", busy=0.02, between=0.0)
    assert names(found(scene)) == {"idle_devices"}
    rush = Window(NOW.start_ns + 3 * MINUTE_NS, NOW.start_ns + 5 * MINUTE_NS)
    for number in range(4, 8):
        scene.worker(rush, f"w{number}", busy=0.9)
    assert "idle_devices" not in names(found(scene))


STALLS = {Tier.DISK: "disk_stall", Tier.REMOTE: "remote_stall"}


def with_tier(tier: Tier, bytes_per_s: float, cached: int) -> Scene:
    """What a lower tier gave and what was found there, at first 1 GB/s and half of the prompts."""
    scene = Scene().usual(BEFORE, 80, tier=tier).store(BEFORE, speeds={tier: 1e9})
    work_ms = {Work.PREFILL: 120.0, Work.DECODE: 100.0}
    return scene.usual(NOW, 60, tier=tier, cached=cached, work_ms=work_ms).store(NOW, speeds={tier: bytes_per_s})


@pytest.mark.parametrize("tier", STALLS)
@pytest.mark.parametrize("bytes_per_s", [1e7, 0.0])
def test_a_slow_tier_that_is_computed_around_is_found(tier: Tier, bytes_per_s: float) -> None:
    findings = found(with_tier(tier, bytes_per_s, cached=20))
    assert STALLS[tier] in names(findings)
    assert "cache_collapse" not in names(findings)  # it is not the prompts


@pytest.mark.parametrize("tier", STALLS)
def test_a_slow_tier_that_nobody_misses_is_no_finding_and_nor_are_fewer_hits_in_a_fast_one(tier: Tier) -> None:
    assert STALLS[tier] not in names(found(with_tier(tier, 1e7, cached=100)))
    findings = found(with_tier(tier, 1e9, cached=20))
    assert STALLS[tier] not in names(findings)
    assert "cache_collapse" in names(findings)


def test_evictions_that_end_in_a_further_tier_are_none() -> None:
    scene = usual_before().usual(NOW, 60, cached=0).store(BEFORE, 10).store(NOW, 5000)
    for at, frame in enumerate(scene.frames):
        if isinstance(frame, StoreSample):
            evictions = {**frame.evictions, Tier.DISK: 0}
            scene.frames[at] = msgspec.structs.replace(frame, evictions=evictions)
    assert "cache_evicted" not in names(found(scene))


def test_without_a_store_it_is_the_workers_evictions_that_count() -> None:
    scene = usual_before().usual(NOW, 60, cached=0).worker(Window(BEFORE.start_ns, NOW.end_ns))
    assert "cache_evicted" not in names(found(scene))
    for at, frame in enumerate(scene.frames):
        if isinstance(frame, WorkerSample) and frame.at_ns > NOW.start_ns:
            scene.frames[at] = msgspec.structs.replace(frame, evictions=900)
    assert "cache_evicted" in names(found(scene))


@pytest.mark.parametrize("seed", range(5))
def test_a_clean_run_is_silent(seed: int) -> None:
    assert found(clean(seed)) == []


def test_a_clean_run_without_anything_before_is_silent() -> None:
    window = Window(BEFORE.start_ns, NOW.end_ns)
    assert found(clean(), Settings(), window) == []


def test_an_empty_ledger_is_silent() -> None:
    assert found(Scene()) == []
