"""``NetworkStream`` on plain sockets: what it promises beyond the contract of every stream.

The contract is in conformance.py, which runs plain streams too; how a stream ends, how it is closed
by another thread, and how two threads share it have modules of their own.
"""

from __future__ import annotations

import array
import ctypes
import errno
import gc
import os
import re
import socket
import ssl
import struct
import time
import tracemalloc
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from dialing import run_python
from httpx_net import NetworkStream, timeout
from peers import (
    HANG,
    MIB,
    Peers,
    Use,
    client_context,
    connect_tls,
    descriptors,
    drop,
    echo,
    fill,
    in_thread,
    is_truncation,
    read,
    silent,
    start_tls,
    take,
    times_out,
    wait_until,
    write,
    write_much,
)

Pair = tuple[socket.socket, socket.socket]
Ends = tuple[NetworkStream, socket.socket]
# Elsewhere a socketpair is made of TCP, and its ends have addresses.
unix_sockets = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets"
)
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX descriptors")
either_family = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])


@pytest.fixture
def ends(pair: Pair) -> Iterator[Ends]:
    """A stream over one end of a ``socketpair``, and the other end."""
    with NetworkStream(pair[0]) as stream:
        yield stream, pair[1]


@pytest.fixture(params=["tcp", "unix"])
def plain(request: pytest.FixtureRequest, peers: Peers, pair: Pair) -> Iterator[Ends]:
    """A stream over TCP, then over a ``socketpair``, and the socket at its other end."""
    ours, theirs = peers.tcp_pair() if request.param == "tcp" else pair
    with NetworkStream(ours) as stream:
        yield stream, theirs


