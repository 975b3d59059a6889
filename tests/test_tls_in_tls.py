"""TLS inside TLS, at any depth: one stream, one deadline."""

from __future__ import annotations

import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import httpx_net
from httpx_net._tls import TLSOverTLS
from peers import (
    HANG,
    Address,
    Peers,
    TLSInside,
    client_context,
    client_may_leave,
    connect_tls,
    echo,
    send_close_notify,
    server_context,
    silent,
    wait_until,
)


@pytest.fixture(params=[2, 3, 5])
def layers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_bytes_pass_in_both_directions(peers: Peers, layers: int) -> None:
    payload = random.Random(0).randbytes(300_000)
    received = bytearray()
    with connect_tls(peers.serve_tls_in_tls(echo, layers=layers), layers=layers) as stream:
        for start in range(0, len(payload), 50_000):
            stream.write(payload[start : start + 50_000])
            while len(received) < start + 50_000:
                received += stream.read()
    assert received == payload


def test_a_large_message_passes_while_the_peer_only_reads(peers: Peers, layers: int) -> None:
    payload = random.Random(0).randbytes(2_000_000)

    def count(conn: Any) -> None:
        received = bytearray()
        while len(received) < len(payload):
            received += conn.recv(65536)
        conn.sendall(b"same" if received == payload else b"other")

    with connect_tls(peers.serve_tls_in_tls(count, layers=layers), layers=layers) as stream:
        stream.write(payload)
        assert stream.read() == b"same"


def test_the_stream_shows_the_innermost_tls_and_the_outermost_socket(
    peers: Peers, layers: int
) -> None:
    with connect_tls(peers.serve_tls_in_tls(layers=layers), layers=layers) as stream:
        inner, outer = stream.get_extra_info("ssl_object"), stream.get_extra_info("socket")
        assert isinstance(inner, ssl.SSLObject)
        assert isinstance(outer, ssl.SSLSocket)
        assert inner.version() == outer.version() == "TLSv1.3"
        assert repr(stream).endswith(" TLS]>")


def test_each_layer_has_its_own_context(peers: Peers) -> None:
    proxy = peers.serve_proxy(peers.serve_tls(echo, alpn=["h2"], certificate="untrusted"))
    with connect_tls(proxy, client_context("ca"), hostname="proxy.test") as stream:
        stream.write(b"CONNECT server.test:443 HTTP/1.1\r\n\r\n")
        assert stream.read().startswith(b"HTTP/1.1 200")
        context = client_context("other-ca")
        context.set_alpn_protocols(["h2"])
        stream.start_tls(context, "server.test")
        assert stream.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        assert stream.get_extra_info("socket").selected_alpn_protocol() is None
        stream.write(b"hello")
        assert stream.read() == b"hello"


