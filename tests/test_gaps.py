"""What no other module has a scene for: corners that measuring the suite has found, by module."""

from __future__ import annotations

import errno
import inspect
import io
import math
import os
import queue
import re
import select
import signal
import socket
import ssl
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import httpx_net
from conftest import open_descriptors
from dialing import Listed, Resolver, run_command, run_python, waits_for_a_look_up
from httpx_net import __main__ as command_line
from httpx_net import _backend, _deadlines, _race, _resolve, _stream, _tls
from httpx_net._names import lookup_name
from httpx_net._tls import TLSLayer
from peers import (
    CERTIFICATES,
    HANG,
    Peers,
    client_context,
    connect_tls,
    send_close_notify,
    server_context,
    silent,
    wait_until,
    wrap_server,
)

SLOW = "slow.example.com"

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX descriptors and signals")


# ---- _deadlines


def test_a_block_that_another_thread_leaves_while_it_is_asked_for_sets_no_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def left_meanwhile() -> float:
        monkeypatch.undo()
        leaving = threading.Thread(target=block.__exit__, args=(None, None, None))
        leaving.start()
        leaving.join()
        return 0.0

    block = httpx_net.timeout(HANG)
    block.__enter__()
    block.cancel()
    monkeypatch.setattr(_deadlines, "_clock", left_meanwhile)
    assert httpx_net.remaining() is None


@pytest.mark.parametrize("taken_in", [False, True])
def test_an_interrupt_of_entering_leaves_no_block(
    monkeypatch: pytest.MonkeyPatch, taken_in: bool
) -> None:
    class Interrupted(list[Any]):
        def insert(self, *args: Any) -> None:
            if taken_in:
                super().insert(*args)
            raise KeyboardInterrupt

    monkeypatch.setattr(_deadlines.this_thread, "blocks", blocks := Interrupted())
    with pytest.raises(KeyboardInterrupt), httpx_net.timeout(HANG):
        pass
    assert blocks == []