@contextmanager
def traced_memory() -> Iterator[Callable[[], int]]:
    """Gives a function: the most bytes that were allocated at a time, beyond those from before."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def error_of(call: Callable[[], object], expected: type[OSError] = OSError) -> Any:
    with pytest.raises(expected) as caught:
        call()
    return caught.value


# ---- Reading


def test_a_read_returns_64_kib_at_most_unless_asked_for_more(ends: Ends) -> None:
    stream, peer = ends
    sent = fill(peer)
    assert sent > 65536
    assert len(stream.read()) == 65536
    assert len(stream.read(None)) == min(65536, sent - 65536)


def test_a_read_allocates_no_more_than_1_mib_whatever_is_asked_for(ends: Ends) -> None:
    stream, peer = ends
    peer.sendall(b"hello")
    with traced_memory() as peak:
        assert stream.read(10**9) == b"hello"
        assert peak() < 1.1 * MIB


def test_a_peer_that_has_ended_its_half_still_listens(ends: Ends) -> None:
    stream, peer = ends
    peer.shutdown(socket.SHUT_WR)
    assert stream.read() == b""
    stream.write(b"goodbye")
    assert peer.recv(100) == b"goodbye"


# ---- Writing


@pytest.mark.parametrize(
    "form",
    [
        bytearray,
        lambda data: memoryview(data).cast("I"),
        lambda data: memoryview(data).cast("B", (len(data) // 4, 4)),
        lambda data: memoryview((ctypes.c_char * len(data)).from_buffer_copy(data)),
    ],
    ids=["bytearray", "integers", "two dimensions", "ctypes"],
)
def test_a_write_sends_all_of_it_in_whatever_form_it_comes(
    peers: Peers, form: Callable[[bytes], Any]
) -> None:
    received: list[bytes] = []
    small, large = b"tiny", os.urandom(MIB) * 3 + b"the rest"
    with NetworkStream(peers.serve_pair(lambda conn: received.append(take(conn)))) as stream:
        stream.write(form(small))
        stream.write(form(large))
    peers.close()
    assert received == [small + large]


@pytest.mark.parametrize("form", [bytes, bytearray])
def test_a_large_write_copies_nothing(peers: Peers, form: Callable[[int], bytes]) -> None:
    buffer = bytearray(65536)

    def drain(conn: socket.socket) -> None:
        while conn.recv_into(buffer):
            pass

    data = form(16 * MIB)
    with NetworkStream(peers.serve_pair(drain)) as stream, traced_memory() as peak:
        stream.write(data)
        assert peak() < MIB


def test_a_write_that_timed_out_counts_exactly_and_the_caller_may_go_on(plain: Ends) -> None:
    stream, peer = plain
    data = os.urandom(MIB) * 8
    with times_out(0.05) as caught:
        stream.write(data)
    sent = caught.value.characters_written  # type: ignore[attr-defined]
    assert 0 < sent < len(data)
    assert f" timed out after {sent} of {len(data)} bytes: timeout(0.05) exp" in str(caught.value)
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(take, peer, len(data))
        stream.write(memoryview(data)[sent:])
        assert received.result(HANG) == data


def test_an_answer_and_the_end_can_be_read_after_a_write_that_timed_out(plain: Ends) -> None:
    stream, peer = plain
    peer.sendall(b"413 enough")
    peer.shutdown(socket.SHUT_WR)
    with times_out(0.02):
        write_much(stream)
    assert [stream.read(), stream.read()] == [b"413 enough", b""]


def test_a_write_to_a_peer_that_leaves_says_how_far_it_got(peers: Peers) -> None:
    ours, theirs = peers.tcp_pair()
    ip, port = ours.getpeername()
    peers.run(lambda conn: (take(conn, 2 * MIB), drop(conn)), theirs)
    with NetworkStream(ours) as stream:
        first = error_of(lambda: write_much(stream), ConnectionError)
        second = error_of(lambda: stream.write(b"hello"), BrokenPipeError)
    sent, reason = first.characters_written, os.strerror(first.errno)
    assert 2 * MIB <= sent < 32 * MIB
    assert f"write to {ip}:{port} failed after {sent} of {32 * MIB} bytes: {reason}" in str(first)
    assert second.characters_written == 0
    assert "after 0 of 5 bytes" in str(second)


# ---- Under a deadline


def test_the_error_says_what_was_done_to_whom_and_which_deadline_ran_out(peers: Peers) -> None:
    ours, _ = peers.tcp_pair()
    ip, port = ours.getpeername()
    with NetworkStream(ours) as stream, timeout(60.0), times_out(0.02) as caught:
        stream.read()
    assert type(caught.value) is TimeoutError
    assert caught.value.errno is None
    assert caught.value.__suppress_context__
    assert str(caught.value) == f"read from {ip}:{port} timed out: timeout(0.02) expired"


@unix_sockets
@pytest.mark.parametrize(
    ("use", "text"), [(read, "read from {}"), (write, "write to {} after 0 of 1 bytes")]
)
def test_a_peer_without_an_address_is_unnamed(ends: Ends, use: Use, text: str) -> None:
    expected = text.format("an unnamed peer timed out") + ": timeout(0) expired"
    with timeout(0):
        assert str(error_of(lambda: use(ends[0]), TimeoutError)) == expected


def test_a_deadline_cancelled_while_a_read_waits_does_not_end_it(ends: Ends) -> None:
    stream, peer = ends
    cancelled = timeout(0.15)

    def read_in_time() -> bytes:
        with cancelled:
            return stream.read()

    with in_thread(read_in_time) as reading:
        cancelled.cancel()
        # By then the deadline would have passed.
        time.sleep(0.2)
        assert not reading.done()
        peer.sendall(b"late")
        assert reading.result(HANG) == b"late"


# ---- How it waits


@pytest.mark.parametrize("use", [read, write])
def test_the_kernel_waits_until_the_first_operation_under_a_deadline(ends: Ends, use: Use) -> None:
    stream, peer = ends
    peer.sendall(b"abc")
    modes = []
    # One that has passed is no operation.
    for seconds in (None, 0, HANG, None):
        with suppress(TimeoutError), timeout(seconds):
            use(stream)
        modes.append(stream.get_extra_info("socket").gettimeout())
    assert modes == [None, None, 0.0, 0.0]


def has_a_timeout(sock: socket.socket) -> None:
    sock.settimeout(0.01)


def has_timeouts_among_its_options(sock: socket.socket) -> None:
    # A millisecond, after which the kernel says EAGAIN.
    for option in socket.SO_RCVTIMEO, socket.SO_SNDTIMEO:
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", 0, 1000))


@posix
@pytest.mark.parametrize("prepare", [has_a_timeout, has_timeouts_among_its_options])
@pytest.mark.parametrize(
    ("use", "end"),
    [(read, lambda peer: peer.sendall(b"late")), (write_much, lambda peer: take(peer, 32 * MIB))],
    ids=["read", "write"],
)
def test_no_timeout_of_the_sockets_own_ends_anything(
    pair: Pair, use: Use, end: Callable[[socket.socket], object], prepare: Any
) -> None:
    ours, peer = pair
    prepare(ours)
    # By the time that this waits, it would have fired.
    with NetworkStream(ours) as stream, in_thread(use, stream) as using:
        end(peer)
        assert using.exception(HANG) is None


@posix
@pytest.mark.parametrize("number", [0, 1500])
def test_any_number_is_good_for_a_descriptor(pair: Pair, number: int) -> None:
    ours, peer = pair
    standard_input = os.dup(0)
    try:
        with descriptors(2000):
            os.dup2(ours.fileno(), number, inheritable=False)
            streams = [NetworkStream(socket.socket(fileno=number))]
            with suppress(TimeoutError), timeout(0.02):
                streams[0].read()
            peer.sendall(b"x")
            assert streams[0].get_extra_info("is_readable")
            assert streams[0].read() == b"x"
            assert collect(streams)[0].startswith("unclosed <NetworkStream")
    finally:
        os.dup2(standard_input, 0)
        os.close(standard_input)


def test_it_works_where_the_system_never_had_poll() -> None:
    script = """
