"""What is no fault makes no rule speak: deploys, bursts, breaks, new tenants, caches that fill, unlike workers."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from tests.observe.diagnose.test_diagnosis import found, grown, idle_behind_gateway, names, two_tenants, uneven_speed
from tests.observe.made import MINUTE_NS, SECOND_NS
from tests.observe.scenes import BEFORE, NOW, Scene
from tokenworks.contract.record import Incident, Stage, Work, WorkerSample
from tokenworks.contract.request import Scenario
from tokenworks.observe.ledger import Window

ALL = Window(BEFORE.start_ns, NOW.end_ns)
DAY = Window(NOW.end_ns - 24 * 60 * MINUTE_NS, NOW.end_ns)
LONG = Window(BEFORE.start_ns - 5 * MINUTE_NS, NOW.end_ns)
"""Of a worker that was there before anybody asked: what a start takes is no part of its use."""
NOTHING: frozenset[str] = frozenset()


def parts(window: Window, share: float) -> tuple[Window, Window]:
    """A window in two."""
    middle_ns = window.start_ns + int((window.end_ns - window.start_ns) * share)
    return Window(window.start_ns, middle_ns), Window(middle_ns, window.end_ns)


def usual(seed: int = 1) -> Scene:
    return Scene(seed).usual(BEFORE, 120).worker(ALL, "w0", 0.3)


def deploy() -> Scene:
    """Both workers leave and others come, whose caches are filled within a minute."""
    old, new = parts(ALL, 0.85)
    scene = Scene().usual(BEFORE, 120).usual(NOW, 8, cached=0).usual(NOW, 60)
    for worker in ("w0", "w1"):
        scene.worker(old, worker, 0.2).worker(new, worker, 0.2).incident("worker_left", worker)
    return scene


def lunch_break() -> Scene:
    """Less is asked at a time: tokens come sooner, a step costs as much, and a worker's threads have less to share."""
    scene = Scene().requests(BEFORE, 400, {Stage.DECODE: 800})
    scene.requests(NOW, 30, {Stage.DECODE: 300}, work_ms={Work.PREFILL: 60.0, Work.DECODE: 300.0})
    return with_cores(scene.worker(LONG), 0.6)


def with_cores(scene: Scene, share: float) -> Scene:
    """From noon on a worker's busy time takes this part of the processor time that it took before."""
    samples = [frame for frame in scene.frames if isinstance(frame, WorkerSample)]
    noon_s = max(each.use.cpu_s for each in samples if each.at_ns <= NOW.start_ns)
    for at, frame in enumerate(scene.frames):
        if isinstance(frame, WorkerSample) and frame.at_ns > NOW.start_ns:
            use = msgspec.structs.replace(frame.use, cpu_s=noon_s + (frame.use.cpu_s - noon_s) * share)
            scene.frames[at] = msgspec.structs.replace(frame, use=use)
    return scene


def fewer_threads() -> Scene:
    """The worker was started again with half of its threads: it is slower, and nobody takes anything from it."""
    old, new = parts(LONG, 0.7)
    scene = Scene().usual(BEFORE, 120).requests(NOW, 60, {Stage.PREFILL: 120, Stage.DECODE: 800})
    return scene.worker(old, cores=2.0, peak_flops=2e11).worker(new, cores=1.0, peak_flops=1e11)


def fast_and_dear() -> Scene:
    """A worker came that costs four times as much and takes a quarter of the time."""
    work_ms = {Work.PREFILL: 15.0, Work.DECODE: 25.0}
    stages_ms = {Stage.PREFILL: 15, Stage.DECODE: 100}
    return usual().usual(NOW, 40).requests(NOW, 60, stages_ms, worker="w1", price=14.4, work_ms=work_ms)


def chatty() -> Scene:
    """A third of the answers is stopped by who reads them, today as yesterday."""
    scene = Scene()
    for window in (BEFORE, NOW):
        scene.usual(window, 60).usual(window, 30, outcome="client_gone")
    return scene


def night_job() -> Scene:
    """Another tenant's documents, long and never seen before, beside the usual chats."""
    job = {"tenant": "night", "scenario": Scenario.OFFLINE, "prompt": 2000, "cached": 0, "output": 2}
    work_ms = {Work.PREFILL: 1140.0, Work.DECODE: 5.0}
    return usual().usual(NOW, 40).requests(NOW, 60, {Stage.PREFILL: 1140}, work_ms=work_ms, **job)


def longer_answers() -> Scene:
    """Ten times as many tokens are written for each that is read."""
    work_ms = {Work.PREFILL: 60.0, Work.DECODE: 1000.0}
    return usual().requests(NOW, 60, {Stage.DECODE: 4000}, output=400, work_ms=work_ms)


