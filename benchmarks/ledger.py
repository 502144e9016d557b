"""How fast any window of a large ledger is read, and how many bytes a request takes.

    python benchmarks/ledger.py --records 10000000 --folder /var/tmp/ledger

Makes a ledger of so many requests over 90 days, three scenarios, four tenants, one model and two workers, as the
observer would have left it: compact records and names of all, whole records and minutes of the last days, hours and
days before. Requests are drawn from distributions and packed with the ledger's own code; only cells are made of whole
arrays at once instead of record by record. A ledger that is there already is measured as it is.

Bars: `cells` of any window, and one request by how it ended, within 2 s; at most 200 bytes a request once details are
gone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import sqlalchemy as sa

from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.errors import NotFound
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Costs, Leg, Record, SequenceReport, Stage, Work
from tokenworks.contract.request import Scenario
from tokenworks.observe.cell import Cell
from tokenworks.observe.diagnose.pick import pick
from tokenworks.observe.ledger import Ended, Window
from tokenworks.observe.sketch import encode_values
from tokenworks.observe.store import SqlLedger, cell_rows, open_ledger
from tokenworks.observe.store.dictionaries import Dimensions
from tokenworks.observe.store.marks import read_marks, write_marks
from tokenworks.observe.store.packing import pack_detail, pack_record
from tokenworks.observe.store.periods import DAY_NS, HOUR_NS, LENGTH_NS, MINUTE_NS, Level, floor
from tokenworks.observe.store.schema import cells, details, failures, names, records
from tokenworks.observe.store.take_in import hash_of

DAYS: Final = 90
DETAIL_DAYS: Final = 7
COMBINATIONS: Final = [
    (scenario.value, tenant, "qwen3-0.6b", "5f0c2a9b", worker)
    for scenario in Scenario
    for tenant in ("anna", "bert", "carl", "dora")
    for worker in ("w0", "w1")
]
Rows = dict[sa.Table, list[dict[str, Any]]]
GAPS: Final = 40  # between the tokens of a request whose details are kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True, help="where the ledger is, or is to be made")
    parser.add_argument("--windows", type=int, default=60, help="how many windows to read")
    given = parser.parse_args()
    settings = LedgerSettings(path=str(given.folder))
    end_ns = floor(time.time_ns(), DAY_NS) + 11 * HOUR_NS + 17 * MINUTE_NS
    if not (given.folder / "ledger.sqlite").exists():
        started_s = time.perf_counter()
        make(settings, given.records, end_ns)
        print(f"made in {time.perf_counter() - started_s:.0f} s", flush=True)
    ledger = open_ledger(settings)
    found = {
        "bytes": sizes(ledger, given.folder / "ledger.sqlite"),
        "seconds": timings(ledger, given.windows),
        "picking, CPU seconds": pickings(ledger),
    }
    print(json.dumps(found, indent=1))
    ledger.close()


def make(settings: LedgerSettings, count: int, end_ns: int) -> None:
    """The ledger; periods are made from the first one on, as time makes them."""
    ledger = open_ledger(settings, is_writing=True)
    rng = np.random.default_rng(0)
    start_ns = floor(end_ns - DAYS * DAY_NS, DAY_NS)
    details_from = floor(end_ns - DETAIL_DAYS * DAY_NS, DAY_NS)
    per_ns = count / (end_ns - start_ns) / len(COMBINATIONS)
    with ledger._database.writing() as connection:
        numbers = Dimensions()
        ids = [numbers.id_of(connection, combination) for combination in COMBINATIONS]
    at_ns = start_ns
    while at_ns < end_ns:
        day_end = min(at_ns + DAY_NS, end_ns)
        level = Level.HOUR if at_ns < details_from - DAY_NS else Level.MINUTE
        with ledger._database.writing() as connection:
            for hour_ns in range(at_ns, day_end, HOUR_NS):
                rows: Rows = {records: [], names: [], failures: [], details: [], cells: []}
                for period_ns in range(hour_ns, min(hour_ns + HOUR_NS, day_end), LENGTH_NS[level]):
                    length = min(LENGTH_NS[level], day_end - period_ns)
                    for place, combination in zip(ids, COMBINATIONS, strict=True):
                        drawn = Draw(rng, rng.poisson(per_ns * length), period_ns, length)
                        _add(rows, drawn, combination, place, level, period_ns >= details_from)
                for table, found in rows.items():
                    if found:
                        connection.execute(table.insert().prefix_with("OR IGNORE"), found)
            _roll_up(connection, at_ns, day_end, level)
        at_ns = day_end
    with ledger._database.writing() as connection:
        write_marks(connection, {"details_from": details_from, "minutes_from": details_from - DAY_NS})
        connection.exec_driver_sql("ANALYZE")
    ledger.close()


class Draw:
    """Requests of one combination in one period, as arrays."""

    def __init__(self, rng: np.random.Generator, count: int, start_ns: int, length_ns: int) -> None:
        self.count = count
        self.ended_ns = np.sort(start_ns + rng.integers(0, length_ns, count))
        self.ended_ns[1:] += np.diff(self.ended_ns) == 0
        self.ttft_ns = rng.lognormal(19.5, 0.8, count).astype(np.int64)
        self.tpot_ns = rng.lognormal(17.0, 0.3, count)
        self.output = rng.integers(16, 400, count)
        self.prompt = rng.integers(50, 3000, count)
        self.cached = (self.prompt * rng.random(count)).astype(np.int64)
        self.e2e_ns = self.ttft_ns + (self.tpot_ns * self.output).astype(np.int64)
        self.cost = rng.integers(10**6, 10**9, (2, count))
        self.is_bad = rng.random(count) < 0.02


def _add(rows: Rows, drawn: Draw, combination: tuple[str, ...], place: int, level: Level, is_whole: bool) -> None:
    if not drawn.count:
        return
    for index, ended in enumerate(_each(drawn, combination, is_whole)):
        at_ns = int(drawn.ended_ns[index]) // 32 * 32 + place  # each combination has nanoseconds of its own
        body = pack_record(ended)
        rows[records].append({"ended_ns": at_ns, "dimension": place, "e2e_ns": ended.record.e2e_ns, "body": body})
        if drawn.is_bad[index]:
            failed = {"outcome": ended.record.outcome, "ended_ns": at_ns, "e2e_ns": ended.record.e2e_ns}
            rows[failures].append(failed)
        asked = [ended.record.id, ended.record.trace_id, ended.record.answer_id] if is_whole else [ended.record.id]
        rows[names] += [{"hash": hash_of(name), "ended_ns": at_ns} for name in asked]
        if is_whole:
            rows[details].append({"ended_ns": at_ns, "body": pack_detail(ended, not drawn.is_bad[index])})
    start_ns = floor(int(drawn.ended_ns[0]), LENGTH_NS[level])
    key = cell_rows.CellKey(cell_rows.NO_TAG, start_ns, place, cell_rows.NO_TAG)
    rows[cells].append(cell_rows._row(level, key, cell_of(drawn)))


def cell_of(drawn: Draw) -> Cell:
    """What these requests came to."""
    bad = int(drawn.is_bad.sum())
    ok = drawn.count - bad
    tokens = int(drawn.prompt.sum() + drawn.output.sum())
    stages = {Stage.PREFILL: int(drawn.ttft_ns.sum()), Stage.DECODE: int((drawn.e2e_ns - drawn.ttft_ns).sum())}
    shown = {"ttft": drawn.ttft_ns, "tpot": drawn.tpot_ns, "e2e": drawn.e2e_ns, "queue": drawn.ttft_ns // 9,
             "jitter": drawn.tpot_ns / 5, "itl": np.outer(drawn.tpot_ns, np.linspace(0.5, 2, 9)).ravel()}  # fmt: skip
    return Cell(
        requests=drawn.count, ok=ok, timeouts=bad, good=ok, sequences=drawn.count,
        prompt_tokens=int(drawn.prompt.sum()), output_tokens=int(drawn.output.sum()), good_tokens=tokens,
        cached_tokens={Tier.DEVICE: int(drawn.cached.sum()), Tier.HOST: int(drawn.cached.sum() // 7)},
        e2e_ns=int(drawn.e2e_ns.sum()), stages_ns={**stages, Stage.QUEUE: 5, Stage.WIRE: 7, Stage.TOKENISE: 9},
        device_ns={Work.PREFILL: stages[Stage.PREFILL], Work.DECODE: stages[Stage.DECODE]},
        cost_device={Work.PREFILL: int(drawn.cost[0].sum()), Work.DECODE: int(drawn.cost[1].sum())},
        cost_saved=int(drawn.cost[0].sum() // 3), kv_byte_s=float(tokens) * 1e5,
        sketches={name: encode_values(values) for name, values in shown.items()},
    )  # fmt: skip


def _each(drawn: Draw, combination: tuple[str, ...], is_whole: bool) -> Iterator[Ended]:
    scenario, tenant, model, version, worker = combination
    for index in range(drawn.count):
        e2e_ns, ttft_ns = int(drawn.e2e_ns[index]), int(drawn.ttft_ns[index])
        ended_ns, cached = int(drawn.ended_ns[index]), int(drawn.cached[index])
        more: dict[str, Any] = {}
        if is_whole:
            stages = {Stage.RECEIVE: 40_000, Stage.TOKENISE: 900_000, Stage.ADMIT: 30_000, Stage.ROUTE: 60_000,
                      Stage.WIRE: 300_000, Stage.QUEUE: ttft_ns // 9, Stage.PREFILL: ttft_ns * 8 // 9,
                      Stage.DECODE: e2e_ns - ttft_ns, Stage.WRITE: 80_000}  # fmt: skip
            works = {Work.PREFILL: ttft_ns, Work.DECODE: (e2e_ns - ttft_ns) // 3}
            report = SequenceReport(stages, works, 41, 3, 900, kv_byte_s=1.5e7)
            leg = Leg(worker, reason="prefix", start_ns=1_000_000, span_ns=e2e_ns, cached_tokens=cached, report=report,
                      predicted_ns=ttft_ns, price_per_hour=0.4, watts=65.0)  # fmt: skip
            gaps = np.random.default_rng(index).lognormal(10, 0.3, GAPS).astype("<u4").tobytes()
            more = {"stages_ns": stages, "legs": [leg], "gaps_us": gaps, "trace_id": os.urandom(16).hex(),
                    "span_id": os.urandom(8).hex(), "answer_id": "chatcmpl-" + os.urandom(16).hex(),
                    "endpoint": "/v1/chat/completions", "gateway": "gateway", "key": "k1"}  # fmt: skip
        record = Record(
            id=os.urandom(12).hex(), started_ns=ended_ns - e2e_ns, e2e_ns=e2e_ns, tenant=tenant, model=model,
            scenario=Scenario(scenario), outcome="timeout" if drawn.is_bad[index] else "ok", status=200,
            version=version, is_stream=True, prompt_tokens=int(drawn.prompt[index]),
            cached_tokens={Tier.DEVICE: cached, Tier.HOST: cached // 7}, output_tokens=int(drawn.output[index]),
            finish_reasons=["stop"], ttft_ns=ttft_ns, **more,
        )  # fmt: skip
        device = {Work.PREFILL: int(drawn.cost[0, index]), Work.DECODE: int(drawn.cost[1, index])}
        yield Ended(record, Costs(device, saved=device[Work.PREFILL] // 3))


def _roll_up(connection: sa.Connection, start_ns: int, end_ns: int, level: Level) -> None:
    if level is Level.MINUTE:
        for hour_ns in range(start_ns, floor(end_ns, HOUR_NS), HOUR_NS):
            cell_rows.roll_up(connection, Level.HOUR, hour_ns)
    if end_ns - start_ns == DAY_NS:
        cell_rows.roll_up(connection, Level.DAY, start_ns)
        write_marks(connection, {"days_until": end_ns})
    write_marks(connection, {"hours_until": floor(end_ns, HOUR_NS)})


def sizes(ledger: SqlLedger, file: Path) -> dict[str, float]:
    """Bytes a request, of each table with its indexes, and of the file."""
    with ledger._database.reading() as connection:
        count = connection.execute(sa.select(sa.func.count()).select_from(records)).scalar() or 1
        marks = read_marks(connection)
        owners = dict(connection.exec_driver_sql("SELECT name, tbl_name FROM sqlite_schema").all())
        of_tables: dict[str, float] = {"requests": count, "file": os.path.getsize(file) / count}
        for name, num_bytes in connection.exec_driver_sql("SELECT name, sum(pgsize) FROM dbstat GROUP BY name"):
            owner = owners.get(name, name)
            of_tables[owner] = of_tables.get(owner, 0.0) + num_bytes / count
        whole = connection.execute(sa.select(sa.func.count()).select_from(details)).scalar() or 0
    assert marks.hours_until
    of_tables["file_without_details"] = of_tables["file"] - of_tables["details"]
    of_tables["one_detail"] = of_tables["details"] * count / max(whole, 1)
    return {name: round(value, 1) for name, value in of_tables.items()}


def timings(ledger: SqlLedger, count: int) -> dict[str, float]:
    """Of windows of all lengths, with odd ends, in all groupings: the median and the worst, and named ones."""
    extent = ledger.extent()
    assert extent is not None
    draw, taken = random.Random(0), []
    for _ in range(count):
        length = min(int(10 ** draw.uniform(10.5, 15.9)), extent.end_ns - extent.start_ns - 1)
        start = draw.randrange(extent.start_ns, extent.end_ns - length)
        by = draw.choice([None, "scenario", "tenant", "model", "worker"])
        taken.append(_timed(ledger, Window(start, start + length), by))
    until = extent.end_ns
    named = {"all": extent, "all by tenant": extent, "last day by tenant": Window(until - DAY_NS, until),
             "last 15 minutes": Window(until - 15 * MINUTE_NS, until)}  # fmt: skip
    found = {name: _timed(ledger, window, "tenant" if "tenant" in name else None) for name, window in named.items()}
    return {"median": float(np.median(taken)), "worst": max(taken)} | found


def pickings(ledger: SqlLedger) -> dict[str, float]:
    """`explain --last` and `--slowest`, of all requests and of those that ended in one way; the least of three."""
    asked = [(slowest, outcome) for slowest in (False, True) for outcome in ("", "ok", "timeout", "failed", "nothing")]
    found = {}
    for slowest, outcome in asked:
        taken = []
        for _ in range(3):
            started_s = time.process_time()
            with suppress(NotFound):
                pick(ledger, None, is_slowest=slowest, rank=3, outcome=outcome)
            taken.append(time.process_time() - started_s)
        found[f"{'slowest' if slowest else 'last'} {outcome or 'of all'}"] = round(min(taken), 4)
    return found


def _timed(ledger: SqlLedger, window: Window, by: str | None) -> float:
    started_s = time.perf_counter()
    found = ledger.cells(window, by)
    assert all(cell.requests for cell in found.values())
    return round(time.perf_counter() - started_s, 4)


if __name__ == "__main__":
    main()
