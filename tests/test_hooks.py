"""The backends that the manual prints, where its samples do not reach: hooks and proxies."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from dialing import Resolver, info
from peers import Peers, client_may_leave, take
from test_docs import classes

NAME = "www.example.com"

hooks, proxies = classes("connecting.rst"), classes("backends.rst")


# ---- A cache, and a fixed map


@pytest.mark.parametrize(("options", "times"), [({}, 1), ({"ttl": 0.0}, 3)])
def test_the_cache_asks_once_for_a_name_and_port_until_its_time_is_over(
    resolver: Resolver, options: dict[str, Any], times: int
) -> None:
    resolver.answers |= {NAME: ("127.0.0.1", 0), NAME.upper(): ("127.0.0.1", 0)}
    net = hooks.CachingBackend(**options)
    for name in (NAME, NAME.upper(), NAME):
        # What it returns may be changed.
        assert net.getaddrinfo(name, 80).pop()[4] == ("127.0.0.1", 80)
        assert net.getaddrinfo(name, 443).pop()[4] == ("127.0.0.1", 443)
    assert len(resolver.asked) == 2 * times


@pytest.mark.parametrize(("kind", "times"), [("CachingBackend", 2), ("PessimisticBackend", 1)])
def test_failures_are_remembered_only_where_it_says_so(
    resolver: Resolver, kind: str, times: int
) -> None:
    net = getattr(hooks, kind)()
    for _ in range(2):
        with pytest.raises(socket.gaierror, match="not known"):
            net.getaddrinfo(NAME, 80)
    assert resolver.asked == [NAME] * times


def test_a_pin_is_for_its_name_and_port_alone(resolver: Resolver) -> None:
    net = hooks.PinnedBackend({(NAME, 80): "127.0.0.1"})
    assert net.getaddrinfo(NAME.upper(), 80)[0][4] == ("127.0.0.1", 80)
    for host, port in [(NAME, 443), ("example.com", 80)]:
        with pytest.raises(socket.gaierror):
            net.getaddrinfo(host, port)
    assert resolver.asked == [NAME, "example.com"]


# ---- A filter

# Loopback, this host and network, private, link-local (where clouds keep their metadata), NAT,
# benchmarks, documentation, multicast, reserved, broadcast; the same of IPv6, with the disguises
# of IPv4 in it: mapped, compatible, NAT64, 6to4, Teredo.
PRIVATE = """127.0.0.1 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 172.31.255.255 192.168.1.1
    169.254.169.254 100.64.0.1 198.18.0.1 192.0.2.1 224.0.0.1 240.0.0.1 255.255.255.255
    ::1 :: fe80::1 fec0::1 fd00::1 ff02::1 2001:db8::1 ::ffff:127.0.0.1 ::ffff:7f00:1
    ::ffff:8.8.8.8 ::127.0.0.1 64:ff9b::127.0.0.1 64:ff9b:1::127.0.0.1 2002:7f00:1::
    2001:0:7f00:1::""".split()  # noqa: SIM905
DISGUISED = ["127.1", "0x7f.1", "2130706433", "017700000001", "[::1]"]


@pytest.mark.parametrize("host", [NAME, *PRIVATE, *DISGUISED, "fe80::1%1"])
def test_a_private_address_is_refused(resolver: Resolver, host: str) -> None:
    for address in PRIVATE if host == NAME else [host]:
        resolver.answers[NAME] = (address, 0)
        with pytest.raises(PermissionError, match="has no public address"):
            hooks.PublicBackend().connect(host, 80)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111"])
def test_a_public_address_passes_and_alone(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    mixed = [info(("127.0.0.1", 0)), info((address, 0)), info(("::1", 0, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: mixed)
    found = hooks.PublicBackend().getaddrinfo(NAME, 80)
    assert [each[4][0] for each in found] == [address]


# ---- Proxies


def ask(peers: Peers, kind: Any, answer: bytes, host: str, **options: Any) -> bytes:
    """What a proxy that answers so is asked for, until the client has closed the connection."""
    asked: list[bytes] = []

    def proxy(conn: socket.socket) -> None:
        with client_may_leave():
            conn.sendall(answer)
            conn.shutdown(socket.SHUT_WR)
            asked.append(take(conn))

    try:
        with kind(*peers.serve(proxy), **options).connect(host, 443) as stream:
            # The answer of the proxy has been read, and no more.
            assert stream.read() == b"hello"
    finally:
        peers.close()
    return asked[0]


GRANTED = b"HTTP/1.1 200 OK\r\n\r\nhello"
BOUND = b"\x05\x00\x00\x03\x04name\x00\x50hello"


@pytest.mark.parametrize(
    ("host", "options", "line"),
    [
        ("server.test", {}, b"CONNECT server.test:443 HTTP/1.1\r\nHost: server.test:443\r\n\r\n"),
        ("[::1]", {}, b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n"),
        ("::1", {"user": "me", "password": "ü"}, b"\r\nProxy-Authorization: Basic bWU6w7w=\r\n"),
    ],
)
def test_an_http_proxy_is_asked_by_the_book(
    peers: Peers, host: str, options: Any, line: bytes
) -> None:
    assert line in ask(peers, proxies.HTTPProxyBackend, GRANTED, host, **options)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("server.test", b"\x03\x0bserver.test"),
        ("127.0.0.1", b"\x01\x7f\x00\x00\x01"),
        ("[::1]", b"\x04" + bytes(15) + b"\x01"),
    ],
)
@pytest.mark.parametrize(
    ("options", "greeting", "answer"),
    [
        ({}, b"\x05\x01\x00", b"\x05\x00"),
        (
            {"user": "me", "password": "pw"},
            b"\x05\x02\x00\x02\x01\x02me\x02pw",
            b"\x05\x02\x01\x00",
        ),
    ],
)
def test_a_socks_proxy_is_asked_by_the_book(
    peers: Peers, host: str, address: bytes, options: Any, greeting: bytes, answer: bytes
) -> None:
    asked = ask(peers, proxies.SOCKSBackend, answer + BOUND, host, **options)
    assert asked == greeting + b"\x05\x01\x00" + address + b"\x01\xbb"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"\x05\xff", "none of the methods"),
        (b"\x05\x02\x01\x01", "wrong user or password"),
        (b"\x05\x00\x05\x05\x00\x01", "connection refused"),
        (b"\x05\x00\x05\x00", "hung up"),
    ],
)
def test_what_a_socks_proxy_refuses_names_both(peers: Peers, answer: bytes, text: str) -> None:
    with pytest.raises(ConnectionError, match=rf"^s\.test:443 by proxy 127\.0\.0\.1:\d+: {text}"):
        ask(peers, proxies.SOCKSBackend, answer, "s.test", user="me", password="pw")


@pytest.mark.parametrize("kind", [proxies.HTTPProxyBackend, proxies.SOCKSBackend])
@pytest.mark.parametrize(
    ("host", "port"),
    [
        *[(host, 80) for host in ("", "a\r\nb", "bücher.test", "::g", "fe80::1%x\r\n", "a" * 254)],
        *[("a", port) for port in ("80", 0, 65_536, None)],
    ],
)
def test_no_proxy_is_asked_for_what_is_no_host_or_port(kind: Any, host: str, port: Any) -> None:
    with pytest.raises(ValueError, match=r"not a host|Only hex digits|port must be in"):
        kind("proxy.test", 3128).connect(host, port)
