"""One thread reads while another writes, and nothing that TLS has to say is ever stuck."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import httpx_net
from peers import (
    CERTIFICATES,
    HANG,
    Peers,
    client_context,
    inside_tls,
    on_tls,
    server_context,
    silent,
    take,
    times_out,
    wrap_server,
)

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
    if ssl.OPENSSL_VERSION_INFO >= (3, 2):
        # SSL_OP_NO_TX_CERTIFICATE_COMPRESSION: most of it is the same again and again.
        context.options |= 1 << 32
    return context


class AsksLater:
    """A server that asks for the client's certificate once the client has said something."""

    def __init__(self, peers: Peers, layers: int, *, saying: bytes = b"") -> None:
        self.may_take, self.satisfied = threading.Event(), threading.Event()
        self._context = server_context("server", client_ca="ca")
        self._context.verify_mode = ssl.CERT_OPTIONAL
        self._context.post_handshake_auth = True
        self._layers, self._saying = layers, saying
        self._peers, self._listener = peers, peers.listen()
        # What the kernel makes of it is its own affair, but it is small.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def connect(self, context: ssl.SSLContext) -> httpx_net.NetworkStream:
        small = socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
        stream = httpx_net.NetworkBackend(socket_options=[small]).connect(
            *self._listener.getsockname()
        )
        self._peers.run(self._ask, self._listener.accept()[0])
        for layer in range(self._layers):
            innermost = layer == self._layers - 1
            stream.start_tls(context if innermost else client_context(), "localhost")
        stream.write(b"GET")
        return stream

    def _ask(self, conn: Any) -> None:
        conn = inside_tls(conn, self._layers, self._context)
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


def nothing(stream: httpx_net.NetworkStream, server: AsksLater) -> None:
    pass


def a_write(stream: httpx_net.NetworkStream, server: AsksLater) -> None:
    stream.write(bytes(100_000))
    assert server.satisfied.wait(HANG)


@on_tls
@pytest.mark.parametrize(("tries", "before"), [(0, nothing), (2, nothing), (1, a_write)])
def test_what_a_read_has_to_send_goes_out_however_often_it_timed_out(
    peers: Peers, long_chain: ssl.SSLContext, layers: int, tries: int, before: Any
) -> None:
    # With one layer OpenSSL reads nothing until it has sent all, though there is more to read.
    more = b"more" if layers == 1 else b""
    server = AsksLater(peers, layers, saying=more)
    with server.connect(long_chain) as stream:
        busy = time.thread_time()
        for _ in range(tries):
            with times_out(0.1):
                stream.read()
        # To wait for both directions would spin, and take most of these seconds.
        assert time.thread_time() - busy < 0.03
        assert not stream.get_extra_info("is_readable")
        server.may_take.set()
        with httpx_net.timeout(HANG):
            before(stream, server)
            assert take(stream, len(more + b"welcome")) == more + b"welcome"


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
