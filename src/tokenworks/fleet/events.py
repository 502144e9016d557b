"""What can happen to a fleet of processes, and what its supervisor can be told to do about it.

Events go into `lifecycle.Lifecycle`, instructions come out of it; `supervisor.Supervisor` makes the one and carries out
the other. Plain values: nothing here does anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GATEWAY: Final = "gateway"  # the gateway's name among the children; workers carry their ids
STORE: Final = "kv0"  # the id of this machine's KV store
OBSERVER: Final = "observer"


@dataclass(frozen=True)
class Started:
    """The supervisor runs; nothing else does."""


@dataclass(frozen=True)
class Ready:
    """A child can do its work."""

    name: str


@dataclass(frozen=True)
class Exited:
    """A child's process is gone."""

    name: str
    code: int  # negative: the signal that killed it
    last_words: str


@dataclass(frozen=True)
class StopAsked:
    """SIGTERM or SIGINT arrived."""


@dataclass(frozen=True)
class Tick:
    """Nothing happened but time."""


Event = Started | Ready | Exited | StopAsked | Tick


@dataclass(frozen=True)
class Spawn:
    """Start this child."""

    name: str


@dataclass(frozen=True)
class Terminate:
    """Ask this child to drain (SIGTERM)."""

    name: str


@dataclass(frozen=True)
class Kill:
    """End this child now (SIGKILL)."""

    name: str


@dataclass(frozen=True)
class ReportExit:
    """Tell the gateway that a worker's process is gone."""

    worker_id: str
    reason: str
    was_ready: bool = True  # False: it could not start


@dataclass(frozen=True)
class ShowAddress:
    """For the first time the system answers requests: say how to use it."""


@dataclass(frozen=True)
class Say:
    """Tell the person at the terminal."""

    text: str


@dataclass(frozen=True)
class Finish:
    """Everything is gone: exit. `message` is empty after a clean stop."""

    code: int
    message: str
    part: str = ""  # the child that could not start, where one could not
    reason: str = ""  # how that ended, and what it said last


Instruction = Spawn | Terminate | Kill | ReportExit | ShowAddress | Say | Finish
