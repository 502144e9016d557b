"""Two gateways before one worker and one store, with one ledger: what both hear of is counted once."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import zmq

import tokenworks
from tests.gateway.conftest import RunningGateway
from tests.worker.test_meter import CARD, make_engine
from tokenworks.contract.config import CostSettings, GatewaySettings, KVSettings, LedgerSettings, Settings
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Record
from tokenworks.contract.wire import PROTOCOL, Hello, StoreStatus, TierStatus
from tokenworks.observe.journal.reader import JournalReader
from tokenworks.observe.ledger import Window
from tokenworks.observe.store import open_ledger
from tokenworks.observe.store.open import open_writing
from tokenworks.observe.tables.table import build_table
from tokenworks.worker.heartbeat import HeartbeatThread
from tokenworks.worker.link import GatewayLink
from tokenworks.worker.loop import StepLoop
from tokenworks.worker.machine import Machine
from tokenworks.worker.meter import Meter
from tokenworks.worker.process import load_of

EMBEDDED = Path(tokenworks.__file__).parent / "embedded"
ALL = Window(0, 2**62)
PATIENCE_S = 60.0
COUNTS = ("requests", "output_tokens", "mfu", "mbu", "cost_per_m_tokens")


class SharedWorker(threading.Thread):
    """A step loop with a link to each gateway, as the worker's process has them."""

    def __init__(self, addresses: list[str]) -> None:
        super().__init__(daemon=True)
        engine = make_engine()
        card = CARD.__class__(
            **{name: getattr(CARD, name) for name in CARD.__struct_fields__} | {"price_per_hour": 7.2}
        )
        hello = Hello(PROTOCOL, "w", 1, "embedded", engine.limits.max_context_tokens, engine.spec, card)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._links = [GatewayLink(self._context, address) for address in addresses]
        self.meter = Meter(engine, card, Machine(1))
        self._heartbeat = HeartbeatThread("w", addresses, load_of(engine, None, self.meter))
        self.loop = StepLoop(engine, hello, self._links, self._heartbeat, self.meter)

    def run(self) -> None:
        self._heartbeat.start()
        self.loop.run()
        self._heartbeat.stop()
        self._heartbeat.join()
        for link in self._links:
            link.close()
        self._context.term()


