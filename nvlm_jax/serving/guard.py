"""What stands before the routes: size and time of bodies, and keys."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from nvlm_jax.serving.errors import Refused
from nvlm_jax.serving.limits import Share

Scope = dict[str, Any]


async def read_limited(request: Request, max_bytes: int, seconds: float, share: Share) -> bytes:
    """The body of a request; its bytes are counted in the share as they come.

    Raises:
        Refused: 413, more bytes than allowed; 408, it does not come in time; 429, other requests hold too much.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
                share.set(len(body))
    except TimeoutError as error:
        raise Refused(408, f"the body did not come within {seconds:g} s", code="timeout") from error
    return bytes(body)


def check_key(header: str | None, keys: Sequence[str]) -> None:
    """Raise Refused (401) unless `Authorization: Bearer KEY` has one of the keys; no keys = everybody may.

    Every key is compared, each in a time that does not depend on where it differs.
    """
    if not keys:
        return
    scheme, _, given = (header or "").partition(" ")
    fits = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in keys]
    if scheme.lower() != "bearer" or not any(fits):
        raise Refused(401, "expected the header Authorization: Bearer KEY with a valid key", code="invalid_api_key")


def _too_large(max_bytes: int) -> Refused:
    return Refused(413, f"the body has more than {max_bytes:,} bytes", code="body_too_large")