@pytest.mark.parametrize("outer", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("inner", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_mix(
    serve_tls: Callable[..., Address], outer: ssl.TLSVersion, inner: ssl.TLSVersion
) -> None:
    context = server_context("server")
    context.maximum_version = inner
    address = serve_tls(lambda conn: echo(TLSInside(context, conn)), maximum_version=outer)
    with connect_tls(address, layers=2) as stream:
        assert stream.get_extra_info("ssl_object").version() == inner.name.replace("_", ".")
        stream.write(b"hello")
        assert stream.read() == b"hello"


# ---- One deadline


def assert_it_ends_in_time(seconds: float, use: Callable[[], object]) -> None:
    start = time.monotonic()
    with (
        pytest.raises(TimeoutError, match=rf"timeout\({seconds}\) expired"),
        httpx_net.timeout(seconds),
    ):
        use()
    assert seconds <= time.monotonic() - start < seconds + 2.0


def test_a_deadline_bounds_an_inner_handshake(serve_tls: Callable[..., Address]) -> None:
    stream = connect_tls(serve_tls(silent))
    assert_it_ends_in_time(0.05, lambda: stream.start_tls(client_context(), "localhost"))
    assert repr(stream).endswith(" CLOSED]>")


def test_a_deadline_bounds_a_read_through_all_layers(peers: Peers, layers: int) -> None:
    with connect_tls(peers.serve_tls_in_tls(layers=layers), layers=layers) as stream:
        assert_it_ends_in_time(0.05, stream.read)


def drip_records(tls: TLSInside) -> None:
    """Send a record inside, a byte of it in each record outside."""
    tls.tls.write(bytes(10_000))
    with client_may_leave():
        for byte in tls.outgoing.read():
            tls.outer.sendall(bytes([byte]))
            time.sleep(0.002)


def test_bytes_dripped_inside_records_do_not_extend_it(peers: Peers) -> None:
    with connect_tls(peers.serve_tls_in_tls(drip_records), layers=2) as stream:
        assert_it_ends_in_time(0.1, stream.read)


def test_records_that_never_make_a_handshake_do_not_extend_it(
    serve_tls: Callable[..., Address],
) -> None:
    class Flooded(ssl.SSLSocket):
        """There is always one more record for the inner TLS, and it never means anything."""

        over = time.monotonic() + HANG

        def read(self, *args: Any) -> bytes:
            assert time.monotonic() < self.over, "it never looks at the deadline"
            return b"\x16\x03\x03\x00\x04" + bytes(4)  # a HelloRequest, for OpenSSL to ignore

    context = client_context()
    context.sslsocket_class = Flooded
    stream = connect_tls(serve_tls(silent), context)
    assert_it_ends_in_time(0.05, lambda: stream.start_tls(client_context(), "localhost"))
    assert repr(stream).endswith(" CLOSED]>")


def test_what_a_read_left_at_its_deadline_comes_with_the_next(peers: Peers, layers: int) -> None:
    go_on = threading.Event()

    def in_two_halves(tls: TLSInside) -> None:
        tls.tls.write(b"late but whole")
        record = tls.outgoing.read()
        tls.outer.sendall(record[:15])
        assert go_on.wait(HANG)
        tls.outer.sendall(record[15:])
        silent(tls)

    with connect_tls(peers.serve_tls_in_tls(in_two_halves, layers=layers), layers=layers) as stream:
        with pytest.raises(TimeoutError), httpx_net.timeout(0.05):
            stream.read()
        go_on.set()
        assert stream.read() == b"late but whole"


# ---- Failures


@pytest.mark.parametrize("depth", [1, 2])
def test_the_peer_is_told_why_an_inner_handshake_failed(peers: Peers, depth: int) -> None:
    told = []

    def refused(outer: Any) -> None:
        with pytest.raises(ssl.SSLError) as caught:
            TLSInside(server_context("wrong-name"), outer)
        told.append(caught.value.reason)
        assert outer.recv(1) == b""

    with connect_tls(peers.serve_tls_in_tls(refused, layers=depth), layers=depth) as stream:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            stream.start_tls(client_context(), "localhost")
        peers.close()
    # OpenSSL sends bad_certificate for a name that does not match.
    assert told == ["SSLV3_ALERT_BAD_CERTIFICATE"] or told == ["SSL/TLS_ALERT_BAD_CERTIFICATE"]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 502 Bad Gateway\r\n\r\n", bytes(range(256))])
def test_an_answer_that_is_no_tls_is_an_error(
    serve_tls: Callable[..., Address], answer: bytes
) -> None:
    def answers(conn: ssl.SSLSocket) -> None:
        conn.recv(65536)
        conn.sendall(answer)
        silent(conn)

    stream = connect_tls(serve_tls(answers, tickets=0))
    with pytest.raises(ssl.SSLError, match="TLS handshake for 'localhost' with 127"):
        stream.start_tls(client_context(), "localhost")
    assert repr(stream).endswith(" TLS CLOSED]>")


def test_the_end_of_the_outer_stream_ends_an_inner_handshake(
    serve_tls: Callable[..., Address],
) -> None:
    stream = connect_tls(serve_tls(lambda conn: conn.recv(65536), tickets=0))
    with pytest.raises(ssl.SSLError, match=r"EOF|truncated"):
        stream.start_tls(client_context(), "localhost")
    assert repr(stream).endswith(" TLS CLOSED]>")


def test_so_does_an_orderly_end(serve_tls: Callable[..., Address]) -> None:
    def leave(conn: ssl.SSLSocket) -> None:
        conn.recv(65536)
        send_close_notify(conn)

    stream = connect_tls(serve_tls(leave, tickets=0))
    with pytest.raises(ssl.SSLEOFError, match=r" failed: EOF occurred in violation of protocol$"):
        stream.start_tls(client_context(), "localhost")
    assert repr(stream).endswith(" TLS CLOSED]>")


def fill(sock: socket.socket) -> None:
    """Leave no room for even the rest of a record, though poll asks for more before it tells."""
    in_vain = 0
    while in_vain < 3:
        try:
            socket.socket.send(sock, bytes(65_536))
            in_vain = 0
        except BlockingIOError:
            in_vain += 1
            select.select([], [sock], [], 0.05)


def test_a_peer_that_takes_nothing_does_not_keep_us_from_reading(peers: Peers) -> None:
    def speak_and_not_listen(conn: Any) -> None:
        assert full.wait(HANG)
        conn.sendall(b"enough")
        assert over.wait(HANG)

    full, over = threading.Event(), threading.Event()
    with connect_tls(peers.serve_tls_in_tls(speak_and_not_listen), layers=2) as stream:
        with pytest.raises(TimeoutError), httpx_net.timeout(0.2):
            stream.write(bytes(20_000_000))
        fill(stream.get_extra_info("socket"))
        full.set()
        with httpx_net.timeout(HANG):
            assert stream.read() == b"enough"
        over.set()


def test_a_name_that_no_peer_can_prove_leaves_the_outer_stream_usable(
    serve_tls: Callable[..., Address],
) -> None:
    with connect_tls(serve_tls(echo)) as stream:
        with pytest.raises(ValueError):
            stream.start_tls(client_context(), "a..b")
        stream.write(b"still here")
        assert stream.read() == b"still here"


def test_what_was_looked_at_ahead_of_the_handshake_is_part_of_it(
    serve_tls: Callable[..., Address],
) -> None:
    def speaks_first(conn: ssl.SSLSocket) -> None:
        conn.sendall(b"injected")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            TLSInside(server_context("server"), conn).recv(1)

    stream = connect_tls(serve_tls(speaks_first, tickets=0))
    wait_until(lambda: stream.get_extra_info("is_readable"))
    with pytest.raises(ssl.SSLError):
        stream.start_tls(client_context(), "localhost")
    with pytest.raises(OSError, match="the stream is closed"):
        stream.read()


@pytest.mark.parametrize("layers", [2, 3])
def test_what_waits_between_the_layers_is_readable(peers: Peers, layers: int) -> None:
    class Together:
        """Takes what is sent, to be sent as one record of the layer below."""

        data = b""

        def sendall(self, data: bytes) -> None:
            self.data += data

    def peer(conn: Any) -> None:
        inside = conn if layers == 2 else conn.outer
        outermost, inside.outer = inside.outer, (together := Together())
        conn.sendall(b"one")
        conn.sendall(b"two")
        inside.outer = outermost
        outermost.sendall(together.data)
        over.wait(HANG)

    over = threading.Event()
    with connect_tls(peers.serve_tls_in_tls(peer, layers=layers), layers=layers) as stream:
        assert stream.read() == b"one"
        assert stream.get_extra_info("is_readable")
        assert stream.read() == b"two"
        over.set()


def test_a_handshake_that_can_t_go_out_waits_until_it_can() -> None:
    class Full:
        def send(self, data: bytes) -> int:
            raise ssl.SSLWantWriteError

        def recv(self, size: int) -> bytes:
            raise ssl.SSLWantReadError

    with pytest.raises(ssl.SSLWantWriteError):
        TLSOverTLS(Full(), client_context(), "localhost").handshake()
