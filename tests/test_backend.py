"""``NetworkBackend``: what it takes, what it refuses, and what it makes of the hook's answer."""

from __future__ import annotations

import errno
import math
import os
import socket
import sys
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import httpx_net
from conftest import open_descriptors
from dialing import Listed, info
from peers import HANG, Address, Peers, silent

net = httpx_net.NetworkBackend()

NODELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY)
KEEPALIVE = (socket.SOL_SOCKET, socket.SO_KEEPALIVE)
KEEPIDLE = (
    socket.IPPROTO_TCP,
    getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", 0)),
)
KEEPINTVL = (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPINTVL", 0))
KEEPCNT = (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPCNT", 0))
both_ways = pytest.mark.parametrize("seconds", [None, HANG])
on_linux = pytest.mark.skipif("sys.platform != 'linux'", reason="it takes Linux")


@pytest.fixture
def live(peers: Peers) -> Address:
    return peers.serve(silent)


def option_of(stream: httpx_net.NetworkStream, option: tuple[int, int]) -> int:
    return stream.get_extra_info("socket").getsockopt(*option)


@pytest.mark.parametrize("host", ["::1", "[::1]", "0:0::0001"])
def test_an_ipv6_address_is_kept_in_canonical_form(peers: Peers, host: str) -> None:
    _, port = peers.serve(silent, family=socket.AF_INET6)
    with net.connect(host, port) as stream:
        assert repr(stream) == f'<NetworkStream ["[::1]:{port}"]>'
        assert stream.get_extra_info("server_addr") == ("::1", port)
        assert stream.get_extra_info("client_addr")[0] == "::1"


def test_of_a_wildcard_address_the_kernel_says_where_it_leads(live) -> None:
    with net.connect("0.0.0.0", live[1]) as stream:
        assert stream.get_extra_info("server_addr") == live


def test_a_subclass_that_calls_no_init_has_the_defaults(live) -> None:
    class Forgetful(httpx_net.NetworkBackend):
        def __init__(self) -> None:
            self.cache: dict[str, Any] = {}

    with Forgetful().connect(*live) as stream:
        assert option_of(stream, NODELAY) != 0
        assert option_of(stream, KEEPALIVE) != 0


# ---- What the constructor refuses


LIMITS = {"keepalive": (1, 32_767), "happy_eyeballs_delay": (0.01, 86_400.0)}
numbers = st.integers() | st.floats() | st.fractions() | st.decimals(allow_nan=False)


@given(st.sampled_from(list(LIMITS)), numbers | st.sampled_from([1, 32_767, 0.01, 86_400, 10**400]))
def test_seconds_are_real_numbers_within_limits(name: str, number: Any) -> None:
    least, most = LIMITS[name]
    # What is no float any more, a NaN among it, is beyond every limit.
    if abs(number) < 10**300 and least <= float(number) <= most:
        httpx_net.NetworkBackend(**{name: number})
        return
    with pytest.raises(ValueError) as caught:
        httpx_net.NetworkBackend(**{name: number})
    assert str(caught.value) == f"{name} must be {least} to {most} seconds or None, not {number!r}"


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("number", [True, "60", 1j, b"1", [1]])
def test_seconds_are_nothing_else(name: str, number: Any) -> None:
    with pytest.raises(TypeError) as caught:
        httpx_net.NetworkBackend(**{name: number})
    assert str(caught.value) == f"{name} must be a real number or None, not {number!r}"


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ((socket.SOL_SOCKET, getattr(socket, "SO_RCVTIMEO", 20), bytes(16)), "SO_RCVTIMEO: "),
        ((socket.SOL_SOCKET, getattr(socket, "SO_SNDTIMEO", 21), bytes(16)), "SO_SNDTIMEO: "),
        pytest.param((socket.IPPROTO_TCP, 30, 1), "TCP_FASTOPEN_CONNECT: ", marks=on_linux),
    ],
)
def test_options_that_contradict_the_stream_are_refused(option: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^socket_options must not have {reason}"):
        httpx_net.NetworkBackend(socket_options=[(*NODELAY, 0), list(option)])


# ---- Options


@pytest.mark.parametrize(
    ("options", "option", "value"),
    [
        ({}, NODELAY, True),
        ({"socket_options": [(*NODELAY, 0)]}, NODELAY, False),
        ({}, KEEPALIVE, True),
        *[({"keepalive": n}, KEEPIDLE, math.ceil(n)) for n in (1, 1.1, Fraction(7, 2), 32_767)],
        ({}, KEEPIDLE, 60),
        pytest.param({"keepalive": 1}, KEEPINTVL, 15, marks=on_linux),
        pytest.param({"keepalive": 1}, KEEPCNT, 4, marks=on_linux),
        ({"keepalive": None}, KEEPALIVE, False),
        ({"socket_options": [(*KEEPIDLE, 99)]}, KEEPIDLE, 99),
        ({"socket_options": ((*KEEPALIVE, each) for each in [bytes(4)])}, KEEPALIVE, False),
    ],
)
def test_options_are_set_those_of_the_caller_last(
    peers: Peers, options: dict[str, Any], option: tuple[int, int], value: int
) -> None:
    backend = httpx_net.NetworkBackend(**options)
    for _ in range(2):
        with backend.connect(*peers.serve(silent)) as stream:
            # That of a flag may be any number but zero.
            assert type(value)(option_of(stream, option)) == value


@pytest.mark.skipif(not hasattr(socket, "TCP_MAXSEG"), reason="no TCP_MAXSEG on this system")
def test_options_are_set_before_connecting(peers: Peers) -> None:
    # The size of segments is agreed in the handshake.
    listener = peers.listen()
    maxseg = (socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    backend = httpx_net.NetworkBackend(socket_options=[(*maxseg, 1000)])
    with backend.connect(*listener.getsockname()), listener.accept()[0] as accepted:
        assert accepted.getsockopt(*maxseg) <= 1000


def test_options_may_be_bytes_and_come_from_a_generator(peers: Peers) -> None:
    backend = httpx_net.NetworkBackend(socket_options=((*KEEPALIVE, each) for each in [bytes(4)]))
    for _ in range(2):
        with backend.connect(*peers.serve(silent)) as stream:
            assert option_of(stream, KEEPALIVE) == 0


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ((socket.SOL_SOCKET, 0x7FFFFFF, 1), OSError),
        ((*NODELAY, "1"), TypeError),
        ((*NODELAY,), TypeError),
        ((*NODELAY, 2**40), (OverflowError, TypeError)),
    ],
)
@both_ways
def test_what_setsockopt_refuses_is_refused_on_connect(live, seconds, option, error) -> None:
    backend = httpx_net.NetworkBackend(socket_options=[option])
    before = open_descriptors()
    with pytest.raises(error), httpx_net.timeout(seconds):
        backend.connect(*live)
    assert open_descriptors() == before


