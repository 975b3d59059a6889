"""What a signal handler raises comes out as it is, and the connection never hears of it."""

from __future__ import annotations

import errno
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import pytest

import httpx_net
from peers import (
    HANG,
    Address,
    Peers,
    Use,
    bottom,
    connect_tls,
    place_in_package,
    read,
    say_goodbye,
    silent,
    start_tls,
    ways,
    write_much,
)

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no alarms on this system")


class Alarm(OSError):
    """As clients have them: an OSError with arguments of its own."""

    def __init__(self, job: str, seconds: float) -> None:
        super().__init__(f"{job} took {seconds} s")


ERRORS = [
    RuntimeError("alarm"),
    ValueError("alarm"),
    TimeoutError("alarm"),
    TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)),
    BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)),
    ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)),
    BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)),
    ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "alarm"),
    Alarm("job", 3),
]


@contextmanager
def ringing(handler: Callable[[], object]) -> Iterator[None]:
    """The block is interrupted by *handler*, once, in the midst of a call of the package.

    A handler that does nothing comes before, and must interrupt nothing.
    """
    handlers = [handler, lambda: None]

    def ring(_: int, frame: FrameType | None) -> None:
        if handlers and place_in_package(frame):
            handlers.pop()()

    before = signal.signal(signal.SIGALRM, ring)
    try:
        # Again and again: one that comes just before a system call does not interrupt it.
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def alarm(error: BaseException) -> Iterator[None]:
    """The block is interrupted by *error*, and nothing else comes out of it."""

    def handler() -> None:
        raise error.with_traceback(None)

    text = str(error)
    with pytest.raises(type(error)) as caught, ringing(handler):
        yield
    assert caught.value is error
    assert str(error) == text


def ends_when_told(goes: threading.Event) -> Callable[[Any], None]:
    def peer(conn: Any) -> None:
        assert goes.wait(HANG)
        # The client may have gone.
        with suppress(OSError):
            conn.sendall(b"later")
            say_goodbye(conn)
            bottom(conn).shutdown(socket.SHUT_WR)
            silent(bottom(conn))

    return peer


@ways
@pytest.mark.parametrize("use", [read, write_much])
def test_an_alarm_comes_out_as_it_is_and_the_connection_goes_on(
    peers: Peers, use: Use, layers: int, seconds: float | None
) -> None:
    for error in ERRORS:
        goes = threading.Event()
        address = peers.serve_layers(ends_when_told(goes), layers)
        with connect_tls(address, layers=layers) as stream, httpx_net.timeout(seconds):
            with alarm(error):
                use(stream)
            goes.set()
            assert [stream.read() for _ in range(3)] == [b"later", b"", b""]


@pytest.mark.parametrize(("below", "seconds"), [(0, None), (1, HANG)])
def test_an_alarm_ends_a_handshake_and_closes_the_stream(
    peers: Peers, below: int, seconds: float | None
) -> None:
    for error in ERRORS:
        goes = threading.Event()
        stream = connect_tls(peers.serve_layers(ends_when_told(goes), below), layers=below)
        with httpx_net.timeout(seconds), alarm(error):
            start_tls(stream)
        goes.set()
        assert repr(stream).endswith(" CLOSED]>")


@ways
def test_a_handler_may_close_what_it_interrupts(
    peers: Peers, layers: int, seconds: float | None
) -> None:
    goes = threading.Event()
    stream = connect_tls(peers.serve_layers(ends_when_told(goes), layers), layers=layers)
    sock = stream.get_extra_info("socket")
    closed = pytest.raises(OSError, match="the stream is closed")
    with closed, httpx_net.timeout(seconds), ringing(stream.close):
        stream.read()
    assert sock.fileno() == -1
    goes.set()


def opens(closed: Address) -> None:
    with open("/no/such/file"):
        pass


def connects(closed: Address) -> None:
    socket.create_connection(closed).close()


def connects_by_us(closed: Address) -> None:
    httpx_net.NetworkBackend().connect(*closed).close()


def runs_out_of_time(closed: Address) -> None:
    with httpx_net.timeout(0):
        httpx_net.remaining()


@pytest.mark.parametrize("layers", [0, 1], ids=["plain", "TLS"])
@pytest.mark.parametrize("handler", [opens, connects, connects_by_us, runs_out_of_time])
def test_what_goes_wrong_in_a_handler_is_none_of_the_connections(
    peers: Peers, handler: Callable[[Address], None], layers: int
) -> None:
    goes, closed = threading.Event(), peers.closed_port()
    with pytest.raises(OSError) as expected:
        handler(closed)
    with connect_tls(peers.serve_layers(ends_when_told(goes), layers), layers=layers) as stream:
        with pytest.raises(type(expected.value)) as caught, ringing(lambda: handler(closed)):
            stream.read()
        assert str(caught.value) == str(expected.value)
        goes.set()
        assert stream.read() == b"later"
