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
    MIB,
    Address,
    Peers,
    bottom,
    client_context,
    connect_tls,
    place_in_package,
    say_goodbye,
    silent,
)

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no alarms on this system")

everywhere = pytest.mark.parametrize("layers", [0, 1, 2], ids=["plain", "TLS", "TLS in TLS"])
both_ways = pytest.mark.parametrize("seconds", [None, HANG], ids=["no deadline", "deadline"])


class Alarm(OSError):
    """As clients have them: an OSError with arguments of its own."""

    def __init__(self, job: str, seconds: float) -> None:
        super().__init__(f"{job} took {seconds} s")


def raised(error: BaseException) -> Callable[[], BaseException]:
    def raises() -> BaseException:
        raise error

    return raises


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
every_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


@contextmanager
def ringing(handler: Callable[[], object], seconds: float = 0.03) -> Iterator[None]:
    """The block is interrupted by *handler*, once, in the midst of a call of the package."""
    rung: list[bool] = []

    def ring(_: int, frame: FrameType | None) -> None:
        if not rung and place_in_package(frame):
            rung.append(True)
            handler()

    before = signal.signal(signal.SIGALRM, ring)
    try:
        # Again and again: one that comes just before a system call does not interrupt it.
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def alarm(error: BaseException) -> Iterator[None]:
    """The block is interrupted by *error*, and nothing else comes out of it."""
    text = str(error)
    with pytest.raises(type(error)) as caught, ringing(raised(error)):
        yield
    assert caught.value is error
    assert str(error) == text


def ends_when_told(goes: threading.Event) -> Callable[[Any], None]:
    def peer(conn: Any) -> None:
        assert goes.wait(HANG)
        conn.sendall(b"later")
        say_goodbye(conn)
        # The client may have gone.
        with suppress(OSError):
            bottom(conn).shutdown(socket.SHUT_WR)
            silent(bottom(conn))

    return peer


@everywhere
@both_ways
@every_error
def test_an_alarm_ends_a_read_and_the_connection_goes_on(
    peers: Peers, layers: int, seconds: float | None, error: BaseException
) -> None:
    goes = threading.Event()
    address = peers.serve_layers(ends_when_told(goes), layers)
    with connect_tls(address, layers=layers) as stream, httpx_net.timeout(seconds):
        with alarm(error):
            stream.read()
        goes.set()
        assert stream.read() == b"later"
        assert [stream.read(), stream.read()] == [b"", b""]


@everywhere
@both_ways
@every_error
def test_an_alarm_ends_a_write_and_the_end_is_an_end(
    peers: Peers, layers: int, seconds: float | None, error: BaseException
) -> None:
    goes = threading.Event()
    address = peers.serve_layers(ends_when_told(goes), layers)
    with connect_tls(address, layers=layers) as stream, httpx_net.timeout(seconds):
        with alarm(error):
            stream.write(bytes(16 * MIB))
        goes.set()
        assert stream.read() == b"later"
        assert stream.read() == b""


@pytest.mark.parametrize("below", [0, 1])
@both_ways
@every_error
def test_an_alarm_ends_a_handshake_and_closes_the_stream(
    peers: Peers, below: int, seconds: float | None, error: BaseException
) -> None:
    goes = threading.Event()
    address = peers.serve_layers(lambda conn: goes.wait(HANG), below)
    stream = connect_tls(address, layers=below)
    with httpx_net.timeout(seconds), alarm(error):
        stream.start_tls(client_context(), "localhost")
    goes.set()
    assert repr(stream).endswith(" CLOSED]>")


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


@both_ways
def test_a_handler_that_raises_nothing_interrupts_nothing(
    peers: Peers, seconds: float | None
) -> None:
    goes = threading.Event()
    stream = connect_tls(peers.serve(ends_when_told(goes)), layers=0)
    with stream, httpx_net.timeout(seconds), ringing(goes.set):
        assert stream.read() == b"later"


@pytest.mark.parametrize("option", ["SO_RCVTIMEO", "SO_SNDTIMEO"])
def test_a_timeout_among_the_sockets_options_ends_nothing(peers: Peers, option: str) -> None:
    goes = threading.Event()
    ours = socket.create_connection(peers.serve(ends_when_told(goes)))
    number = getattr(socket, option)
    ours.setsockopt(socket.SOL_SOCKET, number, (20_000).to_bytes(16, "little"))
    with httpx_net.NetworkStream(ours) as stream:
        timer = threading.Timer(0.1, goes.set)
        timer.start()
        assert stream.read() == b"later"
