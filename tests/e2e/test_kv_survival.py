"""Conversations outlive the worker, the store and the whole system, also on a disk that was harmed: the same text."""

from __future__ import annotations

import keyword
import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.e2e.conftest import PATIENCE_S, start

if TYPE_CHECKING:
    from tests.e2e.conftest import Served

pytestmark = pytest.mark.slow

Wait = Callable[[Callable[[], object], str], None]
NUM_PROMPTS = 6


def prompts() -> list[str]:
    """Long enough that fetching wins however busy the machine is, all together more than the worker holds."""
    return [" ".join(random.Random(seed).choices(keyword.kwlist, k=600)) for seed in range(NUM_PROMPTS)]


def ask(served: Served) -> tuple[list[str], Counter[str]]:
    """Each prompt's text, and the tokens that were not computed, by tier."""
    texts: list[str] = []
    cached: Counter[str] = Counter()
    for prompt in prompts():
        body = {"prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
        answer = httpx.post(f"{served.url}/v1/completions", json=body, timeout=PATIENCE_S)
        assert answer.status_code == 200, answer.text
        texts.append(answer.json()["choices"][0]["text"])
        cached.update(answer.json()["usage"]["prompt_tokens_details"].get("cached_tokens_by_tier", {}))
    return texts, cached


@contextmanager
def running(folder: Path, disk: Path) -> Iterator[Served]:
    """A system over this disk, killed in the end, all of it at once."""
    options = ("--dtype", "float32", "--workers", "1", "--kv-bytes", "4MiB", "--kv-host-bytes", "64MiB")
    folder.mkdir()
    served = start(folder, *options, "--kv-disk-path", str(disk), "--kv-disk-bytes", "256MiB")
    try:
        yield served
    finally:
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(served.process.pid)], capture_output=True, text=True)
        for pid in (served.process.pid, *map(int, found.stdout.split())):
            os.kill(pid, signal.SIGKILL)
        served.process.wait()


def files_of(disk: Path) -> list[Path]:
    return sorted(disk.glob("tokenworks-kv-1/??/*"))


def test_what_was_said_is_found_again_after_every_kill_and_nothing_bad_is_believed(
    tmp_path: Path, wait_for: Wait
) -> None:
    disk = tmp_path / "disk"
    with running(tmp_path / "first", disk) as served:
        texts, _ = ask(served)
        [worker] = served.worker_pids()
        os.kill(worker, signal.SIGKILL)
        again, cached = ask(served)
        assert again == texts
        assert cached["host"] > 0, "the KV of the worker that was killed"
        put = served.metric("tokenworks_kv_tier_puts_total", tier="host")
        wait_for(lambda: len(files_of(disk)) >= put, "the blocks on disk")
    for file in files_of(disk)[::4]:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with running(tmp_path / "second", disk) as served:
        wait_for(lambda: served.metric("tokenworks_kv_tier_blocks", tier="disk") > 0, "the store to look at its disk")
        again, cached = ask(served)
        assert again == texts
        assert cached["disk"] > 0, "the KV of the system that was killed"
        wait_for(lambda: served.metric("tokenworks_kv_tier_faults_total", reason="checksum") > 0, "the count of harm")
        assert "Traceback" not in served.log.read_text()
