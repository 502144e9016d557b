"""The meter in a real step loop on the embedded model, over real sockets: nothing is lost, nothing is counted twice."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zmq

import tokenworks
from tests.worker.gateway_end import SOON_S, Gateway
from tokenworks.contract.card import Card
from tokenworks.contract.config import EngineSettings
from tokenworks.contract.record import SequenceReport, Stage, Work, WorkerUse
from tokenworks.contract.request import Request, Sampling
from tokenworks.contract.wire import PROTOCOL, Cancel, EndReason, Hello, SequenceOutput, Submit
from tokenworks.engine.build import build_engine
from tokenworks.engine.engine import Engine, StepTime
from tokenworks.policy.speculation import Speculator
from tokenworks.worker.heartbeat import HeartbeatThread
from tokenworks.worker.link import GatewayLink
from tokenworks.worker.loop import StepLoop
from tokenworks.worker.machine import Machine
from tokenworks.worker.meter import Meter
from tokenworks.worker.process import load_of

EMBEDDED = Path(tokenworks.__file__).parent / "embedded"
CARD = Card("cpu", 1, "", "", 1, 1, "", 1, 1, (), (), 6e-4, 3e-5, 2e-8, 2e-4, 5e-5, 1e-6)
BLOCK_BYTES = 8 * 2560
RNG = random.Random(3)


class Fearless(Speculator):
    """The real one, for whom rows are free: it runs ahead wherever it has a guess."""

    def draft(self, sequences: list[Any], num_rows: int, most: int) -> list[list[int]]:
        self.costs = type(self.costs)()
        return super().draft(sequences, num_rows, most)


def make_engine(num_blocks: int = 200, **settings: Any) -> Engine:
    given = {"max_running": 8, "max_step_tokens": 64, "speculation": "off", "dtype": "bfloat16", **settings}
    return build_engine(
        EMBEDDED,
        EngineSettings(block_tokens=8, kv_bytes=num_blocks * BLOCK_BYTES, **given),
        1,
        lambda done, total: None,
    )


class Watched(Meter):
    """Remembers the instants between which a sequence's stages must lie."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.begun_ns: dict[str, int] = {}
        self.ended_ns: dict[str, int] = {}

    def arrived(self, request: Request, at_ns: int, *, publishes: bool) -> None:
        self.begun_ns[request.id] = at_ns
        super().arrived(request, at_ns, publishes=publishes)

    def stepped(self, step: StepTime, outputs: Sequence[SequenceOutput]) -> None:
        self.ended_ns.update({each.request_id: step.end_ns for each in outputs if each.end is not None})
        super().stepped(step, outputs)


class Worker(threading.Thread):
    """A step loop with a link, as the worker's process has them, without a store."""

    def __init__(self, engine: Engine, gateway: str) -> None:
        super().__init__(daemon=True)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        hello = Hello(PROTOCOL, "w", 1, "model", engine.limits.max_context_tokens, engine.spec, CARD)
        self._link = GatewayLink(self._context, gateway)
        self.engine = engine
        self.meter = Watched(engine, CARD, Machine(1))
        self._heartbeat = HeartbeatThread("w", [gateway], load_of(engine, None, self.meter))
        self.loop = StepLoop(engine, hello, [self._link], self._heartbeat, self.meter)

    def run(self) -> None:
        self._heartbeat.start()
        self.loop.run()
        self._heartbeat.stop()
        self._heartbeat.join()
        self._link.close()
        self._context.term()

    def leave(self) -> WorkerUse:
        """Drain; what its life was."""
        self.loop.drain()
        self.join(SOON_S)
        assert not self.is_alive(), "the worker does not leave"
        return self.meter.use


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(f"ipc://{tmp_path}/workers")
    yield made
    made.close()


@pytest.fixture
def start(gateway: Gateway, tmp_path: Path) -> Iterator[Callable[[Engine], Worker]]:
    workers: list[Worker] = []

    def make(engine: Engine) -> Worker:
        worker = Worker(engine, f"ipc://{tmp_path}/workers")
        workers.append(worker)
        worker.start()
        gateway.take_until(lambda: "w" in gateway.identities)
        return worker

    yield make
    for worker in workers:
        worker.leave()


def request(name: str, num_prompt: int, max_tokens: int, **more: Any) -> Request:
    prompt = [RNG.randrange(10, 4000) for _ in range(num_prompt)]
    return Request(name, "model", prompt, Sampling(max_tokens=max_tokens, temperature=0), **more)


def send_all(gateway: Gateway, requests: Sequence[Request]) -> None:
    for each in requests:
        gateway.send("w", Submit(each))
    gateway.take_until(lambda: all(gateway.has_ended(each.id) for each in requests))


