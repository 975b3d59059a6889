"""An end is an end only if nobody has heard of a loss: on plain streams and TLS at any depth.

The kernel reports a failure once, to whichever call comes first, and calls it an end afterwards.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

import httpx_net
from peers import (
    HANG,
    MIB,
    Address,
    Peers,
    TLSInside,
    asleep,
    bottom,
    client_context,
    connect_tls,
    drop,
    everywhere,
    fill,
    in_thread,
    read,
    reset,
    say_goodbye,
    server_context,
    silent,
    take,
    times_out,
    wait_until,
    ways,
    wrap_server,
)

PART = bytes(range(256)) * 100
REQUEST = bytes(8 * MIB)

# These releases of `ssl` hide which error of the socket it was.
HIDES_ERRNO = sys.version_info < (3, 11, 9) or (3, 12) <= sys.version_info < (3, 12, 3)

either = pytest.mark.parametrize("suppress", [False, True], ids=["strict", "forgiving"])


def connect(address: Address, layers: int, **options: Any) -> httpx_net.NetworkStream:
    return connect_tls(address, layers=layers, **options)


def failure(call: Callable[..., object], *args: object) -> OSError:
    with pytest.raises(OSError, match=r"127\.0\.0\.1") as caught:
        call(*args)
    return caught.value


def read_to_the_end(stream: httpx_net.NetworkStream) -> tuple[bytes, OSError | None]:
    """What came, and what every read says from then on."""
    data, ends = b"", []
    while len(ends) < 3:
        try:
            more = stream.read()
        except OSError as error:
            ends.append((type(error), error.errno, str(error)))
            last: OSError | None = error
        else:
            data += more
            if not more:
                ends.append((bytes, 0, ""))
                last = None
    assert len(set(ends)) == 1, ends
    return data, last


# ---- How peers leave, once they have been asked and have said their part


def lost(conn: Any) -> None:
    drop(bottom(conn))


def in_order(conn: Any) -> None:
    """Say goodbye, and drop what the client goes on to send."""
    say_goodbye(conn)
    cut(conn)


def cut(conn: Any) -> None:
    """The same without the goodbye."""
    bottom(conn).shutdown(socket.SHUT_WR)
    drop(bottom(conn))


Leave = Callable[[Any], None]
every_leave = pytest.mark.parametrize("leave", [lost, in_order, cut])


def serve(peers: Peers, layers: int, leave: Leave) -> Address:
    def peer(conn: Any) -> None:
        conn.recv(1)
        conn.sendall(PART)
        leave(conn)

    return peers.serve_layers(peer, layers)


def outcome(
    told: OSError, leave: Leave, layers: int, suppress: bool
) -> tuple[type | None, int | None]:
    """What reads come to after a write was *told* something: the error's class and number."""
    # Where `ssl` hides which error it was, a loss is the better guess, unless there is a goodbye.
    guessed = HIDES_ERRNO and layers and isinstance(told, ConnectionResetError)
    assert type(told) is (ConnectionResetError if leave is lost or guessed else BrokenPipeError)
    if leave is lost or (guessed and leave is cut):
        return ConnectionResetError, errno.ECONNRESET
    if leave is cut and layers and not suppress:
        return ssl.SSLEOFError, ssl.SSL_ERROR_EOF
    return None, None


def kind(error: OSError | None) -> tuple[type | None, int | None]:
    return (type(error), error.errno) if error else (None, None)


# ---- What a write is told


@ways
@either
@every_leave
def test_reads_come_to_the_end_unless_a_write_was_told_of_a_loss(
    peers: Peers, layers: int, seconds: float | None, suppress: bool, leave: Leave
) -> None:
    address = serve(peers, layers, leave)
    with (
        httpx_net.timeout(seconds),
        connect(address, layers, suppress_ragged_eofs=suppress) as stream,
    ):
        told = failure(stream.write, REQUEST)
        # What had come before is kept in order, and counts as readable.
        assert stream.get_extra_info("is_readable")
        assert stream.read(1) == PART[:1]
        data, error = read_to_the_end(stream)
    assert data == PART[1:]
    assert kind(error) == outcome(told, leave, layers, suppress)


