"""The supervisor's decisions: named cases, and every sequence of events up to a length against the invariants."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from random import Random

import pytest

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
from tokenworks.fleet.lifecycle import (
    EXIT_CANNOT_START,
    EXIT_CLEAN,
    EXIT_FAILED,
    FLUSH_S,
    GOOD_RUN_S,
    GRACE_S,
    LAST_BACKOFF_S,
    Lifecycle,
    Phase,
    describe_exit,
)

DRAIN_S = 20.0


def crash(name: str) -> Exited:
    return Exited(name, -11, "")


def running(*worker_ids: str, has_store: bool = False, has_observer: bool = False) -> Lifecycle:
    """A fleet in which everything is ready since time 0."""
    fleet = Lifecycle(list(worker_ids), DRAIN_S, has_store, has_observer)
    fleet.on(Started(), 0.0)
    for name in (GATEWAY, *worker_ids, *([STORE] if has_store else [])):
        fleet.on(Ready(name), 0.0)
    return fleet


def test_everything_starts_together_and_the_address_shows_once_it_answers() -> None:
    fleet = Lifecycle(["w0", "w1"], DRAIN_S)
    assert fleet.on(Started(), 0.0) == [Spawn(GATEWAY), Spawn("w0"), Spawn("w1")]
    assert fleet.awaited == [GATEWAY, "w0", "w1"]
    assert fleet.on(Ready(GATEWAY), 1.0) == []
    assert fleet.on(Ready("w1"), 2.0) == [ShowAddress()]
    assert fleet.awaited == ["w0"]
    assert fleet.on(Ready("w0"), 3.0) == []
    assert fleet.on(Ready("w0"), 3.0) == []
    assert fleet.wake_at is None


def test_a_child_that_was_never_ready_ends_everything_with_its_last_words() -> None:
    fleet = Lifecycle(["w0"], DRAIN_S)
    fleet.on(Started(), 0.0)
    fleet.on(Ready(GATEWAY), 0.0)
    instructions = fleet.on(Exited("w0", 3, "a shard is missing"), 1.0)
    assert instructions == [Kill(GATEWAY)]
    expected = Finish(
        EXIT_CANNOT_START,
        "w0 could not start (it exited with code 3): a shard is missing",
        "w0",
        "exited with code 3: a shard is missing",
    )
    assert fleet.on(Exited(GATEWAY, -9, ""), 1.1) == [expected]
    assert fleet.on(StopAsked(), 1.2) == []


def test_a_gateway_that_cannot_start_ends_everything_too() -> None:
    fleet = Lifecycle(["w0"], DRAIN_S)
    fleet.on(Started(), 0.0)
    assert fleet.on(Exited(GATEWAY, 1, ""), 1.0) == [Kill("w0")]
    [finish] = fleet.on(Exited("w0", -9, ""), 1.0)
    assert finish == Finish(
        EXIT_CANNOT_START,
        "gateway could not start (it exited with code 1): it said nothing",
        "gateway",
        "exited with code 1: it said nothing",
    )


def test_restarts_back_off_to_a_cap_and_recover_after_a_good_run() -> None:
    fleet = running("w0")
    now, delays = 1.0, []
    for _ in range(9):
        fleet.on(crash("w0"), now)
        assert fleet.wake_at is not None
        delays.append(fleet.wake_at - now)
        now = fleet.wake_at
        assert fleet.on(Tick(), now) == [Spawn("w0")]
        fleet.on(Ready("w0"), now)
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, LAST_BACKOFF_S]
    fleet.on(crash("w0"), now + GOOD_RUN_S)
    assert fleet.wake_at == now + GOOD_RUN_S + 0.5


def test_a_restarted_child_that_fails_before_it_is_ready_is_restarted_again() -> None:
    fleet = running("w0")
    fleet.on(crash("w0"), 0.0)
    fleet.on(Tick(), 0.5)
    said = fleet.on(Exited("w0", 3, "no memory"), 1.0)
    assert said == [
        ReportExit("w0", "exited with code 3: no memory", was_ready=False),
        Say("w0 exited with code 3; it restarts in 1 s"),
    ]
    assert fleet.on(Tick(), 1.9) == []
    assert fleet.on(Tick(), 2.0) == [Spawn("w0")]
    assert fleet.on(Ready("w0"), 3.0) == [Say("w0 is back")]


def test_stopping_asks_the_gateway_first_and_the_workers_after_it() -> None:
    fleet = running("w0", "w1")
    assert fleet.on(StopAsked(), 0.0)[-1] == Terminate(GATEWAY)
    assert fleet.on(Exited(GATEWAY, 0, ""), 5.0) == [Terminate("w0"), Terminate("w1")]
    assert fleet.on(Exited("w0", 0, ""), 6.0) == []
    assert fleet.on(Exited("w1", 0, ""), 6.0)[-1] == Finish(EXIT_CLEAN, "")
    assert fleet.phase is Phase.ENDED


def test_stopping_while_the_gateway_waits_for_its_restart_goes_on_to_the_workers() -> None:
    fleet = running("w0")
    fleet.on(crash(GATEWAY), 0.0)
    assert fleet.on(StopAsked(), 0.1) == [Terminate("w0")]
    assert fleet.on(Tick(), 1.0) == []


def test_stopping_with_nothing_up_finishes_at_once() -> None:
    fleet = running("w0")
    fleet.on(crash(GATEWAY), 0.0)
    fleet.on(crash("w0"), 0.0)
    assert fleet.on(StopAsked(), 0.1) == [Finish(EXIT_CLEAN, "")]


def test_a_worker_that_dies_while_draining_is_not_restarted() -> None:
    fleet = running("w0")
    fleet.on(StopAsked(), 0.0)
    assert fleet.on(crash("w0"), 1.0) == [ReportExit("w0", describe_exit(-11))]
    assert fleet.on(Tick(), 10.0) == []
    assert fleet.on(Exited(GATEWAY, 0, ""), 10.0) == [Finish(EXIT_CLEAN, "")]


def test_a_gateway_that_dies_while_draining_makes_the_end_unclean() -> None:
    fleet = running("w0")
    fleet.on(StopAsked(), 0.0)
    fleet.on(crash(GATEWAY), 1.0)
    [finish] = fleet.on(Exited("w0", 0, ""), 2.0)
    assert isinstance(finish, Finish)
    assert finish.code == EXIT_FAILED


def test_stopping_before_anything_is_ready_is_clean() -> None:
    fleet = Lifecycle(["w0"], DRAIN_S)
    fleet.on(Started(), 0.0)
    fleet.on(StopAsked(), 0.1)
    assert fleet.on(Exited(GATEWAY, -15, ""), 0.2) == [Terminate("w0")]
    assert fleet.on(Exited("w0", -15, ""), 0.2)[-1] == Finish(EXIT_CLEAN, "")


@pytest.mark.parametrize("gateway_ends", [False, True])
def test_whoever_does_not_end_in_time_is_killed(gateway_ends: bool) -> None:
    fleet = running("w0")
    fleet.on(StopAsked(), 0.0)
    if gateway_ends:
        fleet.on(Exited(GATEWAY, 0, ""), 0.0)
    assert fleet.wake_at == DRAIN_S + GRACE_S
    late = ["w0"] if gateway_ends else [GATEWAY, "w0"]
    assert fleet.on(Tick(), DRAIN_S + GRACE_S) == [Kill(name) for name in late]
    last = [fleet.on(Exited(name, -9, ""), 31.0) for name in late][-1][-1]
    assert last == Finish(EXIT_FAILED, f"{', '.join(late)} did not end in time and was killed")


def test_a_second_stop_kills_at_once_and_a_third_changes_nothing() -> None:
    fleet = running("w0")
    fleet.on(StopAsked(), 0.0)
    assert fleet.on(StopAsked(), 1.0) == [Kill(GATEWAY), Kill("w0")]
    assert fleet.on(StopAsked(), 1.0) == []
    fleet.on(Exited("w0", -9, ""), 1.0)
    [finish] = fleet.on(Exited(GATEWAY, -9, ""), 1.0)
    assert finish == Finish(EXIT_FAILED, "stopped at once, as asked; open requests were cut")


def test_the_store_starts_with_the_others_and_is_not_waited_for() -> None:
    fleet = Lifecycle(["w0"], DRAIN_S, has_store=True)
    assert fleet.on(Started(), 0.0) == [Spawn(GATEWAY), Spawn(STORE), Spawn("w0")]
    fleet.on(Ready(GATEWAY), 1.0)
    assert fleet.on(Ready("w0"), 2.0) == [ShowAddress()]
    assert fleet.awaited == [STORE]
    assert fleet.on(Ready(STORE), 3.0) == []


def test_a_store_alone_answers_nobody() -> None:
    fleet = Lifecycle(["w0"], DRAIN_S, has_store=True)
    fleet.on(Started(), 0.0)
    fleet.on(Ready(GATEWAY), 1.0)
    assert fleet.on(Ready(STORE), 1.0) == []


def test_a_store_that_cannot_start_ends_everything() -> None:
    fleet = Lifecycle(["w0"], DRAIN_S, has_store=True)
    fleet.on(Started(), 0.0)
    assert fleet.on(Exited(STORE, 3, "no such folder"), 1.0) == [Kill(GATEWAY), Kill("w0")]
    fleet.on(Exited(GATEWAY, -9, ""), 1.1)
    [finish] = fleet.on(Exited("w0", -9, ""), 1.1)
    assert finish == Finish(
        EXIT_CANNOT_START,
        f"{STORE} could not start (it exited with code 3): no such folder",
        STORE,
        "exited with code 3: no such folder",
    )


def test_a_store_that_dies_comes_back_and_the_gateway_is_not_told_that_a_worker_died() -> None:
    fleet = running("w0", has_store=True)
    assert fleet.on(crash(STORE), 1.0) == [Say(f"{STORE} {describe_exit(-11)}; it restarts in 0.5 s")]
    assert fleet.on(Tick(), 1.5) == [Spawn(STORE)]
    assert fleet.on(Ready(STORE), 2.0) == [Say(f"{STORE} is back")]


def test_the_store_is_asked_to_end_after_the_last_worker_and_killed_where_it_does_not() -> None:
    fleet = running("w0", "w1", has_store=True)
    assert fleet.on(StopAsked(), 0.0)[-1] == Terminate(GATEWAY)
    assert fleet.on(Exited(GATEWAY, 0, ""), 5.0) == [Terminate("w0"), Terminate("w1")]
    assert fleet.on(Exited("w0", 0, ""), 6.0) == []
    assert fleet.on(Exited("w1", 0, ""), 7.0) == [Terminate(STORE)]
    assert fleet.wake_at == 7.0 + FLUSH_S + GRACE_S
    assert fleet.on(Tick(), fleet.wake_at) == [Kill(STORE)]
    [finish] = fleet.on(Exited(STORE, -9, ""), fleet.wake_at or 40.0)
    assert finish == Finish(EXIT_FAILED, f"{STORE} did not end in time and was killed")


def test_a_store_that_dies_while_it_writes_is_told_of_and_loses_no_request() -> None:
    fleet = running("w0", has_store=True)
    fleet.on(StopAsked(), 0.0)
    fleet.on(Exited(GATEWAY, 0, ""), 0.0)
    fleet.on(Exited("w0", 0, ""), 0.0)
    [told, finish] = fleet.on(crash(STORE), 1.0)
    assert told == Say(f"{STORE} {describe_exit(-11)}; what it had not written yet will be computed again")
    assert finish == Finish(EXIT_CLEAN, "")


def test_a_store_that_ends_while_the_workers_do_is_not_asked_again() -> None:
    fleet = running("w0", has_store=True)
    fleet.on(StopAsked(), 0.0)
    fleet.on(crash(STORE), 1.0)
    assert fleet.on(Exited(GATEWAY, 0, ""), 5.0) == [Terminate("w0")]
    assert fleet.on(Exited("w0", 0, ""), 6.0) == [Finish(EXIT_CLEAN, "")]


def test_stopping_with_only_the_store_up_asks_it_at_once() -> None:
    fleet = running("w0", has_store=True)
    fleet.on(crash(GATEWAY), 0.0)
    fleet.on(crash("w0"), 0.0)
    assert fleet.on(StopAsked(), 0.1) == [Terminate(STORE)]
    assert fleet.on(Exited(STORE, 0, ""), 0.2) == [Finish(EXIT_CLEAN, "")]


def test_a_second_stop_kills_a_store_that_is_still_writing() -> None:
    fleet = running("w0", has_store=True)
    fleet.on(StopAsked(), 0.0)
    fleet.on(Exited(GATEWAY, 0, ""), 0.0)
    fleet.on(Exited("w0", 0, ""), 0.0)
    assert fleet.phase is Phase.FLUSHING
    assert fleet.on(StopAsked(), 1.0) == [Kill(STORE)]


def test_the_observer_starts_with_the_others_and_is_not_waited_for() -> None:
    fleet = Lifecycle(["w0"], DRAIN_S, has_observer=True)
    assert fleet.on(Started(), 0.0) == [Spawn(GATEWAY), Spawn("w0"), Spawn(OBSERVER)]
    assert fleet.awaited == [GATEWAY, "w0"]
    fleet.on(Ready(GATEWAY), 1.0)
    assert fleet.on(Ready("w0"), 2.0) == [ShowAddress()]


def test_an_observer_that_never_starts_is_tried_again_and_stops_nobody() -> None:
    fleet = Lifecycle(["w0"], DRAIN_S, has_observer=True)
    fleet.on(Started(), 0.0)
    now, delays = 0.1, []
    for _ in range(8):
        said = fleet.on(Exited(OBSERVER, 3, "no such folder"), now)
        assert fleet.wake_at is not None
        delays.append(fleet.wake_at - now)
        assert said == [Say(f"{OBSERVER} exited with code 3; it restarts in {delays[-1]:g} s")]
        now = fleet.wake_at
        assert fleet.on(Tick(), now) == [Spawn(OBSERVER)]
    assert delays == pytest.approx([0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, LAST_BACKOFF_S])
    assert fleet.phase is Phase.RUNNING


def test_the_observer_ends_after_the_gateway_whose_last_records_it_takes_in() -> None:
    fleet = running("w0", has_store=True, has_observer=True)
    assert fleet.on(StopAsked(), 0.0)[-1] == Terminate(GATEWAY)
    assert fleet.on(Exited(GATEWAY, 0, ""), 1.0) == [Terminate("w0"), Terminate(OBSERVER)]
    assert fleet.on(Exited("w0", 0, ""), 2.0) == []
    assert fleet.on(Exited(OBSERVER, 0, ""), 3.0) == [Terminate(STORE)]
    assert fleet.on(Exited(STORE, 0, ""), 4.0) == [Finish(EXIT_CLEAN, "")]


def test_an_observer_that_dies_at_the_end_is_told_of_and_the_end_is_clean() -> None:
    fleet = running("w0", has_observer=True)
    fleet.on(StopAsked(), 0.0)
    fleet.on(Exited(GATEWAY, 0, ""), 1.0)
    [told] = fleet.on(crash(OBSERVER), 2.0)
    assert told == Say(f"{OBSERVER} {describe_exit(-11)}; what it had not taken in yet is in the journal")
    assert fleet.on(Exited("w0", 0, ""), 3.0) == [Finish(EXIT_CLEAN, "")]


def test_an_exit_is_told_in_words() -> None:
    assert describe_exit(3) == "exited with code 3"
    assert describe_exit(-9) == "was killed by signal 9 (Killed; out of memory?)"


class World:
    """The processes that the instructions make, and what must hold of every instruction."""

    def __init__(self, *worker_ids: str, has_store: bool = False, has_observer: bool = False) -> None:
        self.fleet = Lifecycle(list(worker_ids), DRAIN_S, has_store, has_observer)
        self.now = 0.0
        self.up: set[str] = set()
        self.ready: set[str] = set()
        self.is_shown = self.is_stopping = False
        self.finishes = 0
        self.feed(Started())

    def events(self) -> Iterator[Event]:
        """Whatever could happen next."""
        yield StopAsked()
        yield Tick()
        for name in sorted(self.up):
            if name != OBSERVER:  # nobody asks it
                yield Ready(name)
            yield Exited(name, 0, "")
            yield Exited(name, -9, "")

    def feed(self, event: Event) -> None:
        if isinstance(event, Tick) and self.fleet.wake_at is not None:
            self.now = max(self.now, self.fleet.wake_at)
        match event:
            case Exited():
                self.up.discard(event.name)
                self.ready.discard(event.name)
            case Ready():
                self.ready.add(event.name)
            case StopAsked():
                self.is_stopping = True
        instructions = self.fleet.on(event, self.now)
        assert not (self.finishes and instructions)
        goes_on = self.fleet.phase in (Phase.RUNNING, Phase.DRAINING) and GATEWAY in self.up
        is_told = any(isinstance(instruction, ReportExit) for instruction in instructions)
        assert is_told == (isinstance(event, Exited) and event.name not in (GATEWAY, STORE, OBSERVER) and goes_on)
        for instruction in instructions:
            self.obey(instruction)
        self.check()

    def obey(self, instruction: Instruction) -> None:
        match instruction:
            case Spawn():
                assert instruction.name not in self.up
                assert not self.is_stopping
                self.up.add(instruction.name)
                if instruction.name == OBSERVER:
                    self.ready.add(OBSERVER)
            case Terminate():
                assert instruction.name in self.up
                assert instruction.name == GATEWAY or GATEWAY not in self.up
                assert instruction.name != STORE or self.up == {STORE}
                assert self.is_stopping
            case Kill():
                assert instruction.name in self.up
                self.is_stopping = True
            case ShowAddress():
                assert not self.is_shown
                assert GATEWAY in self.ready
                assert self.ready - {GATEWAY, STORE, OBSERVER}
                self.is_shown = True
            case Finish():
                assert not self.up
                self.finishes += 1

    def check(self) -> None:
        assert set(self.fleet.awaited) == self.up - self.ready
        if self.fleet.phase is Phase.RUNNING and not self.finishes:
            everyone = {GATEWAY, *self.fleet._children}
            assert self.up == everyone or self.fleet.wake_at is not None
        is_closing = self.fleet.phase in (Phase.CLOSING, Phase.FLUSHING)
        if self.fleet.phase is Phase.DRAINING or (is_closing and self.up):
            assert self.fleet.wake_at is not None

    def end(self) -> None:
        """From wherever it is, two stops and the deaths that follow end it, once."""
        for event in (StopAsked(), StopAsked()):
            self.feed(event)
        for name in sorted(self.up):
            self.feed(Exited(name, -9, ""))
        assert self.finishes == 1


@pytest.mark.parametrize(
    ("num_events", "has_store", "has_observer"), [(4, False, False), (3, True, False), (3, False, True)]
)
def test_every_sequence_of_events_keeps_the_invariants_and_ends_once(
    num_events: int, has_store: bool, has_observer: bool
) -> None:
    worlds = [World("w0", has_store=has_store, has_observer=has_observer)]
    for _ in range(num_events):
        following = []
        for world in worlds:
            for event in world.events():
                after = deepcopy(world)
                after.feed(event)
                following.append(after)
        worlds = following
    for world in worlds:
        world.end()


@pytest.mark.parametrize(("has_store", "has_observer"), [(False, False), (True, False), (True, True)])
def test_long_random_runs_keep_the_invariants_and_end_once(has_store: bool, has_observer: bool) -> None:
    random = Random(0)
    for _ in range(300):
        world = World("w0", "w1", has_store=has_store, has_observer=has_observer)
        for _ in range(random.randrange(60)):
            events = [event for event in world.events() if not isinstance(event, StopAsked) or random.random() < 0.02]
            if events:
                world.feed(random.choice(events))
        world.end()
