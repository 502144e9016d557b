"""A gateway's end of workers' links, in a test's hands."""

from __future__ import annotations

import time
from collections.abc import Callable

import zmq

from tokenworks.contract.record import SequenceReport
from tokenworks.contract.wire import (
    End,
    Goodbye,
    Heartbeat,
    Hello,
    Message,
    SequenceOutput,
    StepOutput,
    decode_to_gateway,
    encode,
)

SOON_S = 120.0  # never reached but by a test that fails


class Gateway:
    """The other end of the workers' links."""

    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(address)
        self.identities: dict[str, bytes] = {}
        self.outputs: list[SequenceOutput] = []
        self.beats: list[Heartbeat] = []
        self.has_left = False

    def take_until(self, is_done: Callable[[], bool]) -> None:
        until_s = time.monotonic() + SOON_S
        while not is_done():
            assert time.monotonic() < until_s, "it does not happen"
            if self._socket.poll(50):
                identity, frame = self._socket.recv_multipart()
                message = decode_to_gateway(frame)
                if isinstance(message, Hello):
                    self.identities[message.worker_id] = identity
                elif isinstance(message, StepOutput):
                    self.outputs += message.outputs
                elif isinstance(message, Heartbeat):
                    self.beats.append(message)
                elif isinstance(message, Goodbye):
                    self.has_left = True

    def send(self, worker: str, message: Message) -> None:
        self._socket.send_multipart([self.identities[worker], encode(message)])

    def has_ended(self, request_id: str) -> bool:
        return any(output.request_id == request_id and output.end for output in self.outputs)

    def of(self, request_id: str) -> list[SequenceOutput]:
        return [output for output in self.outputs if output.request_id == request_id]

    def end(self, request_id: str) -> End:
        [end] = [output.end for output in self.of(request_id) if output.end is not None]
        return end

    def report(self, request_id: str) -> SequenceReport:
        report = self.end(request_id).report
        assert report is not None
        return report

    def close(self) -> None:
        self._context.destroy(linger=0)