@everywhere
@either
def test_an_end_that_a_read_has_reported_stands_for_good(
    peers: Peers, layers: int, suppress: bool
) -> None:
    goes = threading.Event()

    def leave(conn: Any) -> None:
        bottom(conn).shutdown(socket.SHUT_WR)
        assert goes.wait(HANG)
        drop(bottom(conn))

    address = peers.serve_layers(leave, layers)
    with connect(address, layers, suppress_ragged_eofs=suppress) as stream:
        before = read_to_the_end(stream)
        # It comes after a deadline that has passed, as everything does.
        with httpx_net.timeout(0), pytest.raises(TimeoutError):
            stream.read()
        goes.set()
        assert isinstance(write_until_it_fails(stream, 1000), BrokenPipeError)
        after = read_to_the_end(stream)
    truncated = ssl.SSLEOFError, ssl.SSL_ERROR_EOF
    assert (
        kind(before[1])
        == kind(after[1])
        == (truncated if layers and not suppress else (None, None))
    )


class Failing:
    """A socket whose kernel says what the test wants it to, once."""

    error = 0

    def fail(self) -> None:
        number, self.error = self.error, 0
        if number:
            raise OSError(number, os.strerror(number))


class FailingSocket(Failing, socket.socket):
    def send(self, *args: Any) -> int:
        self.fail()
        return super().send(*args)

    def recv(self, *args: Any) -> bytes:
        self.fail()
        return super().recv(*args)


class FailingTLS(Failing, ssl.SSLSocket):
    def write(self, data: Any) -> Any:
        self.fail()
        return super().write(data)


@contextmanager
def failing(peers: Peers, layers: int, number: int) -> Iterator[httpx_net.NetworkStream]:
    """A stream whose next call fails, to a peer that says PART and ends."""

    def leave(conn: Any) -> None:
        bottom(conn).shutdown(socket.SHUT_WR)
        silent(bottom(conn))

    sock = FailingSocket(fileno=socket.create_connection(serve(peers, layers, leave)).detach())
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    context = client_context()
    context.sslsocket_class = FailingTLS
    with httpx_net.NetworkStream(sock, suppress_ragged_eofs=True) as stream:
        for _ in range(layers):
            stream.start_tls(context, "localhost")
        stream.write(b"?")
        stream.get_extra_info("socket").error = number
        yield stream


LOSSES = [
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EPROTO,
    errno.EACCES,
    errno.ECONNREFUSED,
    errno.ECONNABORTED,
    errno.ETIMEDOUT,
]


@everywhere
@pytest.mark.parametrize("number", LOSSES, ids=errno.errorcode.get)
def test_whatever_a_write_was_told_is_what_reads_come_to(
    peers: Peers, layers: int, number: int
) -> None:
    with failing(peers, layers, number) as stream:
        told = failure(stream.write, b"more")
        data, error = read_to_the_end(stream)
    assert data == PART
    assert kind(error) == (type(told), number)
    assert str(error).startswith(f"[Errno {number}] read from 127.0.0.1:")
    assert os.strerror(number) in str(error)
    assert isinstance(error, TimeoutError) == (number == errno.ETIMEDOUT)


@everywhere
@pytest.mark.parametrize(
    "number", [errno.EPIPE, errno.ENOBUFS, errno.ENOMEM], ids=errno.errorcode.get
)
def test_what_is_no_loss_spoils_no_end(peers: Peers, layers: int, number: int) -> None:
    with failing(peers, layers, number) as stream:
        assert failure(stream.write, b"more").errno == number
        assert read_to_the_end(stream) == (PART, None)


def test_a_read_without_memory_is_no_end(peers: Peers) -> None:
    with failing(peers, 0, errno.ENOMEM) as stream:
        assert failure(stream.read).errno == errno.ENOMEM
        assert read_to_the_end(stream) == (PART, None)


# ---- The kernel gives up


@pytest.mark.skipif(
    not hasattr(socket, "TCP_USER_TIMEOUT"), reason="here the kernel's ETIMEDOUT takes minutes"
)
def test_a_timeout_of_the_kernel_is_one_to_reads_and_claims_no_deadline(peers: Peers) -> None:
    over = threading.Event()
    address = peers.serve_layers(lambda conn: over.wait(HANG), 2)
    milliseconds = socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 100
    with connect(address, 2, socket_options=[milliseconds]) as stream:
        try:
            with in_thread(stream.write, REQUEST * 8) as writing, httpx_net.timeout(HANG):
                told = failure(stream.read)
                # Whoever was not the first is told of a broken pipe.
                assert isinstance(writing.exception(HANG), (TimeoutError, ConnectionError))
        finally:
            over.set()
        for error in told, read_to_the_end(stream)[1]:
            assert kind(error) == (TimeoutError, errno.ETIMEDOUT)
            assert "timeout(" not in str(error)


