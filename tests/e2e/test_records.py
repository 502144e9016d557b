"""Records of real requests to real processes: their waterfall against a client's clock, and a killed worker's leg."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from openai import OpenAI

from tests.e2e.conftest import PATIENT
from tokenworks.contract.record import Incident, Record, Stage, Work, WorkerSample
from tokenworks.observe.journal.reader import JournalReader

if TYPE_CHECKING:
    from tests.e2e.conftest import Served

pytestmark = pytest.mark.slow

TOKENS = 200
MANY_TOKENS = 600  # so that a worker is killed before they have come, on a busy machine too
MOST_TRIES = 30
Records = Callable[[int], list[Record]]


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JournalReader]:
    """Of the system that this module starts."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("ledger")
        patch.setenv("TOKENWORKS_LEDGER_PATH", str(folder))
        yield JournalReader(folder / "journal")


@pytest.fixture(scope="module")
def system(journal: JournalReader, serve: Callable[..., Served]) -> Served:
    return serve("--price-per-hour", "3.6", "--workers", "1", *PATIENT)


@pytest.fixture
def asking(system: Served) -> Iterator[OpenAI]:
    with system.openai() as client:
        yield client


def frames(journal: JournalReader) -> list[Any]:
    return journal.read({}, 1 << 30).frames


def record_of(journal: JournalReader, request_id: str, wait_for: Any) -> Record:
    """The only record of that id."""

    def found() -> list[Record]:
        return [frame for frame in frames(journal) if isinstance(frame, Record) and frame.id == request_id]

    wait_for(found, f"the record of {request_id}")
    [record] = found()
    assert sum(record.stages_ns.values()) == record.e2e_ns
    return record


def lives(journal: JournalReader) -> set[int]:
    return {frame.use.started_ns for frame in frames(journal) if isinstance(frame, WorkerSample)}


def ask(client: OpenAI, request_id: str, **options: Any) -> float:
    """A whole streamed answer; the seconds that it took outside."""
    began_s = time.perf_counter()
    extra = {"ignore_eos": True, **options.pop("extra_body", {})}
    stream = client.completions.create(
        model="embedded",
        prompt="The with statement",
        max_tokens=TOKENS,
        stream=True,
        extra_body=extra,
        extra_headers={"x-request-id": request_id},
        **options,
    )
    for _ in stream:
        pass
    return time.perf_counter() - began_s


def test_stages_sum_to_what_the_official_client_measures(journal: JournalReader, asking: OpenAI, wait_for: Any) -> None:
    """Within 1 %: the rest is the client's own and the loopback's. Asked again where the machine was busy elsewhere."""
    ask(asking, "warm")
    off: list[float] = []
    while not off or min(off) > 0.01:
        assert len(off) < MOST_TRIES, off
        outside_s = ask(asking, f"timed-{len(off)}")
        record = record_of(journal, f"timed-{len(off)}", wait_for)
        off.append(abs(1 - sum(record.stages_ns.values()) / 1e9 / outside_s))
        assert record.output_tokens == TOKENS
        [leg] = record.legs
        assert leg.report is not None
        assert leg.report.stages_ns.items() <= record.stages_ns.items()
        assert leg.report.device_ns[Work.DECODE] > 0
        assert sum(leg.report.stages_ns.values()) <= leg.span_ns


def test_cost_is_in_the_usage_and_comes_from_the_record(journal: JournalReader, asking: OpenAI, wait_for: Any) -> None:
    answer = asking.completions.create(
        model="embedded",
        prompt="The with statement",
        max_tokens=8,
        extra_body={"ignore_eos": True, "usage": {"include": True}},
        extra_headers={"x-request-id": "priced"},
    )
    [leg] = record_of(journal, "priced", wait_for).legs
    assert leg.report is not None
    assert leg.price_per_hour == 3.6
    assert answer.usage is not None
    assert answer.usage.model_extra is not None
    device_s = sum(leg.report.device_ns.values()) / 1e9
    assert answer.usage.model_extra["cost"] == pytest.approx(device_s * 3.6 / 3600, rel=1e-6)


def test_a_stop_string_and_a_client_that_leaves_are_told_of_by_the_worker(
    journal: JournalReader, system: Served, asking: OpenAI, wait_for: Any
) -> None:
    with asking.completions.with_streaming_response.create(
        model="embedded",
        prompt="The with statement",
        max_tokens=TOKENS,
        stream=True,
        extra_body={"ignore_eos": True},
        extra_headers={"x-request-id": "left"},
    ) as response:
        next(response.iter_lines())
    gone = record_of(journal, "left", wait_for)
    assert gone.outcome == "client_gone"
    ask(asking, "stopped", stop=["e"])
    stopped = record_of(journal, "stopped", wait_for)
    assert (stopped.outcome, stopped.finish_reasons) == ("ok", ["stop"])
    for record in (gone, stopped):
        [leg] = record.legs
        assert leg.outcome in ("cancelled", "ok")
        assert leg.report is not None
        assert leg.report.steps > 0


def test_a_killed_worker_leaves_a_lost_leg_and_its_successor_goes_on(
    journal: JournalReader, system: Served, asking: OpenAI, wait_for: Any
) -> None:
    [pid] = system.worker_pids()
    stream = asking.completions.create(
        model="embedded",
        prompt="The with statement",
        max_tokens=MANY_TOKENS,
        stream=True,
        extra_body={"ignore_eos": True},
        extra_headers={"x-request-id": "survivor"},
    )
    next(stream)
    os.kill(pid, signal.SIGKILL)
    assert len(list(stream)) > 0
    record = record_of(journal, "survivor", wait_for)
    assert (record.outcome, record.output_tokens) == ("ok", MANY_TOKENS)
    lost, again = record.legs
    assert (lost.outcome, lost.report, lost.worker) == ("lost", None, again.worker)
    assert (again.outcome, again.kind, again.reason) == ("ok", "continuation", "lost")
    assert record.stages_ns[Stage.LOST] == lost.span_ns
    assert record.stages_ns[Stage.ROUTE] >= again.start_ns - lost.start_ns - lost.span_ns
    wait_for(lambda: len(lives(journal)) == 2, "a sample of the worker's second life")
    told = frames(journal)
    kinds = [frame.kind for frame in told if isinstance(frame, Incident)]
    assert [kind for kind in kinds if kind.startswith("worker")] == ["worker_joined", "worker_lost", "worker_joined"]
    assert [frame.is_last for frame in told if isinstance(frame, WorkerSample)].count(True) == 1


def test_the_ledgers_folder_is_its_owners(journal: JournalReader, system: Served) -> None:
    folder = Path(os.environ["TOKENWORKS_LEDGER_PATH"]) / "journal"
    assert folder.stat().st_mode & 0o077 == 0