def check_sums(reports: Sequence[SequenceReport], use: WorkerUse) -> None:
    """When all have ended, what they took is what the worker gave."""
    by_work: dict[Work, int] = defaultdict(int)
    for report in reports:
        for work, ns in report.device_ns.items():
            by_work[work] += ns
    assert by_work == use.step_ns
    assert use.wall_ns == sum(use.step_ns.values()) + use.between_ns + use.idle_ns


def test_stages_and_shares_are_exact_with_more_sequences_than_fit(
    start: Callable[[Engine], Worker], gateway: Gateway
) -> None:
    worker = start(make_engine(num_blocks=24))
    names = [f"r{n}" for n in range(12)]
    send_all(gateway, [request(name, RNG.randrange(5, 50), RNG.randrange(10, 60)) for name in names])
    use = worker.leave()
    reports = [gateway.report(name) for name in names]
    check_sums(reports, use)
    for name, report in zip(names, reports, strict=True):
        assert sum(report.stages_ns.values()) == worker.meter.ended_ns[name] - worker.meter.begun_ns[name]
        assert report.stages_ns.keys() >= {Stage.QUEUE, Stage.PREFILL, Stage.DECODE, Stage.STALL}
    preempted = [report for report in reports if report.preemptions]
    assert preempted
    assert all(report.stages_ns[Stage.PREEMPTED] > 0 for report in preempted)
    assert sum(report.recomputed_tokens for report in preempted) > 0
    assert use.step_ns[Work.RECOMPUTE] > 0
    assert sum(report.preemptions for report in reports) == worker.engine.load.preemptions


def test_idle_time_is_time_without_requests(start: Callable[[Engine], Worker], gateway: Gateway) -> None:
    begun_ns = time.perf_counter_ns()
    worker = start(make_engine())
    time.sleep(0.3)
    send_all(gateway, [request("a", 20, 5)])
    use = worker.leave()
    assert 2 * 10**8 < use.idle_ns < use.wall_ns < time.perf_counter_ns() - begun_ns
    check_sums([gateway.report("a")], use)


def test_the_heartbeat_tells_of_it_while_it_works(start: Callable[[Engine], Worker], gateway: Gateway) -> None:
    start(make_engine())
    gateway.send("w", Submit(request("a", 20, 1400)))

    def uses() -> list[WorkerUse]:
        """The first beat comes at once, when there is nothing to tell."""
        return [beat.load.use for beat in gateway.beats if beat.load.use.wall_ns]

    gateway.take_until(lambda: len(uses()) > 1)
    for use in uses():
        assert use.wall_ns == sum(use.step_ns.values()) + use.between_ns + use.idle_ns
        assert use.started_ns > 1.7e18
        assert use.rss_bytes > 0
        assert use.cpu_s > 0
    assert uses()[0].wall_ns < uses()[1].wall_ns


def test_a_worker_that_leaves_has_told_all_of_its_life(start: Callable[[Engine], Worker], gateway: Gateway) -> None:
    worker = start(make_engine())
    send_all(gateway, [request("a", 20, 30)])
    use = worker.leave()
    gateway.take_until(lambda: gateway.has_left)
    first, told = gateway.beats[0].load.use, gateway.beats[-1].load.use
    assert first.step_ns == {}
    assert (told.wall_ns, told.step_ns, told.idle_ns) == (use.wall_ns, use.step_ns, use.idle_ns)
    check_sums([gateway.report("a")], told)


