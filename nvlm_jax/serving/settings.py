"""Limits of a server."""

from __future__ import annotations

import dataclasses

from nvlm_jax.inputs.tiling import MAX_PIXELS


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a server serves, and how much of it."""

    model: str  # its name for clients
    keys: tuple[str, ...] = ()  # none = everybody may ask
    image_urls: bool = False  # fetch pictures from the web
    max_body_bytes: int = 32 << 20
    body_seconds: float = 30.0
    request_seconds: float = 300.0  # from the body to the last token
    max_prompt_tokens: int = 8192
    max_new_tokens: int = 256  # of an answer where the client does not say; at most four times as many
    image_seconds: float = 10.0  # for all addresses of a request together
    max_pixels: int = 2 * MAX_PIXELS  # of all pictures of a request
    max_waiting: int = 64  # texts, requests with pictures, and addresses that wait to be prepared, of each so many
    max_held_bytes: int = 2 << 30  # bodies and tiles of all requests
    max_connections: int = 512
    head_seconds: float = 10.0  # for a request's head, and for a connection that says nothing
    write_seconds: float = 60.0  # that a client may leave an answer unread
    idle_seconds: float = 75.0  # between two requests: longer than clients keep an idle connection