class TwoGateways:
    """Two gateways that share a folder, a worker and a store."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(
            model=str(EMBEDDED),
            gateway=GatewaySettings(worker_address="tcp://127.0.0.1:*", model_name="embedded"),
            ledger=LedgerSettings(path=str(folder), flush_s=0.01),
            cost=CostSettings(host_per_gb_hour=1.0),
            kv=KVSettings(),
        )
        self.gateways = [RunningGateway(self.settings) for _ in range(2)]
        self.worker = SharedWorker([gateway.address for gateway in self.gateways])
        self.worker.start()
        for gateway in self.gateways:
            ready = f"{gateway.url}/health/ready"
            until(lambda ready=ready: httpx.get(ready, timeout=PATIENCE_S).status_code == 200)

    def ask(self, which: int, **options: Any) -> None:
        body = {"prompt": [5, 6, 7], "max_tokens": 12, "ignore_eos": True, **options}
        answer = httpx.post(f"{self.gateways[which].url}/v1/completions", json=body, timeout=PATIENCE_S)
        assert answer.status_code == 200, answer.text

    def tell_of_store(self, which: int, started_ns: int, alive_s: int, hits: int) -> None:
        tiers = {Tier.HOST: TierStatus(used_bytes=10**9, limit_bytes=10**10, hits=hits)}
        status = StoreStatus("kv", 1, tiers, hits, started_ns, alive_s * 10**9)
        gateway = self.gateways[which].gateway

        def hear() -> None:
            gateway._samples._sampled_s.clear()  # as if its five seconds had passed
            gateway.dispatcher._members.receive(b"store", status)

        self.gateways[which].call(hear)

    def stop(self) -> None:
        self.worker.loop.drain()
        self.worker.join(PATIENCE_S)
        for gateway in self.gateways:
            gateway.begin_drain()
            gateway.wait()


def until(condition: Any) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it does not happen"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> TwoGateways:
    """A run that is over, in the ledger."""
    two = TwoGateways(tmp_path_factory.mktemp("two"))
    for number in range(6):
        two.ask(number % 2)
    now_ns = time.time_ns()
    for alive_s, hits in ((1, 10), (2, 25), (3, 40)):
        for which in range(2):
            two.tell_of_store(which, now_ns, alive_s, hits)
    two.stop()
    with closing(open_writing(two.settings)) as ledger:
        reader, positions = JournalReader(Path(two.settings.ledger.path) / "journal"), {}
        while (batch := reader.read(positions)).frames:
            ledger.take_in(batch.frames)
            positions |= batch.positions
    return two


def test_a_workers_life_is_counted_once_and_all_of_it_is_somebodys(told: TwoGateways) -> None:
    use = told.worker.meter.use
    with closing(open_ledger(told.settings.ledger)) as ledger:
        [stretch] = ledger.workers(ALL)
        cell = ledger.cells(ALL)[""]
        records = [ended.record for ended in ledger.records(ALL)]
        table = build_table(ledger, ALL, told.settings, by="worker", columns=COUNTS)
    assert len({record.gateway for record in records}) == 2
    assert (stretch.use.wall_ns, stretch.use.step_ns) == (use.wall_ns, use.step_ns)
    assert (stretch.use.flops, stretch.use.read_bytes) == (use.flops, use.read_bytes)
    assert sum(cell.device_ns.values()) == sum(use.step_ns.values())
    assert table.bill.of("unrecorded") == 0
    device = table.bill.total - table.bill.of("kv")
    assert device == pytest.approx(use.wall_ns / 3.6e12 * 7.2 * 1e12, rel=1e-9)
    assert [(row["worker"], row["requests"], row["output_tokens"]) for row in table.rows] == [("w", 6, 72)]


def test_a_stores_counters_are_counted_once(told: TwoGateways) -> None:
    with closing(open_ledger(told.settings.ledger)) as ledger:
        [store] = ledger.stores(ALL)
    assert store.hits == {Tier.HOST: 30}  # since its first sample
    assert store.misses == 30


def test_each_request_is_of_one_gateway(told: TwoGateways) -> None:
    with closing(open_ledger(told.settings.ledger)) as ledger:
        records: list[Record] = [ended.record for ended in ledger.records(ALL)]
    assert len(records) == len({record.id for record in records}) == 6


def test_whichever_gateways_journal_is_read_first_the_sums_are_the_same(told: TwoGateways, tmp_path: Path) -> None:
    journals = []
    for number, file in enumerate(sorted((Path(told.settings.ledger.path) / "journal").iterdir())):
        shutil.copytree(file.parent, tmp_path / str(number), ignore=lambda _, names, kept=file.name: {*names} - {kept})
        journals.append(JournalReader(tmp_path / str(number)).read({}).frames)
    assert len(journals) == 2
    with ExitStack() as stack:
        ledgers = []
        for name, order in (("there", journals), ("back", journals[::-1])):
            settings = LedgerSettings(path=str(tmp_path / name))
            ledgers.append(stack.enter_context(closing(open_ledger(settings, is_writing=True))))
            for frames in order:
                ledgers[-1].take_in(frames)
        one, other = ([stretch.use for stretch in ledger.workers(ALL)] for ledger in ledgers)
        assert (len(one), one[0].wall_ns, one[0].step_ns) == (1, other[0].wall_ns, other[0].step_ns)
        assert ledgers[0].cells(ALL, "worker") == ledgers[1].cells(ALL, "worker")
        assert [store.misses for store in ledgers[0].stores(ALL)] == [store.misses for store in ledgers[1].stores(ALL)]