def test_guesses_are_charged_to_who_guessed(
    start: Callable[[Engine], Worker], gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenworks.engine.build.Speculator", Fearless)
    worker = start(make_engine(speculation="auto"))
    repeats = Request("a", "model", [5, 6, 7, 8] * 10, Sampling(max_tokens=60, temperature=0))
    send_all(gateway, [repeats, request("b", 30, 20)])
    load, use = worker.engine.load, worker.leave()
    reports = [gateway.report(name) for name in "ab"]
    check_sums(reports, use)
    assert sum(report.draft_tokens for report in reports) == load.draft_tokens > 0
    assert sum(report.draft_tokens - report.rejected_tokens for report in reports) == load.accepted_tokens
    assert all((report.rejected_tokens > 0) == (report.device_ns.get(Work.DRAFT, 0) > 0) for report in reports)


def test_a_cancelled_sequence_says_what_it_took(start: Callable[[Engine], Worker], gateway: Gateway) -> None:
    worker = start(make_engine())
    gateway.send("w", Submit(request("a", 20, 400)))
    gateway.take_until(lambda: len(gateway.of("a")) > 3)
    gateway.send("w", Cancel("a"))
    gateway.take_until(lambda: gateway.has_ended("a"))
    gateway.send("w", Cancel("a"))
    gateway.send("w", Cancel("nobody"))
    send_all(gateway, [request("b", 5, 2)])
    assert gateway.end("a").reason is EndReason.CANCELLED
    assert gateway.report("a").computed_tokens >= 20 + 2
    assert not gateway.of("nobody")
    check_sums([gateway.report(name) for name in "ab"], worker.leave())


def test_what_came_during_a_step_was_queueing_and_not_on_the_wire(
    start: Callable[[Engine], Worker], gateway: Gateway
) -> None:
    engine = make_engine()
    model, goes_on, has_begun = engine.model, threading.Event(), threading.Event()

    class Held:
        config, step_bytes = model.config, staticmethod(model.step_bytes)

        def __call__(self, *arguments: Any) -> Any:
            has_begun.set()
            goes_on.wait(SOON_S)
            return model(*arguments)

    start(engine)
    for name in ("first", "second", "third"):  # by which the way is known
        gateway.send("w", Submit(request(name, 9, 1), sent_ns=time.monotonic_ns()))
        gateway.take_until(lambda name=name: gateway.has_ended(name))  # type: ignore[misc]
    engine.model = Held()  # type: ignore[assignment]
    gateway.send("w", Submit(request("slow", 9, 1), sent_ns=time.monotonic_ns()))
    assert has_begun.wait(SOON_S)
    gateway.send("w", Submit(request("late", 9, 1), sent_ns=time.monotonic_ns()))
    time.sleep(1)
    goes_on.set()
    gateway.take_until(lambda: gateway.has_ended("late"))
    assert gateway.report("late").stages_ns[Stage.QUEUE] > 5 * 10**8


def test_a_step_that_fails_is_paid_by_who_was_in_it(start: Callable[[Engine], Worker], gateway: Gateway) -> None:
    engine = make_engine()
    model = engine.model

    class Broken:
        config, step_bytes = model.config, staticmethod(model.step_bytes)

        def __call__(self, *arguments: Any) -> Any:
            engine.model = model
            raise RuntimeError("broken")

    worker = start(engine)
    engine.model = Broken()  # type: ignore[assignment]
    send_all(gateway, [request("a", 20, 4)])
    send_all(gateway, [request("b", 20, 4)])
    assert gateway.end("a").reason is EndReason.FAILED
    assert gateway.report("a").device_ns[Work.PREFILL] > 0
    check_sums([gateway.report(name) for name in "ab"], worker.leave())


def test_a_request_that_cannot_run_says_so_with_a_report(start: Callable[[Engine], Worker], gateway: Gateway) -> None:
    worker = start(make_engine())
    send_all(gateway, [request("long", 20, 10**6), Request("none", "model", [], Sampling(max_tokens=1))])
    for name in ("long", "none"):
        assert gateway.end(name).reason is EndReason.FAILED
        assert gateway.report(name).stages_ns.keys() == {Stage.QUEUE}
    check_sums([], worker.leave())


def test_a_second_request_of_the_same_id_leaves_the_first_ones_account_alone(
    start: Callable[[Engine], Worker], gateway: Gateway
) -> None:
    start(make_engine())
    gateway.send("w", Submit(request("a", 20, 60)))
    gateway.send("w", Submit(request("a", 7, 60)))
    gateway.take_until(lambda: len([output for output in gateway.of("a") if output.end]) == 2)
    refused, ran = (output.end for output in gateway.of("a") if output.end)
    assert refused is not None
    assert refused.reason is EndReason.FAILED
    assert ran is not None
    assert ran.report is not None
    assert ran.report.computed_tokens == 20 + 59


def test_the_work_of_steps_is_counted_as_the_formulas_say(start: Callable[[Engine], Worker], gateway: Gateway) -> None:
    worker = start(make_engine())
    send_all(gateway, [request("a", 16, 3)])
    use = worker.leave()
    hidden, inner, vocab, layers, query, key = 256, 768, 4096, 5, 4 * 64, 2 * 64
    weights = layers * (hidden * (2 * query + 2 * key) + 3 * hidden * inner)
    pairs = 16 * 17 / 2 + 17 + 18
    assert use.flops == 2 * (weights * 18 + hidden * vocab * 3) + 4 * query * layers * pairs
    kv_bytes = 2560 * (16 + 17 + 18)
    assert use.read_bytes == 3 * worker.engine.model.step_bytes(1) + kv_bytes
