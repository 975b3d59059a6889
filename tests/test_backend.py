"""``NetworkBackend``: what it takes, what it refuses, and what it makes of the hook's answer."""

from __future__ import annotations

import errno
import inspect
import math
import os
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import httpx_net
from conftest import open_descriptors
from dialing import Listed, Resolver, info, main_thread_is_in
from httpx_net import _backend, _race
from peers import HANG, Peers, client_context, echo, silent, wait_until

net = httpx_net.NetworkBackend()

NODELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_it_is_a_NetworkBackendInterface_with_keyword_arguments_only() -> None:
    assert isinstance(net, httpx_net.NetworkBackendInterface)
    parameters = inspect.signature(httpx_net.NetworkBackend).parameters.values()
    assert {each.kind for each in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    assert {each.name: each.default for each in parameters} == {
        "local_address": None,
        "socket_options": (),
        "happy_eyeballs_delay": 0.25,
        "suppress_ragged_eofs": False,
    }


def test_its_repr_is_the_class_and_threaded() -> None:
    assert repr(net) == "<NetworkBackend [threaded]>"
    assert repr(Listed([])) == "<Listed [threaded]>"


@pytest.mark.parametrize("seconds", [None, HANG])
def test_connect_opens_a_stream(serve, seconds) -> None:
    address = serve(echo)
    with httpx_net.timeout(seconds), net.connect(*address) as stream:
        stream.write(b"hello")
        assert stream.read() == b"hello"
        assert repr(stream) == f'<NetworkStream ["127.0.0.1:{address[1]}"]>'


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_connect_takes_ipv6_with_and_without_brackets(peers: Peers, host: str) -> None:
    _, port = peers.serve(silent, family=socket.AF_INET6)
    with net.connect(host, port) as stream:
        assert repr(stream) == f'<NetworkStream ["[::1]:{port}"]>'


def test_connect_resolves_names(serve, resolver: Resolver) -> None:
    address = serve(silent)
    resolver.answers["www.example.com"] = address
    with net.connect("www.example.com", address[1]) as stream:
        assert stream.get_extra_info("server_addr") == address


def test_threads_share_a_backend(peers: Peers) -> None:
    addresses = [peers.serve(echo) for _ in range(16)]

    def talk(address: tuple[str, int]) -> bytes:
        with httpx_net.timeout(HANG), net.connect(*address) as stream:
            stream.write(b"%d" % address[1])
            return stream.read()

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(talk, addresses)) == [b"%d" % port for _, port in addresses]


def test_the_streams_get_suppress_ragged_eofs(serve_tls) -> None:
    address = serve_tls(lambda conn: conn.recv(1))  # it ends without close_notify
    backend = httpx_net.NetworkBackend(suppress_ragged_eofs=True)
    with httpx_net.timeout(HANG), backend.connect(*address) as stream:
        stream.start_tls(client_context(), hostname="localhost")
        stream.write(b"!")
        assert stream.read() == b""


# ---- Bad arguments, before any I/O


class Untouched(httpx_net.NetworkBackend):
    """Fails the test if it comes to a look-up."""

    def getaddrinfo(self, host: str, port: int) -> Any:
        raise AssertionError(f"looked up {host!r}, {port!r}")


@pytest.mark.parametrize(
    "host", ["", ".", "a..b", "a" * 64, "a." * 127 + "a", "a\0b", "a b", "1:2", "ß"]
)
def test_unusable_hosts_are_ValueError(host: str) -> None:
    with pytest.raises(ValueError, match=r"^host "):
        Untouched().connect(host, 80)


@pytest.mark.parametrize("host", [None, b"localhost", 1, ("localhost", 80)])
def test_hosts_that_are_no_text_are_TypeError(host: Any) -> None:
    with pytest.raises(TypeError, match=r"^host must be a str, not "):
        Untouched().connect(host, 80)


@pytest.mark.parametrize("port", [0, -1, 65536, 2**64])
def test_ports_out_of_range_are_ValueError(port: int) -> None:
    with pytest.raises(ValueError, match=rf"^port must be in 1..65535, not {port}$"):
        Untouched().connect("localhost", port)


