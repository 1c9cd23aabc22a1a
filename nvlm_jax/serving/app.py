"""The routes: /v1/chat/completions, /v1/models, /health, /metrics and a page to try the model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import pathlib
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import fastapi
import prometheus_client
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse

from nvlm_jax.generation import request as engine_request
from nvlm_jax.generation.text import AnswerText
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.serving.body import ChatBody, read_body
from nvlm_jax.serving.errors import Refused
from nvlm_jax.serving.guard import check_key, read_limited
from nvlm_jax.serving.limits import Memory, Share
from nvlm_jax.serving.metrics import Metrics
from nvlm_jax.serving.prompts import Prompts
from nvlm_jax.serving.replies import Logprobs, Reply
from nvlm_jax.serving.settings import Settings
from nvlm_jax.serving.worker import Worker
from nvlm_jax.webpage import template

PAGE = pathlib.Path(__file__).with_name("page.html.j2")
# The page is one file: nothing is loaded from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'"
)


class Server:
    """Everything behind the routes."""

    def __init__(self, builder: ExampleBuilder, worker: Worker, settings: Settings):
        self.builder, self.worker, self.settings = builder, worker, settings
        self.metrics = Metrics(worker)
        self.prompts = Prompts(builder, settings)
        self._memory = Memory(settings.max_held_bytes)

    async def complete(self, request: fastapi.Request) -> Response:
        """Answer one chat completion."""
        begin = time.perf_counter()
        settings = self.settings
        check_key(request.headers.get("authorization"), settings.keys)
        share = self._memory.share()
        response = None
        try:
            body = read_body(await read_limited(request, settings.max_body_bytes, settings.body_seconds, share))
            if body.model and body.model != settings.model:
                message = f"model: {body.model[:200]!r} is not served; {settings.model!r} is"
                raise Refused(404, message, "model", "model_not_found")
            self.worker.check_room()
            response = await _unless_gone(request, self._respond(body, begin, share))
            return response
        finally:
            if not isinstance(response, StreamingResponse):  # which holds its share until it ends
                share.release()

    async def _respond(self, body: ChatBody, begin: float, share: Share) -> Response:
        """The whole answer, or the stream of one that has begun."""
        try:
            async with asyncio.timeout(begin + self.settings.request_seconds - time.perf_counter()):
                asked, text = await self.prompts.make(body, share)
        except TimeoutError as error:
            raise self._late() from error
        answer = Answer(self, asked, text, body)
        updates = self._timed(asked, begin)
        if not body.stream:
            return JSONResponse(await answer.whole(updates))
        first = await anext(updates)  # so that what is refused is refused with its status
        events = answer.events(first, updates, share)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    def _late(self) -> Refused:
        return Refused(504, f"not answered within {self.settings.request_seconds:g} s", code="timeout")

    async def _timed(self, asked: engine_request.Request, begin: float) -> AsyncIterator[engine_request.Update]:
        """The engine's updates, counted, within the time that a request may take."""
        end, first = begin + self.settings.request_seconds, True
        self.metrics.prompt_tokens.inc(len(asked.example.tokens))
        async with contextlib.aclosing(self.worker.answer(asked)) as updates:
            while True:
                try:
                    update = await asyncio.wait_for(anext(updates), end - time.perf_counter())
                except TimeoutError as error:
                    raise self._late() from error
                if first:
                    self.metrics.first_token.observe(time.perf_counter() - begin)
                    first = False
                self.metrics.tokens.inc(len(update.tokens))
                yield update
                if update.finish:
                    self.metrics.whole.observe(time.perf_counter() - begin)
                    return


