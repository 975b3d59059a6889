"""The context is the caller's: what it asks for happens, and whatever behaves like one will do."""

from __future__ import annotations

import functools
import select
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

import httpx_net
from peers import (
    HANG,
    Address,
    Peers,
    TLSInside,
    client_context,
    connect_tls,
    echo,
    server_context,
    silent,
)

both_layers = pytest.mark.parametrize("layers", [1, 2], ids=["TLS", "TLS in TLS"])
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Minimal:
    """The least that behaves like a context: two methods. *extra* is for both of them."""

    def __init__(self, context: ssl.SSLContext, **extra: Any) -> None:
        self.wrap_socket = functools.partial(context.wrap_socket, **extra)
        self.wrap_bio = functools.partial(context.wrap_bio, **extra)


@both_layers
def test_whatever_behaves_like_a_context_will_do(peers: Peers, layers: int) -> None:
    address = peers.serve_layers(echo, layers)
    with connect_tls(address, Minimal(client_context()), layers=layers) as stream:
        assert stream.get_extra_info("ssl_object").version() == "TLSv1.3"
        stream.write(b"hello")
        assert stream.read() == b"hello"


@both_layers
@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "h2"), (["spdy/1"], None), ([], None)]
)
def test_the_protocols_it_offers_are_negotiated(
    peers: Peers, layers: int, offered: list[str], chosen: str | None
) -> None:
    server, client = server_context("server"), client_context()
    server.set_alpn_protocols(["h2", "http/1.1"])
    if offered:
        client.set_alpn_protocols(offered)
    with connect_tls(peers.serve_layers(silent, layers, server), client, layers=layers) as stream:
        assert stream.get_extra_info("ssl_object").selected_alpn_protocol() == chosen


@both_layers
def test_its_versions_ciphers_and_key_log_are_used(
    peers: Peers, layers: int, tmp_path: Path
) -> None:
    client = client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    client.keylog_filename = str(tmp_path / "keys")
    with connect_tls(peers.serve_layers(silent, layers), client, layers=layers) as stream:
        tls = stream.get_extra_info("ssl_object")
        assert tls.context is client
        assert tls.cipher()[:2] == ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLSv1.2")
    assert "CLIENT_RANDOM" in (tmp_path / "keys").read_text()


@both_layers
@pytest.mark.parametrize("version", VERSIONS)
def test_its_session_is_resumed(peers: Peers, layers: int, version: ssl.TLSVersion) -> None:
    server, client = server_context("server"), client_context()
    server.maximum_version = version
    with connect_tls(peers.serve_layers(echo, layers, server), client, layers=layers) as stream:
        stream.write(b"x")
        # On TLS 1.3 the ticket comes before this.
        assert stream.read() == b"x"
        tls = stream.get_extra_info("ssl_object")
        assert not tls.session_reused
        resuming = Minimal(client, session=tls.session)
    with connect_tls(peers.serve_layers(echo, layers, server), resuming, layers=layers) as stream:
        assert stream.get_extra_info("ssl_object").session_reused
        stream.write(b"again")
        assert stream.read() == b"again"


# ---- Client certificates


def show_client(conn: TLSInside) -> None:
    certificate = conn.tls.getpeercert()
    assert certificate
    conn.sendall(repr(certificate["subjectAltName"]).encode())


@both_layers
def test_its_client_certificate_is_sent(peers: Peers, layers: int) -> None:
    server = server_context("server", client_ca="ca")
    client = client_context(certificate="client")
    address = peers.serve_layers(show_client, layers, server)
    with connect_tls(address, client, layers=layers) as stream:
        assert stream.read() == b"(('DNS', 'client.test'),)"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_missing_client_certificate_is_an_error(peers: Peers, version: ssl.TLSVersion) -> None:
    address = peers.serve_tls(client_ca="ca", refused=True, maximum_version=version)
    # On TLS 1.3 the client is done before the server has looked, so the first read fails.
    with (
        pytest.raises((ssl.SSLError, ConnectionError), match=r"127\.0\.0\.1"),
        connect_tls(address) as stream,
    ):
        stream.read()


def test_a_client_certificate_that_is_asked_for_during_a_read_is_sent(peers: Peers) -> None:
    """Nobody writes the answer, which is the layer's own, so the read has to send it."""

    def ask(inner: TLSInside) -> None:
        inner.tls.verify_client_post_handshake()
        # This makes the question, and what follows waits for the answer.
        inner.tls.do_handshake()
        inner.flush()
        while not inner.tls.getpeercert():
            inner.incoming.write(inner.outer.recv(65536))
            with pytest.raises(ssl.SSLWantReadError):
                inner.tls.read(1)
        show_client(inner)

    server = server_context("server", client_ca="ca")
    client = client_context(certificate="client")
    server.post_handshake_auth = client.post_handshake_auth = True
    address = peers.serve_layers(ask, 2, server)
    with connect_tls(address, client, layers=2) as stream, httpx_net.timeout(HANG / 2):
        assert stream.read() == b"(('DNS', 'client.test'),)"


# ---- A socket that is TLS already


def wrapped_socket(address: Address) -> ssl.SSLSocket:
    context = client_context()
    # What is the stream's business otherwise is here the caller's, who makes the connection.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    sock = socket.create_connection(address, timeout=HANG)
    return context.wrap_socket(sock, server_hostname="localhost")


def test_a_socket_that_is_tls_already_makes_a_stream(peers: Peers) -> None:
    def echo_once(conn: ssl.SSLSocket) -> None:
        conn.sendall(conn.recv(100))
        # An end without close_notify would be an error.
        assert conn.recv(1) == b""

    sock = wrapped_socket(peers.serve_tls(echo_once))
    # These are tickets.
    assert select.select([sock], [], [], HANG)[0]
    with httpx_net.NetworkStream(sock) as stream:
        assert repr(stream).endswith(" TLS]>")
        assert stream.get_extra_info("ssl_object") is stream.get_extra_info("socket") is sock
        assert stream.get_extra_info("is_readable") is False
        stream.write(b"hello")
        assert stream.read() == b"hello"
        with httpx_net.timeout(0.05), pytest.raises(TimeoutError):
            stream.read()


@pytest.mark.parametrize("suppress", [False, True])
def test_its_truncation_is_an_error_unless_it_is_suppressed(peers: Peers, suppress: bool) -> None:
    sock = wrapped_socket(peers.serve_layers(lambda conn: conn.sendall(b"x"), 1))
    with httpx_net.NetworkStream(sock, suppress_ragged_eofs=suppress) as stream:
        assert stream.read() == b"x"
        if suppress:
            assert stream.read() == b""
        else:
            with pytest.raises(ssl.SSLEOFError, match="suppress_ragged_eofs"):
                stream.read()


def test_tls_can_be_started_inside_it(peers: Peers) -> None:
    with httpx_net.NetworkStream(wrapped_socket(peers.serve_layers(echo, 2))) as stream:
        stream.start_tls(client_context(), "localhost")
        stream.write(b"hello")
        assert stream.read() == b"hello"
