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
    bottom,
    client_context,
    connect_tls,
    drop,
    in_thread,
    say_goodbye,
    server_context,
    silent,
    take_from,
    times_out,
    wait_until,
    wrap_server,
)

PART = b"ten green bot"
REQUEST = bytes(8 * MIB)

# These releases of `ssl` hide which error of the socket it was.
HIDES_ERRNO = sys.version_info < (3, 11, 9) or (3, 12) <= sys.version_info < (3, 12, 3)

everywhere = pytest.mark.parametrize("layers", [0, 1, 2], ids=["plain", "TLS", "TLS in TLS"])
on_tls = pytest.mark.parametrize("layers", [1, 2], ids=["TLS", "TLS in TLS"])
both_ways = pytest.mark.parametrize("seconds", [None, HANG], ids=["no deadline", "deadline"])
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


# ---- What peers do, once they are asked


def part_and_reset(conn: Any) -> None:
    conn.recv(1)
    conn.sendall(PART)
    drop(bottom(conn))


def part_and_end_and_reset(conn: Any) -> None:
    """Say all, end in order, and drop what the client goes on to send."""
    conn.recv(1)
    conn.sendall(PART)
    end(conn)


def end(conn: Any) -> None:
    say_goodbye(conn)
    cut(conn)


def cut(conn: Any) -> None:
    bottom(conn).shutdown(socket.SHUT_WR)
    drop(bottom(conn))


def part_and_no_goodbye(conn: Any) -> None:
    conn.recv(1)
    conn.sendall(PART)
    cut(conn)


# ---- What a write is told


@everywhere
@both_ways
@either
def test_a_reset_that_a_write_reports_is_what_reads_come_to(
    peers: Peers, layers: int, seconds: float | None, suppress: bool
) -> None:
    address = peers.serve_layers(part_and_reset, layers)
    with connect(address, layers, suppress_ragged_eofs=suppress) as stream:
        with httpx_net.timeout(seconds):
            assert isinstance(failure(stream.write, REQUEST), ConnectionResetError)
            data, error = read_to_the_end(stream)
        assert data == PART
        assert isinstance(error, ConnectionResetError)
        assert error.errno == errno.ECONNRESET
        assert str(error).startswith("[Errno 104] read from 127.0.0.1:")


@everywhere
@both_ways
def test_an_orderly_end_stands_though_a_reset_followed_it(
    peers: Peers, layers: int, seconds: float | None
) -> None:
    address = peers.serve_layers(part_and_end_and_reset, layers)
    with httpx_net.timeout(seconds), connect(address, layers) as stream:
        assert isinstance(failure(stream.write, REQUEST), ConnectionError)
        assert read_to_the_end(stream) == (PART, None)


@on_tls
@pytest.mark.skipif(HIDES_ERRNO, reason="here an end without close_notify counts as a reset then")
def test_a_missing_goodbye_is_forgiven_though_a_reset_followed_it(
    peers: Peers, layers: int
) -> None:
    address = peers.serve_layers(part_and_no_goodbye, layers)
    with connect(address, layers, suppress_ragged_eofs=True) as stream:
        assert isinstance(failure(stream.write, REQUEST), BrokenPipeError)
        assert read_to_the_end(stream) == (PART, None)


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
        goes.set()
        with pytest.raises(ConnectionError), httpx_net.timeout(HANG):
            while True:
                stream.write(bytes(1000))
        data, error = read_to_the_end(stream)
        assert (data, type(error)) == (b"", type(before[1]))
        assert isinstance(error, ssl.SSLEOFError) == (layers > 0 and not suppress)


class Failing:
    """A socket whose kernel says what the test wants it to, once, when it is written to."""

    error: int

    def _fail(self) -> None:
        number, self.error = self.error, 0
        if number:
            raise OSError(number, os.strerror(number))


class FailingSocket(Failing, socket.socket):
    def send(self, *args: Any) -> int:
        self._fail()
        return super().send(*args)


class FailingTLS(Failing, ssl.SSLSocket):
    error = 0

    def write(self, data: Any) -> Any:
        self._fail()
        return super().write(data)


@contextmanager
def failing(peers: Peers, layers: int, number: int) -> Iterator[httpx_net.NetworkStream]:
    """A stream whose next write fails, to a peer that says PART and ends."""

    def peer(conn: Any) -> None:
        conn.recv(1)
        conn.sendall(PART)
        say_goodbye(conn) if not number else bottom(conn).shutdown(socket.SHUT_WR)
        silent(bottom(conn))

    ours = socket.create_connection(peers.serve_layers(peer, layers))
    sock = FailingSocket(fileno=ours.detach())
    sock.error = 0
    context = client_context()
    context.sslsocket_class = FailingTLS
    with httpx_net.NetworkStream(sock, suppress_ragged_eofs=True) as stream:
        for _ in range(layers):
            stream.start_tls(context, "localhost")
        stream.write(b"?")
        stream.get_extra_info("socket").error = number
        yield stream


