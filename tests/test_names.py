"""Hosts and addresses as text: tables, and garbage that must not get any further."""

from __future__ import annotations

import enum
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpx_net._names import check_port, is_numeric, lookup_name, printed, server_name

V4, V6 = socket.AF_INET, socket.AF_INET6

LONGEST = ".".join(["a" * 63] * 3 + ["a" * 61])  # 253 characters


# ---- Hosts


@pytest.mark.parametrize(
    ("host", "looked_up", "verified"),
    [
        ("www.example.com", "www.example.com", "www.example.com"),
        ("WWW.Example.COM", "WWW.Example.COM", "WWW.Example.COM"),
        ("localhost", "localhost", "localhost"),
        ("under_score.example", "under_score.example", "under_score.example"),
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
def test_names_to_look_up_and_to_verify(host: str, looked_up: str, verified: str) -> None:
    assert lookup_name(host) == looked_up
    assert server_name(host) == verified


@pytest.mark.parametrize(
    ("host", "ascii_name"),
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("bücher.EXAMPLE", "xn--bcher-kva.example"),
        ("WWW.bücher.example", "www.xn--bcher-kva.example"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("例え.jp", "xn--r8jz45g.jp"),
    ],
)
def test_a_name_outside_ascii_is_encoded(host: str, ascii_name: str) -> None:
    assert lookup_name(host).lower() == ascii_name
    assert server_name(host + ".").lower() == ascii_name


@pytest.mark.parametrize("host", ["faß.de", "βόλος.com", "نامه\u200cای.com", "ⅷ.example", "ＡＢＣ"])  # noqa: RUF001
@pytest.mark.parametrize("function", [lookup_name, server_name])
def test_a_name_that_idna_2003_takes_for_another_is_refused(function, host: str) -> None:
    with pytest.raises(ValueError, match=r"is another name in IDNA 2003 .*xn--"):
        function(host)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("", "must not be empty or have an empty label"),
        (".", "must not be empty or have an empty label"),
        (".example.com", "must not be empty or have an empty label"),
        ("www..com", "must not be empty or have an empty label"),
        ("www.example.com..", "must not be empty or have an empty label"),
        ("a" * 64, "label of more than 63 octets"),
        ("a." * 126 + "aa", "is longer than 253 octets"),
        (LONGEST + "a.", "is longer than 253 octets"),
        ("localhost\0.example.com", "white space or control"),
        (" localhost", "white space or control"),
        ("localhost\n", "white space or control"),
        ("local\thost", "white space or control"),
        ("localhost\x7f", "white space or control"),
        ("localhost:80", "has a colon but is no IPv6 address"),
        ("[::1]:80", "has a colon but is no IPv6 address"),
        ("[::1", "has a colon but is no IPv6 address"),
        ("http://localhost", "has a colon but is no IPv6 address"),
        ("::1%", "has a colon but is no IPv6 address"),
        ("::1%é", "has a colon but is no IPv6 address"),
        ("1:2", "has a colon but is no IPv6 address"),
        ("\ud800.example", "no internationalized domain name"),
        ("ü" * 60, "no internationalized domain name"),
    ],
)
@pytest.mark.parametrize(("function", "what"), [(lookup_name, "host"), (server_name, "hostname")])
def test_unusable_hosts(function, what: str, host: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{what} .*{reason}") as caught:
        function(host)
    assert repr(host) in str(caught.value)


@pytest.mark.parametrize("length", [253, 254, 255, 10**6])
def test_a_long_name_outside_ascii_is_refused_at_once(length: int) -> None:
    name = ".".join(["ü" * 50] * (length // 51 + 1))[:length]  # the codec's time is quadratic
    for host in (name.removesuffix("."), name[:-1] + "."):
        with pytest.raises(ValueError, match=r"host .*is longer|label of more|is no inter"):
            lookup_name(host)


@pytest.mark.parametrize("host", [None, b"localhost", 1, ("localhost",)])
@pytest.mark.parametrize(("function", "what"), [(lookup_name, "host"), (server_name, "hostname")])
def test_hosts_that_are_no_text(function, what: str, host: Any) -> None:
    with pytest.raises(TypeError) as caught:
        function(host)
    assert str(caught.value) == f"{what} must be a str, not {host!r}"


# Characters that mean something to somebody on the way, and any other.
hosts = st.text(st.sampled_from("a1.:[]%-\0 \x7f/@üßİ。\u200d\ud800") | st.characters())


@given(hosts)
def test_whatever_passes_is_ascii_and_short_and_printable(host: str) -> None:
    for function in (lookup_name, server_name):
        try:
            name = function(host)
        except ValueError:
            continue
        assert name.isascii()
        assert 0 < len(name) <= 254
        assert not any(character <= " " or character == "\x7f" for character in name)


@given(hosts)
def test_what_passes_once_passes_again_unchanged(host: str) -> None:
    try:
        name = lookup_name(host)
    except ValueError:
        return
    assert lookup_name(name) == name
    assert server_name(name) == server_name(server_name(name))


@given(st.none() | st.integers() | st.binary() | st.floats() | st.lists(st.text()))
def test_whatever_is_no_text_is_TypeError(host: object) -> None:
    for function in (lookup_name, server_name):
        with pytest.raises(TypeError):
            function(host)


@given(st.ip_addresses().map(str))
def test_every_address_is_a_name_and_numeric(address: str) -> None:
    assert lookup_name(address) == server_name(address) == address
    assert is_numeric(V6 if ":" in address else V4, address)
    assert not is_numeric(V4 if ":" in address else V6, address)


# ---- Ports


class Port(enum.IntEnum):
    HTTP = 80


@pytest.mark.parametrize("port", [1, 80, 65535, Port.HTTP])
def test_ports(port: int) -> None:
    assert check_port(port) == port
    assert type(check_port(port)) is int


def test_port_0_where_it_means_any() -> None:
    assert check_port(0, lowest=0) == 0


@pytest.mark.parametrize("port", [0, -1, 65536, 80 + 65536, 10**30])
def test_ports_out_of_range(port: int) -> None:
    with pytest.raises(ValueError, match=rf"^port must be in 1..65535, not {port}$"):
        check_port(port)


@pytest.mark.parametrize("port", [None, "80", b"80", 80.0, True])
def test_ports_that_are_no_int(port: object) -> None:
    with pytest.raises(TypeError) as caught:
        check_port(port)
    assert str(caught.value) == f"port must be an int, not {port!r}"


# ---- Numeric addresses


@pytest.mark.parametrize(
    ("family", "address", "numeric"),
    [
        (V4, "127.0.0.1", True),
        (V4, "127.1", False),  # which inet_aton takes, and connect would look up
        (V4, "localhost", False),
        (V4, "", False),
        (V4, "127.0.0.1\0", False),
        (V4, "127.0.0.1%lo", False),
        (V4, "::1", False),
        (V6, "::1", True),
        (V6, "fe80::1", True),
        (V6, "fe80::1%eth0", False),  # which connect would look up, if only among interfaces
        (V6, "[::1]", False),
        (V6, "127.0.0.1", False),
        (V6, "::ffff:127.0.0.1", True),
        (V6, "::1\0", False),
        (12345, "127.0.0.1", False),
        (V4, None, False),
        (V4, b"127.0.0.1", False),
        (V4, "\ud800", False),
    ],
)
def test_is_numeric(family: int, address: object, numeric: bool) -> None:
    assert is_numeric(family, address) is numeric


@given(st.sampled_from([V4, V6]), st.text() | st.none() | st.binary())
def test_is_numeric_never_raises(family: int, address: object) -> None:
    assert is_numeric(family, address) in (True, False)


# ---- Printed


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("168.0.0.1", 80), "168.0.0.1:80"),
        (("::1", 80), "[::1]:80"),
        (("fe80::1%eth0", 443, 0, 2), "[fe80::1%eth0]:443"),
        (("www.example.com", 80), "www.example.com:80"),
        ("/run/peer", "/run/peer"),
        (b"\0abstract\xff", "\0abstract\N{REPLACEMENT CHARACTER}"),
        ("", ""),
    ],
)
def test_printed(address: object, text: str) -> None:
    assert printed(address) == text


