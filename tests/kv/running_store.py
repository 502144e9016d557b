"""A store process that can be killed and started again over the same folder, and what it tells its gateway."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import zmq

from tests.kv.peer import PATIENCE_S
from tokenworks.contract.kv import Tier
from tokenworks.contract.wire import StoreStatus, decode_to_gateway

FOLDER = Path(__file__).parent
HOST_BYTES = 1 << 20


class RunningStore:
    """A store that can be killed and started again at the same address, over the same folder."""

    def __init__(self, folder: Path) -> None:
        self.address = f"ipc://{folder}/store"
        self.disk = folder / "disk"
        self.lease_s = 30.0
        self.host_bytes = HOST_BYTES
        self.remote = ""
        self.disk_bytes = 1 << 30
        self.log: Path | None = None  # where the process writes, if not where the tests do
        self.process: subprocess.Popen[bytes] | None = None
        self._gateway_address = f"ipc://{folder}/gateway"
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gateway = self._context.socket(zmq.ROUTER)
        self._gateway.bind(self._gateway_address)

    def start(self) -> None:
        arguments = [self.address, self._gateway_address, str(self.lease_s), str(self.host_bytes), str(self.disk)]
        command = [sys.executable, str(FOLDER / "run_store.py"), *arguments, self.remote, str(self.disk_bytes)]
        with nullcontext() if self.log is None else self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)

    def end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGKILL)
        self._gateway.close(linger=0)
        self._context.term()

    def status(self) -> StoreStatus:
        """The next one that this process says of itself; what it said before nobody listened is passed over."""
        assert self.process is not None
        while self._gateway.poll(0):
            self._gateway.recv_multipart()
        while self._gateway.poll(int(PATIENCE_S * 1000)):
            message = decode_to_gateway(self._gateway.recv_multipart()[1])
            assert isinstance(message, StoreStatus)
            if message.pid == self.process.pid:
                return message
        raise AssertionError("the store says nothing to its gateway")

    def until_counted(self, tier: Tier, fault: str) -> int:
        end_s = time.monotonic() + PATIENCE_S
        while not (times := self.status().tiers[tier].faults.get(fault, 0)):
            assert time.monotonic() < end_s, f"no {fault} counted"
        return times