@pytest.mark.parametrize("port", [None, "80", 80.0, True])
def test_ports_that_are_no_int_are_TypeError(port: Any) -> None:
    with pytest.raises(TypeError, match=rf"^port must be an int, not {port!r}$"):
        Untouched().connect("localhost", port)


def test_a_passed_deadline_beats_the_look_up() -> None:
    expected = r"^connect to localhost:80 timed out: timeout\(0\) expired$"
    with pytest.raises(TimeoutError, match=expected), httpx_net.timeout(0):
        Untouched().connect("localhost", 80)


def test_a_deadline_that_passes_in_the_hook_beats_connecting(peers: Peers) -> None:
    class Slow(Listed):
        def getaddrinfo(self, host: str, port: int) -> Any:
            while not block.expired():
                time.sleep(0.001)
            return super().getaddrinfo(host, port)

    listener = peers.listen()
    expected = r"^connect to localhost:80 timed out: timeout\(0.05\) expired \(1 not tried\)$"
    with pytest.raises(TimeoutError, match=expected), httpx_net.timeout(0.05) as block:
        Slow([listener.getsockname()]).connect("localhost", 80)
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


# ---- Constructor


@pytest.mark.parametrize(
    ("local_address", "error", "wrong"),
    [
        ("localhost", ValueError, "localhost"),
        ("", ValueError, ""),
        ("127.1", ValueError, "127.1"),
        ("127.0.0.1%lo", ValueError, "127.0.0.1%lo"),
        ("::1%nowhere", ValueError, "::1%nowhere"),
        ("127.0.0.1\0", ValueError, "127.0.0.1\0"),
        (("127.0.0.1", -1), ValueError, -1),
        (("127.0.0.1", 65536), ValueError, 65536),
        (("127.0.0.1", "80"), TypeError, "80"),
        (("127.0.0.1", True), TypeError, True),
        (("127.0.0.1",), TypeError, ("127.0.0.1",)),
        (("::1", 0, 0, 0), TypeError, ("::1", 0, 0, 0)),
        (b"127.0.0.1", TypeError, b"127.0.0.1"),
        (2130706433, TypeError, 2130706433),
    ],
)
def test_wrong_local_addresses_are_refused(local_address, error, wrong) -> None:
    with pytest.raises(error) as caught:
        httpx_net.NetworkBackend(local_address=local_address)
    assert repr(wrong) in str(caught.value)


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ((1, 2), TypeError),
        ((1, 2, 3, 4), TypeError),
        ((1, 2, None), TypeError),
        ((1, 2, "3"), TypeError),
        ((1, 2, 1.5), TypeError),
        ((1.0, 2, 3), TypeError),
        (("SOL_SOCKET", 2, 3), TypeError),
        ((2**31, 2, 3), ValueError),
        ((1, -(2**31) - 1, 3), ValueError),
        ((1, 2, 2**40), ValueError),
    ],
)
def test_wrong_options_are_refused(option, error) -> None:
    with pytest.raises(error) as caught:
        httpx_net.NetworkBackend(socket_options=[option])
    assert repr(option) in str(caught.value)


@pytest.mark.parametrize("options", [5, [5], None])
def test_options_that_are_no_tuples_are_refused(options: Any) -> None:
    with pytest.raises(TypeError, match="socket_options must be tuples") as caught:
        httpx_net.NetworkBackend(socket_options=options)
    assert repr(options) in str(caught.value)


