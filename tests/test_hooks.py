"""The backends that the manual prints, beyond its samples: hooks of look-ups, and proxies."""

from __future__ import annotations

import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

import httpx_net
from dialing import Resolver, info
from peers import HANG, Peers, client_context, echo, silent
from test_docs import classes

NAME = "www.example.com"

hooks, proxies = classes("connecting.rst"), classes("backends.rst")


# ---- A cache


def test_the_cache_asks_once_for_a_name_and_port(resolver: Resolver) -> None:
    resolver.answers |= {NAME: ("127.0.0.1", 0), "other.example.com": ("127.0.0.2", 0)}
    net = hooks.CachingBackend()
    for _ in range(3):
        # What it returns may be changed.
        assert net.getaddrinfo(NAME, 80).pop()[4] == ("127.0.0.1", 80)
        assert net.getaddrinfo(NAME.upper(), 80).pop()[4] == ("127.0.0.1", 80)
        assert net.getaddrinfo(NAME, 443).pop()[4] == ("127.0.0.1", 443)
        assert net.getaddrinfo("other.example.com", 80).pop()[4] == ("127.0.0.2", 80)
    assert sorted(resolver.asked) == ["other.example.com", NAME, NAME]


def test_the_cache_asks_again_when_the_time_to_live_is_over(resolver: Resolver) -> None:
    resolver.answers[NAME] = ("127.0.0.1", 0)
    net = hooks.CachingBackend(ttl=0.05)
    start = time.monotonic()
    while len(resolver.asked) < 2:
        net.getaddrinfo(NAME, 80)
        assert time.monotonic() - start < HANG
    assert time.monotonic() - start >= 0.05


def test_a_stampede_on_the_cache_is_answered_in_time(resolver: Resolver) -> None:
    resolver.answers[NAME] = ("127.0.0.1", 0)
    net = hooks.CachingBackend()

    def ask(_: object) -> Any:
        with httpx_net.timeout(HANG):
            return net.getaddrinfo(NAME, 80)

    with ThreadPoolExecutor(16) as threads:
        assert len(list(threads.map(ask, range(64)))) == 64
    assert len(resolver.asked) <= 16


@pytest.mark.parametrize(("kind", "times"), [("CachingBackend", 2), ("PessimisticBackend", 1)])
def test_failures_are_remembered_only_where_it_says_so(
    resolver: Resolver, kind: str, times: int
) -> None:
    net = getattr(hooks, kind)()
    depths = set()
    for _ in range(2):
        with pytest.raises(socket.gaierror, match="not known") as caught:
            net.getaddrinfo(NAME, 80)
        depths.add(len(caught.traceback))
    assert resolver.asked == [NAME] * times
    assert len(depths) == 2 or times == 2  # A kept error would have grown.


# ---- A fixed map


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_pinned_name_is_not_looked_up(peers: Peers, resolver: Resolver, family: int) -> None:
    ip, port = peers.serve(echo, family=family)
    with hooks.PinnedBackend({(NAME, port): ip}).connect("WWW.Example.COM", port) as stream:
        assert stream.get_extra_info("server_addr") == (ip, port)
    assert not resolver.asked


def test_a_pin_is_for_its_port_and_name_alone(resolver: Resolver) -> None:
    net = hooks.PinnedBackend({(NAME, 80): "127.0.0.1"})
    for host, port in [(NAME, 443), ("example.com", 80)]:
        with pytest.raises(socket.gaierror), httpx_net.timeout(HANG):
            net.connect(host, port)
    assert resolver.asked == [NAME, "example.com"]


@pytest.mark.parametrize("certificate", ["server", "wrong-name"])
def test_the_certificate_of_a_pinned_name_is_verified(peers: Peers, certificate: str) -> None:
    right = certificate == "server"
    ip, port = peers.serve_tls(silent, certificate=certificate, tickets=0, refused=not right)
    net = hooks.PinnedBackend({("localhost", port): ip})
    refused = pytest.raises(ssl.SSLCertVerificationError, match="localhost")
    with (
        httpx_net.timeout(HANG),
        net.connect("localhost", port) as stream,
        nullcontext() if right else refused,
    ):
        stream.start_tls(client_context(), hostname="localhost")


# ---- A filter

# Loopback, this host and network, private, link-local (where clouds keep their metadata), NAT,
# benchmarks, documentation, multicast, reserved, broadcast; the same of IPv6, with the disguises
# of IPv4 in it: mapped, compatible, NAT64, 6to4, Teredo.
PRIVATE = """127.0.0.1 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 172.31.255.255 192.168.1.1
    169.254.169.254 100.64.0.1 198.18.0.1 192.0.2.1 224.0.0.1 240.0.0.1 255.255.255.255
    ::1 :: fe80::1 fec0::1 fd00::1 ff02::1 2001:db8::1 ::ffff:127.0.0.1 ::ffff:7f00:1
    ::ffff:8.8.8.8 ::127.0.0.1 64:ff9b::127.0.0.1 64:ff9b:1::127.0.0.1 2002:7f00:1::
    2001:0:7f00:1::""".split()  # noqa: SIM905


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_refused_as_a_literal_and_behind_a_name(
    resolver: Resolver, address: str
) -> None:
    resolver.answers[NAME] = (address, 0)
    for host in [address, NAME]:
        with pytest.raises(PermissionError, match=f"'{host}' has no public address"):
            hooks.PublicBackend().connect(host, 80)


