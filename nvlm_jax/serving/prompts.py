"""What a client sent -> what the engine takes, beside the event loop: each kind of work in threads of its own."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from nvlm_jax.generation.request import Request
from nvlm_jax.generation.text import AnswerText
from nvlm_jax.inputs.batch import Example, Message
from nvlm_jax.inputs.errors import BadSample
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.inputs.tiling import open_header
from nvlm_jax.serving.body import ChatBody, characters, conversation
from nvlm_jax.serving.errors import Refused
from nvlm_jax.serving.images import decode_data_uri, fetch
from nvlm_jax.serving.limits import Lane, Share
from nvlm_jax.serving.settings import Settings

# Texts have 4 characters a token; what has more than this many is refused before it is tokenized.
MOST_CHARACTERS = 16
Url = tuple[str, str]  # field it comes from, address


class Prompts:
    """Makes requests for the engine."""

    def __init__(self, builder: ExampleBuilder, settings: Settings):
        self._builder, self._settings = builder, settings
        self._texts = Lane("texts", 1, settings.max_waiting)
        self._pictures = Lane("pictures", 2, settings.max_waiting)  # as many are decoded at once
        self._fetches = Lane("image addresses", 8, settings.max_waiting)

    async def make(self, body: ChatBody, share: Share) -> tuple[Request, AnswerText]:
        """A checked body -> the engine's request, and its answer's text to come.

        Raises:
            Refused: 400, 429.
        """
        limit = self._limit(body)
        length, most = characters(body.messages), self._settings.max_prompt_tokens
        if length > MOST_CHARACTERS * most:
            message = f"messages: {length:,} characters are more than a prompt of at most {most} tokens holds"
            raise Refused(400, message, "messages", "context_length_exceeded")
        messages, urls = conversation(body.messages)
        if len(urls) > self._builder.inputs.max_images:
            message = f"messages: {len(urls)} pictures; at most {self._builder.inputs.max_images}"
            raise Refused(400, message, "messages", "too_many_images")
        fetched = await self._fetched(urls)
        share.set(share.count + sum(map(len, fetched.values())))
        lane = self._pictures if urls else self._texts
        work = lane.run(self._example, messages, urls, fetched)
        body.messages.clear()  # base64 of megabytes, of no use while the answer is made
        del messages, urls, fetched
        example = await work
        share.set(example.tiles.nbytes)
        text = AnswerText(self._builder.tokenizer, body.stops)
        until = text.until if body.stops else None
        return Request(example, limit, body.sampling(random.getrandbits(32)), body.alternatives, until), text

    def close(self) -> None:
        """Give up what waits."""
        for lane in (self._texts, self._pictures, self._fetches):
            lane.close()

    def _limit(self, body: ChatBody) -> int:
        limit, most = body.limit or self._settings.max_new_tokens, 4 * self._settings.max_new_tokens
        if limit > most:
            field = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
            raise Refused(400, f"{field}: {limit}; at most {most}", field, "invalid_value")
        return limit

    async def _fetched(self, urls: Sequence[Url]) -> dict[str, bytes]:
        """The contents of those that are addresses, by field; all within the time for pictures."""
        web = [(place, url) for place, url in urls if not _is_data(url)]
        if web and not self._settings.image_urls:
            place, message = web[0][0], "only data: URIs are taken (the server was started without --image_urls)"
            raise Refused(400, f"{place}: {message}", place, "invalid_image_url")
        seconds = self._settings.image_seconds
        end = time.monotonic() + seconds
        jobs = [asyncio.ensure_future(self._fetches.run(self._fetch, url, place, end)) for place, url in web]
        try:
            async with asyncio.timeout(seconds + 1):  # looking up a name has no limit of its own
                contents = await asyncio.gather(*jobs)
        except TimeoutError as error:
            place = web[0][0]
            raise Refused(400, f"{place}: takes too long", place, "invalid_image_url") from error
        finally:
            for job in jobs:
                job.cancel()
        return {place: content for (place, _), content in zip(web, contents, strict=True)}

    def _fetch(self, url: str, place: str, end: float) -> bytes:
        return fetch(url, place, self._settings.max_body_bytes, max(end - time.monotonic(), 0.0))

    def _example(self, messages: Sequence[Message], urls: Sequence[Url], fetched: dict[str, bytes]) -> Example:
        images = [fetched[place] if place in fetched else decode_data_uri(url, place) for place, url in urls]
        try:
            self._check_pixels(images)
            return self._builder.prompt(messages, images, max_tokens=self._settings.max_prompt_tokens)
        except BadSample as error:
            code = "context_length_exceeded" if error.reason == "too_long" else error.reason
            raise Refused(400, f"messages: {error}", "messages", code) from error

    def _check_pixels(self, images: Sequence[bytes]) -> None:
        sizes = [open_header(image).size for image in images]
        pixels = sum(width * height for width, height in sizes)
        if pixels > self._settings.max_pixels:
            message = f"{pixels:,} pixels in {len(sizes)} pictures; at most {self._settings.max_pixels:,} in a request"
            raise BadSample("image_too_large", message)


def _is_data(url: str) -> bool:
    return url[:5].lower() == "data:"


