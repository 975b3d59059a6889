"""Hosts and ports: what is looked up, what is verified, and what gets no further."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import httpx_net
from dialing import Listed, info
from peers import Peers, silent


class Asked(httpx_net.NetworkBackend):
    """Notes what ``connect`` asks the hook for, and where; finds nothing."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def getaddrinfo(self, host: str, port: int) -> list[Any]:
        self.asked = [host, port, threading.current_thread()]
        return []


def asked_for(host: Any, port: Any = 80) -> list[Any]:
    """The host and the port that ``connect`` looks up, in the caller's thread."""
    backend = Asked()
    with pytest.raises(OSError, match=r"failed: no usable address among 0 found$"):
        backend.connect(host, port)
    assert backend.asked.pop() is threading.current_thread()
    return backend.asked


def looked_up(host: Any) -> str:
    return asked_for(host)[0]


class Wrapped(Exception):
    """Raised in place of a handshake, with the name to verify."""


class Context(ssl.SSLContext):
    def wrap_socket(self, sock: Any, *args: Any, **options: Any) -> Any:
        raise Wrapped(options["server_hostname"])


CONTEXT = Context(ssl.PROTOCOL_TLS_CLIENT)


def verified(host: Any) -> str:
    """The name that ``start_tls`` asks the certificate to be for."""
    ours, theirs = socket.socketpair()
    with theirs, httpx_net.NetworkStream(ours) as stream, pytest.raises(Wrapped) as caught:
        stream.start_tls(CONTEXT, host)
    return caught.value.args[0]


both = pytest.mark.parametrize(
    ("use", "what"), [(looked_up, "host"), (verified, "hostname")], ids=["connect", "start_tls"]
)

# ---- Hosts

LONGEST = ".".join(["a" * 63] * 3 + ["a" * 61])  # 253 characters


@pytest.mark.parametrize(
    ("host", "to_look_up", "to_verify"),
    [
        *[
            (name, name, name)
            for name in ("www.example.com", "WWW.Example.COM", "xn--bcher-kva.de")
        ],
        *[(name, name, name) for name in ("under_score.example", "!~", LONGEST)],
        *[(ip, ip, ip) for ip in ("127.0.0.1", "127.1", "::1", "::ffff:127.0.0.1")],
        ("www.example.com.", "www.example.com.", "www.example.com"),
        (LONGEST + ".", LONGEST + ".", LONGEST),
        ("[::1]", "::1", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0", "fe80::1"),
        ("[fe80::1%eth0]", "fe80::1%eth0", "fe80::1"),
    ],
)
def test_names_to_look_up_and_to_verify(host: str, to_look_up: str, to_verify: str) -> None:
    assert looked_up(host) == to_look_up
    assert verified(host) == to_verify


@pytest.mark.parametrize(
    ("host", "ascii_name"),
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("bücher.EXAMPLE", "xn--bcher-kva.example"),
        ("WWW.Bücher.example", "www.xn--bcher-kva.example"),
        ("例え.jp", "xn--r8jz45g.jp"),
    ],
)
def test_a_name_outside_ascii_is_encoded(host: str, ascii_name: str) -> None:
    assert looked_up(host).lower() == ascii_name
    assert verified(host + ".").lower() == ascii_name


@pytest.mark.parametrize(
    ("host", "in_idna_2003"),
    [
        ("faß.de", "fass.de"),
        ("βόλος.com", "xn--nxasmq6b.com"),
        ("نامه\u200cای.com", "xn--mgba3gch31f.com"),  # noqa: RUF001
        ("ⅷ.example", "viii.example"),
        ("ＡＢＣ.example", "abc.example"),  # noqa: RUF001
        ("www。example", "www.example"),
        ("cafe\N{COMBINING ACUTE ACCENT}.example", "xn--caf-dma.example"),
    ],
)
@both
def test_a_name_that_idna_versions_read_differently_is_refused(
    use: Any, what: str, host: str, in_idna_2003: str
) -> None:
    with pytest.raises(ValueError) as caught:
        use(host)
    assert str(caught.value) == (
        f"{what} {host!r} is {in_idna_2003!r} in IDNA 2003, but not in every version of IDNA; "
        f"pass that if it is meant, else the A-labels (xn--...) that the package idna makes"
    )