@everywhere
@both_ways
@pytest.mark.parametrize(
    "number",
    [
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EPROTO,
        errno.EACCES,
        errno.ECONNREFUSED,
        errno.ECONNABORTED,
        errno.ETIMEDOUT,
    ],
    ids=errno.errorcode.get,
)
def test_whatever_a_write_was_told_is_what_reads_come_to(
    peers: Peers, layers: int, seconds: float | None, number: int
) -> None:
    with failing(peers, layers, number) as stream, httpx_net.timeout(seconds):
        told = failure(stream.write, b"more")
        data, error = read_to_the_end(stream)
    assert data == PART
    assert error is not None
    assert (type(error), error.errno) == (type(told), number)
    assert str(error).startswith(f"[Errno {number}] read from 127.0.0.1:")
    assert os.strerror(number) in str(error)


@everywhere
@pytest.mark.parametrize(
    "number", [errno.EPIPE, errno.ENOBUFS, errno.ENOMEM], ids=errno.errorcode.get
)
def test_what_is_no_loss_spoils_no_end(peers: Peers, layers: int, number: int) -> None:
    with failing(peers, layers, number) as stream:
        assert failure(stream.write, b"more").errno == number
        assert read_to_the_end(stream) == (PART, None)


def test_a_read_without_memory_is_no_end(peers: Peers) -> None:
    class Poor(socket.socket):
        memory = 0

        def recv(self, *args: Any) -> Any:
            self.memory += 1
            if self.memory == 1:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            return super().recv(*args)

    ours = socket.create_connection(peers.serve(lambda conn: conn.sendall(PART)))
    with httpx_net.NetworkStream(Poor(fileno=ours.detach())) as stream:
        assert failure(stream.read).errno == errno.ENOMEM
        assert read_to_the_end(stream) == (PART, None)


# ---- The kernel gives up


@everywhere
@pytest.mark.skipif(
    not hasattr(socket, "TCP_USER_TIMEOUT"), reason="here the kernel's ETIMEDOUT takes minutes"
)
def test_a_timeout_of_the_kernel_is_one_to_reads_at_any_depth(peers: Peers, layers: int) -> None:
    over = threading.Event()
    address = peers.serve_layers(lambda conn: over.wait(HANG), layers)
    milliseconds = socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300
    with connect(address, layers, socket_options=[milliseconds]) as stream:
        try:
            with in_thread(stream.write, REQUEST * 8) as writing, httpx_net.timeout(HANG):
                told = failure(stream.read)
                # Whoever was not the first is told of a broken pipe.
                assert isinstance(writing.exception(HANG), (TimeoutError, ConnectionError))
        finally:
            over.set()
        for error in told, read_to_the_end(stream)[1]:
            assert isinstance(error, TimeoutError)
            assert error.errno == errno.ETIMEDOUT
            assert "timeout(" not in str(error)


# ---- A reader and a writer


