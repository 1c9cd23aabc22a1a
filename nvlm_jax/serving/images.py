"""Pictures that a request names: data URIs and, where the server allows it, http(s) addresses.

An address is looked up once, every address that its name has must be a public one, and the connection goes to what was
looked up: a name that changes its mind between check and use gains nothing. Redirects are followed by hand, each
checked alike.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable

from nvlm_jax.serving.addresses import Address, is_public
from nvlm_jax.serving.errors import Refused

DATA_URI = re.compile(r"data:image/[\w.+-]+(?:;[\w.+-]+=[\w.+-]*)*;base64,", re.IGNORECASE)
BLANKS = b" \t\r\n\f"
REDIRECTS = 3
REDIRECT_STATUS = (301, 302, 303, 307, 308)


def decode_data_uri(url: str, place: str) -> bytes:
    """The bytes of `data:image/...;base64,...`, also with line breaks, percent signs or without padding.

    Raises:
        Refused: 400, another form, or broken base64.
    """
    found = DATA_URI.match(url)
    if not found:
        raise Refused(400, f"{place}: expected data:image/TYPE;base64,DATA", place, "invalid_image_url")
    try:
        content = url[found.end() :].encode("ascii")
        if b"%" in content:
            content = urllib.parse.unquote_to_bytes(content)
        content = content.translate(None, BLANKS).rstrip(b"=")
        return base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
    except ValueError as error:
        raise Refused(400, f"{place}: broken base64: {error}", place, "invalid_base64") from error


def fetch(
    url: str,
    place: str,
    max_bytes: int,
    seconds: float,
    allowed: Callable[[Address], bool] = is_public,
) -> bytes:
    """The content behind an http(s) address.

    Args:
        url: of the client.
        place: the field it comes from, for messages.
        max_bytes: of the content.
        seconds: for all of it, redirects included.
        allowed: which addresses may be asked.

    Raises:
        Refused: 400, an address that may not be asked, does not answer, or gives too much.
    """
    end = time.monotonic() + seconds
    for _ in range(1 + REDIRECTS):
        content, target = _get(url, place, max_bytes, end, allowed)
        if target is None:
            return content
        url = urllib.parse.urljoin(url, target)
    raise _refused(place, f"more than {REDIRECTS} redirects")


def _get(
    url: str, place: str, max_bytes: int, end: float, allowed: Callable[[Address], bool]
) -> tuple[bytes, str | None]:
    """The content, or where a redirect leads."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (KeyError, ValueError) as error:
        raise _refused(place, "expected an http or https address") from error
    if not host or parts.username is not None:
        raise _refused(place, "expected a host, and no name or password before it")
    address = _resolve(host, port, place, allowed)
    connection = _Pinned(parts.scheme, host, port, address, _left(end, place))
    # Time limits of a socket are for each wait: a server that sends a byte a second would be waited for without end.
    clock = threading.Timer(_left(end, place), connection.abort)
    clock.start()
    try:
        try:
            path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
            connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "nvlm-jax"})
            response = connection.getresponse()
            if response.status in REDIRECT_STATUS and (target := response.getheader("Location")):
                return b"", target
            if response.status != 200:
                raise _refused(place, f"answers with status {response.status}")
            return _read(response, place, max_bytes, end), None
        finally:
            clock.cancel()
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        _left(end, place)
        raise _refused(place, f"cannot be fetched: {type(error).__name__}") from error


def _resolve(host: str, port: int, place: str, allowed: Callable[[Address], bool]) -> str:
    """The one address that is connected to; all that the name has must be allowed."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in sorted(found)]
    except (OSError, UnicodeError, ValueError) as error:
        raise _refused(place, f"{host} cannot be looked up") from error
    if not addresses or not all(allowed(address) for address in addresses):
        raise _refused(place, f"{host} is not an address of the public internet")
    return str(addresses[0])


class _Pinned(http.client.HTTPConnection):
    """A connection to one IP address under a host's name; nothing is looked up again."""

    def __init__(self, scheme: str, host: str, port: int, address: str, seconds: float):
        super().__init__(host, port, timeout=seconds)
        self._scheme, self._address = scheme, address
        self._plain: socket.socket | None = None
        self._aborted = False
        self.default_port = 443 if scheme == "https" else 80

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        self._plain = self.sock.dup()  # it stays valid whatever becomes of the one that is read from
        if self._aborted:
            raise TimeoutError
        if self._scheme == "https":
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)

    def abort(self) -> None:
        """From another thread: whoever waits for this connection waits no more."""
        self._aborted = True
        if self._plain is not None:
            with contextlib.suppress(OSError):
                self._plain.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        super().close()
        if self._plain is not None:
            self._plain.close()


def _read(response: http.client.HTTPResponse, place: str, max_bytes: int, end: float) -> bytes:
    content = bytearray()
    while piece := response.read1(1 << 16):
        _left(end, place)
        content += piece
        if len(content) > max_bytes:
            raise _refused(place, f"more than {max_bytes:,} bytes")
    _left(end, place)  # the end that `abort` makes is none of the content
    return bytes(content)


def _left(end: float, place: str) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise _refused(place, "takes too long")
    return left


def _refused(place: str, reason: str) -> Refused:
    return Refused(400, f"{place}: {reason}", place, "invalid_image_url")
