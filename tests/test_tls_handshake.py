"""The handshake: under its deadline, under nobody else's; a failed one leaves nothing open."""

from __future__ import annotations

import errno
import linecache
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

import httpx_net
from interrupts import interrupted_at
from peers import (
    CERTIFICATES,
    HANG,
    Address,
    Peers,
    TLSInside,
    client_context,
    client_may_leave,
    connect_tls,
    echo,
    reset,
    server_context,
    silent,
    wait_until,
    wrap_server,
)

net = httpx_net.NetworkBackend()


# ---- Peers that have handshakes fail


def drip(conn: socket.socket) -> None:
    """Begin a record, and go on a byte at a time until the client is gone."""
    with client_may_leave():
        conn.recv(65536)
        conn.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03")
        while True:
            conn.sendall(b"\0")
            select.select([conn], [], [], 0.01)


def half_a_handshake(conn: socket.socket) -> bytes:
    """What a server says first, but for its last 100 bytes."""
    server = TLSInside(server_context("server"), conn, handshake=False)
    server.incoming.write(conn.recv(65536))
    with pytest.raises(ssl.SSLWantReadError):
        server.tls.do_handshake()
    return server.outgoing.read()[:-100]


def stall_half_way(conn: socket.socket) -> None:
    with client_may_leave():
        conn.sendall(half_a_handshake(conn))
        silent(conn)


def die_half_way(conn: socket.socket) -> None:
    conn.sendall(half_a_handshake(conn))


def reset_half_way(conn: socket.socket) -> None:
    conn.sendall(half_a_handshake(conn))
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang_up(conn: socket.socket) -> None:
    conn.recv(65536)


def garbage(conn: socket.socket) -> None:
    conn.recv(65536)
    conn.sendall(bytes(range(1, 256)) * 8)


def plain_http(conn: socket.socket) -> None:
    conn.recv(65536)
    conn.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\nThe plain HTTP request was sent to HTTPS port")


def deaf(conn: socket.socket) -> None:
    """Neither read nor write, until the client is gone."""
    wait_until(lambda: select.select([conn], [], [], 0.01)[0])
    closed = select.poll()
    closed.register(conn, select.POLLHUP | select.POLLERR | select.POLLRDHUP)
    assert closed.poll(HANG * 1000)


# ---- Deadlines


@pytest.mark.parametrize("vice", [silent, drip, stall_half_way])
def test_a_handshake_ends_at_the_deadline_whatever_the_peer_does(
    serve: Callable[..., Address], vice: Any
) -> None:
    address = serve(vice)
    stream = net.connect(*address)
    start = time.monotonic()
    with httpx_net.timeout(0.1), pytest.raises(TimeoutError) as caught:
        stream.start_tls(client_context(), "localhost")
    assert 0.1 <= time.monotonic() - start < 2.0
    assert str(caught.value) == (
        f"TLS handshake for 'localhost' with 127.0.0.1:{address[1]} timed out: timeout(0.1) expired"
    )
    assert_closed(stream)


@pytest.mark.skipif(not hasattr(select, "poll"), reason="the peer here needs select.poll")
def test_a_peer_that_reads_nothing_does_not_keep_a_handshake_either(
    serve: Callable[..., Address],
) -> None:
    stream = net.connect(*serve(deaf))
    with httpx_net.timeout(0.05), pytest.raises(TimeoutError):
        stream.start_tls(client_context(), "localhost")
    assert_closed(stream)


def test_a_handshake_without_a_deadline_waits_for_as_long_as_it_takes(
    serve: Callable[..., Address],
) -> None:
    def late(conn: socket.socket) -> None:
        wait_until(lambda: "_wait.py" in where(threading.main_thread()))
        with wrap_server(server_context("server"), conn) as tls:
            echo(tls)

    with connect_tls(serve(late)) as stream:
        stream.write(b"at last")
        assert stream.read() == b"at last"


def test_a_lifted_deadline_does_not_end_a_handshake(serve: Callable[..., Address]) -> None:
    lifted = threading.Event()

    def late(conn: socket.socket) -> None:
        assert lifted.wait(HANG)
        with wrap_server(server_context("server"), conn) as tls:
            echo(tls)

    stream = net.connect(*serve(late))
    with stream, httpx_net.timeout(0.03) as t:
        t.cancel()
        assert not t.expired()
        threading.Timer(0.06, lifted.set).start()
        stream.start_tls(client_context(), "localhost")


def test_a_deadline_that_has_passed_ends_the_handshake_before_the_peer_hears_of_it(
    serve: Callable[..., Address],
) -> None:
    def hears_nothing(conn: socket.socket) -> None:
        assert conn.recv(1) == b""

    stream = net.connect(*serve(hears_nothing))
    with httpx_net.timeout(0), pytest.raises(TimeoutError, match=r"timeout\(0\) expired"):
        stream.start_tls(client_context(), "localhost")
    assert_closed(stream)