def longer_prompts() -> Scene:
    """Four times as many tokens to compute before the first one comes."""
    work_ms = {Work.PREFILL: 240.0, Work.DECODE: 100.0}
    return usual().requests(NOW, 60, {Stage.PREFILL: 240}, prompt=800, cached=400, work_ms=work_ms)


def cold_start() -> Scene:
    """The first that a system does: most of it while its caches fill."""
    cold, warm = parts(NOW, 0.7)
    scene = Scene().requests(cold, 140, {Stage.PREFILL: 120}, cached=0)
    return scene.usual(warm, 60, cached=180).worker(NOW)


def spot_workers() -> Scene:
    """Of fifty workers ten are taken away in a day, one every two hours; and one of them thrice, by its name."""
    scene = Scene().usual(DAY, 200)
    for number in range(10):
        at_ns = DAY.start_ns + (number + 1) * 7200 * SECOND_NS
        life_ns = at_ns - 3000 * SECOND_NS
        scene.frames.append(Incident(at_ns, "worker_lost", f"w{max(0, number - 2)}", "fell silent", life_ns))
    return scene


def two_models() -> Scene:
    """One of them is asked much more than the other."""
    scene = Scene().usual(BEFORE, 120).usual(NOW).worker(ALL, "w0", 0.95, waiting=4)
    return scene.worker(ALL, "w1", 0.9, waiting=4).worker(ALL, "w2", 0.02, model="n")


def relieved() -> Scene:
    """A second worker came, and with it answers that take half the time; as much is asked as before."""
    return grown(22, busy=0.9, stages_ms={Stage.PREFILL: 40, Stage.DECODE: 180})


INNOCENT: dict[str, tuple[Callable[[], Scene], frozenset[str]]] = {
    "a deploy": (deploy, NOTHING),
    "a burst": (lambda: usual().usual(NOW, 20).usual(Window(NOW.start_ns, NOW.start_ns + SECOND_NS), 60), NOTHING),
    "a lunch break": (lunch_break, frozenset({"cost_by_batch"})),
    "an idle hour": (lambda: usual(), NOTHING),
    "a request a minute": (lambda: Scene().usual(BEFORE, 40).usual(NOW, 10).worker(ALL, busy=0.01), NOTHING),
    "one tenant": (lambda: usual().usual(NOW, 200), NOTHING),
    "one large tenant as always": (lambda: two_tenants(before=15).usual(NOW, 60).usual(BEFORE, 300), NOTHING),
    "clients that stop reading as always": (chatty, NOTHING),
    "a fast worker that is dear": (fast_and_dear, NOTHING),
    "half of the threads": (fewer_threads, frozenset({"cost_by_speed", "late_by_prompt"})),
    "a job at night": (night_job, frozenset({"hot_tenant"})),
    "longer answers": (longer_answers, NOTHING),
    "longer prompts": (longer_prompts, frozenset({"late_by_prompt"})),
    "a cache that fills": (cold_start, frozenset({"late_by_prompt"})),
    "a cache that helps more": (lambda: usual().requests(NOW, 60, {Stage.PREFILL: 6}, cached=190), NOTHING),
    "workers that are taken away at times": (spot_workers, frozenset({"worker_lost"})),
    "a model that is asked less than the other": (two_models, NOTHING),
    "long contexts on one worker": (lambda: uneven_speed(rates=(48e9, 6e9)), NOTHING),
    "a worker that makes answers quicker": (relieved, NOTHING),
    "few tiny questions to many workers": (lambda: idle_behind_gateway({Stage.PREFILL: 2, Stage.DECODE: 2}), NOTHING),
}


@pytest.mark.parametrize("case", INNOCENT)
def test_what_is_no_fault_is_no_finding(case: str) -> None:
    scene, but = INNOCENT[case]
    scene_of_a_day = case.startswith("workers that are taken")
    assert names(found(scene(), window=DAY if scene_of_a_day else NOW)) <= but


def test_a_slow_network_is_not_the_gateway() -> None:
    """The workers have nothing to do and requests stand open; the gateway's own part of them is small."""
    findings = names(found(idle_behind_gateway({Stage.WIRE: 6000})))
    assert "slow_network" in findings
    assert not {"workers_wait_for_gateway", "gateway_bound"} & findings


def test_who_waits_for_its_blocks_does_not_wait_for_its_host() -> None:
    scene = usual().requests(NOW, 60, {Stage.FETCH_DISK: 300}).worker(NOW, "w1", busy=0.3, between=0.5)
    assert "host_bound" not in names(found(scene))
