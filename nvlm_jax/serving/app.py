"""The routes: /v1/chat/completions, /v1/models, /health, /metrics and a page to try the model."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import random
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fastapi
import prometheus_client
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse

from nvlm_jax.generation import request as engine_request
from nvlm_jax.generation.text import AnswerText
from nvlm_jax.inputs.errors import BadSample
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.serving.body import ChatBody, conversation, read_body
from nvlm_jax.serving.errors import Refused
from nvlm_jax.serving.guard import check_key, read_limited
from nvlm_jax.serving.images import decode_data_uri, fetch
from nvlm_jax.serving.metrics import Metrics
from nvlm_jax.serving.replies import Reply, logprobs_object
from nvlm_jax.serving.worker import Worker

PAGE = pathlib.Path(__file__).with_name("page.html")
# The page is one file: nothing is loaded from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'"
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Limits of a server."""

    model: str  # its name for clients
    keys: tuple[str, ...] = ()  # none = everybody may ask
    image_urls: bool = False  # fetch pictures from the web
    max_body_bytes: int = 32 << 20
    body_seconds: float = 30.0
    request_seconds: float = 300.0  # from the body to the last token
    max_prompt_tokens: int = 8192
    max_new_tokens: int = 256  # of an answer where the client does not say; at most four times as many
    image_seconds: float = 10.0


class Server:
    """Everything behind the routes."""

    def __init__(self, builder: ExampleBuilder, worker: Worker, settings: Settings):
        self.builder, self.worker, self.settings = builder, worker, settings
        self.metrics = Metrics(worker)
        self._threads = ThreadPoolExecutor(2, "prompts")  # pictures are decoded beside the event loop

    async def complete(self, request: fastapi.Request) -> Response:
        """Answer one chat completion."""
        begin = time.perf_counter()
        check_key(request.headers.get("authorization"), self.settings.keys)
        body = read_body(await read_limited(request, self.settings.max_body_bytes, self.settings.body_seconds))
        if body.model and body.model != self.settings.model:
            message = f"model: {body.model!r} is not served; {self.settings.model!r} is"
            raise Refused(404, message, "model", "model_not_found")
        self.worker.check_room()
        loop = asyncio.get_running_loop()
        asked, text = await loop.run_in_executor(self._threads, self.prepare, body)
        updates = self._timed(asked, begin)
        reply = Reply(self.settings.model, len(asked.example.tokens))
        if not body.stream:
            return JSONResponse(await self._unless_gone(request, self._whole(updates, reply, text, body)))
        first = await anext(updates)  # so that what is refused is refused with its status
        events = self._events(first, updates, reply, text, body)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    def prepare(self, body: ChatBody) -> tuple[engine_request.Request, AnswerText]:
        """A checked body -> what the engine takes. Raises Refused (400)."""
        messages, urls = conversation(body.messages)
        limit = body.limit or self.settings.max_new_tokens
        if limit > 4 * self.settings.max_new_tokens:
            field = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
            raise Refused(400, f"{field}: {limit}; at most {4 * self.settings.max_new_tokens}", field, "invalid_value")
        images = [self._image(url, place) for place, url in urls]
        try:
            example = self.builder.prompt(messages, images)
        except BadSample as error:
            raise Refused(400, f"messages: {error}", "messages", error.reason) from error
        if len(example.tokens) > self.settings.max_prompt_tokens:
            most = self.settings.max_prompt_tokens
            message = f"messages: a prompt of {len(example.tokens)} tokens; at most {most}"
            raise Refused(400, message, "messages", "context_length_exceeded")
        text = AnswerText(self.builder.tokenizer, body.stops)
        until = text.until if body.stops else None
        sampling = body.sampling(random.getrandbits(32))
        return engine_request.Request(example, limit, sampling, body.alternatives, until), text

    def _image(self, url: str, place: str) -> bytes:
        if url[:5].lower() == "data:":
            return decode_data_uri(url, place)
        if not self.settings.image_urls:
            message = f"{place}: only data: URIs are taken (the server was started without --image_urls)"
            raise Refused(400, message, place, "invalid_image_url")
        return fetch(url, place, self.settings.max_body_bytes, self.settings.image_seconds)

    async def _timed(self, asked: engine_request.Request, begin: float) -> AsyncIterator[engine_request.Update]:
        """The engine's updates, counted, within the time that a request may take."""
        end, first = begin + self.settings.request_seconds, True
        self.metrics.prompt_tokens.inc(len(asked.example.tokens))
        async with contextlib.aclosing(self.worker.answer(asked)) as updates:
            while True:
                try:
                    update = await asyncio.wait_for(anext(updates), end - time.perf_counter())
                except TimeoutError as error:
                    raise Refused(
                        504, f"not answered within {self.settings.request_seconds:g} s", code="timeout"
                    ) from error
                if first:
                    self.metrics.first_token.observe(time.perf_counter() - begin)
                    first = False
                self.metrics.tokens.inc(len(update.tokens))
                yield update
                if update.finish:
                    self.metrics.whole.observe(time.perf_counter() - begin)
                    return

    async def _whole(
        self, updates: AsyncIterator[engine_request.Update], reply: Reply, text: AnswerText, body: ChatBody
    ) -> dict[str, Any]:
        count, logprobs, finish = 0, [], ""
        async for update in updates:
            text.add(update.tokens, last=bool(update.finish))
            count, finish = count + len(update.tokens), update.finish
            logprobs += update.logprobs
        told = logprobs_object(self.builder.tokenizer, logprobs) if body.logprobs else None
        return reply.whole(text.text, finish, count, told)

    async def _events(
        self,
        first: engine_request.Update,
        updates: AsyncIterator[engine_request.Update],
        reply: Reply,
        text: AnswerText,
        body: ChatBody,
    ) -> AsyncIterator[str]:
        """Server-sent events. Where the client goes away this is closed, and with it the request."""
        async with contextlib.aclosing(updates):
            yield _event(reply.chunk({"role": "assistant", "content": ""}))
            update, count = first, 0
            try:
                while True:
                    count += len(update.tokens)
                    piece = text.add(update.tokens, last=bool(update.finish))
                    told = logprobs_object(self.builder.tokenizer, update.logprobs) if update.logprobs else None
                    if piece or told:
                        yield _event(reply.chunk({"content": piece}, None, told))
                    if update.finish:
                        break
                    update = await anext(updates)
            except Refused as error:  # too late for a status
                yield _event(error.body())
                return
            yield _event(reply.chunk({}, update.finish))
            if body.stream_options and body.stream_options.include_usage:
                yield _event(reply.usage_chunk(count))
            yield "data: [DONE]\n\n"

    async def _unless_gone(self, request: fastapi.Request, answer) -> dict[str, Any]:
        """The answer; where the client goes away before, it is given up."""
        task = asyncio.ensure_future(answer)
        gone = asyncio.ensure_future(request.receive())  # after the body, the next message is the client's leaving
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientDisconnect
            return task.result()
        finally:
            for other in (task, gone):
                other.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await other