def test_the_deadline_of_a_handshake_does_not_leak_into_what_follows(
    serve_tls: Callable[..., Address],
) -> None:
    go = threading.Event()

    def late(conn: ssl.SSLSocket) -> None:
        assert go.wait(HANG)
        conn.sendall(b"late")

    stream = net.connect(*serve_tls(late))
    with httpx_net.timeout(HANG) as t:
        stream.start_tls(client_context(), "localhost")
    assert not t.expired()
    threading.Timer(0.05, go.set).start()
    with stream:
        assert stream.read() == b"late"


# ---- Failures


FAILURES = [
    (hang_up, ssl.SSLError, "EOF"),
    (die_half_way, ssl.SSLError, "EOF"),
    (reset, ConnectionResetError, "reset by peer"),
    (reset_half_way, ConnectionResetError, "reset by peer"),
    (garbage, ssl.SSLError, "SSL: "),
    (plain_http, ssl.SSLError, "(?i)wrong.version.number|http"),
]


@pytest.mark.parametrize(("peer", "kind", "reason"), FAILURES)
def test_a_failed_handshake_says_with_whom_and_why_and_closes_the_stream(
    serve: Callable[..., Address], peer: Any, kind: type[OSError], reason: str
) -> None:
    address = serve(peer)
    stream = net.connect(*address)
    with pytest.raises(kind, match=reason) as caught:
        stream.start_tls(client_context(), "server.test")
    whom = f"TLS handshake for 'server.test' with 127.0.0.1:{address[1]} failed: "
    assert whom in str(caught.value)
    assert_closed(stream)


@pytest.mark.parametrize(("peer", "kind", "reason"), FAILURES)
def test_an_end_within_a_handshake_is_an_error_even_where_truncation_is_not(
    serve: Callable[..., Address], peer: Any, kind: type[OSError], reason: str
) -> None:
    stream = httpx_net.NetworkBackend(suppress_ragged_eofs=True).connect(*serve(peer))
    with pytest.raises(kind, match=reason):
        stream.start_tls(client_context(), "localhost")
    assert_closed(stream)


def test_nothing_goes_out_in_clear_after_a_failed_handshake(
    serve: Callable[..., Address],
) -> None:
    heard = bytearray()

    def refuse(conn: socket.socket) -> None:
        heard.extend(conn.recv(65536))
        conn.sendall(b"not here\r\n")
        with client_may_leave():
            while data := conn.recv(65536):
                heard.extend(data)
        over.set()

    over = threading.Event()
    stream = net.connect(*serve(refuse))
    with pytest.raises(ssl.SSLError):
        stream.start_tls(client_context(), "localhost")
    with pytest.raises(OSError, match="the stream is closed"):
        stream.write(b"secret")
    assert over.wait(HANG)
    assert b"secret" not in heard


def test_a_handshake_that_can_not_happen_any_more_is_an_error(
    serve: Callable[..., Address],
) -> None:
    stream = net.connect(*serve(reset))
    sock = stream.get_extra_info("socket")
    stream.write(b"x")
    wait_until(lambda: stream.get_extra_info("is_readable"))
    # Whoever asks takes the error away, and wrap_socket would find nothing wrong.
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    with pytest.raises(OSError, match="TLS handshake for 'localhost'"):
        stream.start_tls(client_context(), "localhost")
    assert_closed(stream)


def test_a_reset_before_the_handshake_is_an_error(serve: Callable[..., Address]) -> None:
    stream = net.connect(*serve(reset))
    stream.write(b"x")
    wait_until(lambda: stream.get_extra_info("is_readable"))
    with pytest.raises(OSError, match="TLS handshake for 'localhost'"):
        stream.start_tls(client_context(), "localhost")
    assert_closed(stream)


def test_after_start_tls_a_handshake_has_happened(serve_tls: Callable[..., Address]) -> None:
    with connect_tls(serve_tls()) as stream:
        assert stream.get_extra_info("ssl_object").version() is not None
        assert stream.get_extra_info("ssl_object").getpeercert()["subjectAltName"]
        assert repr(stream).endswith(" TLS]>")


def test_start_tls_on_a_closed_stream_says_so(serve: Callable[..., Address]) -> None:
    stream = net.connect(*serve(silent))
    stream.close()
    with pytest.raises(OSError, match="the stream is closed") as caught:
        stream.start_tls(client_context(), "localhost")
    assert caught.value.errno == errno.EBADF


def test_close_in_another_thread_ends_a_handshake(serve: Callable[..., Address]) -> None:
    stream = net.connect(*serve(silent))

    def close() -> None:
        wait_until(lambda: "_wait.py" in where(threading.main_thread()))
        stream.close()

    closing = threading.Thread(target=close)
    closing.start()
    with (
        httpx_net.timeout(HANG),  # else the test would hang, and not fail
        pytest.raises(OSError, match="the stream is closed") as caught,
    ):
        stream.start_tls(client_context(), "localhost")
    assert caught.value.errno == errno.EBADF
    closing.join(HANG)


