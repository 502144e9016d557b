"""Real servers for the remote tiers, and a small file system that can be filled."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.free_port import free_port

PATIENCE_S = 60.0  # a bound for a machine that is busy with other things, not an expectation


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what}: not after {PATIENCE_S:.0f} s"
        time.sleep(0.01)


class RedisServer:
    """A redis-server on a port and a unix socket of its own, which can be killed and started again, empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.socket = folder / "redis.sock"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *options: str) -> None:
        command = [
            "redis-server",
            "--port",
            str(self.port),
            "--unixsocket",
            str(self.socket),
            "--dir",
            str(self.folder),
        ]
        command += ["--save", "", "--bind", "127.0.0.1", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(self._answers, "redis-server answers")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def command(self, *words: str | bytes) -> bytes:
        """The answer to one command, as Redis writes it."""
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        message = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_S) as connection:
            connection.sendall(message)
            return connection.recv(1 << 16)

    def _answers(self) -> bool:
        try:
            return bool(self.command("PING"))
        except OSError:
            return False


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: `apt-get install redis-server`, or your system's package")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


class S3Server:
    """moto's S3 over HTTP, with an empty bucket for each test."""

    def __init__(self) -> None:
        self.port = free_port()
        self.bucket = ""
        self._buckets = itertools.count()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def new_bucket(self) -> None:
        self.bucket = f"blocks-{next(self._buckets)}"
        self.put("", None)

    def put(self, path: str, body: bytes | None) -> None:
        """Put an object into the bucket, past the tier; moto takes it unsigned."""
        url = f"http://127.0.0.1:{self.port}/{self.bucket}/{path}"
        request = urllib.request.Request(url.rstrip("/"), body, method="PUT")
        request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request")
        urllib.request.urlopen(request, timeout=PATIENCE_S).close()

    def answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), PATIENCE_S).close()
        except OSError:
            return False
        return True


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """Starting it takes seconds, so one does for all tests."""
    pytest.importorskip("moto", reason="moto is not installed: `make test` installs it")
    server = S3Server()
    try:
        wait_until(server.answers, "moto answers")
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture
def s3_server(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for variable in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    moto.new_bucket()
    return moto


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own: 64 MiB and 300 files, of which the tier's own folders take 260."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=300", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system takes root; test_disk.py fills the limit and one file's size without")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
