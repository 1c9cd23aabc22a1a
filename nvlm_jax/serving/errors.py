"""Refusals in the form that clients of OpenAI's API read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refused(Exception):
    """A request that is not served."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        """
        Args:
            status: of HTTP, 4xx or 5xx.
            message: what was wrong and what would be right.
            param: the field it is about.
            code: a short key for programs.
        """
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """The whole reply; 429 and 503 ask the client to come back in a second."""
        headers = dict(headers or {}) | ({"Retry-After": "1"} if self.status in (429, 503) else {})
        return JSONResponse(self.body(), self.status, headers)
