"""What the supervisor does next: `(state, event, now) -> instructions`, with no process, socket, signal or clock in it.

The gateway, the workers and, where there are such, the KV store and the observer start together; the system answers
once the gateway and a worker are ready, and never waits for the store. A child that ends before it was ever ready
cannot start, so the whole fleet ends loudly with what it said last. A child that was ready once is restarted for ever:
after 0.5 s, then twice as long each time up to 30 s, and after 0.5 s again once it has run well for a minute. The
observer is beside all this: it counts as ready when it starts, so it is restarted like the others and ends nothing.

Stopping drains: first the gateway is asked to end (it refuses new requests and lets the open ones finish), then the
workers and the observer (the gateway has written its last record), then the store, to which the workers publish until
their end. Whoever is not gone when its time is up, or at the second ask, is killed.

Invariants: each `Spawn` follows an exit of that child or the start; after `Finish` nothing runs and nothing comes.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from tokenworks.fleet.events import (
    GATEWAY,
    OBSERVER,
    STORE,
    Event,
    Exited,
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

FIRST_BACKOFF_S: Final = 0.5
LAST_BACKOFF_S: Final = 30.0
GOOD_RUN_S: Final = 60.0
GRACE_S: Final = 10.0  # over the drain time, for the goodbyes
FLUSH_S: Final = 20.0  # that the store has to write out what is not on disk yet
NO_WORKERS: Final = frozenset({GATEWAY, STORE, OBSERVER})
EXIT_CLEAN: Final = 0
EXIT_FAILED: Final = 1
EXIT_CANNOT_START: Final = 3


class Phase(Enum):
    """Where the fleet as a whole is."""

    RUNNING = auto()
    DRAINING = auto()  # the gateway was asked to end
    CLOSING = auto()  # the gateway is gone, the workers were asked to end
    FLUSHING = auto()  # the workers are gone too, the store was asked to end
    KILLING = auto()
    ENDED = auto()


@dataclass
class _Child:
    name: str
    is_up: bool = False
    is_ready: bool = False
    was_ready: bool = False
    ready_at: float = 0.0
    failures: int = 0  # in a row, each shorter than a good run
    restart_at: float | None = None

    def spawn(self, now: float) -> Instruction:
        self.is_up, self.restart_at = True, None
        if self.name == OBSERVER:
            self.is_ready, self.was_ready, self.ready_at = True, True, now
        return Spawn(self.name)

    def down(self, now: float) -> float:
        """Note the exit; the seconds until a restart."""
        if self.is_ready and now - self.ready_at >= GOOD_RUN_S:
            self.failures = 0
        self.is_up = self.is_ready = False
        self.failures += 1
        return float(min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(self.failures - 1, 16)))


class Lifecycle:
    """The fleet's state. `on` takes an event and says what to do; by `wake_at` it wants a `Tick` if nothing happens."""

    def __init__(
        self, worker_ids: list[str], drain_s: float, has_store: bool = False, has_observer: bool = False
    ) -> None:
        self.phase = Phase.RUNNING
        names = [GATEWAY, *([STORE] if has_store else []), *worker_ids, *([OBSERVER] if has_observer else [])]
        self._children = {name: _Child(name) for name in names}
        self._drain_s = drain_s
        self._deadline: float | None = None
        self._is_shown = False
        self._finish = Finish(EXIT_CLEAN, "")

    @property
    def awaited(self) -> list[str]:
        """Children that run but are not ready yet."""
        return [child.name for child in self._children.values() if child.is_up and not child.is_ready]

    @property
    def wake_at(self) -> float | None:
        """The next moment at which time alone changes something; None: never."""
        moments = [child.restart_at for child in self._children.values()] + [self._deadline]
        return min((moment for moment in moments if moment is not None), default=None)

    def on(self, event: Event, now: float) -> list[Instruction]:
        """What to do about `event`; `now` is monotonic seconds."""
        if self.phase is Phase.ENDED:
            return []
        match event:
            case Started():
                return [child.spawn(now) for child in self._children.values()]
            case Ready():
                return self._on_ready(self._children[event.name], now)
            case Exited():
                return self._on_exit(event, now) + self._go_on_if_empty(now)
            case StopAsked():
                return self._on_stop(now) + self._go_on_if_empty(now)
            case Tick():
                return self._on_time(now)

    def _on_ready(self, child: _Child, now: float) -> list[Instruction]:
        if not child.is_up or child.is_ready:
            return []
        is_back = child.was_ready
        child.is_ready = child.was_ready = True
        child.ready_at = now
        if self.phase is not Phase.RUNNING:
            return []
        if is_back:
            return [Say(f"{child.name} is back")]
        if self._is_shown or not self._answers():
            return []
        self._is_shown = True
        return [ShowAddress()]

    def _answers(self) -> bool:
        workers = [child for child in self._children.values() if child.name not in NO_WORKERS]
        return self._children[GATEWAY].is_ready and any(worker.is_ready for worker in workers)

    def _on_exit(self, event: Exited, now: float) -> list[Instruction]:
        child = self._children[event.name]
        was_serving = child.is_ready
        delay_s = child.down(now)
        if self.phase is Phase.RUNNING:
            then = f"it restarts in {delay_s:g} s"
            return self._restart_or_fail(child, event, now + delay_s, then, was_serving)
        if child.name == OBSERVER and event.code != 0 and self.phase is not Phase.KILLING:
            return [Say(f"{child.name} {describe_exit(event.code)}; what it had not taken in yet is in the journal")]
        if self.phase is Phase.FLUSHING and event.code != 0 and was_serving:
            return [
                Say(f"{child.name} {describe_exit(event.code)}; what it had not written yet will be computed again")
            ]
        if self.phase is not Phase.DRAINING:
            return []
        if child.name != GATEWAY:
            return self._report(event, was_serving)
        if event.code != 0 and was_serving:  # one that was still starting has no drain to fail
            self._finish = Finish(EXIT_FAILED, f"the gateway did not drain: it {describe_exit(event.code)}")
        return self._close(now)

    def _restart_or_fail(
        self, child: _Child, event: Exited, restart_at: float, then: str, was_serving: bool
    ) -> list[Instruction]:
        how = describe_exit(event.code)
        if child.was_ready:
            child.restart_at = restart_at
            return [*self._report(event, was_serving), Say(f"{child.name} {how}; {then}")]
        said = event.last_words or "it said nothing"
        message = f"{child.name} could not start (it {how}): {said}"
        return self._kill_all(Finish(EXIT_CANNOT_START, message, child.name, f"{how}: {said}"))

    def _report(self, event: Exited, was_serving: bool) -> list[Instruction]:
        """Tell of a worker to a gateway that runs and goes on running; any other has no request that this could end."""
        if event.name in NO_WORKERS or not self._children[GATEWAY].is_up:
            return []
        how = describe_exit(event.code)
        reason = how if was_serving or not event.last_words else f"{how}: {event.last_words}"
        return [ReportExit(event.name, reason, was_serving)]

    def _on_stop(self, now: float) -> list[Instruction]:
        if self.phase is Phase.KILLING:
            return []
        if self.phase is not Phase.RUNNING:
            return self._kill_all(Finish(EXIT_FAILED, "stopped at once, as asked; open requests were cut"))
        for child in self._children.values():
            child.restart_at = None
        if not self._children[GATEWAY].is_up:
            return self._close(now)
        self.phase = Phase.DRAINING
        self._deadline = now + self._drain_s + GRACE_S
        return [Say("draining: open requests may finish; Ctrl-C again stops at once"), Terminate(GATEWAY)]

    def _close(self, now: float) -> list[Instruction]:
        """The gateway is gone; the workers may go. They may still have work from gateways elsewhere."""
        self.phase = Phase.CLOSING
        self._deadline = now + self._drain_s + GRACE_S
        return [Terminate(name) for name in self._up() if name != STORE]

    def _on_time(self, now: float) -> list[Instruction]:
        if self._deadline is not None and now >= self._deadline:
            late = ", ".join(self._up())
            return self._kill_all(Finish(EXIT_FAILED, f"{late} did not end in time and was killed"))
        return [
            child.spawn(now)
            for child in self._children.values()
            if child.restart_at is not None and now >= child.restart_at
        ]

    def _kill_all(self, finish: Finish) -> list[Instruction]:
        self.phase, self._deadline, self._finish = Phase.KILLING, None, finish
        for child in self._children.values():
            child.restart_at = None
        return [Kill(name) for name in self._up()]

    def _go_on_if_empty(self, now: float) -> list[Instruction]:
        """Once the workers are gone it is the store's turn, and once everything is, the end."""
        if self.phase is Phase.CLOSING and self._up() == [STORE]:
            self.phase, self._deadline = Phase.FLUSHING, now + FLUSH_S + GRACE_S
            return [Terminate(STORE)]
        if self.phase not in (Phase.CLOSING, Phase.FLUSHING, Phase.KILLING) or self._up():
            return []
        self.phase, self._deadline = Phase.ENDED, None
        return [self._finish]

    def _up(self) -> list[str]:
        return [child.name for child in self._children.values() if child.is_up]


def describe_exit(code: int) -> str:
    """How a process ended, as the end of a sentence about it."""
    if code >= 0:
        return f"exited with code {code}"
    hint = "; out of memory?" if -code == signal.SIGKILL else ""
    return f"was killed by signal {-code} ({signal.strsignal(-code)}{hint})"