class Poor(socket.socket):
    """Sockets of a system that lacks keepalive, or has none to spare."""

    number = errno.ENOPROTOOPT

    def setsockopt(self, level: int, option: int, *value: Any) -> None:  # type: ignore[override]
        if (level, option) == KEEPALIVE:
            raise OSError(self.number, os.strerror(self.number))
        super().setsockopt(level, option, *value)


@pytest.mark.parametrize("number", [errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ENOBUFS])
def test_what_a_system_lacks_is_left_out(
    live: Address, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(socket, "socket", Poor)
    monkeypatch.setattr(Poor, "number", number)
    if number == errno.ENOBUFS:
        with pytest.raises(OSError, match=r"connect to 127.* failed: "):
            httpx_net.NetworkBackend().connect(*live)
    else:
        with httpx_net.NetworkBackend().connect(*live) as stream:
            assert option_of(stream, NODELAY)


# ---- Local addresses


@both_ways
@pytest.mark.parametrize(
    ("local_address", "ip"),
    [
        *[(each, "127.0.0.1") for each in ("127.0.0.1", ("127.0.0.1", 0), "0.0.0.0")],
        pytest.param("127.0.0.2", "127.0.0.2", marks=on_linux),
    ],
)
def test_connections_come_from_the_local_address(live, seconds, local_address, ip: str) -> None:
    backend = httpx_net.NetworkBackend(local_address=local_address)
    with httpx_net.timeout(seconds), backend.connect(*live) as stream:
        assert stream.get_extra_info("client_addr")[0] == ip


@pytest.mark.skipif("os.name != 'posix'", reason="SO_REUSEADDR means something else there")
@both_ways
def test_the_next_attempt_and_the_next_connection_may_use_the_port_again(
    peers: Peers, seconds
) -> None:
    with socket.socket() as reserved:
        # So that no other process gets that port.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        mine = reserved.getsockname()
        for _ in range(3):
            addresses = [peers.black_hole(), peers.closed_port(), peers.serve(silent)]
            backend = Listed(addresses, local_address=mine, happy_eyeballs_delay=0.01)
            with httpx_net.timeout(seconds), backend.connect("www.example.com", 80) as stream:
                assert stream.get_extra_info("client_addr") == mine
                assert stream.get_extra_info("server_addr") == addresses[-1]


@pytest.mark.parametrize(("local", "other"), [("0.0.0.0", "::1"), ("::", "127.0.0.1")])
def test_addresses_of_the_other_family_are_passed_over(peers: Peers, local, other) -> None:
    family = socket.AF_INET if ":" in other else socket.AF_INET6
    live = peers.serve(silent, family=family)
    with Listed([(other, live[1]), live], local_address=local).connect("a", 80) as stream:
        assert stream.get_extra_info("server_addr") == live
    with pytest.raises(OSError) as caught:
        httpx_net.NetworkBackend(local_address=local).connect(other, 80)
    assert "failed: no usable address among 1 found (from " in str(caught.value)


# ---- What the hook returns

MPTCP = getattr(socket, "IPPROTO_MPTCP", 262)


@pytest.mark.parametrize("proto", [0, socket.IPPROTO_TCP, pytest.param(MPTCP, marks=on_linux)])
def test_the_protocol_is_tcp_by_either_number_or_its_multipath_kin(live, proto: int) -> None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, proto).close()
    except OSError as error:
        pytest.skip(f"this system has no such protocol: {error}")
    with Listed([info(live, proto=proto)]).connect("www.example.com", 80) as stream:
        assert stream.get_extra_info("server_addr") == live
        if sys.platform == "linux":
            assert (stream.get_extra_info("socket").proto == MPTCP) == (proto == MPTCP)


