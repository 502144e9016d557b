"""What recording costs: the gateway a request, and the observer at a rate of requests.

    python benchmarks/observer.py --rate 100 --seconds 30

A journal is written as a gateway writes it, 50 ms a flush, beside a real observer that takes it into a new ledger. The
records have three scenarios, three tenants, two workers, a tag, a waterfall and 100 gaps each. CPU is the kernel's
count, start-up left out, as a share of one core; a machine that is busy with other things makes it larger.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.errors import LedgerError
from tokenworks.contract.record import Leg, Record, SequenceReport, Stage, Work
from tokenworks.contract.request import Scenario
from tokenworks.observe.journal.writer import Journal
from tokenworks.observe.ledger import Window
from tokenworks.observe.store import open_ledger

FLUSH_S: Final = 0.05
GAPS: Final = 100
PATIENCE_S: Final = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), given.rate, given.seconds), indent=1))


def measure(folder: Path, rate: float, seconds: float) -> dict[str, float]:
    """Microseconds of the gateway a request, and the observer's share of a core."""
    command = [sys.executable, "-m", "tokenworks", "observer", "--ledger-path", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as observer:
        wait_for_ledger(folder)
        made = [draw(random.Random(number), number) for number in range(2000)]
        journal, written, gateway_s = Journal(folder / "journal", "gateway", FLUSH_S), 0, 0.0
        busy_s, started_s = cpu_s(observer.pid), time.monotonic()
        while (passed_s := time.monotonic() - started_s) < seconds:
            due = int(passed_s * rate) - written
            ending = [now(made[(written + index) % len(made)]) for index in range(due)]
            before_s = time.thread_time()
            for record in ending:
                journal.append(record)
            journal.flush()
            gateway_s += time.thread_time() - before_s
            written += due
            time.sleep(FLUSH_S)
        share = (cpu_s(observer.pid) - busy_s) / (time.monotonic() - started_s)
        journal.close()
        observer.terminate()
        observer.wait()
    return {
        "requests": written,
        "in the ledger": counted(folder),
        "gateway CPU us a request": round(gateway_s / written * 1e6, 1),
        "observer share of a core": round(share, 4),
        "bytes a request, whole": round((folder / "ledger.sqlite").stat().st_size / written, 1),
    }


def draw(random: random.Random, number: int) -> Record:
    """A request such as a small chat."""
    ttft_ns, e2e_ns = int(random.lognormvariate(19, 0.7)), int(random.lognormvariate(21, 0.5)) + 10**9
    stages = {Stage.TOKENISE: 10**6, Stage.QUEUE: ttft_ns // 5, Stage.PREFILL: ttft_ns, Stage.DECODE: e2e_ns}
    works = {Work.PREFILL: ttft_ns, Work.DECODE: e2e_ns // 4}
    gaps = b"".join(int(random.lognormvariate(10, 0.3)).to_bytes(4, "little") for _ in range(GAPS))
    leg = Leg(f"w{number % 2}", reason="prefix", span_ns=e2e_ns, report=SequenceReport(stages, works, GAPS, 2),
              price_per_hour=0.4, watts=65.0)  # fmt: skip
    return Record(
        id=f"{number:024x}", started_ns=0, e2e_ns=e2e_ns, tenant=random.choice(["anna", "bert", "carl"]),
        model="qwen3-0.6b", version="5f0c2a9b", scenario=random.choice(list(Scenario)), outcome="ok", status=200,
        answer_id=f"chatcmpl-{number:032x}", trace_id=f"{random.getrandbits(128):032x}", is_stream=True,
        tags={"team": random.choice("abc")}, prompt_tokens=500, output_tokens=GAPS + 1, finish_reasons=["stop"],
        ttft_ns=ttft_ns, gaps_us=gaps, stages_ns=stages, legs=[leg],
    )  # fmt: skip


def now(record: Record) -> Record:
    """The same, ending at this moment."""
    return Record(**{name: getattr(record, name) for name in record.__struct_fields__}
                  | {"started_ns": time.time_ns() - record.e2e_ns})  # fmt: skip


def wait_for_ledger(folder: Path) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        try:
            open_ledger(LedgerSettings(path=str(folder))).close()
            return
        except LedgerError:
            time.sleep(0.1)
    raise TimeoutError("the observer made no ledger")


def cpu_s(pid: int) -> float:
    """Seconds of processor time, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def counted(folder: Path) -> int:
    with closing(open_ledger(LedgerSettings(path=str(folder)))) as ledger:
        return ledger.cells(Window(0, 2**62))[""].requests


if __name__ == "__main__":
    main()
