"""Pictures that a request names: data URIs and, where the server allows it, http(s) addresses.

An address is looked up once, every address that its name has must be a public one, and the connection goes to what was
looked up: a name that changes its mind between check and use gains nothing. Redirects are followed by hand, each
checked alike.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import ipaddress
import re
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable

from nvlm_jax.serving.errors import Refused

DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
REDIRECTS = 3
REDIRECT_STATUS = (301, 302, 303, 307, 308)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def decode_data_uri(url: str, place: str) -> bytes:
    """The bytes of `data:image/...;base64,...`.

    Raises:
        Refused: 400, another form, or broken base64.
    """
    found = DATA_URI.match(url)
    if not found:
        raise Refused(400, f"{place}: expected data:image/TYPE;base64,DATA", place, "invalid_image_url")
    try:
        return base64.b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, f"{place}: broken base64: {error}", place, "invalid_base64") from error


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, also behind IPv6's ways to write an IPv4 one."""
    inner = [getattr(address, name, None) for name in ("ipv4_mapped", "sixtofour")] + list(
        getattr(address, "teredo", None) or ()
    )
    if address.version == 6 and address in ipaddress.ip_network("64:ff9b::/96"):
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address.is_global and not address.is_multicast and all(is_public(other) for other in inner if other)


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
    try:
        connection = _Pinned(parts.scheme, host, port, address, _left(end, place))
        try:
            path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
            connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "nvlm-jax"})
            response = connection.getresponse()
            if response.status in REDIRECT_STATUS and (target := response.getheader("Location")):
                return b"", target
            if response.status != 200:
                raise _refused(place, f"answers with status {response.status}")
            return _read(response, connection, place, max_bytes, end), None
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
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
        self.default_port = 443 if scheme == "https" else 80

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._scheme == "https":
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def _read(response: http.client.HTTPResponse, connection: _Pinned, place: str, max_bytes: int, end: float) -> bytes:
    content = bytearray()
    while piece := response.read1(1 << 16):
        content += piece
        if len(content) > max_bytes:
            raise _refused(place, f"more than {max_bytes:,} bytes")
        if connection.sock is not None:
            connection.sock.settimeout(_left(end, place))
    return bytes(content)


def _left(end: float, place: str) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise _refused(place, "takes too long")
    return left


def _refused(place: str, reason: str) -> Refused:
    return Refused(400, f"{place}: {reason}", place, "invalid_image_url")
