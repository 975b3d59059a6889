"""When ``start_tls`` returns, a handshake has happened; when it fails, the stream is closed."""

from __future__ import annotations

import errno
import random
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import httpx_net
from peers import (
    HANG,
    Peers,
    TLSInside,
    bottom,
    client_context,
    connect_tls,
    drop,
    echo,
    say_goodbye,
    server_context,
    silent,
    take,
    times_out,
    wait_until,
)


@pytest.fixture(params=[0, 1], ids=["on TCP", "inside TLS"])
def below(request: pytest.FixtureRequest) -> int:
    """How many layers of TLS the handshake runs in."""
    return int(request.param)


def connect(peers: Peers, peer: Any, below: int, **options: Any) -> httpx_net.NetworkStream:
    """A stream to *peer* on which ``start_tls`` is the next thing to happen."""
    return connect_tls(peers.serve_layers(peer, below), layers=below, **options)


def assert_closed(stream: httpx_net.NetworkStream) -> None:
    assert repr(stream).endswith(" CLOSED]>")
    assert stream.get_extra_info("socket").fileno() == -1
    for use in (stream.read, lambda: stream.write(b"not in clear")):
        with pytest.raises(OSError, match="the stream is closed") as caught:
            use()
        assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_after_start_tls_a_handshake_has_happened_at_any_depth(peers: Peers, layers: int) -> None:
    peer_agrees = threading.Event()

    def agree(conn: Any) -> None:
        peer_agrees.set()
        echo(conn)

    data = random.Random(0).randbytes(50_000)
    with connect_tls(peers.serve_layers(agree, layers), layers=layers) as stream:
        assert peer_agrees.wait(HANG)
        sock, tls = stream.get_extra_info("socket"), stream.get_extra_info("ssl_object")
        assert isinstance(sock, ssl.SSLSocket)
        assert isinstance(tls, ssl.SSLObject if layers > 1 else ssl.SSLSocket)
        assert tls.version() == "TLSv1.3"
        assert ("DNS", "localhost") in tls.getpeercert()["subjectAltName"]
        assert repr(stream).endswith(" TLS]>")
        stream.write(data)
        assert take(stream, len(data)) == data


def test_a_server_is_reached_through_a_proxy_each_with_its_own_context(peers: Peers) -> None:
    # It cuts the stream into other records than the server's.
    proxy = peers.serve_proxy(peers.serve_tls(echo, certificate="untrusted"))
    with connect_tls(proxy, client_context("ca"), hostname="proxy.test") as stream:
        stream.write(b"CONNECT server.test:443 HTTP/1.1\r\n\r\n")
        assert stream.read().startswith(b"HTTP/1.1 200")
        stream.start_tls(client_context("other-ca"), "server.test")
        data = random.Random(0).randbytes(500_000)
        writer = threading.Thread(target=stream.write, args=(data,))
        writer.start()
        assert take(stream, len(data)) == data
        writer.join(HANG)


# ---- Failures


def hang_up(conn: Any) -> None:
    conn.recv(65536)


def leave_politely(conn: Any) -> None:
    conn.recv(65536)
    say_goodbye(conn)


def half_a_handshake(conn: Any) -> None:
    """Say what a server says first, but for its last 100 bytes."""
    server = TLSInside(server_context("server"), conn, handshake=False)
    server.incoming.write(conn.recv(65536))
    with pytest.raises(ssl.SSLWantReadError):
        server.tls.do_handshake()
    conn.sendall(server.outgoing.read()[:-100])


def reset_half_way(conn: Any) -> None:
    half_a_handshake(conn)
    drop(bottom(conn))


def speak_http(conn: Any) -> None:
    conn.recv(65536)
    conn.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\nThe plain HTTP request was sent to HTTPS port")


@pytest.mark.parametrize(
    ("peer", "kind", "reason"),
    [
        (hang_up, ssl.SSLError, "EOF"),
        (leave_politely, ssl.SSLError, "EOF"),
        (half_a_handshake, ssl.SSLError, "EOF"),
        (reset_half_way, ConnectionResetError, "reset by peer|is gone"),
        (speak_http, ssl.SSLError, "the peer does not speak TLS"),
    ],
)
# An end within the handshake is never taken for the end of the stream.
@pytest.mark.parametrize("suppress", [False, True], ids=["strict", "forgiving"])
def test_a_failed_handshake_says_with_whom_and_why_and_closes_the_stream(
    peers: Peers, below: int, peer: Any, kind: type[OSError], reason: str, suppress: bool
) -> None:
    stream = connect(peers, peer, below, suppress_ragged_eofs=suppress)
    port = stream.get_extra_info("server_addr")[1]
    with pytest.raises(kind, match=reason) as caught:
        stream.start_tls(client_context(), "server.test")
    assert f"TLS handshake for 'server.test' with 127.0.0.1:{port} failed: " in str(caught.value)
    assert_closed(stream)


