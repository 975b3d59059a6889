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
    bottom,
    client_context,
    connect_tls,
    server_context,
    silent,
    times_out,
    wrap_server,
)

on_tls = pytest.mark.parametrize("layers", [1, 2], ids=["TLS", "TLS in TLS"])


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
        context = server_context("server", client_ca="ca")
        context.verify_mode = ssl.CERT_OPTIONAL
        context.post_handshake_auth = True
        self._layers, self._saying = layers, saying
        self._address = peers.serve_layers(self._ask, layers, context)

    def connect(self, context: ssl.SSLContext) -> httpx_net.NetworkStream:
        small = socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
        stream = connect_tls(self._address, context, layers=self._layers, socket_options=[small])
        stream.write(b"GET")
        return stream

    def _ask(self, conn: Any) -> None:
        # What the kernel makes of it is its own affair, but it is small, too.
        bottom(conn).setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
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
    server = AsksLater(peers, layers)
    with server.connect(long_chain) as stream:
        busy = time.thread_time()
        for _ in range(tries):
            with times_out(0.1):
                stream.read()
        # To wait for both directions would spin.
        assert time.thread_time() - busy < 0.1
        assert not stream.get_extra_info("is_readable")
        server.may_take.set()
        with httpx_net.timeout(HANG):
            before(stream, server)
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