import select, socket
for name in [name for name in vars(select) if "poll" in name.lower()]:
    delattr(select, name)
import httpx_net

ours, theirs = socket.socketpair()
with theirs, httpx_net.NetworkStream(ours) as stream:
    for use in stream.read, lambda: stream.write(bytes(10_000_000)):
        try:
            with httpx_net.timeout(0.01):
                use()
        except TimeoutError:
            print("timed out")
"""
    assert run_python(script) == "timed out\n" * 2


# ---- Closing


@posix
def test_close_does_not_fail_where_the_descriptor_is_gone(ends: Ends) -> None:
    stream, _ = ends
    os.close(stream.get_extra_info("socket").fileno())
    stream.close()
    stream.close()


def test_close_waits_where_the_caller_asked_it_to_linger(peers: Peers) -> None:
    ours, theirs = peers.tcp_pair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, int(HANG)))
    sent = fill(ours)
    with in_thread(NetworkStream(ours).close) as closing:
        assert not closing.done()
        assert len(take(theirs)) == sent
        assert closing.result(HANG) is None


@pytest.mark.parametrize("use", [read, write_much])
def test_a_socket_closed_behind_the_streams_back_is_an_error(ends: Ends, use: Use) -> None:
    stream, _ = ends
    with times_out(0.01):
        stream.read()
    stream.get_extra_info("socket").close()
    error = error_of(lambda: use(stream))
    assert error.errno == errno.EBADF
    assert " failed" in str(error)
    assert stream.get_extra_info("is_readable")


# ---- Collected unclosed


def collect(streams: list[NetworkStream]) -> list[str]:
    """Let go of the only reference; returns the texts of the ResourceWarnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        streams.clear()
        gc.collect()
    assert {w.category for w in caught} <= {ResourceWarning}
    return [str(w.message) for w in caught]


def test_a_stream_collected_unclosed_is_one_warning_and_its_descriptor_is_closed(
    peers: Peers,
) -> None:
    ours, _ = peers.tcp_pair()
    ip, port = ours.getpeername()
    descriptor = ours.fileno()
    stream: NetworkStream | None = NetworkStream(ours)
    del ours
    with pytest.warns(ResourceWarning) as caught:
        # The warning points at the line that lets go.
        stream = None
    assert [str(w.message) for w in caught] == [f'unclosed <NetworkStream ["{ip}:{port}"]>']
    assert caught[0].filename == __file__
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(descriptor)
    assert stream is None


def test_a_stream_whose_socket_was_closed_is_none(pair: Pair) -> None:
    streams = [NetworkStream(pair[0])]
    pair[0].close()
    assert collect(streams) == []


def test_a_tls_stream_collected_unclosed_says_no_goodbye(peers: Peers) -> None:
    def cut_off(conn: ssl.SSLSocket) -> None:
        with pytest.raises(ssl.SSLError) as caught:
            conn.recv(1)
        assert is_truncation(caught.value)

    streams = [connect_tls(peers.serve_tls(cut_off, tickets=0))]
    assert len(collect(streams)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_that_collects_a_stream_leaves_its_parents_alone(peers: Peers) -> None:
    ours, theirs = peers.tcp_pair()
    streams = [NetworkStream(ours)]
    del ours
    assert in_child(lambda: collect(streams)) == 0
    with streams[0] as stream:
        stream.write(b"ping")
        assert theirs.recv(4) == b"ping"
        theirs.sendall(b"pong")
        assert stream.read() == b"pong"


def in_child(function: Callable[[], object]) -> int:
    """Call *function* in a forked child; returns its exit status."""
    with warnings.catch_warnings():
        # Forking beside threads, which are the peers here: no matter.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Local:
    """What a caller has in its frame when an operation fails."""


@pytest.mark.parametrize("use", [read, write, write_much, start_tls])
@pytest.mark.parametrize("seconds", [0, 0.01])
def test_an_error_keeps_nothing_of_its_caller_alive(ends: Ends, use: Use, seconds: float) -> None:
    fill(ends[0].get_extra_info("socket"))

    def call() -> weakref.ref[Local]:
        local = Local()
        with pytest.raises(TimeoutError), timeout(seconds):
            use(ends[0])
        return weakref.ref(local)

    gc.disable()
    try:
        assert call()() is None, "the error is in a cycle with its traceback"
    finally:
        gc.enable()


# ---- What it knows


@either_family
def test_it_knows_its_addresses_after_a_reset_and_after_close(peers: Peers, family: int) -> None:
    ours, theirs = peers.tcp_pair(family)
    client, server = theirs.getpeername()[:2], theirs.getsockname()[:2]
    shown = f"[{server[0]}]:{server[1]}" if family == socket.AF_INET6 else "{}:{}".format(*server)
    stream = NetworkStream(ours)
    assert stream.get_extra_info("socket") is ours
    assert stream.get_extra_info("ssl_object") is None
    assert repr(stream) == f'<NetworkStream ["{shown}"]>'
    drop(theirs)
    for _ in range(2):
        assert stream.get_extra_info("client_addr") == client
        assert stream.get_extra_info("server_addr") == server
        stream.close()
    assert repr(stream) == f'<NetworkStream ["{shown}" CLOSED]>'


@unix_sockets
def test_the_addresses_of_a_unix_socket_are_paths(peers: Peers) -> None:
    path = peers.serve_unix(silent)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"{path}.client")
    sock.connect(path)
    with NetworkStream(sock) as stream:
        assert stream.get_extra_info("server_addr") == path
        assert stream.get_extra_info("client_addr") == f"{path}.client"
        assert repr(stream) == f'<NetworkStream ["{path}"]>'


