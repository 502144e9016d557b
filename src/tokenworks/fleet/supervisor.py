"""Runs one machine's gateway, workers, store and observer as children until it is told to stop or cannot go on.

The thin half of supervision: it turns signals, exits, the gateway's health and the clock into events, hands each to
`lifecycle.Lifecycle` and carries out what comes back. It decides nothing. Only the main thread starts processes (the
lifeline hangs on it); a child's threads and the signal handlers do no more than put an event into the queue.
"""

from __future__ import annotations

import os
import queue
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

import zmq
from msgspec.structs import replace

from tokenworks.contract.config import Settings
from tokenworks.contract.errors import PartNotStarted, TokenworksError
from tokenworks.contract.folders import LONGEST_SOCKET_PATH, state_folder
from tokenworks.contract.loader import write_settings
from tokenworks.contract.wire import WorkerExited, encode
from tokenworks.fleet.child import Child
from tokenworks.fleet.console import FleetConsole
from tokenworks.fleet.cores import available_cores
from tokenworks.fleet.derive import cores_of_workers, derive
from tokenworks.fleet.events import (
    Event,
    Finish,
    Instruction,
    Kill,
    Ready,
    ReportExit,
    Say,
    ShowAddress,
    Spawn,
    Started,
    StopAsked,
    Terminate,
    Tick,
)
from tokenworks.fleet.health import ready_children
from tokenworks.fleet.launch import SETTINGS_FILE, child_command, dial_address, worker_ids
from tokenworks.fleet.lifecycle import EXIT_CANNOT_START, Lifecycle
from tokenworks.fleet.port import held_port

CommandFor = Callable[[str, Settings, Path], list[str]]
_POLL_S: Final = 0.2
_HEED_S: Final = 0.5
"""The longest wait for an event. Python runs a signal's handler in the main thread, when that does something next: a
signal that the system gave to another thread, or just before the wait, does not end the wait."""
_REPORT_TIMEOUT_MS: Final = 1000  # a gateway that has just started may be connected to a moment later
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_NAME_BYTES: Final = 40  # room for `/tokenworks-`, eight random characters, and a socket's name below that


def serve(settings: Settings, command_for: CommandFor = child_command) -> None:
    """Serve until stopped; raises StartupError where it cannot start, TokenworksError where it did not stop cleanly."""
    with _run_dir() as run_dir, held_port(settings.gateway.host, settings.gateway.port) as port:
        settings = replace(settings, gateway=replace(settings.gateway, port=port))
        settings = derive(settings, run_dir, len(available_cores()))
        write_settings(settings, run_dir / SETTINGS_FILE)
        finish = Supervisor(settings, lambda name: command_for(name, settings, run_dir)).run()
    if finish.code == EXIT_CANNOT_START:
        raise PartNotStarted(finish.message, finish.part, finish.reason)
    if finish.message:
        raise TokenworksError(finish.message)


class Supervisor:
    """The processes of one machine. `settings` are derived in full; `command_for` gives a child's command line."""

    def __init__(self, settings: Settings, command_for: Callable[[str], list[str]]) -> None:
        self._settings = settings
        self._command_for = command_for
        self._cores = cores_of_workers(settings, available_cores())
        self._lifecycle = Lifecycle(
            worker_ids(settings),
            settings.fleet.drain_s,
            has_store=settings.kv.is_on,
            has_observer=state_folder(settings.ledger) is not None,
        )
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._children: dict[str, Child] = {}
        self._console = FleetConsole(is_json=settings.fleet.log_format == "json")

    def run(self) -> Finish:
        """Start everything, and return when everything is gone."""
        with self._signals(), zmq.Context() as context, context.socket(zmq.DEALER) as self._to_gateway:
            # Without IMMEDIATE a message would wait for a gateway that is down and reach it after the worker is back.
            self._to_gateway.setsockopt(zmq.IMMEDIATE, 1)
            self._to_gateway.setsockopt(zmq.LINGER, 0)
            self._to_gateway.setsockopt(zmq.SNDTIMEO, _REPORT_TIMEOUT_MS)
            self._to_gateway.connect(dial_address(self._settings))
            try:
                return self._loop()
            finally:
                self._console.close()

    def _loop(self) -> Finish:
        self._events.put(Started())
        while True:
            for instruction in self._lifecycle.on(self._next_event(), time.monotonic()):
                if isinstance(instruction, Finish):
                    return instruction
                self._do(instruction)
            self._console.wait_for(self._lifecycle.awaited)

    def _next_event(self) -> Event:
        wake_at = self._lifecycle.wake_at
        wait_s = _POLL_S if self._lifecycle.awaited else _HEED_S
        if wake_at is not None:
            wait_s = min(wait_s, max(0.0, wake_at - time.monotonic()))
        try:
            return self._events.get(timeout=wait_s)
        except queue.Empty:
            self._ask_who_is_ready()
            return Tick()

    def _ask_who_is_ready(self) -> None:
        awaited = self._lifecycle.awaited
        if awaited:
            gateway = self._settings.gateway
            for name in ready_children(gateway.host, gateway.port):
                if name in awaited:
                    self._events.put(Ready(name))

    def _do(self, instruction: Instruction) -> None:
        match instruction:
            case Spawn():
                self._spawn(instruction.name)
            case Terminate():
                self._children[instruction.name].signal(signal.SIGTERM)
            case Kill():
                self._children[instruction.name].signal(signal.SIGKILL)
            case ReportExit():
                self._report(WorkerExited(instruction.worker_id, instruction.reason, instruction.was_ready))
            case ShowAddress():
                self._console.show_address(self._settings)
            case Say():
                self._console.say(instruction.text)

    def _spawn(self, name: str) -> None:
        command, cores = self._command_for(name), self._cores.get(name)
        self._children[name] = Child(name, command, self._console.pass_on, self._events.put, cores)

    def _report(self, message: WorkerExited) -> None:
        # Again: the gateway is gone (the next one knows of no worker) or hangs (its lease on the worker will end).
        with suppress(zmq.Again):
            self._to_gateway.send(encode(message))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def ask(number: int, frame: FrameType | None) -> None:
            self._events.put(StopAsked())  # a SimpleQueue takes this even while the main thread is inside its `get`

        before = {number: signal.signal(number, ask) for number in _STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _run_dir() -> Iterator[Path]:
    """A private folder (mode 0700) for the sockets and the settings, gone afterwards."""
    is_short = len(os.fsencode(tempfile.gettempdir())) <= LONGEST_SOCKET_PATH - _NAME_BYTES
    with tempfile.TemporaryDirectory(prefix="tokenworks-", dir=None if is_short else "/tmp") as path:
        yield Path(path)