def make_app(server: Server) -> fastapi.FastAPI:
    """The application; it starts the worker with itself and ends it with itself."""

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        server.worker.start()
        yield
        await asyncio.get_running_loop().run_in_executor(None, server.worker.stop)

    app = fastapi.FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _unknown)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: fastapi.Request) -> Response:
        try:
            response = await server.complete(request)
        except Refused as error:
            server.metrics.requests.labels(str(error.status)).inc()
            raise
        except ClientDisconnect:
            server.metrics.requests.labels("499").inc()
            return Response(status_code=499)
        server.metrics.requests.labels("200").inc()
        return response

    @app.get("/v1/models")
    async def models(request: fastapi.Request) -> dict[str, Any]:
        check_key(request.headers.get("authorization"), server.settings.keys)
        entry = {"id": server.settings.model, "object": "model", "created": 0, "owned_by": "nvlm-jax"}
        return {"object": "list", "data": [entry]}

    @app.get("/health")
    async def health() -> Response:
        if not server.worker.alive:
            return Refused(503, "the engine has ended", code="stopping").response()
        return JSONResponse({"status": "ok", "model": server.settings.model, "pending": server.worker.pending})

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(server.metrics.text(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    @app.get("/")
    async def page() -> Response:
        return HTMLResponse(PAGE.read_text("utf-8"), headers={"Content-Security-Policy": POLICY})

    return app


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _refused(_: fastapi.Request, error: Refused) -> Response:
    return error.response()


async def _unknown(request: fastapi.Request, error: HTTPException) -> Response:
    """Paths and methods that there are not."""
    return Refused(error.status_code, f"{request.method} {request.url.path}: {error.detail}").response(error.headers)