REASONS = {
    "must not be empty or have an empty label": (
        *("", ".", ".example.com", "www..com", "www.example.com..", "fe80::1%a..b"),
    ),
    "has a label of more than 63 octets": ("a" * 64, f"www.{'a' * 64}.com", f"fe80::1%{'a' * 64}"),
    "is longer than 253 octets": ("a." * 126 + "aa", LONGEST + "a.", "é" * 254, "é." * 10**6),
    "must not contain '/': ": ("localhost/",),
    "must not contain ": (
        *("localhost\0.example.com", " localhost", "localhost\n", "local\thost", "localhost\x7f"),
        *("*", "*.example.com", "[127.0.0.1]", "[localhost]", "user@localhost"),
        *("localhost?", "localhost#", "127.0.0.1%lo", "back\\slash", "fe80::1%a b", "<host>"),
    ),
    "has a colon but is no IPv6 address": (
        *("localhost:80", "[::1]:80", "[::1", "::1]", "http://localhost", "1:2"),
        *("::1%", "::1%é", "::1\0", " ::1"),
    ),
    "is no internationalized domain name": ("\ud800.example", "ü" * 60, "é" * 253, "é..de"),
}


@pytest.mark.parametrize(
    ("reason", "host"),
    [(reason, host) for reason, hosts in REASONS.items() for host in hosts],
    ids=lambda text: ascii(text)[:40],
)
@both
def test_unusable_hosts_are_refused_with_a_reason(use: Any, what: str, reason: str, host: str):
    with pytest.raises(ValueError, match=f"^{what} {reason}") as caught:
        use(host)
    assert repr(host) in str(caught.value)


@given(st.ip_addresses().map(str))
def test_every_address_is_a_host(address: str) -> None:
    assert looked_up(address) == verified(address) == address


@pytest.mark.parametrize("host", [1, 1.0, b"a", ["a"], ("a", 80)])
@both
def test_whatever_is_no_text_is_a_TypeError(use: Any, what: str, host: Any) -> None:
    with pytest.raises(TypeError) as caught:
        use(host)
    assert str(caught.value) == f"{what} must be a str, not {host!r}"


# ---- Ports


@pytest.mark.parametrize("port", [1, 80, 65535])
def test_ports(port: int) -> None:
    assert asked_for("localhost", port) == ["localhost", port]


@pytest.mark.parametrize(
    ("error", "text", "port"),
    [
        *[(ValueError, "in 1..65535", port) for port in (0, -1, 65536, 80 + 65536, 10**30)],
        *[(TypeError, "an int", port) for port in (None, "80", b"80", 80.0, True)],
    ],
)
def test_what_is_no_port_is_refused(error: type[Exception], text: str, port: Any) -> None:
    with pytest.raises(error) as caught:
        asked_for("localhost", port)
    assert str(caught.value) == f"port must be {text}, not {port!r}"


@pytest.mark.parametrize(("host", "port"), [("", 80), ("a\0b", 80), ("*", 80), ("localhost", 0)])
def test_the_hook_refuses_bad_arguments_as_well(host: str, port: int) -> None:
    with pytest.raises(ValueError):
        httpx_net.NetworkBackend().getaddrinfo(host, port)


# ---- Addresses

GOOD = ("127.0.0.1", 80)