class Answer:
    """One answer on its way to its client."""

    def __init__(self, server: Server, asked: engine_request.Request, text: AnswerText, body: ChatBody):
        self._reply = Reply(server.settings.model, len(asked.example.tokens))
        self._text = text
        self._logprobs = Logprobs(server.builder.tokenizer) if body.logprobs else None
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._count = self._shown = 0

    async def whole(self, updates: AsyncIterator[engine_request.Update]) -> dict[str, Any]:
        """The reply once all of it is there."""
        finish, logprobs = "", None
        async with contextlib.aclosing(updates):
            async for update in updates:
                _, more = self._add(update)
                finish, logprobs = update.finish, _joined(logprobs, more)
        return self._reply.whole(self._text.text, finish, self._count, logprobs)

    async def events(
        self, first: engine_request.Update, updates: AsyncIterator[engine_request.Update], share: Share
    ) -> AsyncIterator[str]:
        """Server-sent events. Where the client goes away this is closed, and with it the request."""
        try:
            async with contextlib.aclosing(updates):
                yield _event(self._reply.chunk({"role": "assistant", "content": ""}))
                update = first
                while True:
                    piece, logprobs = self._add(update)
                    if piece or (logprobs and logprobs["content"]):
                        yield _event(self._reply.chunk({"content": piece}, None, logprobs))
                    if update.finish:
                        break
                    update = await anext(updates)
            yield _event(self._reply.chunk({}, update.finish))
            if self._usage:
                yield _event(self._reply.usage_chunk(self._count))
            yield "data: [DONE]\n\n"
        except Refused as error:  # too late for a status
            yield _event(error.body())
        except Exception:
            logging.exception("a stream failed")
            yield _event(_internal().body())
        finally:
            share.release()

    def _add(self, update: engine_request.Update) -> tuple[str, dict[str, Any] | None]:
        """What an update brings: text, and log-probabilities where they are wanted."""
        piece = self._text.add(update.tokens, last=bool(update.finish))
        self._count += len(update.tokens)
        self._shown += len(piece.encode())
        if self._logprobs is None:
            return piece, None
        self._logprobs.add(update.logprobs)
        whole = update.finish and not self._text.stopped
        return piece, self._logprobs.take(None if whole else self._shown)


async def _unless_gone(request: fastapi.Request, answer: Coroutine[Any, Any, Response]) -> Response:
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
        server.prompts.close()
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
        except Exception:
            logging.exception("a request failed")
            server.metrics.requests.labels("500").inc()
            return _internal().response()
        server.metrics.requests.labels("200").inc()
        return response

    @app.get("/v1/models")
    async def models(request: fastapi.Request) -> dict[str, Any]:
        check_key(request.headers.get("authorization"), server.settings.keys)
        entry = {"id": server.settings.model, "object": "model", "created": 0, "owned_by": "nvlm-jax"}
        return {"object": "list", "data": [entry]}

    @app.get("/health")
    async def health() -> Response:
        worker = server.worker
        content = {"status": worker.state, "model": server.settings.model, "pending": worker.pending}
        if worker.state == "ok":
            return JSONResponse(content)
        done, programs = worker.progress
        content |= {"programs": {"ready": done, "of": programs}} if worker.state == "warming up" else {}
        return JSONResponse(_unready(worker).body() | content, 503, {"Retry-After": "1"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(server.metrics.text(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    chat = template.render(PAGE)

    @app.get("/")
    async def page() -> Response:
        return HTMLResponse(chat, headers={"Content-Security-Policy": POLICY})

    return app


def _unready(worker: Worker) -> Refused:
    """What /health says of a server that answers nothing yet, or no more."""
    if worker.state == "warming up":
        done, programs = worker.progress
        return Refused(503, f"warming up: {done} of {programs} programs are ready", code="warming_up")
    return Refused(503, worker.failure or "the server is stopping", code="stopping")


def _event(content: dict[str, Any]) -> str:
    # In ASCII: readers of lines end one at U+2028 and others too.
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n"


def _joined(one: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, Any] | None:
    if one is None or other is None:
        return other
    return other | {"content": one["content"] + other["content"]}


def _internal() -> Refused:
    return Refused(500, "this request failed in the server, and it alone", code="internal_error")


async def _refused(_: fastapi.Request, error: Refused) -> Response:
    return error.response()


async def _unknown(request: fastapi.Request, error: HTTPException) -> Response:
    """Paths and methods that there are not."""
    return Refused(error.status_code, f"{request.method} {request.url.path}: {error.detail}").response(error.headers)