class Raising:
    """A context whose own code raises an error."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def wrap_socket(self, *args: Any, **options: Any) -> Any:
        raise self._error

    wrap_bio = wrap_socket


@pytest.mark.parametrize(
    ("context", "error", "text"),
    [
        (Raising(OSError("not today")), OSError, "^TLS handshake with 127.* failed: not today$"),
        (Raising(KeyboardInterrupt()), KeyboardInterrupt, "^$"),
    ],
    ids=["refuses", "Ctrl-C"],
)
def test_what_the_context_raises_closes_the_stream(
    peers: Peers, below: int, context: Any, error: type[BaseException], text: str
) -> None:
    stream = connect(peers, silent, below)
    with pytest.raises(error, match=text):
        stream.start_tls(context)
    assert_closed(stream)


def test_a_close_while_the_socket_is_wrapped_is_not_lost(peers: Peers, below: int) -> None:
    class Closing:
        def wrap_socket(self, *args: Any, **options: Any) -> Any:
            wrapped = client_context().wrap_socket(*args, **options)
            stream.close()
            return wrapped

        def wrap_bio(self, *args: Any, **options: Any) -> Any:
            stream.close()
            return client_context().wrap_bio(*args, **options)

    stream = connect(peers, silent, below)
    with pytest.raises(OSError, match="the stream is closed"):
        stream.start_tls(Closing(), "localhost")
    assert_closed(stream)


# ---- Deadlines


@pytest.mark.parametrize("seconds", [0, 0.05])
def test_a_handshake_that_times_out_closes_the_stream_and_says_no_more_than_hello(
    peers: Peers, below: int, seconds: float
) -> None:
    heard: list[bytes] = []

    def stall(conn: Any) -> None:
        while data := conn.recv(65536):
            heard.append(data)

    stream = connect(peers, stall, below)
    with times_out(seconds):
        stream.start_tls(client_context(), "localhost")
    assert_closed(stream)
    # The outer stream ends in an orderly way, or this would fail.
    peers.close()
    said = b"".join(heard)
    # The type of a record, and of the one message that is in it: a ClientHello.
    assert (said[:1], said[5:6]) == ((b"\x16", b"\x01") if seconds else (b"", b""))
    assert len(said) == (5 + int.from_bytes(said[3:5], "big") if seconds else 0)


def test_the_deadline_of_a_handshake_ends_with_its_block(peers: Peers) -> None:
    goes_on = threading.Event()

    def speak_late(conn: Any) -> None:
        assert goes_on.wait(HANG)
        conn.sendall(b"late")

    address = peers.serve_layers(speak_late, 1)
    with httpx_net.timeout(0.5):
        stream = connect_tls(address)
    threading.Timer(0.6, goes_on.set).start()
    with stream:
        assert stream.read() == b"late"


def test_records_that_mean_nothing_do_not_extend_the_deadline(peers: Peers) -> None:
    class Flooded(ssl.SSLSocket):
        """Always has one more record for the TLS inside: a HelloRequest, which OpenSSL ignores."""

        over = time.monotonic() + HANG

        def read(self, *args: Any) -> bytes:
            assert time.monotonic() < self.over, "it never looks at the deadline"
            return b"\x16\x03\x03\x00\x04" + bytes(4)

    context = client_context()
    context.sslsocket_class = Flooded
    stream = connect_tls(peers.serve_layers(silent, 1), context)
    with times_out(0.05):
        stream.start_tls(client_context(), "localhost")


# ---- STARTTLS: what was said before stays apart from what is said after


def ask_for_tls(
    peers: Peers, below: int, answer: bytes, then: Callable[[Any], object]
) -> httpx_net.NetworkStream:
    """A stream to a peer that has been asked for TLS, and has agreed; *then* is what it does."""

    def upgrade(conn: Any) -> None:
        assert conn.recv(10) == b"STARTTLS\r\n"
        conn.sendall(answer)
        then(conn)

    stream = connect(peers, upgrade, below)
    stream.write(b"STARTTLS\r\n")
    assert stream.read(8) == b"220 go\r\n"
    return stream


def test_a_stream_is_upgraded_in_place(peers: Peers, below: int) -> None:
    def upgrade(conn: Any) -> None:
        # Nothing but the handshake comes, or this would fail.
        echo(TLSInside(server_context("server"), conn))

    with ask_for_tls(peers, below, b"220 go\r\n", upgrade) as stream:
        keys = "client_addr", "server_addr"
        addresses = [stream.get_extra_info(key) for key in keys]
        assert stream.start_tls(client_context(), "localhost") is None  # type: ignore[func-returns-value]
        assert [stream.get_extra_info(key) for key in keys] == addresses
        stream.write(b"secret")
        assert stream.read() == b"secret"


@pytest.mark.parametrize("asked_first", [False, True])
def test_what_was_injected_before_the_handshake_is_not_read_after_it(
    peers: Peers, below: int, asked_first: bool
) -> None:
    """As in CVE-2011-0411: a man in the middle adds to the answer what is then trusted."""

    def fail(conn: Any) -> None:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            TLSInside(server_context("server"), conn).recv(1)

    stream = ask_for_tls(peers, below, b"220 go\r\n250 injected\r\n", fail)
    if asked_first:
        wait_until(lambda: stream.get_extra_info("is_readable"))
    with pytest.raises(ssl.SSLError, match="TLS handshake for 'localhost'"):
        stream.start_tls(client_context(), "localhost")
    assert_closed(stream)