def test_each_address_is_tried_once(peers: Peers) -> None:
    refused = peers.closed_port()
    with pytest.raises(ConnectionRefusedError) as caught:
        Listed([refused, info(refused, canonname="www"), refused]).connect("www.example.com", 80)
    assert str(caught.value).count(f":{refused[1]}: ") == 1


@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_the_hook_may_return_any_iterable_of_plain_numbers(live, kind: Any) -> None:
    class Hooked(httpx_net.NetworkBackend):
        def getaddrinfo(self, host: str, port: int) -> Any:
            return kind([[int(socket.AF_INET), int(socket.SOCK_STREAM), 6, "", live]])

    with Hooked(local_address="0.0.0.0").connect("www.example.com", 80) as stream:
        assert stream.get_extra_info("server_addr") == live


@pytest.mark.parametrize("place", [httpx_net.NetworkBackend, httpx_net.NetworkBackend()], ids=repr)
def test_whoever_replaces_the_hook_sees_numeric_addresses_too(monkeypatch, place: Any) -> None:
    asked = []
    monkeypatch.setattr(place, "getaddrinfo", lambda *args: asked.append(args[-2:]) or [])
    backend = place() if isinstance(place, type) else place
    with pytest.raises(OSError, match="no usable address among 0 found"):
        backend.connect("127.0.0.1", 80)
    assert asked == [("127.0.0.1", 80)]


@pytest.mark.parametrize("error", [LookupError, TypeError, ValueError, TimeoutError])
def test_what_the_hook_raises_reaches_the_caller(error: type[Exception]) -> None:
    class Broken(httpx_net.NetworkBackend):
        def getaddrinfo(self, host: str, port: int) -> Any:
            yield from []
            raise error("mine")

    with pytest.raises(error, match=r"^mine$"):
        Broken().connect("www.example.com", 80)