@pytest.mark.skipif(
    not hasattr(socket, "TCP_USER_TIMEOUT"), reason="here the kernel's ETIMEDOUT takes minutes"
)
@pytest.mark.parametrize(
    ("layers", "asked"),
    [(0, False), (1, False), (2, True)],
    ids=["plain", "TLS", "TLS in TLS, after is_readable"],
)
def test_a_timeout_of_the_kernel_while_nobody_waits_is_one_too(
    peers: Peers, layers: int, asked: bool
) -> None:
    over = threading.Event()
    address = peers.serve_layers(lambda conn: over.wait(HANG), layers)
    milliseconds = socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 100
    with connect(address, layers, socket_options=[milliseconds]) as stream:
        try:
            # Past the stream, which would hear of it if it wrote.
            with socket.socket(fileno=os.dup(stream.get_extra_info("socket").fileno())) as below:
                below.settimeout(0.0)
                fill(below)
                gives_up = select.poll()
                gives_up.register(below, 0)
                assert gives_up.poll(HANG * 1000)
            assert not asked or stream.get_extra_info("is_readable")
            assert kind(failure(stream.read)) == (TimeoutError, errno.ETIMEDOUT)
        finally:
            over.set()


# ---- A reader and a writer


@contextmanager
def writer_held(
    stream: httpx_net.NetworkStream,
) -> Iterator[tuple[Future[Any], threading.Event]]:
    """A write that fails is held in its thread: ``(its result, it may leave)``.

    This is the moment between the kernel's word and its own end.
    """
    told, may_leave = threading.Event(), threading.Event()

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code is not httpx_net.NetworkStream.write.__code__:
            return None
        if event == "exception" and issubclass(arg[0], ConnectionError) and not told.is_set():
            told.set()
            assert may_leave.wait(HANG)
        return trace

    def write() -> None:
        sys.settrace(trace)
        try:
            stream.write(REQUEST)
        finally:
            sys.settrace(None)

    with in_thread(write) as writing:
        try:
            assert told.wait(HANG)
            yield writing, may_leave
        finally:
            may_leave.set()


@everywhere
@either
@pytest.mark.parametrize("leave", [lost, cut])
def test_a_read_waits_for_what_a_write_in_flight_was_told(
    peers: Peers, layers: int, suppress: bool, leave: Leave
) -> None:
    address = serve(peers, layers, leave)
    with (
        connect(address, layers, suppress_ragged_eofs=suppress) as stream,
        writer_held(stream) as (writing, may_leave),
    ):
        assert take(stream, len(PART)) == PART
        # It waits under its own deadline, and then it has not reported anything.
        with times_out(0.02) as late:
            stream.read()
        assert str(late.value).startswith("read from ")
        stream.get_extra_info("is_readable")
        with in_thread(read_to_the_end, stream) as reading:
            may_leave.set()
            data, error = reading.result(HANG)
    assert data == b""
    assert kind(error) == outcome(writing.exception(HANG), leave, layers, suppress)


def test_an_end_of_one_direction_waits_for_no_write(peers: Peers) -> None:
    over = threading.Event()

    def ends_its_half(conn: socket.socket) -> None:
        conn.shutdown(socket.SHUT_WR)
        over.wait(HANG)

    with connect(peers.serve(ends_its_half), 0) as stream, httpx_net.timeout(HANG):
        with in_thread(stream.write, REQUEST * 8) as writing:
            assert stream.read() == b""
            assert not writing.done()
            stream.close()
            assert writing.exception(HANG)
        over.set()


@either
def test_what_a_read_was_told_while_it_sent_is_the_end_it_comes_to(
    peers: Peers, suppress: bool
) -> None:
    """A record inside TLS that did not get through goes out with the next read, or would."""
    may_reset = threading.Event()

    def takes_nothing_and_resets(conn: Any) -> None:
        assert may_reset.wait(HANG)
        reset(bottom(conn))

    address = peers.serve_layers(takes_nothing_and_resets, 2)
    with connect(address, 2, suppress_ragged_eofs=suppress) as stream:
        with times_out(0.2):
            stream.write(REQUEST * 8)
        may_reset.set()
        gone = select.poll()
        gone.register(stream.get_extra_info("socket"), 0)
        assert gone.poll(HANG * 1000)
        assert isinstance(failure(stream.read), ConnectionResetError)


# ---- Classes


