"""Kill parts of a running system at random instants, and tell what that cost.

    python -m benchmarks.durability --kills 50 --seed 0 [--database postgresql://...]

A gateway, a worker on the embedded model and an observer, with two clients that ask all the time under names of their
own. Half of the kills (SIGKILL) hit the gateway, a third the observer, the rest all three at once, which is what a kill
of `tokenworks serve` comes to. Each comes after a random time of load; what was killed is started again. At the end the
system is stopped and what the clients noted is compared with what the ledger has: exit code 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Final

from benchmarks.durability.clients import Client
from benchmarks.durability.parts import EVERYTHING, GATEWAY, OBSERVER, WORKER, Parts, lower_priority
from benchmarks.durability.verdict import Verdict, is_right, verdict
from tokenworks.contract.config import LedgerSettings
from tokenworks.observe.store import open_ledger

LOAD_S: Final = (0.1, 1.2)  # before the next kill
NUM_CLIENTS: Final = 2
_VICTIMS: Final = (((GATEWAY,), 50), ((OBSERVER,), 33), (EVERYTHING, 17))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", default="", help="of PostgreSQL, empty; without, SQLite in a temporary folder")
    given = parser.parse_args()
    lower_priority()
    random = Random(given.seed)
    victims = random.choices([each for each, _ in _VICTIMS], [weight for _, weight in _VICTIMS], k=given.kills)
    with tempfile.TemporaryDirectory(prefix="tw-durability-") as folder:
        started_s = time.monotonic()
        found = run(Path(folder), victims, random, given.database)
    print(json.dumps(found._asdict() | {"took_s": round(time.monotonic() - started_s)}, indent=1))
    raise SystemExit(0 if is_right(found) else 1)


def run(folder: Path, victims: Sequence[Sequence[str]], random: Random, database: str = "") -> Verdict:
    """Load, a kill, a start; once for each of `victims`."""
    parts = Parts(folder, database)
    clients = [Client(f"c{number}", parts.port, random.randrange(2**32)) for number in range(NUM_CLIENTS)]
    try:
        parts.start()
        for client in clients:
            client.start()
        for victim in victims:
            time.sleep(random.uniform(*LOAD_S))
            parts.kill(victim)
            parts.start(victim)
        time.sleep(random.uniform(*LOAD_S))
        for client in clients:
            client.stop()
        parts.stop()
    finally:
        parts.end()
    settings = LedgerSettings(path=str(folder / "state"), database=database)
    with closing(open_ledger(settings)) as ledger:
        return verdict(ledger, parts.kills, clients, parts.lives_s[WORKER])


if __name__ == "__main__":
    main()