@pytest.mark.parametrize(
    ("delay", "error"),
    [
        (0, ValueError),
        (0.009, ValueError),
        (-1, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (10**400, ValueError),
        (True, TypeError),
        ("0.25", TypeError),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_wrong_delays_are_refused(delay: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="happy_eyeballs_delay") as caught:
        httpx_net.NetworkBackend(happy_eyeballs_delay=delay)
    assert repr(delay)[:20] in str(caught.value)


# ---- Options and local addresses


def test_TCP_NODELAY_is_set(serve) -> None:
    with net.connect(*serve(silent)) as stream:
        assert stream.get_extra_info("socket").getsockopt(*NODELAY) != 0


def test_options_can_undo_TCP_NODELAY(serve) -> None:
    backend = httpx_net.NetworkBackend(socket_options=[(*NODELAY, 0)])
    with backend.connect(*serve(silent)) as stream:
        assert stream.get_extra_info("socket").getsockopt(*NODELAY) == 0


@pytest.mark.skipif(not hasattr(socket, "TCP_MAXSEG"), reason="no TCP_MAXSEG on this system")
def test_options_are_set_before_connecting(peers: Peers) -> None:
    listener = peers.listen()  # the size of segments is agreed in the handshake
    maxseg = (socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    backend = httpx_net.NetworkBackend(socket_options=[(*maxseg, 1000)])
    with backend.connect(*listener.getsockname()), listener.accept()[0] as accepted:
        assert accepted.getsockopt(*maxseg) <= 1000


def test_options_may_be_bytes_and_come_from_a_generator(serve) -> None:
    keepalive = (socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    options = ((*keepalive, value) for value in [(1).to_bytes(4, "little"), bytearray(b"\1\0\0\0")])
    backend = httpx_net.NetworkBackend(socket_options=options)
    for _ in range(2):
        with backend.connect(*serve(silent)) as stream:
            assert stream.get_extra_info("socket").getsockopt(*keepalive) != 0


@pytest.mark.parametrize("seconds", [None, HANG])
def test_an_option_that_the_system_refuses_is_a_failed_attempt(serve, seconds) -> None:
    backend = httpx_net.NetworkBackend(socket_options=[(socket.SOL_SOCKET, 0x7FFFFFF, 1)])
    host, port = serve(silent)
    before = open_descriptors()
    with (
        pytest.raises(OSError, match=rf"connect to .*:{port} failed: "),
        httpx_net.timeout(seconds),
    ):
        backend.connect(host, port)
    assert open_descriptors() == before


@pytest.mark.parametrize("local_address", ["127.0.0.1", ("127.0.0.1", 0)])
def test_connections_come_from_the_local_address(serve, local_address) -> None:
    backend = httpx_net.NetworkBackend(local_address=local_address)
    with backend.connect(*serve(silent)) as stream:
        assert stream.get_extra_info("client_addr")[0] == "127.0.0.1"


@pytest.mark.skipif("sys.platform != 'linux'", reason="127.0.0.2 is an address on Linux only")
def test_another_loopback_address_may_be_the_local_one(serve) -> None:
    backend = httpx_net.NetworkBackend(local_address="127.0.0.2")
    with backend.connect(*serve(silent)) as stream:
        assert stream.get_extra_info("client_addr")[0] == "127.0.0.2"


def test_connections_come_from_the_local_port(peers: Peers) -> None:
    reuse = (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with socket.socket() as reserved:  # so that no other process gets that port
        reserved.setsockopt(*reuse)
        reserved.bind(("127.0.0.1", 0))
        mine = reserved.getsockname()
        backend = httpx_net.NetworkBackend(local_address=mine, socket_options=[reuse])
        with backend.connect(*peers.serve(silent)) as stream:
            assert stream.get_extra_info("client_addr") == mine


@pytest.mark.skipif("sys.platform != 'linux'", reason="127.0.0.2 is an address on Linux only")
def test_connections_come_from_the_port_that_they_go_to(peers: Peers) -> None:
    reuse = (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with socket.socket() as reserved:
        reserved.setsockopt(*reuse)
        reserved.bind(("127.0.0.2", 0))
        mine = reserved.getsockname()
        with socket.create_server(("127.0.0.3", mine[1])) as theirs:
            backend = httpx_net.NetworkBackend(local_address=mine, socket_options=[reuse])
            with backend.connect(*theirs.getsockname()) as stream:
                assert stream.get_extra_info("client_addr") == mine


def test_connections_come_from_an_ipv6_address(peers: Peers) -> None:
    backend = httpx_net.NetworkBackend(local_address="::1")
    with backend.connect(*peers.serve(silent, family=socket.AF_INET6)) as stream:
        assert stream.get_extra_info("client_addr")[0] == "::1"


@pytest.mark.parametrize(("local", "passed_over"), [("0.0.0.0", "::1"), ("::", "127.0.0.1")])
def test_addresses_of_the_other_family_are_passed_over(peers: Peers, local, passed_over) -> None:
    family = socket.AF_INET if ":" in passed_over else socket.AF_INET6
    live = peers.serve(silent, family=family)
    both = [(passed_over, live[1]), live]
    with Listed(both, local_address=local).connect("www.example.com", 80) as stream:
        assert stream.get_extra_info("server_addr") == live


def test_nothing_left_of_the_local_family_is_an_OSError_that_says_so() -> None:
    expected = r"^connect to \[::1\]:80 failed: no usable address among 1 found \(from 0.0.0.0:0\)$"
    with pytest.raises(OSError, match=expected):
        httpx_net.NetworkBackend(local_address="0.0.0.0").connect("::1", 80)


@pytest.mark.parametrize("seconds", [None, HANG])
def test_a_local_address_that_is_not_ours_is_a_failed_attempt(serve, seconds) -> None:
    backend = httpx_net.NetworkBackend(local_address="192.0.2.1")  # for documentation: nobody's
    host, port = serve(silent)
    with pytest.raises(OSError, match=rf":{port} failed: "), httpx_net.timeout(seconds):
        backend.connect(host, port)


# ---- What the hook returns


@pytest.fixture
def live(peers: Peers) -> tuple[str, int]:
    return peers.serve(silent)


SCTP = getattr(socket, "IPPROTO_SCTP", 132)


@pytest.mark.parametrize(
    "changes",
    [
        {"type": socket.SOCK_DGRAM},
        {"type": socket.SOCK_DGRAM, "proto": socket.IPPROTO_UDP},
        {"type": socket.SOCK_RAW, "proto": 0},
        {"type": 0},
        {"proto": SCTP},
        {"family": getattr(socket, "AF_UNIX", 1), "sockaddr": "/run/peer"},
        {"family": 12345},
        {"sockaddr": ("localhost", 80)},
        {"sockaddr": ("127.1", 80)},
        {"sockaddr": ("127.0.0.1%lo", 80)},
        {"sockaddr": ("127.0.0.1\0", 80)},
        {"sockaddr": ("", 80)},
        {"sockaddr": ("::1", 80)},
    ],
    ids=str,
)
def test_what_tcp_cannot_connect_to_is_passed_over(live, changes) -> None:
    with Listed([info(live, **changes), live]).connect("www.example.com", 80) as stream:
        assert stream.get_extra_info("server_addr") == live
    expected = r"^connect to www.example.com:80 failed: no usable address among 1 found$"
    with pytest.raises(OSError, match=expected):
        Listed([info(live, **changes)]).connect("www.example.com", 80)


def test_a_zone_in_the_text_is_the_scope_again(peers: Peers) -> None:
    ip, port = peers.serve(silent, family=socket.AF_INET6)
    with Listed([info((f"{ip}%nowhere", port, 0, 1))]).connect("www.example.com", 80) as stream:
        assert stream.get_extra_info("server_addr") == (ip, port)
    with pytest.raises(OSError, match="no usable address among 1 found"):
        Listed([info((f"{ip}%nowhere", port, 0, 0))]).connect("www.example.com", 80)


def test_an_answer_without_addresses_is_an_OSError_that_says_so() -> None:
    with pytest.raises(OSError, match="no usable address among 0 found"):
        Listed([]).connect("www.example.com", 80)


@pytest.mark.parametrize("proto", [0, socket.IPPROTO_TCP])
def test_tcp_goes_by_either_number(live, proto: int) -> None:
    with Listed([info(live, proto=proto)]).connect("www.example.com", 80) as stream:
        assert stream.get_extra_info("server_addr") == live


def test_each_address_is_tried_once(peers: Peers) -> None:
    refused = peers.closed_port()
    with pytest.raises(ConnectionRefusedError) as caught:
        Listed([refused, info(refused, canonname="www"), refused]).connect("www.example.com", 80)
    assert str(caught.value).count(f":{refused[1]}: ") == 1


def test_the_hook_may_return_any_iterable(live) -> None:
    backend = Listed([])
    backend._found = iter([list(info(live))])  # type: ignore[assignment]
    with backend.connect("www.example.com", 80) as stream:
        assert stream.get_extra_info("server_addr") == live


GOOD = ("127.0.0.1", 80)


@pytest.mark.parametrize(
    "found",
    [
        None,
        5,
        ["x"],
        [()],
        [None],
        [GOOD],
        [info(GOOD, sockaddr=None)],
        [info(GOOD, sockaddr=())],
        [info(GOOD, sockaddr=("127.0.0.1", "http"))],
        [info(GOOD, sockaddr=("127.0.0.1", 0))],
        [info(GOOD, sockaddr=("127.0.0.1", 65536))],
        [info(GOOD, type="SOCK_STREAM")],
        [info(GOOD, family="AF_INET")],
        [info(GOOD, family=None)],
        [info(GOOD, sockaddr=(*GOOD, []))],
        [info(GOOD, sockaddr=(*GOOD, 0, 0))],
        [info(("::1", 80, "0", 0))],
        [info(("::1", 80, -1, 0))],
    ],
    ids=str,
)
def test_what_no_getaddrinfo_returns_is_a_clear_TypeError(found: Any) -> None:
    backend = Listed([])
    backend._found = found
    expected = r"^<Listed \[threaded\]>\.getaddrinfo\(\) must return what socket\.getaddrinfo\(\)"
    with pytest.raises(TypeError, match=expected) as caught:
        backend.connect("www.example.com", 80)
    assert repr(found[0] if isinstance(found, list) else found) in str(caught.value)


def test_the_hook_runs_in_the_callers_thread_and_gets_the_name_as_looked_up() -> None:
    asked: list[object] = []

    class Asked(Listed):
        def getaddrinfo(self, host: str, port: int) -> Any:
            asked.append((host, port, threading.current_thread()))
            return super().getaddrinfo(host, port)

    for host in ["bücher.example", "[::1]", "127.0.0.1", "www.example.com."]:
        with pytest.raises(OSError), httpx_net.timeout(HANG):
            Asked([]).connect(host, 80)
    names = ["xn--bcher-kva.example", "::1", "127.0.0.1", "www.example.com."]
    assert asked == [(name, 80, threading.current_thread()) for name in names]


def test_what_the_hook_raises_reaches_the_caller() -> None:
    class Broken(httpx_net.NetworkBackend):
        def getaddrinfo(self, host: str, port: int) -> Any:
            raise LookupError(host)

    with pytest.raises(LookupError, match=r"www.example.com"):
        Broken().connect("www.example.com", 80)


@pytest.mark.parametrize(("host", "port"), [("", 80), ("a\0b", 80), ("localhost", 0)])
def test_the_hook_refuses_bad_arguments_as_well(host: str, port: int) -> None:
    with pytest.raises(ValueError):
        net.getaddrinfo(host, port)


# ---- How the stream waits


def test_outside_of_deadlines_the_stream_blocks(live) -> None:
    with net.connect(*live) as stream:
        assert stream.get_extra_info("socket").getblocking()


def test_after_a_race_without_a_deadline_the_stream_blocks(peers: Peers, live) -> None:
    with Listed([peers.closed_port(), live]).connect("www.example.com", 80) as stream:
        assert stream.get_extra_info("socket").gettimeout() is None


def test_under_a_deadline_the_stream_does_not_block(live) -> None:
    with httpx_net.timeout(HANG), net.connect(*live) as stream:
        assert stream.get_extra_info("socket").gettimeout() == 0.0


@pytest.mark.parametrize("seconds", [None, HANG])
@pytest.mark.parametrize("options", [{}, {"happy_eyeballs_delay": None}])
def test_socket_setdefaulttimeout_does_not_leak_in(peers: Peers, live, seconds, options) -> None:
    refused = peers.closed_port()
    socket.setdefaulttimeout(0.001)
    try:
        with (
            httpx_net.timeout(seconds),
            Listed([refused, live], **options).connect("www.example.com", 80) as stream,
        ):
            assert stream.get_extra_info("socket").gettimeout() == (0.0 if seconds else None)
    finally:
        socket.setdefaulttimeout(None)


def test_a_blocking_connect_outlasts_a_default_timeout(peers: Peers) -> None:
    slow = peers.listen(backlog=0)

    def let_in() -> None:
        try:
            wait_until(lambda: main_thread_is_in(_race._Attempts._connect_blocking))
        finally:
            slow.accept()[0].close()

    with (
        socket.create_connection(slow.getsockname(), HANG),  # until it is let in, nobody else is
        ThreadPoolExecutor() as pool,
    ):
        letting_in = pool.submit(let_in)
        socket.setdefaulttimeout(0.05)
        try:
            net.connect(*slow.getsockname()).close()
        finally:
            socket.setdefaulttimeout(None)
        letting_in.result()


# ---- What is left of a failure


@pytest.mark.parametrize("seconds", [None, 0.1])
@pytest.mark.parametrize("options", [{}, {"happy_eyeballs_delay": None}])
def test_no_descriptor_outlives_a_failed_connect(peers: Peers, seconds, options) -> None:
    refused = [peers.closed_port() for _ in range(2)]
    addresses = refused if seconds is None else [*refused, peers.black_hole(), peers.black_hole()]
    before = open_descriptors()
    with httpx_net.timeout(seconds), pytest.raises(OSError) as caught:
        Listed(addresses, **options).connect("www.example.com", 80)
    assert open_descriptors() == before  # while the error and its traceback are still there
    assert caught.value.__context__ is None or caught.value.__suppress_context__


# ---- Corners


def test_a_reset_between_connecting_and_the_stream_is_a_reset(peers: Peers) -> None:
    class Slow(Listed):
        def _stream(self, sock: socket.socket, where: tuple[str, int]) -> httpx_net.NetworkStream:
            conn, _ = listener.accept()
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            conn.close()
            wait_until(lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            return super()._stream(sock, where)

    listener = peers.listen()
    with pytest.raises(ConnectionResetError) as caught:
        Slow([listener.getsockname()]).connect("www.example.com", 80)
    assert caught.value.errno == errno.ECONNRESET
    text = f"connect to www.example.com:80 failed: {os.strerror(errno.ECONNRESET)}"
    assert str(caught.value) == f"[Errno {errno.ECONNRESET}] {text}"


def test_a_hook_may_return_an_iterator() -> None:
    class Lazy(httpx_net.NetworkBackend):
        def getaddrinfo(self, host: str, port: int) -> Any:
            return iter([])

    with pytest.raises(OSError, match="no usable address among 0 found"):
        Lazy().connect("www.example.com", 80)


@pytest.mark.parametrize("delay", [0.01, 86_400])
def test_the_bounds_of_the_delay_are_within_them(delay: float) -> None:
    assert httpx_net.NetworkBackend(happy_eyeballs_delay=delay)


IPV6 = (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")


@pytest.mark.parametrize(
    ("sockaddr", "taken"),
    [
        (("::1", 80), ("::1", 80, 0, 0)),
        (("::1", 80, 2**20 - 1, 2**32 - 1), ("::1", 80, 2**20 - 1, 2**32 - 1)),
        (("fe80::1%eth0", 80, 0, 9), ("fe80::1", 80, 0, 9)),
    ],
)
def test_flow_and_scope_of_an_address_are_kept(sockaddr: Any, taken: Any) -> None:
    assert _backend._tcp_address(*IPV6, sockaddr) == (socket.AF_INET6, taken)


@pytest.mark.parametrize(
    "flow_and_scope", [(2**20, 0), (2**32, 0), (-1, 0), (0, 2**32), (0, 2**64), (0, -1)]
)
def test_a_flow_or_a_scope_out_of_range_is_refused(flow_and_scope: tuple[int, int]) -> None:
    with pytest.raises(TypeError, match="flow or scope is out of range"):
        Listed([("::1", 80, *flow_and_scope)]).connect("www.example.com", 80)


def test_an_address_that_is_no_text_is_passed_over() -> None:
    assert _backend._tcp_address(*IPV6, (1, 80, 0, 9)) is None


def test_plain_numbers_stand_for_what_the_socket_module_calls_them(peers: Peers) -> None:
    address = peers.serve(silent)
    plain = (int(socket.AF_INET), int(socket.SOCK_STREAM), int(socket.IPPROTO_TCP), "", address)
    with Listed([plain], local_address="127.0.0.1").connect("www.example.com", 80) as stream:
        assert stream.get_extra_info("server_addr") == address
    sockaddr = ("::1", 80, 0, 0)
    assert _backend._tcp_address(int(socket.AF_INET6), *plain[1:4], sockaddr) == (
        socket.AF_INET6,
        sockaddr,
    )


@pytest.mark.parametrize("family", [socket.AF_UNSPEC, 127])
def test_a_family_other_than_ip_is_passed_over(family: int) -> None:
    assert _backend._tcp_address(family, socket.SOCK_STREAM, 0, "", ("an", "address")) is None


OPTION = (socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize("value", [(1,), (True,), (b"1",), (bytearray(b"1"),), (None, 0)])
def test_a_socket_option_is_whatever_setsockopt_takes(value: tuple[Any, ...]) -> None:
    assert httpx_net.NetworkBackend(socket_options=[(*OPTION, *value)])


@pytest.mark.parametrize("value", [(), (None,), ("1",), (1, 1), (None, "0"), (None, 0, 0)])
def test_and_nothing_else(value: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match=r"^a socket option must be \(level, name, value\), not "):
        httpx_net.NetworkBackend(socket_options=[(*OPTION, *value)])


def wrong(**options: Any) -> dict[str, Any]:
    return options


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            wrong(happy_eyeballs_delay="1"),
            "happy_eyeballs_delay must be a number or None, not '1'",
        ),
        (
            wrong(happy_eyeballs_delay=0),
            "happy_eyeballs_delay must be 0.01 to 86400.0 seconds or None, not 0",
        ),
        (
            wrong(local_address=5),
            "local_address must be a str or (str, int), not 5",
        ),
        (
            wrong(local_address="nowhere"),
            "local_address must be a numeric address, not 'nowhere'",
        ),
        (
            wrong(local_address=("127.0.0.1", -1)),
            "port must be in 0..65535, not -1",
        ),
        (
            wrong(socket_options=5),
            "socket_options must be tuples (level, name, value), not 5",
        ),
        (
            wrong(socket_options=[("1", 2, 3)]),
            "level and name of a socket option must be ints: ('1', 2, 3)",
        ),
        (
            wrong(socket_options=[(1, "2", 3)]),
            "level and name of a socket option must be ints: (1, '2', 3)",
        ),
        (
            wrong(socket_options=[(1, 2, 2**31)]),
            "a socket option has no number beyond 32 bits: (1, 2, 2147483648)",
        ),
        (
            wrong(socket_options=[(1, 2, -(2**31) - 1)]),
            "a socket option has no number beyond 32 bits: (1, 2, -2147483649)",
        ),
    ],
)
def test_an_option_that_can_t_be_is_told(options: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        httpx_net.NetworkBackend(**options)
    assert str(caught.value) == text


@pytest.mark.parametrize("number", [-(2**31), 2**31 - 1])
def test_numbers_of_32_bits_are_taken_for_a_socket_option(number: int) -> None:
    assert httpx_net.NetworkBackend(socket_options=[(*OPTION, number)])


def test_the_delay_is_what_the_RFC_recommends() -> None:
    options = inspect.signature(httpx_net.NetworkBackend).parameters
    assert options["happy_eyeballs_delay"].default == 0.25


def test_a_local_address_whose_zone_does_not_exist_is_told() -> None:
    with pytest.raises(ValueError, match=r"^local_address '::1%nowhere': ") as caught:
        httpx_net.NetworkBackend(local_address="::1%nowhere")
    with pytest.raises(socket.gaierror) as reason:
        socket.getaddrinfo("::1%nowhere", 0, flags=socket.AI_NUMERICHOST)
    assert str(caught.value).endswith(f": {reason.value.strerror}")


def test_the_zone_of_a_local_address_is_a_number_to_the_kernel() -> None:
    index, name = socket.if_nameindex()[0]
    local = _backend._check_local(f"fe80::1%{name}")
    assert local == (socket.AF_INET6, ("fe80::1", 0, 0, index))


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (("AF_INET", socket.SOCK_STREAM, 0, "", ()), "family, type and protocol must be ints"),
        ((*IPV6, ("::1", 80, -1, 0)), "flow or scope is out of range"),
    ],
)
def test_what_is_wrong_with_what_a_hook_returned_is_told(found: Any, reason: str) -> None:
    with pytest.raises(TypeError) as caught:
        Listed([found]).connect("www.example.com", 80)
    assert str(caught.value) == (
        "<Listed [threaded]>.getaddrinfo() must return what socket.getaddrinfo() does, "
        f"not {[found]!r}: {reason}"
    )