@either
def test_a_reset_of_a_unix_socket_is_no_end_on_tls(peers: Peers, suppress: bool) -> None:
    gone = threading.Event()

    def leaves_what_it_was_sent(conn: socket.socket) -> None:
        with wrap_server(server_context("server"), conn) as tls:
            tls.sendall(PART)
            select.select([tls], [], [], HANG)
        gone.set()

    stream = httpx_net.NetworkStream(
        peers.serve_pair(leaves_what_it_was_sent), suppress_ragged_eofs=suppress
    )
    with stream, httpx_net.timeout(HANG):
        stream.start_tls(client_context(), "localhost")
        stream.write(b"?")
        assert gone.wait(HANG)
        data, error = read_to_the_end(stream)
    assert (data, type(error)) == (PART, ConnectionResetError)


@pytest.mark.parametrize("below", [0, 1])
def test_a_reset_before_a_handshake_is_a_reset(peers: Peers, below: int) -> None:
    def refuse(conn: Any) -> None:
        conn.recv(1)
        drop(bottom(conn))

    with connect(peers.serve_layers(refuse, below), below) as stream:
        stream.write(b"?")
        wait_until(lambda: stream.get_extra_info("is_readable"))
        with pytest.raises(ConnectionResetError, match="TLS handshake for 'localhost' with 127"):
            stream.start_tls(client_context(), "localhost")


# ---- What the peer had said before a write failed


def write_until_it_fails(stream: httpx_net.NetworkStream, size: int) -> OSError:
    with httpx_net.timeout(HANG), pytest.raises(OSError, match="write to 127") as caught:
        while True:
            stream.write(bytes(size))
    return caught.value


@pytest.mark.parametrize("size", [10, 8 * MIB], ids=["small", "large"])
@pytest.mark.parametrize("asked", [False, True], ids=["", "after is_readable"])
def test_an_alert_is_the_error_of_the_write_and_of_every_read(
    peers: Peers, size: int, asked: bool
) -> None:
    address = peers.serve_tls(silent, client_ca="ca", refused=True)
    with connect(address, 1) as stream:
        if asked:
            wait_until(lambda: stream.get_extra_info("is_readable"))
        assert "CERTIFICATE_REQUIRED" in str(write_until_it_fails(stream, size))
        _, error = read_to_the_end(stream)
        assert "CERTIFICATE_REQUIRED" in str(error)
        assert isinstance(error, ssl.SSLError)


def test_data_that_came_before_an_alert_is_read_first(peers: Peers) -> None:
    def complains(conn: socket.socket) -> None:
        inside = TLSInside(server_context("server"), conn)
        inside.sendall(PART)
        # A record that nobody has sealed.
        inside.incoming.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(ssl.SSLError):
            while inside.tls.read(65_536):
                pass
        inside.flush()

    with connect(peers.serve(complains), 1) as stream:
        told = write_until_it_fails(stream, 1000)
        data, error = read_to_the_end(stream)
    assert data == PART
    assert isinstance(told, ssl.SSLError)
    assert isinstance(error, ssl.SSLError)
    assert "ALERT" in str(told)
    assert "ALERT" in str(error)


def test_where_another_thread_reads_that_read_reports_the_alert(peers: Peers) -> None:
    goes = threading.Event()

    def refuse(conn: socket.socket) -> None:
        inside = TLSInside(server_context("server", client_ca="ca"), conn, handshake=False)
        inside.incoming.write(conn.recv(65536))
        with pytest.raises(ssl.SSLWantReadError):
            inside.tls.do_handshake()
        inside.flush()
        assert goes.wait(HANG)
        inside.incoming.write(conn.recv(65536))
        with pytest.raises(ssl.SSLError):
            inside.tls.do_handshake()
        inside.flush()

    with connect(peers.serve(refuse), 1) as stream:
        with asleep(read, stream) as (reading, may_go_on):
            goes.set()
            assert "CERTIFICATE_REQUIRED" not in str(write_until_it_fails(stream, 1000))
            may_go_on.set()
            assert "CERTIFICATE_REQUIRED" in str(reading.exception(HANG))
        assert "CERTIFICATE_REQUIRED" in str(failure(stream.read))


def test_what_befell_one_connection_is_not_reported_by_another(peers: Peers) -> None:
    healthy = connect(peers.serve_layers(lambda conn: conn.recv(1), 1), 1)
    with healthy, connect(serve(peers, 1, in_order), 1) as stream:
        assert isinstance(failure(stream.write, REQUEST), ConnectionError)
        with httpx_net.timeout(0.05), pytest.raises(TimeoutError, match=r"timeout\(0.05\)"):
            healthy.read()
        healthy.write(b".")
