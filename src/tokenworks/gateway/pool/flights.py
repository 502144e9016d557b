"""One sequence on its way: which half of it runs where, what it has given so far, and what is to be sent next.

A flight begins as a request of a client and may be sent out several times: as a prefill for somebody else (its first
half), as the plain request, and, when its worker was lost, as a continuation, which is the plain request with the
tokens that were generated behind its prompt. Draws depend on the seed and the output position only, so that whoever
goes on samples as the lost worker would have. Knows no sockets and no clock.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from tokenworks.contract.errors import InvalidRequest, TokenworksError, Unavailable
from tokenworks.contract.kv import BlockName, KVSpec, block_names, root_name
from tokenworks.contract.record import SequenceReport
from tokenworks.contract.request import Request, Sampling
from tokenworks.contract.wire import End, SequenceOutput, Submit
from tokenworks.gateway.pool.legs import LOST, OUTCOMES, Sending
from tokenworks.gateway.pool.registry import Worker
from tokenworks.gateway.pool.streams import Stream
from tokenworks.policy.placement import held_prefix_blocks
from tokenworks.policy.split import Decision

MAX_RESENDS: Final = 2
"""Workers that may be lost under one request before it fails: by then it is itself the suspect."""
PREFILLED: Final = "prefilled"
"""Why a flight goes to a second worker, where a first one has computed its prompt."""
RETURNED: Final = "returned"
"""Why a flight goes where it goes, where it had come while no worker was there."""
_FIRST_HALF: Final = ".prefill"
_PREFILL_SAMPLING: Final = Sampling(max_tokens=1, temperature=0.0)


class PromptNames:
    """The names of a prompt's full blocks, hashed once for each kind of KV, however many workers and choices ask."""

    def __init__(self, request: Request) -> None:
        self.num_tokens = len(request.token_ids)
        self._request = request
        self._names: dict[tuple[str, int], list[BlockName]] = {}

    def held_tokens(self, worker: Worker) -> int:
        """Of the prompt's first tokens, those whose KV the worker holds."""
        spec = worker.hello.kv
        if spec is None:
            return 0
        return held_prefix_blocks(worker.held_blocks, self._names_for(spec)) * spec.block_tokens

    def _names_for(self, spec: KVSpec) -> list[BlockName]:
        key = (spec.fingerprint, spec.block_tokens)
        if key not in self._names:
            root = root_name(spec.fingerprint, self._request.salt)
            self._names[key] = block_names(root, self._request.token_ids, spec.block_tokens)
        return self._names[key]