class WriterHeld:
    """Run a write that fails in a thread, and hold it between the kernel's word and its own end."""

    def __init__(self, stream: httpx_net.NetworkStream) -> None:
        self._stream = stream
        self.told, self.may_leave = threading.Event(), threading.Event()

    def __call__(self) -> None:
        sys.settrace(self._trace)
        try:
            self._stream.write(REQUEST)
        finally:
            sys.settrace(None)

    def _trace(self, frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code is not httpx_net.NetworkStream.write.__code__:
            return None
        if event == "exception" and issubclass(arg[0], ConnectionError) and not self.told.is_set():
            self.told.set()
            assert self.may_leave.wait(HANG)
        return self._trace


@contextmanager
def writer_held(stream: httpx_net.NetworkStream) -> Iterator[WriterHeld]:
    writer = WriterHeld(stream)
    with in_thread(writer) as writing:
        try:
            assert writer.told.wait(HANG)
            yield writer
        finally:
            writer.may_leave.set()
        assert isinstance(writing.exception(HANG), ConnectionError)


@everywhere
@both_ways
def test_a_read_waits_for_what_a_write_in_flight_was_told(
    peers: Peers, layers: int, seconds: float | None
) -> None:
    def read() -> tuple[bytes, OSError | None]:
        with httpx_net.timeout(seconds):
            return read_to_the_end(stream)

    address = peers.serve_layers(part_and_reset, layers)
    with connect(address, layers, suppress_ragged_eofs=True) as stream:
        with writer_held(stream) as writer, in_thread(read) as reading:
            writer.may_leave.set()
            data, error = reading.result(HANG)
        assert data == PART
        assert isinstance(error, ConnectionResetError)


@everywhere
def test_it_waits_under_its_own_deadline(peers: Peers, layers: int) -> None:
    address = peers.serve_layers(part_and_reset, layers)
    with connect(address, layers, suppress_ragged_eofs=True) as stream:
        with writer_held(stream):
            assert take_from(stream, len(PART)) == PART
            with times_out(0.05):
                stream.read()
            stream.get_extra_info("is_readable")
        assert isinstance(failure(stream.read), ConnectionResetError)


@on_tls
@pytest.mark.skipif(HIDES_ERRNO, reason="here an end without close_notify counts as a reset then")
def test_an_end_is_not_lost_where_the_deadline_comes_before_it_is_reported(
    peers: Peers, layers: int
) -> None:
    address = peers.serve_layers(part_and_no_goodbye, layers)
    with connect(address, layers) as stream:
        with writer_held(stream):
            assert take_from(stream, len(PART)) == PART
            with times_out(0.05):
                stream.read()
        assert isinstance(failure(stream.read), ssl.SSLEOFError)


@on_tls
def test_a_write_behind_an_end_that_a_read_has_come_to_is_a_broken_pipe(
    peers: Peers, layers: int
) -> None:
    address = peers.serve_layers(part_and_no_goodbye, layers)
    with connect(address, layers) as stream:
        stream.write(b"?")
        assert isinstance(read_to_the_end(stream)[1], ssl.SSLEOFError)
        assert isinstance(write_until_it_fails(stream, 1000), BrokenPipeError)


def test_an_end_is_whole_where_the_write_in_flight_was_told_of_a_broken_pipe(
    peers: Peers,
) -> None:
    with connect(peers.serve(part_and_no_goodbye), 0) as stream, writer_held(stream) as writer:
        assert take_from(stream, len(PART)) == PART
        with in_thread(stream.read) as reading:
            writer.may_leave.set()
            assert reading.result(HANG) == b""


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


@on_tls
def test_a_reset_in_a_read_is_a_reset(peers: Peers, layers: int) -> None:
    def part(conn: Any) -> None:
        conn.sendall(PART)
        conn.recv(1)
        drop(bottom(conn))

    address = peers.serve_layers(part, layers)
    with connect(address, layers, suppress_ragged_eofs=True) as stream:
        assert stream.read() == PART
        stream.write(b"?")
        data, error = read_to_the_end(stream)
        assert (data, type(error)) == (b"", ConnectionResetError)


@pytest.mark.parametrize("below", [0, 1])
@pytest.mark.parametrize("hello", [False, True], ids=["before the hello", "after the hello"])
def test_a_reset_before_or_in_a_handshake_is_a_reset(peers: Peers, below: int, hello: bool) -> None:
    def refuse(conn: Any) -> None:
        if hello:
            conn.recv(5)
        drop(bottom(conn))

    stream = connect(peers.serve_layers(refuse, below), below)
    if not hello:
        wait_until(lambda: stream.get_extra_info("is_readable"))
    with pytest.raises(ConnectionResetError, match="TLS handshake for 'localhost' with 127"):
        stream.start_tls(client_context(), "localhost")


# ---- What has come before a write failed


@on_tls
@both_ways
def test_data_that_had_come_before_a_write_failed_is_read_in_order(
    peers: Peers, layers: int, seconds: float | None
) -> None:
    answer = bytes(range(256)) * 100

    def early(conn: Any) -> None:
        conn.recv(1)
        conn.sendall(answer)
        end(conn)

    address = peers.serve_layers(early, layers)
    with httpx_net.timeout(seconds), connect(address, layers) as stream:
        failure(stream.write, REQUEST)
        assert stream.get_extra_info("is_readable")
        assert stream.read(1) == answer[:1]
        assert read_to_the_end(stream) == (answer[1:], None)


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
        with in_thread(stream.read) as reading:
            goes.set()
            write_until_it_fails(stream, 1000)
            assert "CERTIFICATE_REQUIRED" in str(reading.exception(HANG))
        assert "CERTIFICATE_REQUIRED" in str(failure(stream.read))


def test_what_befell_one_connection_is_not_reported_by_another(peers: Peers) -> None:
    healthy = connect(peers.serve_layers(lambda conn: conn.recv(1), 1), 1)
    with healthy, connect(peers.serve_layers(part_and_end_and_reset, 1), 1) as stream:
        assert isinstance(failure(stream.write, REQUEST), ConnectionError)
        with httpx_net.timeout(0.05), pytest.raises(TimeoutError, match=r"timeout\(0.05\)"):
            healthy.read()
        healthy.write(b".")