# ---- Corners


def test_a_name_that_was_checked_is_not_checked_again() -> None:
    assert lookup_name("[::1]") is lookup_name("[::1]")


def test_a_long_name_is_refused_before_it_is_encoded() -> None:
    with pytest.raises(ValueError, match="host is longer than 253 octets"):
        lookup_name("é" * 254)
    with pytest.raises(ValueError, match="no internationalized domain name"):
        lookup_name("é" * 253)


def test_a_name_may_have_any_printable_character() -> None:
    assert lookup_name("!~") == "!~"


def test_brackets_are_an_ipv6_address_s_only() -> None:
    assert lookup_name("[::1]") == "::1"
    assert lookup_name("[localhost]") == "[localhost]"
    for half in ("x::1]", "[::1x"):
        with pytest.raises(ValueError, match="has a colon but is no IPv6 address"):
            lookup_name(half)


def test_a_name_that_can_t_be_encoded_is_told_and_what_to_do() -> None:
    with pytest.raises(ValueError) as caught:
        lookup_name("faß.de")
    assert str(caught.value) == (
        "host 'faß.de' is another name in IDNA 2003 than in IDNA 2008; "
        "pass it as A-labels (xn--...), as the package idna makes them"
    )
    with pytest.raises(ValueError, match=r"^host is no internationalized domain name: 'é\.\.de': "):
        lookup_name("é..de")
