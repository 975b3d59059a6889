"""``close`` says goodbye if that can be done at once, and waits for nobody, whatever the state."""

from __future__ import annotations

import errno
import math
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

import httpx_net
from httpx_net._tls import TLSLayer
from peers import (
    HANG,
    Address,
    Peers,
    TLSInside,
    client_context,
    client_may_leave,
    connect_tls,
    send_close_notify,
    server_context,
    silent,
    wait_until,
)

# A send buffer that a slow machine, too, fills long before the deadline.
SMALL = {"socket_options": [(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)]}


@pytest.fixture(params=[1, 2, 3], ids=["TLS", "TLS in TLS", "TLS in TLS in TLS"])
def layers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


class Hears:
    """A peer that says *first*, and notes how each layer of the stream ends, the inner first."""

    def __init__(self, first: bytes = b"") -> None:
        self.first = first
        self.ends: list[str] = []
        self.over = threading.Event()

    def __call__(self, conn: Any) -> None:
        if self.first:
            conn.sendall(self.first)
        while conn is not None:
            self.ends.append(how_it_ends(conn))
            conn = getattr(conn, "outer", None)
        self.over.set()

    def heard(self) -> list[str]:
        assert self.over.wait(HANG)
        return self.ends


def how_it_ends(conn: Any) -> str:
    try:
        while conn.recv(65536):
            pass
    except ssl.SSLZeroReturnError:  # what b"" becomes once our own goodbye is out
        return "goodbye"
    except (ssl.SSLError, ConnectionError):
        return "cut"
    return "goodbye"


