"""What comes back for one HTTP request: the outputs of all its sequences, in order of arrival, until all have ended.

One consumer, one event loop. Delivering never blocks: what the client has not read yet waits here, bounded by the
sequences' `max_tokens`. A failure of any sequence is a failure of the whole HTTP request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import TypeAlias

from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.wire import SequenceOutput
from tokenworks.gateway.pool.legs import Trail


class ClientGone(TokenworksError):
    """The client closed the connection; nobody reads the answer."""

    status = 499
    code = "client_gone"


Arrival: TypeAlias = tuple[SequenceOutput, int]
"""An output, and the monotonic time when it came."""


class Stream:
    """The mailbox of one HTTP request."""

    def __init__(self, request_ids: Iterable[str], trail: Trail) -> None:
        self.open_ids = set(request_ids)  # sequences that have not ended
        self.trail = trail
        self.asked_ns = 0  # monotonic time of the latest look that found something: until then the reader was behind
        self._outputs: list[Arrival] = []
        self._error: TokenworksError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def deliver(self, output: SequenceOutput, now_ns: int) -> None:
        """Hand over what one step produced, and when it came."""
        self._outputs.append((output, now_ns))
        if output.end is not None:
            self.open_ids.discard(output.request_id)
        self._wake()

    def fail(self, error: TokenworksError) -> None:
        """End the whole request; the first error stands."""
        self._error = self._error or error
        self._wake()

    async def next_outputs(self) -> list[Arrival]:
        """All that has arrived since the last call, at least one; raises the error that ended the request."""
        if self._outputs:
            self.asked_ns = time.monotonic_ns()
        while not self._outputs and self._error is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if isinstance(self._error, ClientGone) or (self._error is not None and not self._outputs):
            raise self._error
        outputs, self._outputs = self._outputs, []
        return outputs

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
