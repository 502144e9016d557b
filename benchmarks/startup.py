"""Seconds from `tokenworks serve` to the first token, and the worker's peak memory.

    python benchmarks/startup.py [CHECKPOINT] [--rounds 3]

Starts the whole system, asks for one streamed token as soon as it is ready, and reads the worker's high-water mark from
/proc: anonymous memory (weights packed, KV touched, everything PyTorch holds) apart from the pages of mapped files,
which the system takes back when it needs them. The target: a peak within 1.3 times the bytes on disk plus the KV pool;
the pool is given as a size here and counted as if it were full, though it is touched only as it is used.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

KV_BYTES = 2 << 30


def serve_once(checkpoint: str) -> dict[str, float]:
    """One start: seconds to ready and to the first token, and memory after it."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "tokenworks", "serve", "--port", "0", "--kv-bytes", str(KV_BYTES)]
    command += [checkpoint] if checkpoint else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        url = next(match[1] for line in process.stdout if (match := re.search(r"at (http://\S+)/v1", line)))
        ready = time.perf_counter() - start
        first_token(url)
        return {"ready_s": ready, "first_token_s": time.perf_counter() - start, **memory_of(worker_of(process.pid))}
    finally:
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        process.wait()


def first_token(url: str) -> None:
    """Ask for one streamed token and read it."""
    model = json.load(urllib.request.urlopen(f"{url}/v1/models"))["data"][0]["id"]
    body = {"model": model, "prompt": "The", "max_tokens": 1, "stream": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    assert urllib.request.urlopen(request).readline().startswith(b"data:")


def worker_of(parent: int) -> int:
    """The process id of the worker that `parent` started."""
    rows = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    split = [row.split(None, 2) for row in rows.splitlines()[1:]]
    return next(int(pid) for pid, ppid, args in split if int(ppid) == parent and "tokenworks worker" in args)


def memory_of(pid: int) -> dict[str, float]:
    """Bytes: peak, and what is resident now, by kind."""
    status = Path(f"/proc/{pid}/status").read_text()
    names = {"VmHWM": "peak_bytes", "RssAnon": "anonymous_bytes", "RssFile": "mapped_file_bytes"}
    found = {field: int(kib) * 1024 for field, kib in re.findall(r"^(\w+):\s+(\d+) kB", status, re.MULTILINE)}
    return {name: found[field] for field, name in names.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = [serve_once(options.checkpoint) for _ in range(options.rounds)]
    figures = {name: statistics.median(round_[name] for round_ in rounds) for name in rounds[0]}
    if options.checkpoint:
        on_disk = sum(path.stat().st_size for path in Path(options.checkpoint).glob("*.safetensors"))
        figures |= {"on_disk_bytes": on_disk, "kv_pool_bytes": KV_BYTES}
        full = figures["peak_bytes"] + KV_BYTES  # hardly a page of the pool has been touched yet
        figures["peak_with_full_pool_over_disk_and_pool"] = full / (on_disk + KV_BYTES)
    print(json.dumps({"median": figures, "rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()
