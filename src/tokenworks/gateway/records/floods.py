"""Floods of refusals: who sends thousands of requests a second that are turned away does not fill the ledger with them.

What was turned away at the door (no key, no such model, a bad value, no worker) cost nothing and says little. The first
`SINGLE_PER_S` of a second have a record each. What comes beyond that is told together: with every flush of the journal
one record for each kind, which says for how many it stands (`Record.num_alike`). So counts are right, by tenant, key,
scenario and outcome, and what is written is bounded; times are those of the first, tags are nobody's.

A kind needs a tenant, and where keys are not managed everybody who makes one up is a tenant: beyond `MAX_KINDS` in one
flush a tenant is `(other)`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from tokenworks.contract.request import Scenario
from tokenworks.gateway.keys.tenants import Caller
from tokenworks.gateway.pool.streams import ClientGone
from tokenworks.gateway.records.record import Recording
from tokenworks.policy.top_names import OTHER

_log = logging.getLogger(__name__)

SINGLE_PER_S: Final = 20
MAX_KINDS: Final = 16
WARN_EVERY_S: Final = 60.0
_OTHERS: Final = Caller(OTHER)


class _Kind(NamedTuple):
    """What refusals have in common that are told together."""

    caller: Caller
    scenario: Scenario
    endpoint: str
    outcome: str
    status: int


class Floods:
    """One gateway's; of one thread."""

    def __init__(self) -> None:
        self.num_together = 0  # refusals without a record of their own, since the start
        self._second = 0
        self._singles = 0  # in this second
        self._warn_s = 0.0

    def thinned(self, ended: Sequence[Recording]) -> list[Recording]:
        """What records are made of: all but what others stand for from now on (`Recording.num_alike`)."""
        kept: list[Recording] = []
        kinds: dict[_Kind, Recording] = {}
        for recording in ended:
            if not is_refusal(recording) or self._may_be_single():
                kept.append(recording)
            else:
                self._put_together(recording, kinds)
        return [*kept, *kinds.values()]

    def _may_be_single(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._singles = second, 0
        self._singles += 1
        return self._singles <= SINGLE_PER_S

    def _put_together(self, recording: Recording, kinds: dict[_Kind, Recording]) -> None:
        self._count(recording)
        kind = _kind(recording)
        if kind not in kinds and len(kinds) >= MAX_KINDS:
            recording.caller = _OTHERS
            kind = _kind(recording)
        if kind in kinds:
            kinds[kind].num_alike += 1
        else:
            kinds[kind] = recording
            recording.tags = {}

    def _count(self, recording: Recording) -> None:
        self.num_together += 1
        now_s = time.monotonic()
        if now_s >= self._warn_s:
            self._warn_s = now_s + WARN_EVERY_S
            _log.warning(
                "more than %d requests a second are turned away (%s); from here on they are counted, and recorded "
                "together: %d so far",
                SINGLE_PER_S,
                recording.outcome,
                self.num_together,
            )


def is_refusal(recording: Recording) -> bool:
    """Whether it was turned away before it was placed, and told so."""
    return recording.trail is None and recording.status >= 400 and recording.outcome != ClientGone.code


def _kind(recording: Recording) -> _Kind:
    caller = recording.caller
    scenario = recording.scenario or caller.scenario
    return _Kind(caller, scenario, recording.endpoint, recording.outcome, recording.status)