def test_a_block_that_another_thread_takes_off_while_it_is_asked_has_no_answer() -> None:
    class Emptied(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            self.clear()  # what closing a generator does, wherever that happens
            return super().__getitem__(index)

    assert _deadlines.time_left(Emptied([httpx_net.timeout(HANG)])) is None


def test_a_block_that_is_lifted_while_another_is_entered_hides_none_around_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lifted_meanwhile() -> httpx_net.timeout | None:
        monkeypatch.undo()
        nearest = _deadlines._nearest()
        inner.cancel()
        return nearest

    with httpx_net.timeout(200.0), httpx_net.timeout(100.0) as inner:
        monkeypatch.setattr(_deadlines, "_nearest", lifted_meanwhile)
        with httpx_net.timeout(300.0):
            assert 100.0 < (httpx_net.remaining() or 0.0) <= 200.0


def test_what_is_no_number_of_seconds_is_told() -> None:
    with pytest.raises(TypeError) as caught:
        httpx_net.timeout("soon")  # type: ignore[arg-type]
    assert str(caught.value) == "a timeout is a real number of seconds or None, not 'soon'"
    with pytest.raises(ValueError) as caught:
        httpx_net.timeout(-1)
    assert str(caught.value) == "a timeout is zero seconds or more, not -1"


# ---- _names


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


# ---- _resolve


def test_a_name_whose_last_label_begins_with_a_digit_is_looked_up(resolver: Resolver) -> None:
    resolver.answers["host.5g"] = ("127.0.0.1", 0)
    assert _resolve.getaddrinfo("host.5g", 80)[0][4] == ("127.0.0.1", 80)
    assert resolver.asked == ["host.5g"]


def test_numbers_in_hexadecimal_are_an_address(resolver: Resolver) -> None:
    assert _resolve.getaddrinfo("127.0x1", 80)[0][4] == ("127.0.0.1", 80)
    assert resolver.asked == []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The names that ``socket.getaddrinfo`` is asked for, numeric ones too; none is found."""
    names: list[bytes] = []

    def getaddrinfo(host: bytes, *args: object, **options: object) -> object:
        names.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_for_an_address_as_it_is_printed_nobody_is_asked(asked: list[bytes], ip: str) -> None:
    assert _resolve.getaddrinfo(ip, 80)[0][4][:2] == (ip, 80)
    assert asked == []


def test_a_name_that_begins_with_a_digit_is_no_number_to_ask_for(asked: list[bytes]) -> None:
    with pytest.raises(socket.gaierror):
        _resolve.getaddrinfo("1and1.example.com", 80)
    assert asked == [b"1and1.example.com"]


@pytest.fixture
def parked(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> queue.SimpleQueue[Any]:
    """The jobs of the one thread that waits for more, as in a new process after one look-up."""
    monkeypatch.setattr(_resolve, "_process", process := _resolve._Process())
    resolver.answers[SLOW] = ("127.0.0.1", 0)
    resolve_in_time()
    wait_until(lambda: process._idle)
    return process._idle[0]


def resolve_in_time() -> None:
    with httpx_net.timeout(HANG):
        _resolve.getaddrinfo(SLOW, 80)


class InterruptedJobs:
    """Jobs with an interrupt before, or after, a look-up is put in."""

    def __init__(self, jobs: queue.SimpleQueue[Any], after: bool) -> None:
        self._jobs = jobs
        self._after = after

    def put(self, lookup: _resolve._Lookup | None) -> None:
        if lookup is None:
            self._jobs.put(None)
            return
        if self._after:
            self._jobs.put(lookup)
            wait_until(lambda: lookup.begun)
        raise KeyboardInterrupt


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_interrupt_while_it_is_given_work_costs_no_parked_thread(
    resolver: Resolver, parked: Any, after: bool
) -> None:
    process = _resolve._process
    process._idle[:] = [InterruptedJobs(parked, after)]  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        resolve_in_time()
    wait_until(lambda: process._idle and parked.empty())
    assert process._idle == [parked]
    assert process._running == {}
    resolve_in_time()
    assert len({*resolver.threads}) == 1


@pytest.mark.usefixtures("parked")
def test_a_parked_thread_says_that_it_is_idle(resolver: Resolver) -> None:
    assert resolver.threads[0].name == "httpx_net look-up (idle)"


@pytest.mark.usefixtures("parked")
def test_an_interrupt_while_a_thread_is_looked_for_is_waited_for_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupted(list[Any]):
        def pop(self, *args: Any) -> Any:
            raise KeyboardInterrupt

    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr(_resolve._process, "_idle", Interrupted())
        resolve_in_time()
    assert _resolve._process._running == {}
    resolve_in_time()


@pytest.mark.usefixtures("parked")
def test_who_waits_for_a_look_up_that_is_interrupted_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def other() -> None:
        waiting.append(threading.get_ident())
        resolve_in_time()

    class Interrupted(list[Any]):
        def pop(self, *args: Any) -> Any:
            others.append(pool.submit(other))
            wait_until(lambda: waiting and waits_for_a_look_up(waiting[0]))
            raise KeyboardInterrupt

    others: list[Future[None]] = []
    waiting: list[int] = []
    with monkeypatch.context() as interrupted, ThreadPoolExecutor(1) as pool:
        interrupted.setattr(_resolve._process, "_idle", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            resolve_in_time()
        with pytest.raises(socket.gaierror) as caught:
            others[0].result(HANG)
    assert caught.value.args == (
        socket.EAI_AGAIN,
        f"look-up of {SLOW!r} failed: the look-up was interrupted",
    )


# ---- _race and _backend


class Prompt(socket.socket):
    """A socket that connects at once, as on some systems those to the same machine do."""

    def connect_ex(self, address: Any) -> int:
        self.settimeout(HANG)
        try:
            return super().connect_ex(address)
        finally:
            self.settimeout(0.0)


@pytest.mark.parametrize("delay", [None, 0.25])
def test_a_connection_that_is_there_at_once_is_a_connection(serve: Any, delay: Any) -> None:
    address = _race.Address(socket.AF_INET, serve(silent))
    opened: list[socket.socket] = []

    def open_socket(address: _race.Address) -> socket.socket:
        opened.append(Prompt(address.family))
        return opened[-1]

    with httpx_net.timeout(HANG):
        sock = _race.connect(("www.example.com", 80), [address] * 2, open_socket, delay)
    assert opened == [sock]
    sock.close()


@pytest.mark.skipif("sys.platform != 'linux'", reason="127.0.0.2 is an address on Linux only")
@pytest.mark.parametrize("seconds", [None, HANG])
def test_the_same_port_of_another_address_is_somebody_else(peers: Peers, seconds: Any) -> None:
    address = peers.serve(silent)
    backend = httpx_net.NetworkBackend(
        local_address=("127.0.0.2", address[1]),
        socket_options=[(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)],
    )
    with httpx_net.timeout(seconds), backend.connect(*address) as stream:
        assert stream.get_extra_info("client_addr") == ("127.0.0.2", address[1])


def test_outside_every_block_the_winner_of_a_race_is_blocking(peers: Peers) -> None:
    refused, live = peers.closed_port(), peers.serve(silent)
    with Listed([refused, live]).connect("www.example.com", 80) as stream:
        assert stream.get_extra_info("socket").gettimeout() is None


@pytest.mark.parametrize(
    ("numbers", "combined"),
    [
        ([errno.EPERM, errno.EACCES], PermissionError),
        ([errno.EPERM, errno.EACCES, errno.EINVAL], OSError),
    ],
)
def test_failures_of_one_class_are_of_that_class_together(
    numbers: list[int], combined: type[OSError]
) -> None:
    def open_socket(address: _race.Address) -> socket.socket:
        raise OSError(address.sockaddr[1], "no")

    addresses = [_race.Address(socket.AF_INET, ("127.0.0.1", number)) for number in numbers]
    with pytest.raises(OSError, match=r"connect to nowhere failed: 127\.0\.0\.1:1: no; ") as caught:
        _race.connect("nowhere", addresses, open_socket, None)
    assert type(caught.value) is combined


def test_the_texts_of_a_system_that_has_its_own_are_used(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "errorTab", {errno.ECONNREFUSED: "not today"}, raising=False)
    refused = peers.closed_port()
    with pytest.raises(ConnectionRefusedError, match="not today"), httpx_net.timeout(HANG):
        httpx_net.NetworkBackend().connect(*refused)


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


@pytest.mark.parametrize("flow_and_scope", [(2**20, 0), (-1, 0), (0, 2**32), (0, -1)])
def test_a_flow_or_a_scope_out_of_range_is_refused(flow_and_scope: tuple[int, int]) -> None:
    with pytest.raises(TypeError, match="flow or scope is out of range"):
        Listed([("::1", 80, *flow_and_scope)]).connect("www.example.com", 80)


def test_an_address_that_is_no_text_is_passed_over() -> None:
    assert _backend._tcp_address(*IPV6, (1, 80, 0, 9)) is None


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
            wrong(socket_options=5),
            "socket_options must be tuples (level, name, value), not 5",
        ),
        (
            wrong(socket_options=[("1", 2, 3)]),
            "level and name of a socket option must be ints: ('1', 2, 3)",
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


def test_the_least_number_that_a_socket_option_can_have_is_taken() -> None:
    assert httpx_net.NetworkBackend(socket_options=[(*OPTION, -(2**31))])


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


# ---- _stream


class Counted(socket.socket):
    """A socket that counts the attempts to read and to write, by their sizes."""

    sizes: list[int]

    def recv(self, size: int, *args: Any) -> bytes:  # type: ignore[override]
        self.sizes.append(size)
        return super().recv(size, *args)

    def send(self, data: Any, *args: Any) -> int:
        self.sizes.append(memoryview(data).nbytes)
        return super().send(data, *args)


class CountedTLS(ssl.SSLSocket):
    """As above, on TLS."""

    sizes: list[int]

    def read(self, size: int = 1024, *args: Any) -> Any:
        self.sizes.append(size)
        return super().read(size, *args)


def would_wait(fd: int, event: int) -> None:
    raise TimeoutError("it would wait")


@contextmanager
def impatient() -> Iterator[None]:
    """Under a deadline, what goes on in this block ends where it would wait."""
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(TimeoutError, match="it would wait"),
        httpx_net.timeout(HANG),
    ):
        patch.setattr(_stream, "wait_in_time", would_wait)
        yield


def attempts_in_vain(stream: httpx_net.NetworkStream) -> int:
    """How often *stream*, to which nothing has come, tries to read before it waits."""
    sizes = stream.get_extra_info("socket").sizes
    sizes.clear()
    with impatient():
        stream.read()
    return len(sizes)


@pytest.mark.parametrize(
    ("size", "max_bytes", "attempts"),
    [(16_384, 16_384, 1), (16_384, 16_385, 0), (16_383, 16_383, 0), (1, 1, 0)],
)
def test_a_read_tries_first_where_more_is_likely_to_have_come(
    pair: Any, size: int, max_bytes: int, attempts: int
) -> None:
    for sock, option in (pair[0], socket.SO_RCVBUF), (pair[1], socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 65_536)
    ours = Counted(fileno=pair[0].detach())
    ours.sizes = []
    with httpx_net.NetworkStream(ours) as stream:
        assert attempts_in_vain(stream) == 1
        assert attempts_in_vain(stream) == 0
        pair[1].sendall(bytes(size))
        assert len(stream.read(max_bytes)) == size
        assert attempts_in_vain(stream) == attempts


@pytest.mark.parametrize(("size", "attempts"), [(16_384, 1), (16_383, 0)])
def test_on_TLS_it_is_a_full_record_that_more_is_likely_to_follow(
    serve_tls: Any, size: int, attempts: int
) -> None:
    def peer(conn: ssl.SSLSocket) -> None:
        assert begin.wait(HANG)
        conn.sendall(bytes(size))
        assert over.wait(HANG)

    begin, over = threading.Event(), threading.Event()
    context = client_context()
    context.sslsocket_class = CountedTLS
    with connect_tls(serve_tls(peer, tickets=0), context) as stream:
        stream.get_extra_info("socket").sizes = []
        assert attempts_in_vain(stream) == 1
        assert attempts_in_vain(stream) == 0
        begin.set()
        assert len(stream.read()) == size
        assert attempts_in_vain(stream) == attempts
        over.set()


def test_no_read_asks_for_more_than_a_mebibyte(pair: Any) -> None:
    ours = Counted(fileno=pair[0].detach())
    ours.sizes = []
    pair[1].sendall(b"x")
    with httpx_net.NetworkStream(ours) as stream:
        stream.read(2**40)
    assert ours.sizes == [2**20]


def test_no_write_offers_more_than_a_mebibyte_at_once(pair: Any) -> None:
    ours = Counted(fileno=pair[0].detach())
    ours.sizes = []
    with httpx_net.NetworkStream(ours) as stream, impatient():
        stream.write(bytes(20_000_000))
    assert max(ours.sizes) == 2**20


@posix
def test_a_stream_may_have_the_descriptor_of_the_standard_input() -> None:
    run_python(
        """
import os, socket, warnings
import httpx_net

with socket.create_server(("127.0.0.1", 0)) as listener:
    os.close(0)
    stream = httpx_net.NetworkBackend().connect(*listener.getsockname())
    assert stream.get_extra_info("socket").fileno() == 0
    try:
        with httpx_net.timeout(0.01):
            stream.read()
    except TimeoutError:
        pass
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del stream
    assert [warning.category for warning in said] == [ResourceWarning], said
"""
    )


class Odd(ssl.SSLSocket):
    """An SSLSocket whose errors are not as OpenSSL's are."""

    def do_handshake(self, block: bool = False) -> None:
        if self.server_hostname == "nobody":
            raise ssl.SSLCertVerificationError("unknown authority")
        super().do_handshake(block)

    def read(self, *args: Any) -> Any:
        raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred")  # and no reason


@pytest.fixture
def odd() -> ssl.SSLContext:
    context = client_context()
    context.sslsocket_class = Odd
    return context


def test_an_error_of_one_argument_is_told_by_that(serve: Any, odd: ssl.SSLContext) -> None:
    with (
        httpx_net.NetworkBackend().connect(*serve(silent)) as stream,
        pytest.raises(ssl.SSLCertVerificationError) as caught,
    ):
        stream.start_tls(odd, "nobody")
    assert str(caught.value).startswith("TLS handshake for 'nobody' with 127.0.0.1:")
    assert str(caught.value).endswith(" failed: unknown authority")


def test_an_end_on_a_connection_that_stands_is_no_reset(serve_tls: Any, odd: Any) -> None:
    with (
        connect_tls(serve_tls(silent), odd) as stream,
        pytest.raises(ssl.SSLEOFError, match="the stream ended without close_notify"),
    ):
        stream.read()


class Hooked(socket.socket):
    """A socket with something to do after each ``send`` and ``recv``."""

    after: Callable[[], object] = staticmethod(lambda: None)

    def send(self, *args: Any) -> int:
        sent = super().send(*args)
        self.after()
        return sent

    def recv(self, *args: Any) -> bytes:
        data = super().recv(*args)
        self.after()
        return data


def test_a_write_that_a_close_overtakes_is_an_error(pair: Any) -> None:
    ours = Hooked(fileno=pair[0].detach())
    stream = httpx_net.NetworkStream(ours)
    ours.after = stream.close
    with pytest.raises(OSError, match="the stream is closed") as caught:
        stream.write(b"hello")
    assert caught.value.errno == errno.EBADF
    assert caught.value.characters_written == 5  # type: ignore[attr-defined]


def test_a_read_that_a_close_overtakes_is_an_error(pair: Any) -> None:
    ours = Hooked(fileno=pair[0].detach())
    stream = httpx_net.NetworkStream(ours)
    pair[1].send(b"hello")
    ours.after = stream.close
    with pytest.raises(
        OSError, match="read from an unnamed peer failed: the stream is closed"
    ) as e:
        stream.read()
    assert e.value.errno == errno.EBADF


def test_an_SSLSocket_that_it_is_given_waits_as_the_deadline_says(serve_tls: Any) -> None:
    plain = socket.create_connection(serve_tls(silent))
    tls = client_context().wrap_socket(plain, server_hostname="localhost")
    with (
        httpx_net.NetworkStream(tls) as stream,
        pytest.raises(TimeoutError, match=r"timeout\(0.05\) expired"),
        httpx_net.timeout(0.05),
    ):
        stream.read()


def behind_its_back(stream: httpx_net.NetworkStream) -> None:
    """Close the socket below *stream*, which it owns; a mistake, that an error has to tell."""
    stream.get_extra_info("socket").close()


def test_a_stream_whose_socket_was_closed_behind_its_back_says_so(pair: Any) -> None:
    with httpx_net.NetworkStream(pair[0]) as stream:
        with pytest.raises(TimeoutError), httpx_net.timeout(0.01):
            stream.read()
        behind_its_back(stream)
        with pytest.raises(
            OSError, match=r" failed: the socket was closed behind the stream's back$"
        ) as caught:
            stream.read()
        assert caught.value.errno == errno.EBADF
        assert stream.get_extra_info("is_readable")


@pytest.mark.parametrize("use", [lambda stream: stream.read(), lambda stream: stream.write(b"x")])
def test_on_TLS_as_well(serve_tls: Any, use: Callable[[Any], object]) -> None:
    with connect_tls(serve_tls(silent)) as stream:
        behind_its_back(stream)
        with pytest.raises(OSError) as caught:
            use(stream)
    assert caught.value.errno == errno.EBADF


def test_nothing_is_said_of_an_unclosed_stream_whose_socket_is_closed(pair: Any) -> None:
    stream = httpx_net.NetworkStream(pair[0])
    behind_its_back(stream)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del stream
    assert said == []


def test_a_cut_with_bytes_unread_is_no_end(serve_pair: Any) -> None:
    def peer(conn: socket.socket) -> None:
        tls = wrap_server(server_context("server"), conn)
        received.wait(HANG)
        tls.close()  # over unread bytes, which is a reset on a Unix socket, too

    received = threading.Event()
    with httpx_net.NetworkStream(serve_pair(peer)) as stream:
        stream.start_tls(client_context(), hostname="localhost")
        stream.write(b"x" * 20_000)
        received.set()
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            stream.read()


class ClosedMeanwhile(ssl.SSLSocket):
    """An SSLSocket of which another thread's close takes off the TLS between two looks at it."""

    looks = math.inf

    def __getattribute__(self, name: str) -> Any:
        if name == "_sslobj":
            ClosedMeanwhile.looks -= 1
            if ClosedMeanwhile.looks < 0:
                return None
        return super().__getattribute__(name)


@pytest.mark.parametrize("use", [lambda stream: stream.read(), lambda stream: stream.write(b"x")])
def test_a_close_that_falls_into_the_ssl_module_is_no_AttributeError(
    serve_tls: Any, use: Callable[[Any], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = client_context()
    context.sslsocket_class = ClosedMeanwhile
    with connect_tls(serve_tls(silent), context) as stream:
        monkeypatch.setattr(ClosedMeanwhile, "looks", 1)
        with pytest.raises(OSError) as caught:
            use(stream)
        monkeypatch.undo()
    assert caught.value.errno == errno.EBADF


def test_a_layer_that_is_closed_does_no_handshake(serve_tls: Any) -> None:
    with connect_tls(serve_tls(silent)) as stream:
        layer = stream._tls
        assert layer is not None
        layer.close()
        with pytest.raises(OSError) as caught:
            layer.handshake()
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("an_earlier_one_with_its_id_had_some", [False, True])
def test_a_context_needs_no_options(
    serve_tls: Any, monkeypatch: pytest.MonkeyPatch, an_earlier_one_with_its_id_had_some: bool
) -> None:
    class Context:
        wrap_socket = staticmethod(client_context().wrap_socket)
        wrap_bio = staticmethod(client_context().wrap_bio)

    context = Context()
    seen = {id(context)} if an_earlier_one_with_its_id_had_some else set()
    monkeypatch.setattr(_tls, "_hiding", seen)
    with connect_tls(serve_tls(silent), context) as stream:
        assert stream.get_extra_info("ssl_object").version() == "TLSv1.3"


class InterruptedContext:
    """A context that hides truncation, with an interrupt while its options are put back."""

    def __init__(self) -> None:
        self._context = client_context()
        self._options = int(ssl.OP_IGNORE_UNEXPECTED_EOF)

    @property
    def options(self) -> int:
        return self._options

    @options.setter
    def options(self, options: int) -> None:
        back, self._options = bool(options), options
        if back:
            raise KeyboardInterrupt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def test_an_interrupt_behind_wrap_socket_leaves_nothing_open(serve: Any) -> None:
    before = len(open_descriptors())
    stream = httpx_net.NetworkBackend().connect(*serve(silent))
    with pytest.raises(KeyboardInterrupt):
        stream.start_tls(context := InterruptedContext(), "localhost")
    assert repr(stream).endswith(" CLOSED]>")
    assert context.options
    wait_until(lambda: len(open_descriptors()) <= before)


def test_a_truncation_is_said_again_with_its_reason(serve_tls: Any) -> None:
    with connect_tls(serve_tls(lambda conn: None, tickets=0)) as stream:
        for _ in range(3):
            with pytest.raises(ssl.SSLEOFError) as caught:
                stream.read()
            assert caught.value.reason == "UNEXPECTED_EOF_WHILE_READING"


def test_what_waits_between_the_layers_is_readable(peers: Peers) -> None:
    class Together:
        """Takes what is sent, to be sent as one record of the layer below."""

        data = b""

        def sendall(self, data: bytes) -> None:
            self.data += data

    def peer(conn: Any) -> None:
        outermost, conn.outer.outer = conn.outer.outer, (together := Together())
        conn.sendall(b"one")
        conn.sendall(b"two")
        conn.outer.outer = outermost
        outermost.sendall(together.data)
        over.wait(HANG)

    over = threading.Event()
    with connect_tls(peers.serve_tls_in_tls(peer, layers=3), layers=3) as stream:
        assert stream.read() == b"one"
        assert stream.get_extra_info("is_readable")
        assert stream.read() == b"two"
        over.set()


def test_only_a_deadline_is_said_to_time_out(pair: Any) -> None:
    class Context:
        options = 0
        wrap_bio = staticmethod(client_context().wrap_bio)

        def wrap_socket(self, sock: socket.socket, **options: Any) -> ssl.SSLSocket:
            raise OSError("no such luck")

    with (
        httpx_net.NetworkStream(pair[0]) as stream,
        pytest.raises(OSError, match="TLS handshake with an unnamed peer failed: no such luck"),
    ):
        stream.start_tls(Context())


class ClosedInside(TLSLayer):
    """A layer that is closed by another thread while it is used."""

    def __init__(self) -> None:
        self.said: list[str] = []
        super().__init__(ssl.SSLObject.__new__(ssl.SSLObject), self._use, self._use)

    def _use(self, *args: object) -> Any:
        self.close()

    _do_handshake = _use

    def close_notify(self) -> None:
        self.said.append("close_notify")


@pytest.mark.parametrize(
    "use", [lambda layer: layer.recv(1), lambda layer: layer.send(b"x"), TLSLayer.handshake]
)
def test_where_a_thread_is_inside_no_other_sends_close_notify(
    use: Callable[[TLSLayer], object],
) -> None:
    layer = ClosedInside()
    use(layer)
    assert layer.said == []
    layer.close()
    assert layer.said == ["close_notify"]


BAD = {
    "sock must be a socket, not None": lambda stream: httpx_net.NetworkStream(None),
    "max_bytes must be an int or None, not '1'": lambda stream: stream.read("1"),
    "max_bytes must be 1 or more, not 0": lambda stream: stream.read(0),
    "data must be bytes, a bytearray or a memoryview, not 'x'": lambda stream: stream.write("x"),
    "data must be contiguous, which <memory at": lambda stream: stream.write(SPACED),
    "context must be an ssl.SSLContext or alike, not None": lambda stream: stream.start_tls(None),
    "hostname must not be None where the context checks it (check_hostname)": (
        lambda stream: stream.start_tls(client_context())
    ),
}
SPACED = memoryview(b"a b c")[::2]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_argument_is_told(pair: Any, text: str) -> None:
    with (
        httpx_net.NetworkStream(pair[0]) as stream,
        pytest.raises((TypeError, ValueError), match="^" + re.escape(text)),
    ):
        BAD[text](stream)


def test_a_socket_that_can_t_be_a_stream_is_told() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, socket.socket() as alone:
        with pytest.raises(ValueError, match=r"^sock must be a stream socket, not <socket"):
            httpx_net.NetworkStream(datagrams)
        with pytest.raises(ValueError, match=f"^sock must be connected, not <socket.*>: {GONE}"):
            httpx_net.NetworkStream(alone)


GONE = os.strerror(errno.ENOTCONN)


def test_after_a_failed_write_on_TLS_the_next_one_says_why(serve_tls: Any) -> None:
    def full(conn: ssl.SSLSocket) -> None:
        over.wait(HANG)

    over, much = threading.Event(), bytes(20_000_000)
    with connect_tls(serve_tls(full, tickets=0)) as stream:
        with pytest.raises(TimeoutError, match=r"after [1-9]"), httpx_net.timeout(0.2):
            stream.write(much)
        with pytest.raises(BrokenPipeError) as caught:
            stream.write(b"x")
        with (
            pytest.raises(BrokenPipeError, match="stopped inside a record"),
            httpx_net.timeout(1.0),
        ):
            stream.start_tls(client_context(), "localhost")
        over.set()
    assert str(caught.value).endswith(
        " failed after 0 of 1 bytes: an earlier write stopped inside a record"
    )


def test_a_timeout_of_its_own_is_lifted_from_an_SSLSocket_too(peers: Peers) -> None:
    asked = threading.Event()

    def late(conn: ssl.SSLSocket) -> None:
        assert asked.wait(HANG)
        conn.sendall(b"late")

    address = peers.serve_tls(late)
    sock = client_context().wrap_socket(
        socket.create_connection(address), server_hostname="localhost"
    )
    sock.settimeout(0.01)
    with httpx_net.NetworkStream(sock) as stream:
        reading = threading.Timer(0.05, asked.set)
        reading.start()
        assert stream.read() == b"late"
        reading.join()


def test_whether_an_SSLSocket_is_readable_is_told_without_waiting(serve_tls: Any) -> None:
    sock = client_context().wrap_socket(
        socket.create_connection(serve_tls(silent)), server_hostname="localhost"
    )
    with httpx_net.NetworkStream(sock) as stream:
        select.select([sock], [], [], HANG)  # the tickets of TLS 1.3, which are no data
        assert stream.get_extra_info("is_readable") is False


def test_a_close_that_is_interrupted_has_closed(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(sock: socket.socket) -> None:
        raise KeyboardInterrupt

    stream = httpx_net.NetworkStream(pair[0])
    monkeypatch.setattr(_stream, "_own_address", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.close()
    assert repr(stream).endswith(" CLOSED]>")
    with pytest.raises(OSError, match="the stream is closed"):
        stream.read()


def test_a_close_while_the_socket_changes_hands_is_not_lost(serve: Any) -> None:
    class Closing:
        def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
            wrapped.append(client_context().wrap_socket(*args, **options))
            stream.close()
            return wrapped[0]

        wrap_bio = wrap_socket

    wrapped: list[ssl.SSLSocket] = []
    stream = httpx_net.NetworkBackend().connect(*serve(silent))
    with pytest.raises(OSError, match="the stream is closed"):
        stream.start_tls(Closing(), "localhost")
    assert wrapped[0].fileno() == -1


def test_the_addresses_outlast_a_context_that_refuses(serve: Any) -> None:
    stream = httpx_net.NetworkBackend().connect(*serve(silent))
    address = stream.get_extra_info("client_addr")
    with pytest.raises(ssl.SSLError, match="TLS handshake"):
        stream.start_tls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    assert stream.get_extra_info("client_addr") == address


def test_a_write_that_timed_out_is_not_how_the_stream_ends(pair: Any) -> None:
    ours, theirs = pair
    with httpx_net.NetworkStream(ours) as stream:
        with pytest.raises(TimeoutError), httpx_net.timeout(0.02):
            stream.write(bytes(20_000_000))
        theirs.shutdown(socket.SHUT_WR)
        assert stream.read() == b""


def test_a_number_of_another_class_is_a_number(pair: Any) -> None:
    class Number(int):
        pass

    pair[1].sendall(b"one")
    with httpx_net.NetworkStream(pair[0]) as stream:
        assert stream.read(Number(1)) == b"o"


def test_a_socket_that_was_closed_behind_its_back_has_no_address(pair: Any) -> None:
    with httpx_net.NetworkStream(pair[0]) as stream:
        pair[0].close()
        assert stream.get_extra_info("client_addr") is None


# ---- __main__


def test_main_returns_its_status(capsysbinary: Any) -> None:
    assert command_line.main([]) == 0
    assert b"<<< HTTP/1.1 200 OK\n" in capsysbinary.readouterr().out
    assert command_line.main(["ftp://www.example.com/"]) == 1
    assert capsysbinary.readouterr().err.startswith(b"httpx_net: bad URL")


def test_of_what_was_not_sent_to_the_end_the_part_that_went_out_is_shown(
    serve: Any, tmp_path: Path
) -> None:
    def full(conn: socket.socket) -> None:
        over.wait(3 * HANG)

    over = threading.Event()
    (tmp_path / "upload").write_bytes(b"x" * 20_000_000)
    ip, port = serve(full)
    try:
        done = run_command("-t", "0.3", "-s", str(tmp_path / "upload"), f"http://{ip}:{port}/")
    finally:
        over.set()
    assert done.returncode == 1
    shown = sum(line.count(b"x") for line in done.stdout.splitlines() if line[:4] == b">>> ")
    assert 0 < shown < 20_000_000
    assert b"timed out after %d of 20000000 bytes" % shown in done.stderr


@posix
def test_without_a_standard_output_it_says_so() -> None:
    done = run_command("http://127.0.0.1:1/", preexec_fn=lambda: os.close(1))
    assert done.returncode == 1
    assert done.stderr == b"httpx_net: standard output is closed\n"


def test_the_protocol_and_the_cipher_are_shown(serve_tls: Any, capsysbinary: Any) -> None:
    def answer(conn: ssl.SSLSocket) -> None:
        conn.recv(65536)
        ciphers.extend(conn.cipher() or ())
        send_close_notify(conn)

    ciphers: list[Any] = []
    _, port = serve_tls(answer, tickets=0)
    ca = str(CERTIFICATES / "ca.pem")
    assert command_line.main(["--cafile", ca, f"https://localhost:{port}/"]) == 0
    assert f" s: TLSv1.3, {ciphers[0]}: <".encode() in capsysbinary.readouterr().out


def test_https_needs_no_truststore(serve_tls: Any, tmp_path: Path) -> None:
    def answer(conn: ssl.SSLSocket) -> None:
        conn.recv(65536)
        conn.sendall(b"hello")
        conn.unwrap()

    (tmp_path / "truststore.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    _, port = serve_tls(answer)
    arguments = ("--cafile", str(CERTIFICATES / "ca.pem"), f"https://localhost:{port}/")
    done = run_command(*arguments, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert b"<<< hello\n" in done.stdout


@posix
def test_where_SIGPIPE_is_blocked_a_closed_pipe_is_a_status() -> None:
    def blocked() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
        os.dup2(writing, 1)

    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run_command(preexec_fn=blocked)
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("url", "port", "authority"),
    [
        ("http://www.example.com", 80, "www.example.com"),
        ("https://www.example.com", 443, "www.example.com"),
        ("https://www.example.com:80", 80, "www.example.com:80"),
        ("http://[::1]:443/", 443, "[::1]:443"),
        ("http://[fe80::1%eth0]/", 80, "[fe80::1]"),
    ],
)
def test_the_port_is_that_of_the_scheme_unless_told(url: str, port: int, authority: str) -> None:
    target = command_line.Target.of(url)
    assert (target.port, target.authority, target.path) == (port, authority, "/")


def test_its_help_has_every_option_and_the_defaults_it_has(capsys: Any) -> None:
    options = command_line._parser().parse_args([])
    assert (options.timeout, options.connect_timeout) == (30.0, 10.0)
    with pytest.raises(SystemExit):
        command_line.main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    for part in (
        "--timeout SECONDS for everything together (30; inf for none)",
        "--connect-timeout SECONDS for name resolution, connecting and the TLS handsh",
        "--send FILE send exactly the bytes of FILE (- for standard input)",
        "--output FILE write what the server sends to FILE (- for standard output)",
        "--cafile FILE trust the CA certificates in FILE (PEM) as well",
        "--insecure accept any certificate",
        "--suppress-ragged-eofs take an end without TLS's close_notify for the end, not for",
        "[URL] Send raw bytes to a web server, and show what crosses the wire. positional",
        "URL http://... or https://... options:",
    ):
        assert part in told
    assert told.startswith("usage: python -m httpx_net [-h] ")
    assert told.endswith(" Without a URL it talks to a server of its own, on this machine.")
    with pytest.raises(SystemExit):
        command_line.main(["--version"])
    assert capsys.readouterr().out == f"httpx_net {httpx_net.__version__}\n"


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--send", "can't read no/such/file"),
        ("--output", "can't write no/such/file"),
        ("--cafile", "no CA certificates in no/such/file"),
    ],
)
def test_a_file_that_can_t_be_used_is_told(capsys: Any, option: str, text: str) -> None:
    assert command_line.main([option, "no/such/file", "https://localhost:1/"]) == 1
    said = capsys.readouterr().err
    assert said == f"httpx_net: {text}: {os.strerror(errno.ENOENT)}\n"


def test_its_own_server_is_on_a_port_that_the_kernel_chose() -> None:
    with command_line._own_server() as url:
        assert command_line.Target.of(url).port >= 1024


@pytest.mark.parametrize("size", [5, 100_000])
def test_it_counts_what_it_gets(serve: Any, capsysbinary: Any, size: int) -> None:
    def answer(conn: socket.socket) -> None:
        conn.recv(65536)
        conn.sendall(bytes(size))

    ip, port = serve(answer)
    assert command_line.main([f"http://{ip}:{port}/"]) == 0
    assert b" s: the end, after %d bytes\n" % size in capsysbinary.readouterr().out


def test_it_asks_for_HTTP_by_its_name_in_ALPN(serve_tls: Any) -> None:
    def answer(conn: ssl.SSLSocket) -> None:
        asked.append(conn.selected_alpn_protocol())
        conn.recv(65536)
        send_close_notify(conn)

    asked: list[str | None] = []
    _, port = serve_tls(answer, alpn=["http/1.1"], tickets=0)
    ca = str(CERTIFICATES / "ca.pem")
    assert command_line.main(["--cafile", ca, f"https://localhost:{port}/"]) == 0
    assert asked == ["http/1.1"]


def test_its_own_server_reads_the_request_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: Any
) -> None:
    class InBytes(httpx_net.NetworkStream):
        def read(self, max_bytes: int | None = None) -> bytes:
            received.append(super().read(1))
            return received[-1]

    received: list[bytes] = []
    monkeypatch.setattr(command_line, "NetworkStream", InBytes)
    assert command_line.main([]) == 0
    assert b"<<< HTTP/1.1 200 OK\n" in capsysbinary.readouterr().out
    assert b"".join(received).startswith(b"GET / HTTP/1.1\r\n")
    assert b"".join(received).endswith(b"\r\nConnection: close\r\n\r\n")


def shown(*parts: bytes, finish: bool = False) -> bytes:
    """What a transcript shows of *parts* that come one after another."""
    file = io.BytesIO()
    transcript = command_line.Transcript(command_line.Output(file, "file"), "ascii")
    for part in parts:
        transcript.show("<<< ", part)
    if finish:
        transcript.finish()
    return file.getvalue()


def test_a_line_is_shown_once_it_is_longer_than_8_KiB() -> None:
    longest = b"x" * 8192
    assert shown(longest) == b""
    assert shown(longest, b"yz") == b"<<< " + longest + b"\n"
    assert shown(longest, b"yz", finish=True) == b"<<< " + longest + b"\n<<< yz\n"


def test_a_note_may_have_any_character() -> None:
    file = io.BytesIO()
    transcript = command_line.Transcript(command_line.Output(file, "file"), "ascii")
    transcript.note("caf\u00e9 \udcff")
    assert file.getvalue() == b"*** caf\\xe9 \\udcff\n"


def test_of_a_write_that_does_not_say_how_far_it_got_nothing_is_shown(pair: Any) -> None:
    class Failing(httpx_net.NetworkStream):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            raise OSError("no luck")

    told: list[tuple[str, bytes]] = []
    with (
        command_line.RecordingStream(Failing(pair[0]), lambda *what: told.append(what)) as stream,
        pytest.raises(OSError, match="no luck"),
    ):
        stream.write(b"hello")
    assert told == [(">>> ", b"")]
