"""Pictures from the web: nothing private is asked, however it is named."""

import contextlib
import http.server
import ipaddress
import socket
import threading
import time

import pytest

from nvlm_jax.serving import images
from nvlm_jax.serving.errors import Refused


class Handler(http.server.BaseHTTPRequestHandler):
    """/N redirects to /N-1, /0 is a picture; /private leads to an address of this machine's network."""

    def do_GET(self):
        self.server.hosts.append(self.headers["Host"])
        name = self.path[1:]
        target = {"private": "http://10.0.0.1/", "file": "file:///etc/passwd", "name": "http://inside.test/"}.get(name)
        if target or (name.isdigit() and name != "0"):
            self.send_response(302)
            self.send_header("Location", target or f"/{int(name) - 1}")
            self.end_headers()
        elif name == "missing":
            self.send_error(404)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"picture" * (10 if name == "0" else 1000))

    def log_message(self, *_):
        pass


@pytest.fixture
def web(monkeypatch):
    """A server behind the name `public.test`; addresses of the loopback range are let through for it."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hosts, server.looked_up = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = {"public.test": ["127.0.0.1"], "inside.test": ["192.168.0.7"], "both.test": ["127.0.0.1", "10.0.0.1"]}
    real = socket.getaddrinfo

    def look_up(host, port, *rest, **options):
        server.looked_up.append(host)
        found = names.get(host)
        if found is None:
            return real(host, port, *rest, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    server.names = names
    yield server
    server.shutdown()
    server.server_close()


def loopback(address) -> bool:
    return address.is_loopback


def get(web, path: str, host: str = "public.test", **options) -> bytes:
    url = f"http://{host}:{web.server_address[1]}/{path}"
    return images.fetch(url, "url", **({"max_bytes": 1000, "seconds": 5.0, "allowed": loopback} | options))


def test_a_picture_is_fetched_over_redirects(web):
    assert get(web, "0") == get(web, "3") == b"picture" * 10
    assert set(web.hosts) == {f"public.test:{web.server_address[1]}"}


@pytest.mark.parametrize(
    ("path", "host", "message"),
    [
        ("4", "public.test", "more than 3 redirects"),
        ("private", "public.test", "10.0.0.1 is not an address of the public internet"),
        ("name", "public.test", "inside.test is not an address"),
        ("file", "public.test", "expected an http or https address"),
        ("0", "both.test", "both.test is not an address"),
        ("missing", "public.test", "status 404"),
        ("large", "public.test", "more than 1,000 bytes"),
        ("0", "owl:secret@public.test", "no name or password"),
    ],
)
def test_what_is_not_fetched(web, path, host, message):
    with pytest.raises(Refused, match=message) as refused:
        get(web, path, host)
    assert refused.value.status == 400 and refused.value.code == "invalid_image_url"


def test_a_name_that_changes_its_address_after_the_check_gains_nothing(web, monkeypatch):
    """The address is looked up once, and that one is connected to."""
    real, connected = socket.create_connection, []

    def connect(address, *rest):
        web.names["public.test"] = ["10.0.0.1"]
        connected.append(address[0])
        return real(address, *rest)

    monkeypatch.setattr(socket, "create_connection", connect)
    assert get(web, "0") == b"picture" * 10
    assert connected == ["127.0.0.1"] and web.looked_up.count("public.test") == 1


def test_a_slow_server_is_left(web, monkeypatch):
    monkeypatch.setattr(Handler, "do_GET", lambda self: threading.Event().wait(2))
    with pytest.raises(Refused, match=r"cannot be fetched: TimeoutError|takes too long"):
        get(web, "0", seconds=0.2)


@pytest.mark.parametrize("part", ["head", "body", "chunks"])
def test_the_time_is_for_all_of_it_however_the_server_drips(web, monkeypatch, part):
    """Each byte comes well within the limit of one wait."""
    left = threading.Event()

    def drip(self):
        lines = {"head": b"HTTP/1.1 200 OK\r\n", "body": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"}
        lines["chunks"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.wfile.write(lines[part])
        pieces = {"head": b"X: 1\r\n", "body": b"x", "chunks": b"1\r\nx\r\n"}
        with contextlib.suppress(OSError):
            while not left.wait(0.05):
                self.wfile.write(pieces[part])

    monkeypatch.setattr(Handler, "do_GET", drip)
    begin = time.monotonic()
    try:
        with pytest.raises(Refused, match="takes too long"):
            get(web, "0", seconds=0.4, max_bytes=10**6)
        assert time.monotonic() - begin < 3
    finally:
        left.set()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        *[
            (address, False)
            for address in (
                "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
                "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00::1", "::ffff:127.0.0.1",
                "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "ff02::1",
                "192.0.0.192", "192.0.0.8", "192.0.0.9", "192.0.0.170", "192.0.2.1", "192.31.196.1", "192.52.193.1",
                "192.88.99.1", "192.175.48.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
                "100.127.255.255", "240.0.0.1", "239.1.2.3", "172.31.255.255", "0.1.2.3",
                "fec0::1", "feff::1", "fc00::1", "64:ff9b:1::1", "64:ff9b:1::808:808", "64:ff9b::a00:1", "100::1",
                "100:0:0:1::1", "2001::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:4:112::1", "2001:db8::1",
                "2002:808:808::1", "2620:4f:8000::1", "3fff::1", "5f00::1", "::8.8.8.8", "::127.0.0.1", "4000::1",
                "::ffff:192.0.0.192", "::ffff:0:127.0.0.1",
            )
        ],
        *[
            (address, True)
            for address in (
                "8.8.8.8", "1.1.1.1", "192.0.1.1", "172.32.0.1", "100.128.0.1", "198.20.0.1", "223.255.255.255",
                "2001:4860:4860::8888", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808",
            )
        ],
    ],
)  # fmt: skip
def test_which_addresses_are_public(address, public):
    assert images.is_public(ipaddress.ip_address(address)) is public


def test_private_addresses_are_refused_by_default(web):
    for host in ("127.0.0.1", "localhost", "[::1]", "0x7f.1", "2130706433"):
        with pytest.raises(Refused, match=r"is not an address of the public internet|cannot be looked up"):
            images.fetch(f"http://{host}:{web.server_address[1]}/0", "url", 1000, 5.0)
    assert web.hosts == []
