"""Runs a job: sends its requests out, and answers whole or as a stream while the outputs come back.

Invariants: nothing is sent to the client before the first output is there, so that a failure until then has a real HTTP
status; whatever ends the exchange (finished, failed, client gone), no sequence of it goes on running.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from msgspec.structs import replace

from tokenworks.contract.record import PICO
from tokenworks.gateway.http.answer import DONE_EVENT, FinishedChoice, PromptTokensDetails, Usage, cost_details
from tokenworks.gateway.http.choice import Choice, Piece, cached_by_tier, mean_logprob
from tokenworks.gateway.http.exchange import Exchange
from tokenworks.gateway.http.intake import Job
from tokenworks.gateway.http.service import Service
from tokenworks.gateway.metrics.gaps import LONGEST_GAP_US
from tokenworks.gateway.pool.legs import Trail
from tokenworks.gateway.pool.streams import ClientGone, Stream


async def run(service: Service, exchange: Exchange, job: Job) -> None:
    """Answer one completion or chat request; raises TokenworksError where it ends in an error."""
    trail = Trail(time.monotonic_ns())
    exchange.recording.placed(trail)
    stream = service.dispatcher.submit(job.requests, trail)
    service.metrics.ingress.observe((time.monotonic_ns() - exchange.started_ns) / 1e9)
    run = _Run(service, exchange, job, stream)
    watcher = exchange.watch(lambda: stream.fail(ClientGone("the client went away")))
    try:
        await (run.answer_as_stream() if job.is_stream else run.answer_whole())
    finally:
        watcher.cancel()
        service.dispatcher.close(stream)
        run.note()


class _Run:
    """One job on its way."""

    def __init__(self, service: Service, exchange: Exchange, job: Job, stream: Stream) -> None:
        self._service = service
        self._metrics = service.metrics
        self._dispatcher = service.dispatcher
        self._exchange = exchange
        self._recording = exchange.recording
        self._job = job
        self._stream = stream
        self._by_id = dict(zip((request.id for request in job.requests), job.choices, strict=True))
        self._unfinished = len(job.choices)
        self._ttft_ns: int | None = None
        self._arrived_ns = 0  # monotonic time of the latest output
        self._gaps_us = self._metrics.itl.open()
        self._note_gap_us = self._gaps_us.append  # once for every token

    async def answer_whole(self) -> None:
        """Collect everything, then send it."""
        finished = [FinishedChoice(choice.index) for choice in self._job.choices]
        while self._unfinished:
            pieces = await self._next_pieces()
            self._note_first()
            for piece in pieces:
                finished[piece.index].add(piece)
        answer = self._job.format.whole(finished, self._usage(is_last=True))
        self._recording.writes()
        await self._exchange.respond(answer)

    async def answer_as_stream(self) -> None:
        """Send every piece as it comes."""
        job = self._job
        opened: set[int] = set()
        while self._unfinished:
            pieces = await self._next_pieces()
            events = [self._events(piece, opened) for piece in pieces]
            if not self._unfinished:
                events += [job.format.usage_event(self._usage(is_last=True)) if job.has_usage else b"", DONE_EVENT]
                self._recording.writes()
            await self._exchange.write_events(b"".join(events), is_last=not self._unfinished)
            self._note_first()

    def note(self) -> None:
        """Note what the request came to, however it ended."""
        recording, choices, cached_tokens = self._recording, self._job.choices, self._cached_tokens()
        self._metrics.itl.close(self._gaps_us)
        recording.gaps_us = self._gaps_us
        recording.asked_ns = self._stream.asked_ns
        recording.output_tokens = sum([choice.num_tokens for choice in choices])
        recording.finish_reasons = [choice.finish_reason for choice in choices if choice.finish_reason is not None]
        recording.ttft_ns = self._ttft_ns
        if cached_tokens:
            found = cached_by_tier(self._first_choices())
            recording.cached_tokens = {tier: tokens for tier, tokens in found.items() if tokens}
        recording.mean_logprob = mean_logprob(choices)
        self._count(recording.output_tokens, cached_tokens)

    def _count(self, output_tokens: int, cached_tokens: int) -> None:
        prompt_tokens = self._job.prompt_tokens
        ttft_s = None if self._ttft_ns is None else self._ttft_ns / 1e9
        self._metrics.prompt_tokens.observe(prompt_tokens)
        self._metrics.output_tokens.observe(output_tokens)
        if cached_tokens:
            self._metrics.cached_tokens.inc(cached_tokens)
        if ttft_s is not None:
            self._metrics.ttft.observe(ttft_s)
        self._exchange.notes |= {
            "prompt_tokens": prompt_tokens,
            "output_tokens": output_tokens,
            "ttft_s": None if ttft_s is None else round(ttft_s, 6),
        }

    async def _next_pieces(self) -> list[Piece]:
        """What arrived since the last call; at least one output, though maybe of a choice that has already ended."""
        pieces = []
        for output, at_ns in await self._stream.next_outputs():
            self._arrived_ns = at_ns
            choice = self._by_id[output.request_id]
            if choice.finish_reason is not None:
                continue
            piece = choice.take(output)
            self._note_gap(choice, at_ns)
            pieces.append(piece)
            if piece.finish_reason is not None:
                self._unfinished -= 1
                self._dispatcher.cancel(output.request_id, at_ns)  # a stop string: the worker does not know yet
        return pieces

    def _events(self, piece: Piece, opened: set[int]) -> bytes:
        usage = self._usage() if self._job.has_running_usage else None
        event = self._job.format.event(piece, usage)
        if piece.index in opened:
            return event
        opened.add(piece.index)
        return self._job.format.opening(piece.index) + event

    def _note_first(self) -> None:
        """The first tokens have left for the client, or are put by for a whole answer."""
        if self._ttft_ns is not None:
            return
        now_ns = time.monotonic_ns()
        self._ttft_ns = now_ns - self._exchange.started_ns
        if self._job.is_stream:
            self._metrics.egress.observe((now_ns - self._arrived_ns) / 1e9)

    def _note_gap(self, choice: Choice, at_ns: int) -> None:
        if choice.last_token_ns:
            try:
                self._note_gap_us((at_ns - choice.last_token_ns) // 1000)
            except OverflowError:
                self._note_gap_us(LONGEST_GAP_US)
        choice.last_token_ns = at_ns

    def _usage(self, *, is_last: bool = False) -> Usage:
        completion_tokens = sum(choice.num_tokens for choice in self._job.choices)
        total = self._job.prompt_tokens + completion_tokens
        by_tier = cached_by_tier(self._first_choices()) if self._service.has_store() else None
        details = PromptTokensDetails(self._cached_tokens(), by_tier)
        usage = Usage(self._job.prompt_tokens, completion_tokens, total, details)
        return self._with_cost(usage) if is_last and self._job.has_cost else usage

    def _with_cost(self, usage: Usage) -> Usage:
        recorder = self._service.recorder
        costs = recorder.costs(self._recording)
        if costs is None:
            return replace(usage, cost=None, cost_details=None)
        return replace(usage, cost=costs.total / PICO, cost_details=cost_details(costs, recorder.prices.currency))

    def _cached_tokens(self) -> int:
        return sum([choice.cached_tokens for choice in self._first_choices()])

    def _first_choices(self) -> Sequence[Choice]:
        """Of each prompt the first one: a prompt counts once, as that found it."""
        return self._job.choices[:: self._job.n]
