"""One thread reads while another writes, and nothing that TLS has to say is ever stuck."""

from __future__ import annotations

import select
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

import httpx_net
from peers import (
    CERTIFICATES,
    HANG,
    Peers,
    TLSInside,
    client_context,
    connect_tls,
    echo,
    in_thread,
    server_context,
    silent,
    times_out,
    wrap_server,
)

everywhere = pytest.mark.parametrize("layers", [0, 1, 2], ids=["plain", "TLS", "TLS in TLS"])
on_tls = pytest.mark.parametrize("layers", [1, 2], ids=["TLS", "TLS in TLS"])


# ---- Load in both directions


@contextmanager
def switching_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    yield
    sys.setswitchinterval(interval)


@everywhere
@pytest.mark.parametrize("round_", range(3))
def test_load_in_both_directions_breaks_nothing(peers: Peers, layers: int, round_: int) -> None:
    random = Random(round_)
    data = random.randbytes(1_000_000)

    def write_all() -> None:
        start = 0
        while start < len(data):
            size = random.choice([1, 100, 1000, 20_000, 70_000])
            with httpx_net.timeout(HANG):
                stream.write(data[start : start + size])
            start += size

    received = bytearray()
    with (
        switching_often(),
        connect_tls(peers.serve_layers(echo, layers), layers=layers) as stream,
        in_thread(httpx_net.NetworkStream.read, stream, 1) as first,
    ):
        writing = threading.Thread(target=write_all)
        writing.start()
        received += first.result(HANG)
        while len(received) < len(data):
            with suppress(TimeoutError), httpx_net.timeout(random.choice([0.0001, HANG])):
                received += stream.read()
        writing.join(HANG)
    assert received == data


# ---- A client certificate that the server asks for later


@pytest.fixture
def long_chain(tmp_path: Path) -> ssl.SSLContext:
    """A client whose certificate is longer than the buffers on the way."""
    chain = tmp_path / "long.pem"
    own, ca = ((CERTIFICATES / f"{name}.pem").read_text() for name in ("client", "ca"))
    certificate = ca[ca.index("-----BEGIN CERTIFICATE") :]
    chain.write_text(own + certificate * (90_000 // len(certificate)))
    context = client_context()
    context.load_cert_chain(chain)
    context.post_handshake_auth = True
    return context


class AsksLater:
    """A server that asks for the client's certificate once the client has said something."""

    def __init__(self, peers: Peers, layers: int, *, saying: bytes = b"") -> None:
        self.may_take, self.satisfied = threading.Event(), threading.Event()
        self._layers, self._saying = layers, saying
        self._context = server_context("server", client_ca="ca")
        self._context.verify_mode = ssl.CERT_OPTIONAL
        self._context.post_handshake_auth = True
        self._peers, self._listener = peers, peers.listen()
        # What the kernel makes of it is its own affair, but it is small.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def connect(self, context: ssl.SSLContext) -> httpx_net.NetworkStream:
        net = httpx_net.NetworkBackend(socket_options=[(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)])
        stream = net.connect(*self._listener.getsockname()[:2])
        self._peers.run(self._ask, self._listener.accept()[0])
        for layer in range(self._layers):
            innermost = layer == self._layers - 1
            stream.start_tls(context if innermost else client_context(), "localhost")
        stream.write(b"GET")
        return stream

    def _ask(self, conn: Any) -> None:
        for layer in range(self._layers):
            innermost = layer == self._layers - 1
            conn = TLSInside(self._context if innermost else server_context("server"), conn)
        assert conn.recv(100) == b"GET"
        conn.tls.verify_client_post_handshake()
        conn.tls.do_handshake()
        if self._saying:
            conn.tls.write(self._saying)
        conn.flush()
        assert self.may_take.wait(HANG)
        while not self._has_certificate(conn.tls):
            conn.incoming.write(conn.outer.recv(65536))
            with suppress(ssl.SSLWantReadError):
                conn.tls.read(100)
        self.satisfied.set()
        conn.sendall(b"welcome")
        silent(conn)

    def _has_certificate(self, tls: ssl.SSLObject) -> bool:
        try:
            return bool(tls.getpeercert())
        except ValueError:
            # In the middle of it.
            return False


@contextmanager
def waits_counted() -> Iterator[list[object]]:
    counted: list[object] = []
    poll = select.poll

    def counting() -> Any:
        counted.append(None)
        return poll()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "poll", counting)
        yield counted


@on_tls
@pytest.mark.parametrize("tries", [0, 1, 3])
def test_a_read_sends_what_it_has_to_however_often_it_timed_out(
    peers: Peers, long_chain: ssl.SSLContext, layers: int, tries: int
) -> None:
    server = AsksLater(peers, layers)
    with server.connect(long_chain) as stream:
        with waits_counted() as waits:
            for _ in range(tries):
                with times_out(0.1):
                    stream.read()
        # To wait for both directions would spin.
        assert len(waits) < 20 * tries + 1
        assert not stream.get_extra_info("is_readable")
        server.may_take.set()
        with httpx_net.timeout(HANG):
            assert stream.read() == b"welcome"


@on_tls
def test_what_a_read_has_to_send_goes_out_though_it_returns_data(peers: Peers, layers: int) -> None:
    context = client_context(certificate="client")
    context.post_handshake_auth = True
    server = AsksLater(peers, layers, saying=b"wait")
    server.may_take.set()
    with server.connect(context) as stream, httpx_net.timeout(HANG):
        assert stream.read() == b"wait"
        assert server.satisfied.wait(HANG)
        assert stream.read() == b"welcome"


@on_tls
def test_a_write_sends_what_a_read_left_behind(
    peers: Peers, long_chain: ssl.SSLContext, layers: int
) -> None:
    server = AsksLater(peers, layers)
    with server.connect(long_chain) as stream:
        with times_out(0.1):
            stream.read()
        server.may_take.set()
        with httpx_net.timeout(HANG):
            stream.write(bytes(100_000))
            assert server.satisfied.wait(HANG)
            assert stream.read() == b"welcome"


def test_a_write_goes_on_when_a_reader_has_taken_what_it_waits_for(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll, shaken, held = select.poll, threading.Event(), threading.Event()

    def poll_late() -> Any:
        if threading.current_thread() is not threading.main_thread() and not held.is_set():
            held.set()
            assert shaken.wait(HANG)
        return poll()

    def shake_hands_and_echo(conn: socket.socket) -> None:
        context = server_context("server")
        context.num_tickets = 0
        assert held.wait(HANG)
        with wrap_server(context, conn) as tls:
            shaken.set()
            tls.sendall(tls.recv(1))

    sock = socket.create_connection(peers.serve(shake_hands_and_echo))
    tls = client_context().wrap_socket(
        sock, server_hostname="localhost", do_handshake_on_connect=False
    )
    with httpx_net.NetworkStream(tls) as stream, httpx_net.timeout(HANG):
        monkeypatch.setattr(select, "poll", poll_late)
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(stream.write, b"!")
            assert held.wait(HANG)
            assert stream.read() == b"!"
            writing.result(HANG)