@pytest.mark.parametrize("literal", ["127.1", "0x7f.1", "2130706433", "017700000001", "[::1]"])
def test_a_disguised_literal_is_refused(literal: str) -> None:
    with pytest.raises(PermissionError):
        hooks.PublicBackend().connect(literal, 80)


def test_an_address_with_a_zone_is_refused() -> None:
    with pytest.raises(PermissionError):
        hooks.PublicBackend().connect(f"fe80::1%{socket.if_nameindex()[0][1]}", 80)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111"])
def test_a_public_address_passes_and_alone(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    mixed = [info(("127.0.0.1", 0)), info((address, 0)), info(("::1", 0, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: mixed)
    found = hooks.PublicBackend().getaddrinfo(NAME, 80)
    assert [each[4][0] for each in found] == [address]


# ---- Proxies


class Script(httpx_net.NetworkStreamInterface):
    """A stream that answers what is written in it, and keeps what is written to it."""

    def __init__(self, answer: bytes) -> None:
        self.answer, self.asked, self.closed = answer, b"", False

    def read(self, max_bytes: int | None = None) -> bytes:
        data, self.answer = self.answer[:max_bytes], self.answer[max_bytes or 0 :]
        return data

    def write(self, data: Any) -> None:
        self.asked += data

    def start_tls(self, ctx: Any, hostname: str | None = None) -> None:
        raise NotImplementedError

    def get_extra_info(self, key: str) -> Any:
        return None

    def close(self) -> None:
        self.closed = True


def ask(kind: Any, answer: bytes, host: str, port: int, **options: Any) -> Script:
    script = Script(answer)
    backend = SimpleNamespace(connect=lambda host, port: script)
    try:
        kind("proxy.test", 3128, backend=backend, **options).connect(host, port)
    except OSError:
        assert script.closed
        raise
    return script


GRANTED = b"HTTP/1.1 200 OK\r\n\r\n"
V6 = bytes(15) + b"\x01"


@pytest.mark.parametrize(
    ("host", "options", "line"),
    [
        ("server.test", {}, b"CONNECT server.test:443 HTTP/1.1\r\nHost: server.test:443\r\n\r\n"),
        ("[::1]", {}, b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n"),
        ("::1", {"user": "me", "password": "ü"}, b"\r\nProxy-Authorization: Basic bWU6w7w=\r\n"),
    ],
)
def test_an_http_proxy_is_asked_by_the_book(host: str, options: Any, line: bytes) -> None:
    assert line in ask(proxies.HTTPProxyBackend, GRANTED, host, 443, **options).asked


BOUND = b"\x05\x00\x00\x03\x04name\x00\x50"


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("server.test", b"\x03\x0bserver.test\x01\xbb"),
        ("127.0.0.1", b"\x01\x7f\x00\x00\x01\x01\xbb"),
        ("[::1]", b"\x04" + V6 + b"\x01\xbb"),
    ],
)
def test_a_socks_proxy_is_asked_by_the_book(host: str, asked: bytes) -> None:
    script = ask(proxies.SOCKSBackend, b"\x05\x00" + BOUND, host, 443)
    assert script.asked == b"\x05\x01\x00\x05\x01\x00" + asked
    script = ask(
        proxies.SOCKSBackend, b"\x05\x02\x01\x00" + BOUND, host, 443, user="me", password="pw"
    )
    assert script.asked == b"\x05\x02\x00\x02\x01\x02me\x02pw\x05\x01\x00" + asked
    assert not script.answer  # All of the answer is read, and no more.


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"\x05\xff", "none of the methods"),
        (b"\x05\x02\x01\x01", "wrong user or password"),
        (b"\x05\x00\x05\x05\x00\x01", "connection refused"),
        (b"\x05\x00\x05\x00", "hung up"),
    ],
)
def test_what_a_socks_proxy_refuses_names_both(answer: bytes, text: str) -> None:
    with pytest.raises(ConnectionError, match=f"^s.test:80 by proxy proxy.test:3128: {text}"):
        ask(proxies.SOCKSBackend, answer, "s.test", 80, user="me", password="pw")


@pytest.mark.parametrize("kind", [proxies.HTTPProxyBackend, proxies.SOCKSBackend])
@pytest.mark.parametrize("host", ["", "a\r\nb", "bücher.test", "::g", "fe80::1%x\r\n", "a" * 254])
def test_no_proxy_is_asked_for_what_is_no_host(kind: Any, host: str) -> None:
    with pytest.raises(ValueError, match=r"not a host|Only hex digits"):
        ask(kind, GRANTED, host, 80)


@pytest.mark.parametrize("port", ["80", 0, 65_536, None])
def test_no_proxy_is_asked_for_what_is_no_port(port: Any) -> None:
    with pytest.raises(ValueError, match="port must be in"):
        ask(proxies.SOCKSBackend, GRANTED, "a", port)