@contextmanager
def at_once() -> Iterator[None]:
    """The block doesn't wait. No peer here answers a goodbye, so a wait for that would be long."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < HANG / 4


def test_each_layer_says_goodbye(peers: Peers, layers: int) -> None:
    peer = Hears()
    stream = connect_tls(peers.serve_tls_in_tls(peer, layers=layers), layers=layers)
    with at_once():
        stream.close()
    assert peer.heard() == ["goodbye"] * layers


def test_the_end_of_a_with_block_says_goodbye(peers: Peers, layers: int) -> None:
    peer = Hears()
    with connect_tls(peers.serve_tls_in_tls(peer, layers=layers), layers=layers) as stream:
        stream.write(b"x")
    assert peer.heard() == ["goodbye"] * layers


def test_it_does_so_under_a_deadline_that_has_passed(peers: Peers, layers: int) -> None:
    peer = Hears()
    stream = connect_tls(peers.serve_tls_in_tls(peer, layers=layers), layers=layers)
    with httpx_net.timeout(0):
        stream.close()
    assert peer.heard() == ["goodbye"] * layers


def test_it_does_so_after_a_read_that_timed_out(peers: Peers, layers: int) -> None:
    peer = Hears()
    stream = connect_tls(peers.serve_tls_in_tls(peer, layers=layers), layers=layers)
    with pytest.raises(TimeoutError), httpx_net.timeout(0.05):
        stream.read()
    stream.close()
    assert peer.heard() == ["goodbye"] * layers


def test_it_does_so_with_data_that_nobody_read(peers: Peers, layers: int) -> None:
    peer = Hears(b"unread")
    stream = connect_tls(peers.serve_tls_in_tls(peer, layers=layers), layers=layers)
    assert stream.read(1) == b"u"  # the rest is decrypted: what the kernel has unread is a reset
    stream.close()
    assert peer.heard() == ["goodbye"] * layers


def test_it_does_so_after_the_peer_has(peers: Peers, layers: int) -> None:
    peer = Hears()

    def end_first(conn: Any) -> None:
        send_close_notify(conn) if isinstance(conn, ssl.SSLSocket) else conn.send_close_notify()
        peer(conn)

    stream = connect_tls(peers.serve_tls_in_tls(end_first, layers=layers), layers=layers)
    assert stream.read() == b""
    stream.close()
    assert peer.heard() == ["goodbye"] * layers


def test_it_waits_for_nothing_with_unread_data_in_the_kernel(peers: Peers, layers: int) -> None:
    sent = threading.Event()

    def send(conn: Any) -> None:
        with client_may_leave():
            conn.sendall(bytes(100_000))
            sent.set()
            silent(conn)

    stream = connect_tls(peers.serve_tls_in_tls(send, layers=layers), layers=layers)
    assert sent.wait(HANG)
    with at_once():
        stream.close()


def test_it_waits_for_nothing_with_a_full_send_buffer(peers: Peers, layers: int) -> None:
    closed = threading.Event()
    peer = Hears()

    def deaf(conn: Any) -> None:
        assert closed.wait(HANG)
        peer(conn)

    stream = connect_tls(peers.serve_tls_in_tls(deaf, layers=layers), layers=layers, **SMALL)
    with pytest.raises(TimeoutError), httpx_net.timeout(0.05):
        stream.write(bytes(24 << 20))
    with at_once():
        stream.close()
    closed.set()
    # "cut" where half a record is in the way, and "goodbye" where the deadline fell between two.
    assert len(peer.heard()) == layers


def test_it_waits_for_nothing_with_a_broken_write_side(peers: Peers, layers: int) -> None:
    read_on = threading.Event()
    peer = Hears()

    def deaf_at_first(conn: Any) -> None:
        assert read_on.wait(HANG)
        peer(conn)

    stream = connect_tls(
        peers.serve_tls_in_tls(deaf_at_first, layers=layers), layers=layers, **SMALL
    )
    with pytest.raises(TimeoutError), httpx_net.timeout(0.05):
        stream.write(bytes(24 << 20))
    read_on.set()
    sock = stream.get_extra_info("socket")
    wait_until(lambda: unsent(sock) == 0)
    with at_once():
        stream.close()
    # "cut" where half a record is in the way, and "goodbye" where the deadline fell between two.
    assert len(peer.heard()) == layers


def unsent(sock: socket.socket) -> int:
    """The number of bytes that the kernel has not delivered yet; 0 where it does not tell."""
    if not sys.platform.startswith("linux"):
        return 0
    import fcntl
    import termios

    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))[0])


def test_it_waits_for_nothing_in_a_handshake(serve: Callable[..., Address]) -> None:
    stream = httpx_net.NetworkBackend().connect(*serve(silent))
    with at_once(), pytest.raises(TimeoutError), httpx_net.timeout(0.05):
        stream.start_tls(client_context(), "localhost")
    assert repr(stream).endswith(" CLOSED]>")


def test_a_handshake_given_up_inside_ends_the_outer_stream_as_one_should(
    serve_tls: Callable[..., Address],
) -> None:
    peer = Hears()
    stream = connect_tls(serve_tls(peer, tickets=0))
    with at_once(), pytest.raises(TimeoutError), httpx_net.timeout(0.05):
        stream.start_tls(client_context(), "localhost")
    assert peer.heard() == ["goodbye"]


def test_a_handshake_stopped_half_way_waits_for_nothing(serve: Callable[..., Address]) -> None:
    def half(conn: socket.socket) -> None:
        server = TLSInside(server_context("server"), conn, handshake=False)
        server.incoming.write(conn.recv(65536))
        with pytest.raises(ssl.SSLWantReadError):
            server.tls.do_handshake()
        conn.sendall(server.outgoing.read()[:200])
        silent(conn)

    stream = httpx_net.NetworkBackend().connect(*serve(half))
    with at_once(), pytest.raises(TimeoutError), httpx_net.timeout(0.05):
        stream.start_tls(client_context(), "localhost")


def test_it_is_idempotent(peers: Peers, layers: int) -> None:
    peer = Hears()
    stream = connect_tls(peers.serve_tls_in_tls(peer, layers=layers), layers=layers)
    for _ in range(3):
        stream.close()
    assert repr(stream).endswith(" TLS CLOSED]>")
    assert peer.heard() == ["goodbye"] * layers


def test_nothing_is_read_or_written_afterwards(peers: Peers, layers: int) -> None:
    stream = connect_tls(peers.serve_tls_in_tls(Hears(b"late"), layers=layers), layers=layers)
    assert stream.read(1) == b"l"  # the rest has been decrypted, and stays unread
    stream.close()
    for use in (stream.read, lambda: stream.write(b"x"), lambda: stream.write(b"")):
        with pytest.raises(OSError, match="the stream is closed") as caught:
            use()
        assert caught.value.errno == errno.EBADF


def test_it_wakes_a_thread_that_reads(peers: Peers, layers: int) -> None:
    peer = Hears()
    stream = connect_tls(peers.serve_tls_in_tls(peer, layers=layers), layers=layers)
    with closed_while_waiting(stream), pytest.raises(OSError, match="is closed") as caught:
        stream.read()
    assert caught.value.errno == errno.EBADF
    assert peer.heard() == ["goodbye"] * layers


def test_it_may_come_in_the_middle_of_a_download(peers: Peers, layers: int) -> None:
    pouring: list[Any] = []

    def pour(conn: Any) -> None:
        pouring.append(conn)
        with client_may_leave():
            while True:
                conn.sendall(bytes(65536))

    for _ in range(20):
        stream = connect_tls(peers.serve_tls_in_tls(pour, layers=layers), layers=layers)
        stream.read()
        closing = threading.Timer(0.005, stream.close)
        closing.start()
        with httpx_net.timeout(HANG), pytest.raises(OSError, match="is closed") as caught:
            while True:
                stream.read()
        assert caught.value.errno == errno.EBADF
        closing.join()
        stop_sending(pouring.pop())


def stop_sending(conn: Any) -> None:
    """Have a peer's ``sendall`` fail now.

    Where a read took the last that had come between close()'s shutdown and its close, Linux has
    no reason for a reset, and no window to offer any more: the peer would hear of it in a minute.
    """
    while isinstance(conn, TLSInside):
        conn = conn.outer
    with suppress(OSError):  # it has heard, and is gone
        socket.socket.shutdown(conn, socket.SHUT_RDWR)


def test_a_closed_stream_is_no_ragged_end(serve_tls: Callable[..., Address]) -> None:
    stream = connect_tls(serve_tls(), suppress_ragged_eofs=True)
    with closed_while_waiting(stream), pytest.raises(OSError, match="is closed") as caught:
        stream.read()
    assert caught.value.errno == errno.EBADF


def test_it_wakes_a_thread_that_writes(peers: Peers, layers: int) -> None:
    closed = threading.Event()

    def deaf(conn: Any) -> None:
        assert closed.wait(HANG)

    stream = connect_tls(peers.serve_tls_in_tls(deaf, layers=layers), layers=layers)
    with closed_while_waiting(stream), pytest.raises(OSError, match="is closed") as caught:
        stream.write(bytes(24 << 20))
    assert caught.value.errno == errno.EBADF
    closed.set()


@contextmanager
def closed_while_waiting(stream: httpx_net.NetworkStream) -> Iterator[None]:
    """Have another thread close *stream* while this one waits in the block."""
    this = threading.current_thread().ident or 0

    def close() -> None:
        wait_until(lambda: sys._current_frames()[this].f_code.co_filename.endswith("_wait.py"))
        stream.close()

    closing = threading.Thread(target=close)
    closing.start()
    with at_once(), httpx_net.timeout(HANG):  # else a test would hang, and not fail
        yield
    closing.join(HANG)


# ---- Corners


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
