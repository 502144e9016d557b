"""The service that answers: two searches, one ranking, the best passages' texts, and a model that reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import telemetry
from corpus import passages_of
from openai import AsyncOpenAI, OpenAIError
from openai.types import Model
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from pages import Pages
from ranking import Reranker, fuse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from vectors import VectorSearch
from words import WordSearch

CANDIDATES = 20
READ = 3
MAX_TOKENS = 120
CHARS_PER_TOKEN = 2.5  # at least, in English: how much text fits is not known before it is tokenised
PROMPT = "Answer the question from these passages of the documentation, in one or two sentences.\n\n{passages}"


class Answers:
    """The chain from question to answer."""

    def __init__(self, tracer: Tracer, texts: dict[str, str], pages: Pages, client: AsyncOpenAI) -> None:
        self._tracer = tracer
        self._vectors = VectorSearch(texts)
        self._words = WordSearch(texts)
        self._reranker = Reranker(texts)
        self._pages = pages
        self._client = client
        self._model: Model | None = None  # what the gateway serves; asked for once

    async def answer(self, question: str) -> dict[str, Any]:
        """The answer, its sources, and the trace that shows how it came about."""
        by_likeness, by_words = await asyncio.gather(self._by_likeness(question), self._by_words(question))
        with self._tracer.start_as_current_span("rerank"):
            best = self._reranker.rerank(question, fuse([by_likeness, by_words]), READ)
        texts = await asyncio.gather(*map(self._pages.text, best))
        text = await self._generate(question, texts)
        return {"answer": text, "sources": best, "trace_id": telemetry.trace_id()}

    async def _by_likeness(self, question: str) -> list[str]:
        with self._tracer.start_as_current_span("vector search") as span:
            span.set_attribute("db.system.name", "usearch")
            vector = await asyncio.to_thread(self._vectors.vector, question)
            return await asyncio.to_thread(self._vectors.search, vector, CANDIDATES)

    async def _by_words(self, question: str) -> list[str]:
        with self._tracer.start_as_current_span("text search") as span:
            span.set_attribute("db.system.name", "sqlite")
            return await asyncio.to_thread(self._words.search, question, CANDIDATES)

    async def _generate(self, question: str, passages: Sequence[str]) -> str:
        """Ask the model. `traceparent` in the headers is all that joins the gateway's record to this trace."""
        model = self._model = self._model or (await self._client.models.list()).data[0]
        room = int((getattr(model, "max_model_len", 2048) - MAX_TOKENS) * CHARS_PER_TOKEN) // (len(passages) or 1)
        context = PROMPT.format(passages="\n\n---\n\n".join(text[: room - 100] for text in passages))
        with self._tracer.start_as_current_span(f"chat {model.id}", kind=SpanKind.CLIENT) as span:
            span.set_attribute("gen_ai.operation.name", "chat")
            span.set_attribute("gen_ai.request.model", model.id)
            done = await self._client.chat.completions.create(
                model=model.id,
                messages=[{"role": "system", "content": context}, {"role": "user", "content": question}],
                max_tokens=MAX_TOKENS,
                temperature=0,
                metadata={"application": "rag"},
                extra_headers=telemetry.headers(),
            )
            return done.choices[0].message.content or ""


def build(folder: Path, gateway: str, origin: str, zone: str, key: str) -> Starlette:
    """The application: POST /answer {"question": ...}."""
    tracer = telemetry.start("rag", zone, gateway)
    texts = {passage.id: passage.text for passage in passages_of(folder).values()}
    client = httpx.AsyncClient(base_url=origin, timeout=10)
    model = AsyncOpenAI(base_url=f"{gateway}/v1", api_key=key)
    answers = Answers(tracer, texts, Pages(tracer, client), model)

    async def answer(request: Request) -> Response:
        context = telemetry.context_of(request.headers)
        with tracer.start_as_current_span("POST /answer", context, SpanKind.SERVER) as span:
            try:
                question = str((await request.json())["question"])
            except (ValueError, KeyError, TypeError):
                return JSONResponse({"error": 'send {"question": "..."}'}, 400)
            try:
                return JSONResponse(await answers.answer(question))
            except (OpenAIError, httpx.HTTPError) as error:
                span.set_status(Status(StatusCode.ERROR, str(error)))
                return JSONResponse({"error": str(error), "trace_id": telemetry.trace_id()}, 502)

    @asynccontextmanager
    async def until_the_end(app: Starlette):  # type: ignore[no-untyped-def]
        async with client, model:
            yield

    return Starlette(routes=[Route("/answer", answer, methods=["POST"])], lifespan=until_the_end)