def test_asking_whether_it_is_readable_neither_waits_nor_asks_for_the_deadline(
    peers: Peers,
) -> None:
    ours, theirs = peers.tcp_pair()
    with NetworkStream(ours) as stream, timeout(0):
        start = time.monotonic()
        assert stream.get_extra_info("is_readable") is False
        assert time.monotonic() - start < 0.5
        theirs.sendall(b"x")
        wait_until(lambda: stream.get_extra_info("is_readable") is True)
    # A read would raise at once.
    assert stream.get_extra_info("is_readable") is True


def test_the_repr_shows_tls_and_the_name_of_a_subclass(peers: Peers) -> None:
    class Recorded(NetworkStream):
        pass

    ip, port = address = peers.serve_tls(silent)
    with Recorded(socket.create_connection(address)) as stream:
        start_tls(stream)
        assert repr(stream) == f'<Recorded ["{ip}:{port}" TLS]>'
    assert repr(stream) == f'<Recorded ["{ip}:{port}" TLS CLOSED]>'


# ---- Its arguments


SPACED = memoryview(b"a b c")[::2]
BAD: dict[str, Callable[[Any], object]] = {
    "sock must be a socket, not None": lambda stream: NetworkStream(None),  # type: ignore[arg-type]
    "max_bytes must be an int or None, not '1'": lambda stream: stream.read("1"),
    "max_bytes must be an int or None, not True": lambda stream: stream.read(True),
    "max_bytes must be 1 or more, not 0": lambda stream: stream.read(0),
    "data must be bytes, a bytearray or a memoryview, not 'x'": lambda stream: stream.write("x"),
    "data must be bytes, a bytearray or a memoryview, not array('B')": (
        lambda stream: stream.write(array.array("B"))
    ),
    "data must be contiguous, which <memory at": lambda stream: stream.write(SPACED),
    "hostname must not be None where the context checks it (check_hostname)": (
        lambda stream: stream.start_tls(client_context())
    ),
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_argument_is_refused_with_its_value_and_costs_nothing(ends: Ends, text: str) -> None:
    stream, peer = ends
    peer.sendall(b"x")
    with pytest.raises((TypeError, ValueError), match="^" + re.escape(text)):
        BAD[text](stream)
    assert stream.read() == b"x"
    stream.close()
    assert peer.recv(1) == b""


def closed(peers: Peers) -> socket.socket:
    ours, _ = peers.tcp_pair()
    ours.close()
    return ours


def lost(peers: Peers) -> socket.socket:
    ours, theirs = peers.tcp_pair()
    drop(theirs)
    return ours


def datagrams(peers: Peers) -> socket.socket:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.connect(peers.bound().getsockname())
    return sock


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Peers.bound, "connected"),
        (Peers.listen, "connected"),
        (closed, "connected"),
        (lost, "connected"),
        (datagrams, "a stream socket"),
    ],
)
def test_a_socket_that_is_no_connected_stream_is_refused_and_left_alone(
    peers: Peers, make: Callable[[Peers], socket.socket], reason: str
) -> None:
    with make(peers) as sock:
        with pytest.raises(ValueError, match=rf"^sock must be {reason}, not <socket") as caught:
            NetworkStream(sock)
        assert repr(sock) in str(caught.value)


def test_an_ssl_socket_becomes_a_tls_stream_without_its_own_timeout(peers: Peers) -> None:
    sock = socket.create_connection(peers.serve_tls(echo))
    wrapped = client_context().wrap_socket(sock, server_hostname="localhost")
    wrapped.settimeout(0.01)
    with NetworkStream(wrapped) as stream:
        assert repr(stream).endswith(" TLS]>")
        assert stream.get_extra_info("ssl_object") is wrapped
        with in_thread(stream.read) as reading:
            stream.write(b"hello")
            assert reading.result(HANG) == b"hello"
