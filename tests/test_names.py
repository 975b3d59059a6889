"""Hosts and ports: what is looked up, what is verified, and what gets no further."""

from __future__ import annotations

import enum
import socket
import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import httpx_net


class Asked(httpx_net.NetworkBackend):
    """Notes what ``connect`` asks the hook for, and finds nothing."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def getaddrinfo(self, host: str, port: int) -> list[Any]:
        self.asked = [host, port]
        return []


def asked_for(host: Any, port: Any = 80) -> list[Any]:
    """The host and the port that ``connect`` looks up."""
    backend = Asked()
    with pytest.raises(OSError, match=r"failed: no usable address among 0 found$"):
        backend.connect(host, port)
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
        ("www.example.com", "www.example.com", "www.example.com"),
        ("WWW.Example.COM", "WWW.Example.COM", "WWW.Example.COM"),
        ("under_score.example", "under_score.example", "under_score.example"),
        ("!~", "!~", "!~"),
        ("www.example.com.", "www.example.com.", "www.example.com"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("127.1", "127.1", "127.1"),
        ("::1", "::1", "::1"),
        ("[::1]", "::1", "::1"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", "::ffff:127.0.0.1"),
        ("fe80::1%eth0", "fe80::1%eth0", "fe80::1"),
        ("[fe80::1%eth0]", "fe80::1%eth0", "fe80::1"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        (LONGEST, LONGEST, LONGEST),
        (LONGEST + ".", LONGEST + ".", LONGEST),
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
        *("", ".", ".example.com", "www..com", "www.example.com.."),
    ),
    "has a label of more than 63 octets": ("a" * 64, f"www.{'a' * 64}.com"),
    "is longer than 253 octets": ("a." * 126 + "aa", LONGEST + "a.", "é" * 254, "é." * 10**6),
    "must not contain ": (
        *("localhost\0.example.com", " localhost", "localhost\n", "local\thost", "localhost\x7f"),
        *("*", "*.example.com", "localhost/", "[127.0.0.1]", "[localhost]", "user@localhost"),
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


def test_the_character_that_no_host_has_is_named() -> None:
    with pytest.raises(ValueError, match=r"^host must not contain '/': 'localhost/'$"):
        looked_up("localhost/")


# Characters that mean something to somebody on the way, and any other.
hosts = st.text(st.sampled_from("a1.:[]%-*\0 \x7f/@üßİ。\u200d\ud800") | st.characters())


@given(hosts)
def test_whatever_passes_is_ascii_and_short_and_passes_again(host: str) -> None:
    for use in (looked_up, verified):
        try:
            name = use(host)
        except ValueError:
            continue
        assert name.isascii()
        assert 0 < len(name) <= 254
        assert not set(name) & {chr(code) for code in (*range(33), 127)}
        assert use(name) == name


@given(st.ip_addresses().map(str))
def test_every_address_is_a_host(address: str) -> None:
    assert looked_up(address) == verified(address) == address


@given(st.none() | st.integers() | st.binary() | st.floats() | st.lists(st.text()))
def test_whatever_is_no_text_is_a_TypeError(host: object) -> None:
    with pytest.raises(TypeError) as caught:
        looked_up(host)
    assert str(caught.value) == f"host must be a str, not {host!r}"
    if host is not None:
        with pytest.raises(TypeError, match=r"^hostname must be a str, not "):
            verified(host)


# ---- Ports


class Port(enum.IntEnum):
    HTTP = 80


@pytest.mark.parametrize("port", [1, 80, 65535, Port.HTTP])
def test_ports(port: int) -> None:
    asked = asked_for("localhost", port)[1]
    assert asked == port
    assert type(asked) is int


@pytest.mark.parametrize("port", [0, -1, 65536, 80 + 65536, 10**30])
def test_ports_out_of_range_are_a_ValueError(port: int) -> None:
    with pytest.raises(ValueError, match=rf"^port must be in 1..65535, not {port}$"):
        asked_for("localhost", port)


@pytest.mark.parametrize("port", [None, "80", b"80", 80.0, True])
def test_ports_that_are_no_int_are_a_TypeError(port: object) -> None:
    with pytest.raises(TypeError) as caught:
        asked_for("localhost", port)
    assert str(caught.value) == f"port must be an int, not {port!r}"


@pytest.mark.parametrize(("host", "port"), [("", 80), ("a\0b", 80), ("*", 80), ("localhost", 0)])
def test_the_hook_refuses_bad_arguments_as_well(host: str, port: int) -> None:
    with pytest.raises(ValueError):
        httpx_net.NetworkBackend().getaddrinfo(host, port)


# ---- In reprs and errors


@pytest.mark.parametrize(
    ("host", "printed"),
    [("127.0.0.1", "127.0.0.1:9"), ("::1", "[::1]:9"), ("[::1]", "[::1]:9"), ("a.b", "a.b:9")],
)
def test_an_address_is_named_as_people_write_it(host: str, printed: str) -> None:
    with pytest.raises(TimeoutError) as caught, httpx_net.timeout(0):
        httpx_net.NetworkBackend().connect(host, 9)
    assert str(caught.value) == f"connect to {printed} timed out: timeout(0) expired"