# ---- Ctrl-C


class InterruptedHandshake(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        with pytest.raises(ssl.SSLWantReadError):
            super().do_handshake(block)
        raise KeyboardInterrupt


class InterruptedWrapping(ssl.SSLContext):
    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:  # type: ignore[override]
        raise KeyboardInterrupt


def test_ctrl_c_in_a_handshake_closes_the_stream(serve: Callable[..., Address]) -> None:
    context = client_context()
    context.sslsocket_class = InterruptedHandshake
    stream = net.connect(*serve(silent))
    with pytest.raises(KeyboardInterrupt):
        stream.start_tls(context, "localhost")
    assert_closed(stream)


def test_ctrl_c_before_the_handshake_closes_the_stream(serve: Callable[..., Address]) -> None:
    stream = net.connect(*serve(silent))
    with pytest.raises(KeyboardInterrupt):
        stream.start_tls(InterruptedWrapping(ssl.PROTOCOL_TLS_CLIENT), "localhost")
    assert_closed(stream)


def enters_no_block(frame: FrameType, event: str) -> bool:
    """Leaving a ``with`` is its line again; raised there, as no signal is, a lock stays locked."""
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return not line.lstrip().startswith("with ")


@pytest.mark.parametrize("layers", [1, 2])
def test_ctrl_c_at_any_line_of_start_tls_leaves_no_connection_open(layers: int) -> None:
    server = server_context("server")
    server.num_tickets = 0

    def handshakes(conn: socket.socket) -> None:
        with suppress(OSError), wrap_server(server, conn) as tls:  # the client may go at any time
            silent(tls if layers == 1 else TLSInside(server, tls))

    context = client_context()
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # what else happens is in test_truncation
    for line in range(1000):
        peers = Peers()
        stream = httpx_net.NetworkStream(peers.serve_pair(handshakes))
        for _ in range(layers - 1):
            stream.start_tls(context, "localhost")
        try:
            with interrupted_at(line, counts=enters_no_block) as pressed:
                stream.start_tls(context, "localhost")
        except KeyboardInterrupt:
            assert pressed
        stream.close()
        peers.close()
        if not pressed:
            assert line > 20
            break
    else:
        pytest.fail("it never ends")


# ---- One context, many threads


@pytest.fixture(params=["ssl", "truststore"])
def shared_context(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "ssl":
        return client_context()
    truststore = pytest.importorskip("truststore", reason="truststore is not installed")
    if not sys.platform.startswith("linux"):
        pytest.skip("only OpenSSL's store, on Linux, can be told of the tests' authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "ca.pem"))
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def test_a_stalled_handshake_holds_up_nobody_who_shares_its_context(
    peers: Peers, shared_context: Any
) -> None:
    stalled, release, outcomes = threading.Event(), threading.Event(), []

    def stall(conn: socket.socket) -> None:
        conn.recv(65536)
        stalled.set()
        assert release.wait(HANG), "the others waited for the stalled one"

    def shake_hands(address: Address) -> None:
        try:
            connect_tls(address, shared_context).close()
            outcomes.append("done")
        except ssl.SSLError:
            outcomes.append("stalled")

    threads = [threading.Thread(target=shake_hands, args=[peers.serve(stall)])]
    threads += [threading.Thread(target=shake_hands, args=[peers.serve_tls()]) for _ in range(15)]
    threads[0].start()
    assert stalled.wait(HANG)
    for thread in threads[1:]:
        thread.start()
    for thread in threads[1:]:
        thread.join(HANG)
    assert outcomes == ["done"] * 15
    release.set()
    threads[0].join(HANG)
    assert outcomes == ["done"] * 15 + ["stalled"]


def test_truststore_verifies(
    peers: Peers, shared_context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = peers.serve_tls(certificate="untrusted", refused=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        connect_tls(address, shared_context)


# ---- What the tests above ask


def assert_closed(stream: httpx_net.NetworkStream) -> None:
    assert repr(stream).endswith(" CLOSED]>")
    assert stream.get_extra_info("socket").fileno() == -1
    for use in (stream.read, lambda: stream.write(b"x")):
        with pytest.raises(OSError, match="the stream is closed") as caught:
            use()
        assert caught.value.errno == errno.EBADF


def where(thread: threading.Thread) -> str:
    """The file whose code *thread* runs, or waits in."""
    return sys._current_frames()[thread.ident or 0].f_code.co_filename


# ---- Corners


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


def test_the_addresses_outlast_a_context_that_refuses(serve: Any) -> None:
    stream = httpx_net.NetworkBackend().connect(*serve(silent))
    address = stream.get_extra_info("client_addr")
    with pytest.raises(ssl.SSLError, match="TLS handshake"):
        stream.start_tls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    assert stream.get_extra_info("client_addr") == address