class Flight:
    """Mutable; owned by the dispatcher."""

    def __init__(
        self, request: Request, stream: Stream, prompt: PromptNames, *, index: int = 0, may_split: bool = False
    ) -> None:
        self.request = request  # as it goes out next: the client's, or its continuation
        self.index = index  # among the request's sequences
        self.stream = stream
        self.prompt = prompt
        self.may_split = may_split
        self.decision: Decision | None = None
        self.worker: Worker | None = None  # that runs it now; None: it waits for one
        self.sending: Sending | None = None  # to that worker
        self.reason = ""  # why it goes where it goes next
        self.handed_tokens = 0  # of its prompt, those that the first half's worker has published
        self.computed_tokens = 0  # of those, the ones that nobody had kept: computed for this very request
        self.prefill_tokens = 0  # of the first half, while that runs; 0: it is the request itself that runs
        self.prefilled_by: str | None = None  # the worker that had the first half
        self.refused_by: set[Worker] = set()  # since it was last asked around
        self.num_losses = 0
        self.sent_s = 0.0  # monotonic time of the first sending
        self.deadline_s: float | None = None  # when it fails, if no worker has taken it by then
        self.error: TokenworksError = Unavailable("no worker is ready, please retry")  # if no worker comes
        self._new_ids: list[int] = []  # generated since `request` was sent
        self._has_text = False  # a foreign server gave text without ids: nobody else can go on

    @property
    def id(self) -> str:
        """The client's sequence."""
        return self.request.id

    @property
    def wire_id(self) -> str:
        """What the worker knows it as."""
        return self.id + _FIRST_HALF if self.prefill_tokens else self.id

    @property
    def has_begun(self) -> bool:
        """Whether the client may have seen some of it."""
        return bool(self._new_ids or self.request.num_generated or self._has_text)

    @property
    def kind(self) -> str:
        """What goes out now, in the record's word."""
        return "prefill" if self.prefill_tokens else "continuation" if self.request.num_generated else "whole"

    @property
    def can_be_resent(self) -> bool:
        """Whether somebody else may go on after a loss."""
        return self.num_losses <= MAX_RESENDS and not self._has_text

    def submit(self, now_ns: int) -> Submit:
        """What to send now, by a monotonic clock."""
        if not self.prefill_tokens:
            return Submit(self.request, sent_ns=now_ns)
        token_ids = self.request.token_ids[: self.prefill_tokens]
        first = replace(self.request, id=self.wire_id, token_ids=token_ids, sampling=_PREFILL_SAMPLING)
        return Submit(first, publishes=True, sent_ns=now_ns)

    @property
    def sent_tokens(self) -> int:
        """Of what goes out now, those whose KV is needed."""
        return self.prefill_tokens or self.prompt.num_tokens

    def decided(self, decision: Decision) -> None:
        """It was placed so; the first leg bears the prediction."""
        self.decision = decision
        if self.sending is not None and decision.predicted_s:
            self.sending.predicted_ns = round(decision.predicted_s * 1e9)

    def sent_to(self, worker: Worker, held_tokens: int, now_ns: int) -> None:
        """It went out, to a worker that is taken to hold so many tokens of its prompt."""
        self.worker = worker
        self.sending = Sending(worker, self.index, self.kind, self.reason, now_ns)
        self.sending.handed_tokens = self.handed_tokens
        self.sending.cached_tokens = max(held_tokens, self.handed_tokens)
        self.stream.trail.sendings.append(self.sending)

    def let_go(self, now_ns: int, outcome: str, report: SequenceReport | None = None) -> None:
        """Its worker has nothing more to do with it; what goes out next is the request itself."""
        if self.worker is not None:
            self.worker.ended(self.wire_id)
        if self.sending is not None:
            self.sending.end(now_ns, outcome, report)
        self.worker, self.sending, self.prefill_tokens = None, None, 0

    def prefilled(self, worker_id: str, now_ns: int, output: SequenceOutput | None) -> None:
        """Its first half has ended: well or badly, or (None) with its worker."""
        end = None if output is None else output.end
        outcome = LOST if end is None else OUTCOMES[end.reason]
        self.prefilled_by = worker_id
        self.reason = PREFILLED if outcome == "ok" else outcome
        self.handed_tokens = self.prefill_tokens if outcome == "ok" else 0
        if self.sending is not None and output is not None:
            self.sending.found_tokens = output.cached_tokens or 0
            self.computed_tokens = max(0, self.handed_tokens - self.sending.found_tokens)
        self.let_go(now_ns, outcome, None if end is None else end.report)

    def as_client_sees(self, output: SequenceOutput) -> SequenceOutput:
        """What the second worker found because the first had computed it for this request was not in a cache."""
        if output.cached_tokens is None:
            return output
        fetched, left = dict(output.fetched_tokens or {}), self.computed_tokens
        for tier, tokens in fetched.items():
            fetched[tier] = max(0, tokens - left)
            left -= tokens - fetched[tier]
        cached = max(0, output.cached_tokens - self.computed_tokens)
        found = {tier: tokens for tier, tokens in fetched.items() if tokens}
        return replace(output, cached_tokens=cached, fetched_tokens=found or None)

    def ended(self, now_ns: int) -> None:
        """Nothing more comes of it."""
        self.stream.trail.ended(self.index, now_ns)

    def note(self, output: SequenceOutput, now_ns: int) -> None:
        """Remember what was generated."""
        self.deadline_s = None
        if self.sending is not None and not self.sending.first_ns:
            self.sending.first_ns = now_ns
            self.sending.found_tokens = output.cached_tokens or 0
        self._new_ids += output.token_ids
        self._has_text = self._has_text or output.text is not None

    def go_on(self) -> None:
        """From now on it is the continuation that goes out."""
        if not self._new_ids:
            return
        token_ids = [*self.request.token_ids, *self._new_ids]
        num_generated = self.request.num_generated + len(self._new_ids)
        self.request = replace(self.request, token_ids=token_ids, num_generated=num_generated)
        self.prompt = PromptNames(self.request)
        self._new_ids = []


def flight_id(wire_id: str) -> str:
    """The id of the flight that a worker knows under this id."""
    return wire_id.removesuffix(_FIRST_HALF)


def refusal(worker: Worker, end: End) -> TokenworksError:
    """What the client is told if nobody else takes a request that a worker refused."""
    reason = end.error or "it gives no reason"
    if end.param is not None:
        return InvalidRequest(reason, param=end.param)
    return Unavailable(f"worker {worker.id} refused the request ({reason}) and no other took it, please retry")
