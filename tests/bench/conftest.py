"""A real HTTP server on loopback whose every answer can be computed by hand.

The model's name in the request picks the behaviour. Output token i is the text `t<i> `, the usage counts what was
sent (token ids, or words for text) and half of the input is said to be cached. All bodies are kept for inspection.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


class ScriptedServer:
    """The app, its address and what it was sent; from its fifth request on, the model `stalled` answers nothing."""

    def __init__(self) -> None:
        self.url = ""
        self.forget()

    def forget(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.num_served = 0
        self.num_stalled = 0
        self.models_answer: tuple[int, Any] = (200, {"data": [{"id": "plain"}, {"id": "other"}]})
        self.released = threading.Event()

    def app(self) -> Starlette:
        answers = [Route(path, self.answer, methods=["POST"]) for path in ("/v1/completions", "/v1/chat/completions")]
        return Starlette(routes=[Route("/v1/models", self.models), *answers])

    async def models(self, _: Request) -> Response:
        status, body = self.models_answer
        return JSONResponse(body, status_code=status)

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.num_served += 1
        turn = self.num_served
        refusal = REFUSALS.get(body["model"])
        if refusal is not None and (refused := refusal(body, turn)) is not None:
            return JSONResponse({"error": refused[1]}, status_code=refused[0])
        if body["model"] == "not-a-stream":
            return JSONResponse({"choices": [{"text": "all at once"}]})
        events = chat_events(body) if "messages" in body else completion_events(body)
        return StreamingResponse(self.stream(body, events, turn), media_type="text/event-stream")

    async def stream(self, body: dict[str, Any], events: list[bytes], turn: int) -> AsyncIterator[bytes]:
        model = body["model"]
        if model == "split":
            async for piece in in_pieces(b"".join(events), 7):
                yield piece
            return
        for index, event in enumerate(events):
            if model == "dropped" and index == 2:
                raise ConnectionAbortedError("the script says so")
            if model == "error-event" and index == 2:
                yield b'data: {"error": {"message": "the worker died", "code": "worker_lost"}}\n\n'
                return
            if model == "cut" and index == 2:
                return
            if model == "stalled" and turn > 4 and index == 0:
                await self.stall()
            yield event
            await asyncio.sleep(0)

    async def stall(self) -> None:
        self.num_stalled += 1
        released = self.released
        while not released.is_set():
            await asyncio.sleep(0.01)


def refuse_ids(body: dict[str, Any], _: int) -> tuple[int, dict[str, Any]] | None:
    return None if isinstance(body["prompt"], str) else (400, {"message": "prompt must be text", "code": "bad_prompt"})


def refuse_ignore_eos(body: dict[str, Any], _: int) -> tuple[int, dict[str, Any]] | None:
    return (400, {"message": "unknown field ignore_eos", "code": "unknown"}) if "ignore_eos" in body else None


def refuse_every_third(_: dict[str, Any], num_served: int) -> tuple[int, dict[str, Any]] | None:
    return (429, {"message": "queue is full", "code": "overloaded"}) if num_served % 3 == 0 else None


def refuse_until_the_third(_: dict[str, Any], turn: int) -> tuple[int, dict[str, Any]] | None:
    return (503, {"message": "no worker yet", "code": "no_worker"}) if turn < 3 else None


REFUSALS = {
    "starting": refuse_until_the_third,
    "text-only": refuse_ids,
    "strict": refuse_ignore_eos,
    "busy": refuse_every_third,
    "missing": lambda *_: (404, {"message": "no such model", "code": "model_not_found"}),
    "locked": lambda *_: (401, {"message": "who are you", "type": "authentication_error"}),
    "broken": lambda *_: (500, {"message": "out of luck", "code": None, "type": "server_error"}),
    "draining": lambda *_: (503, {"message": "shutting down", "code": "draining"}),
}


def event(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n"


def usage_event(body: dict[str, Any]) -> bytes:
    prompt = body["prompt"] if "prompt" in body else body["messages"][0]["content"]
    num_input = len(prompt.split()) if isinstance(prompt, str) else len(prompt)
    usage = {
        "prompt_tokens": num_input,
        "completion_tokens": body["max_tokens"],
        "prompt_tokens_details": {
            "cached_tokens": num_input // 2,
            "cached_tokens_by_tier": {"device": num_input // 2 - num_input // 4, "host": num_input // 4},
        },
    }
    return event({"choices": [], "usage": usage})


def completion_events(body: dict[str, Any]) -> list[bytes]:
    num_tokens, width = body["max_tokens"], 4 if body["model"] == "wide" else 1
    texts = [f"t{index} é漢🙂 " for index in range(0, num_tokens, width)]
    events = [event({"choices": [{"text": text, "finish_reason": None}], "usage": None}) for text in texts]
    events.append(event({"choices": [{"text": "", "finish_reason": "length"}]}))
    tail = [] if body["model"] == "no-usage" else [usage_event(body)]
    return [b": hello\n\n", *events, *tail, b"data: [DONE]\n\n"]


def chat_events(body: dict[str, Any]) -> list[bytes]:
    deltas = [{"role": "assistant", "content": ""}, *({"content": f"t{i} "} for i in range(body["max_tokens"]))]
    events = [event({"choices": [{"delta": delta, "finish_reason": None}]}) for delta in deltas]
    events.append(event({"choices": [{"delta": {}, "finish_reason": "length"}]}))
    return [*events, usage_event(body), b"data: [DONE]\n\n"]


async def in_pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    """Chunks that cut lines and characters in two, each flushed on its own."""
    for start in range(0, len(data), size):
        yield data[start : start + size]
        await asyncio.sleep(0.0005)


class QuietServer(uvicorn.Server):
    """uvicorn in a thread: it tells when it listens and leaves the process's signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_listening = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.is_listening.set()


@pytest.fixture(scope="session")
def running_server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    config = uvicorn.Config(
        scripted.app(), host="127.0.0.1", port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=1
    )
    uvicorn_server = QuietServer(config)
    thread = threading.Thread(target=uvicorn_server.run, daemon=True)
    thread.start()
    assert uvicorn_server.is_listening.wait(60)
    port = uvicorn_server.servers[0].sockets[0].getsockname()[1]
    scripted.url = f"http://127.0.0.1:{port}"
    yield scripted
    uvicorn_server.should_exit = True
    thread.join(10)


@pytest.fixture
def server(running_server: ScriptedServer) -> Iterator[ScriptedServer]:
    """The one running server, with nothing remembered of earlier tests."""
    running_server.forget()
    yield running_server
    running_server.released.set()
