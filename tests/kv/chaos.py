"""A real store, real workers and a real Redis behind a slow line, and everything that can go wrong with them at once.

    python -m tests.kv.chaos --seconds 120 --seed 7 8 9

Workers (`chaos_client`) put and get what they like, while stores and workers are killed and stopped in the middle, bits
flip in shared memory, files and Redis, files are cut, emptied and swapped, the disk takes nothing, the line turns slow
or breaks. The wall clock is mad anyway (`run_store`). Then all is well again, and what must hold is looked at: `check`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Final

from tests.kv.chain import ChainBlock, chain
from tests.kv.chaos_client import CHAINS, LENGTH, world
from tests.kv.peer import PATIENCE_S, Lost, Peer
from tests.kv.rig import PLACE_BYTES
from tests.kv.running_store import RunningStore
from tests.kv.throttle import ThrottledProxy
from tests.kv.tiers.conftest import RedisServer
from tokenworks.contract.kv import Tier
from tokenworks.contract.memory import STORE_MEMORY
from tokenworks.kv.client import StoreGone

LAYOUT: Final = "tokenworks-kv-1"
"""The folder of block files, and its name: a release that finds nothing under it finds nothing at all."""
ROOT: Final = Path(__file__).parents[2]
PLACES: Final = CHAINS * LENGTH // 2  # in host memory: half of all blocks
DISK_BLOCKS: Final = CHAINS * LENGTH * 2 // 3
BLOCK_BYTES: Final = 8320
LEASE_S: Final = 2.0
CLIENTS: Final = 3
OWN_BYTES: Final = 200 << 20
"""What a store may take beside its shared memory, Python and NumPy included."""
OPEN_FILES: Final = 100
LAST_CHAINS: Final = [chain(PLACES // 2, seed=1000 + half) for half in (0, 1)]


class Chaos:
    """One run; use as a context manager."""

    def __init__(self, folder: Path, seed: int, redis: RedisServer | None = None) -> None:
        self.dice = random.Random(seed)
        self.done: Counter[str] = Counter()  # what was done to it
        self.seen: Counter[str] = Counter()  # what the workers saw that left of themselves
        self._redis = redis
        self._clients: list[subprocess.Popen[str]] = []
        self._num_clients = 0
        self._open = ExitStack()
        self.store = self._open.enter_context(closing(RunningStore(folder)))
        self.store.lease_s, self.store.log = LEASE_S, folder / "log"
        self.store.host_bytes, self.store.disk_bytes = PLACES * PLACE_BYTES, DISK_BLOCKS * BLOCK_BYTES
        if redis is not None:
            self._line = self._open.enter_context(ThrottledProxy(("127.0.0.1", redis.port)))
            self.store.remote = f"redis://127.0.0.1:{self._line.port}"

    def __enter__(self) -> Chaos:
        self.store.start()
        for _ in range(CLIENTS):
            self._start_client()
        for client in self._clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "here\n"
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self.store.log is not None:
            print(self.store.log.read_text()[-200000:], file=sys.stderr)
        for client in self._clients:
            client.kill()
            client.communicate()
        self._open.close()

    def run(self, seconds: float) -> None:
        """Do harm for so long."""
        harms: list[Callable[[], None]] = [self.kill_store, self.end_store]
        harms += 2 * [self.stop_store, self.kill_client, self.stop_client, self.refuse_writes, self.take_writes]
        harms += 4 * [self.flip_memory, self.spoil_file]
        if self._redis:
            harms += [self.cut_line, self.restart_redis, *3 * [self.slow_line, self.spoil_redis]]
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            time.sleep(self.dice.uniform(0.02, 0.4))
            harm = self.dice.choice(harms)
            self.done[harm.__name__] += 1
            harm()

    # Harm

    def kill_store(self) -> None:
        assert self.process.poll() is None, "the store has ended by itself"
        self.store.end(signal.SIGKILL)
        time.sleep(self.dice.choice([0.0, 0.2]))
        self.store.start()

    def end_store(self) -> None:
        assert self.process.poll() is None, "the store has ended by itself"
        assert self.store.end(signal.SIGTERM) in (0, -signal.SIGTERM)  # the latter before it has begun to listen
        self.store.start()

    def stop_store(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(self.dice.uniform(0.05, 0.6))
        self.process.send_signal(signal.SIGCONT)

    def kill_client(self) -> None:
        client = self._clients.pop(self.dice.randrange(len(self._clients)))
        client.kill()
        self._start_client()
        client.communicate()

    def stop_client(self) -> None:
        client = self.dice.choice(self._clients)
        client.send_signal(signal.SIGSTOP)
        time.sleep(self.dice.uniform(0.05, 0.6))
        client.send_signal(signal.SIGCONT)

    def flip_memory(self) -> None:
        """A few bits, anywhere in the arena."""
        arena = self._arena()
        if arena is not None:
            with suppress(OSError), arena.open("r+b", buffering=0) as memory:
                for _ in range(5):
                    self._flip(memory.fileno(), self.store.host_bytes)

    def spoil_file(self) -> None:
        """Flip a bit, cut, empty, remove, or replace by another."""
        files = self._files()
        if not files:
            return
        file, other = self.dice.choice(files), self.dice.choice(files)
        try:
            with file.open("r+b", buffering=0) as opened:
                self.dice.choice(
                    [
                        lambda: self._flip(opened.fileno(), BLOCK_BYTES),
                        lambda: opened.truncate(self.dice.randrange(BLOCK_BYTES)),
                        lambda: opened.write(bytes(BLOCK_BYTES)),
                        lambda: opened.write(other.read_bytes()),
                        file.unlink,
                    ]
                )()
        except FileNotFoundError:
            pass  # the store was quicker

    def refuse_writes(self) -> None:
        """As a disk that is full: no file may be longer than a page. Not before it has its memory, which is one too."""
        if self._arena() is not None:
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

    def take_writes(self) -> None:
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    def slow_line(self) -> None:
        self._line.bytes_per_s = self.dice.choice([1e4, 1e6, 1e12])
        self._line.latency_s = self.dice.choice([0.0, 0.02, 0.2])

    def cut_line(self) -> None:
        self._line.cut()

    def restart_redis(self) -> None:
        assert self._redis is not None
        self._redis.kill()
        self._redis.start()

    def spoil_redis(self) -> None:
        assert self._redis is not None
        words = self._redis.command("RANDOMKEY").split(b"\r\n")
        if len(words) > 2:
            self._redis.command("SETRANGE", words[1], str(self.dice.randrange(BLOCK_BYTES)), "x")

    # What must hold

    def check(self) -> None:
        """Everything is well again: right bytes, nothing lost, nothing leaked, nothing boundless."""
        self.take_writes()
        if self._redis is not None:
            self._line.bytes_per_s, self._line.latency_s = 1e12, 0.0
        self._end_clients()
        with Peer(self.store.address, "the last") as peer:
            self._hold_all(peer)
            status = self.store.status()
            for tier, limit in ((Tier.HOST, self.store.host_bytes), (Tier.DISK, self.store.disk_bytes)):
                assert status.tiers[tier].used_bytes <= limit, tier
            for tier, told in status.tiers.items():
                self.seen.update({f"store: {tier}, {fault}": count for fault, count in told.faults.items()})
        self._check_process()
        assert self.store.end(signal.SIGTERM) == 0
        self._check_disk()
        assert self.store.log is not None
        assert "Traceback" not in self.store.log.read_text()

    def _end_clients(self) -> None:
        for client in self._clients:
            client.send_signal(signal.SIGTERM)
        for client in self._clients:
            words, _ = client.communicate(timeout=PATIENCE_S)
            if words or client.returncode != -signal.SIGTERM:  # it had not begun
                assert client.returncode == 0, words
                self.seen.update(json.loads(words.splitlines()[-1]))
        self._clients.clear()

    def _hold_all(self, peer: Peer) -> None:
        """All of the memory can be had at once, as soon as leases are over and what was under way has ended."""
        end_s = time.monotonic() + PATIENCE_S
        while not all(self._hold(peer, half) for half in LAST_CHAINS):
            assert time.monotonic() < end_s, "places that are never given back"
            peer.done_with_all()

    def _hold(self, peer: Peer, blocks: list[ChainBlock]) -> bool:
        """Put what is not there and pin it all; the session may be lost meanwhile, on a machine that is busy."""
        peer.until_attached()
        peer.client.offer([block.offered(1e6) for block in blocks])
        peer.poll()
        places = peer.granted()
        with suppress(StoreGone, Lost):
            peer.write(places, [*LAST_CHAINS[0], *LAST_CHAINS[1]])  # a grant of the other half may come late
            peer.client.commit([place.name for place in places])
            got = peer.get(blocks, is_done=False)
            wrong = {got[block.name] for block in blocks if got[block.name] != block.content}
            assert wrong <= {"missing", "no_room"}, wrong
            return not wrong
        peer.events.clear()
        return False

    def _check_process(self) -> None:
        sizes = dict(line.split(":") for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines())
        assert int(sizes["RssAnon"].split()[0]) << 10 < OWN_BYTES
        assert len(list(Path(f"/proc/{self.process.pid}/fd").iterdir())) < OPEN_FILES

    def _check_disk(self) -> None:
        files = self._files()
        assert sum(file.stat().st_size for file in files) <= self.store.disk_bytes
        assert not list((self.store.disk / LAYOUT / "new").iterdir())
        known = {block.name.hex() for blocks in world() for block in blocks}
        known |= {block.name.hex() for half in LAST_CHAINS for block in half}
        assert {file.name for file in files} <= known

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self.store.process is not None
        return self.store.process

    def _start_client(self) -> None:
        self._num_clients += 1
        words = [self.store.address, f"w{self._num_clients}", str(self.dice.getrandbits(32))]
        command = [sys.executable, "-m", "tests.kv.chaos_client", *words]
        self._clients.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))

    def _arena(self) -> Path | None:
        """The store's shared memory, once it is there."""
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(OSError):
                if STORE_MEMORY in os.readlink(link) and link.stat().st_size == self.store.host_bytes:
                    return link
        return None

    def _files(self) -> list[Path]:
        return [file for file in (self.store.disk / LAYOUT).glob("??/*") if len(file.name) == 32]

    def _flip(self, file: int, num_bytes: int) -> None:
        at = self.dice.randrange(num_bytes)
        if byte := os.pread(file, 1, at):
            os.pwrite(file, bytes([byte[0] ^ 1 << self.dice.randrange(8)]), at)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--no-redis", action="store_true")
    chosen = parser.parse_args()
    for seed in chosen.seed:
        with tempfile.TemporaryDirectory(prefix="kv") as folder, ExitStack() as stack:
            redis = None
            if not chosen.no_redis:
                redis = RedisServer(Path(folder))
                redis.start()
                stack.callback(redis.kill)
            with Chaos(Path(folder), seed, redis) as chaos:
                chaos.run(chosen.seconds)
                chaos.check()
                print(seed, dict(chaos.done), dict(sorted(chaos.seen.items())), flush=True)


if __name__ == "__main__":
    main()