@pytest.mark.parametrize(
    ("error", "local_address"),
    [
        *[(ValueError, ip) for ip in ("localhost", "", "127.1", "127.0.0.1%lo", "[::1]")],
        *[(ValueError, ip) for ip in ("127.0.0.1\0", "::1%nowhere", "*")],
        *[(ValueError, ("127.0.0.1", port)) for port in (-1, 65536)],
        *[(TypeError, ("127.0.0.1", *port)) for port in (["80"], [True], [], [0, 0, 0])],
        *[(TypeError, wrong) for wrong in (b"127.0.0.1", 2130706433, ["127.0.0.1", 0])],
    ],
)
def test_wrong_local_addresses_are_refused(error: type[Exception], local_address: Any) -> None:
    with pytest.raises(error, match=r"^(local_address|port) .*(not |: )"):
        httpx_net.NetworkBackend(local_address=local_address)


@pytest.mark.parametrize(
    "changes",
    [
        {"type": socket.SOCK_DGRAM},
        {"type": socket.SOCK_RAW, "proto": 0},
        {"proto": getattr(socket, "IPPROTO_SCTP", 132)},
        {"family": getattr(socket, "AF_UNIX", 1), "sockaddr": "/run/peer"},
        {"family": socket.AF_UNSPEC},
        {"family": 12345, "sockaddr": ("an", "address")},
        *[{"sockaddr": (ip, 80)} for ip in ("localhost", "127.1", "127.0.0.1%lo", "", "::1", 1)],
        *[{"sockaddr": (ip, 80)} for ip in ("127.0.0.1\0", b"127.0.0.1")],
        *[{"family": socket.AF_INET6, "sockaddr": (ip, 80, 0, 0)} for ip in ("127.0.0.1", 1)],
        {"family": socket.AF_INET6, "sockaddr": ("fe80::1%nowhere", 80, 0, 0)},
    ],
    ids=str,
)
def test_what_tcp_cannot_connect_to_is_passed_over(peers: Peers, changes: Any) -> None:
    live = peers.serve(silent)
    with Listed([info(live, **changes), live]).connect("www.example.com", 80) as stream:
        assert stream.get_extra_info("server_addr") == live
    expected = r"^connect to www.example.com:80 failed: no usable address among 1 found$"
    with pytest.raises(OSError, match=expected):
        Listed([info(live, **changes)]).connect("www.example.com", 80)


@pytest.mark.parametrize(
    "found",
    [
        *[None, 5, ["x"], [()], [None], [GOOD]],
        *[[info(GOOD, sockaddr=wrong)] for wrong in (None, (), ("127.0.0.1", "http"))],
        *[[info(GOOD, sockaddr=("127.0.0.1", port))] for port in (0, 65536, True)],
        *[[info(GOOD, sockaddr=(*GOOD, *more))] for more in ([[]], [0, 0])],
        *[[info(GOOD, **{field: None})] for field in ("type", "family", "proto")],
        *[[info(("::1", *more))] for more in [(80, "0", 0), (80, -1, 0), (80, 2**20, 0)]],
        *[[info(("::1", *more))] for more in [(80, 0, -1), (80, 0, 2**32), (80, 0, 0, 0)]],
    ],
    ids=str,
)
def test_what_no_getaddrinfo_returns_is_a_clear_TypeError(found: Any) -> None:
    class Hooked(httpx_net.NetworkBackend):
        def getaddrinfo(self, host: str, port: int) -> Any:
            return found

    expected = r"^<Hooked \[threaded\]>\.getaddrinfo\(\) must return what socket\.getaddrinfo\(\)"
    with pytest.raises(TypeError, match=expected) as caught:
        Hooked().connect("www.example.com", 80)
    assert repr(found) in str(caught.value)


@pytest.mark.parametrize(
    "sockaddr", [("::1", 80), ("::1", 80, 2**20 - 1, 2**32 - 1), ("::1%7", 80)]
)
def test_a_zone_or_scope_that_means_nothing_is_no_part_of_the_address(
    peers: Peers, sockaddr
) -> None:
    ip, port = peers.serve(silent, family=socket.AF_INET6)
    found = info((sockaddr[0], port, *sockaddr[2:]))
    with Listed([found]).connect("www.example.com", 80) as stream:
        assert stream.get_extra_info("server_addr") == (ip, port)
