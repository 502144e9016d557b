"""A tiny server with OpenAI's completions API, in a thread, whose answers can be computed by hand; and a running relay.

To a prompt of token ids it answers each id plus one, over and over, to a text the text in capitals, a character a
token, over and over, until `max_tokens`. A test may make it refuse, stall, talk nonsense, cut its answers, stop and
come back.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.free_port import free_port
from tokenworks.contract.config import Settings, WorkerGroup
from tokenworks.worker.relay import relay

PATIENCE_S = 60.0  # a bound for a busy machine, not an expectation
OWN = ("top_p", "presence_penalty", "frequency_penalty", "seed")
FURTHER = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "ignore_eos",
    "stop_token_ids",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "add_special_tokens",
    "cache_salt",
)


class ForeignServer:
    """Starts at once on a free port; `stop` and `start` again keep the port."""

    def __init__(
        self,
        *,
        takes_ids: bool = True,
        knows: tuple[str, ...] = (*OWN, *FURTHER),
        checks: bool = True,
        counts: bool = True,
        owned_by: str = "scripted",
        tokens: list[int] | None = None,
        window: int = 200,
    ) -> None:
        self.takes_ids = takes_ids
        self.knows = knows
        self.checks = checks  # whether it looks at the values it is sent
        self.counts = counts  # whether it sends usage where asked for
        self.owned_by = owned_by
        self.tokens = tokens
        self.window = window
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.num_open = 0  # streams
        self.status: int | None = None  # of every completion instead of an answer
        self.message = "no"
        self.hangs_up = False  # behind each stream, having promised to keep the connection
        self.max_events: int | None = None  # after which a stream stalls
        self.then: Callable[[web.StreamResponse], Any] | None = None  # instead of stalling
        self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._started.wait(PATIENCE_S)

    def stop(self) -> None:
        """As if killed: open connections break."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(PATIENCE_S)
            assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/tokenize", self._tokenize)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        self.keys.add(request.headers.get("Authorization"))
        model = {"id": "scripted", "object": "model", "owned_by": self.owned_by, "max_model_len": self.window}
        return web.json_response({"object": "list", "data": [model]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        if self.tokens is None:
            raise web.HTTPNotFound
        return web.json_response({"tokens": self.tokens})

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        wrong = self._wrong(body)
        if self.status is not None or wrong is not None:
            error = {"message": self.message if wrong is None else f"bad {wrong}", "param": wrong}
            return web.json_response({"error": error}, status=self.status or 400)
        if not body.get("stream"):
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
            return web.json_response({"choices": [{"text": "x", "finish_reason": "length"}], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.num_open += 1
        try:
            await self._stream(body, response)
        finally:
            self.num_open -= 1
        if self.hangs_up and request.transport is not None:
            await response.write_eof()
            request.transport.close()
        return response

    def _wrong(self, body: dict[str, Any]) -> str | None:
        if isinstance(body["prompt"], list) and not self.takes_ids:
            return "prompt"
        return next((name for name in self.knows if isinstance(body.get(name), dict) and self.checks), None)

    async def _stream(self, body: dict[str, Any], response: web.StreamResponse) -> None:
        usage = body.get("stream_options", {}) if self.counts else {}
        max_events = self.max_events  # as it is when the answer begins
        for at in range(body["max_tokens"]):
            if at == max_events:
                await (self.then(response) if self.then is not None else asyncio.Event().wait())
                return
            choice = self._choice(body, at) | {"finish_reason": "length" if at == body["max_tokens"] - 1 else None}
            event: dict[str, Any] = {"choices": [{"index": 0, **choice}]}
            if usage.get("continuous_usage_stats"):
                event["usage"] = {"completion_tokens": at + 1}
            await _send(response, event)
        if usage.get("include_usage"):
            await _send(response, {"choices": [], "usage": {"completion_tokens": body["max_tokens"]}})
        await response.write(b"data: [DONE]\n\n")

    def _choice(self, body: dict[str, Any], at: int) -> dict[str, Any]:
        prompt = body["prompt"]
        if isinstance(prompt, str):
            return {"text": prompt[at % len(prompt)].upper()}
        token = prompt[at % len(prompt)] + 1
        choice: dict[str, Any] = {"text": f"<{token}>"}
        if "return_token_ids" in self.knows and body.get("return_token_ids"):
            choice["token_ids"] = [token]
        if "logprobs" in body:
            top = {f"token_id:{token + rank}": -0.5 - rank for rank in range(body["logprobs"] + 1)}
            tokens = [f"token_id:{token}"]
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": [-0.5], "top_logprobs": [top]}
        return choice


async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


class RunningRelay:
    """A relay in a thread."""

    def __init__(self, model: str, gateway: str, url: str, worker_id: str = "w0", **group: Any) -> None:
        self.error: BaseException | None = None
        self._settings = Settings(model=model)
        self._group = WorkerGroup(runs="openai", url=url, **group)
        self._worker_id, self._gateway = worker_id, gateway
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._started.wait(PATIENCE_S)

    def begin_drain(self) -> None:
        """What SIGTERM does."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)

    def wait(self) -> BaseException | None:
        """Until it has left; what it raised, if anything."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.error

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            self.error = error

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await relay(self._settings, self._group, self._worker_id, [self._gateway], self._stop)
