"""The context is the caller's: what it asks for happens, it is left as it was, and shared."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import httpx_net
from peers import (
    CERTIFICATES,
    HANG,
    Address,
    Peers,
    TLSInside,
    client_context,
    connect_tls,
    echo,
    in_thread,
    server_context,
    silent,
)

# Early releases of 3.10 and 3.11 have this option on in every context, and then OpenSSL takes
# truncation for an end.
HIDES = ssl.OP_IGNORE_UNEXPECTED_EOF


class Minimal:
    """The least that behaves like a context: two methods."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.wrap_socket, self.wrap_bio = context.wrap_socket, context.wrap_bio


@pytest.mark.parametrize("layers", [1, 2], ids=["TLS", "TLS in TLS"])
def test_whatever_behaves_like_a_context_will_do_and_what_it_asks_for_happens(
    peers: Peers, layers: int, tmp_path: Path
) -> None:
    def show_client(conn: TLSInside) -> None:
        certificate = conn.tls.getpeercert()
        assert certificate
        conn.sendall(repr(certificate["subjectAltName"]).encode())

    server = server_context("server", client_ca="ca")
    server.set_alpn_protocols(["h2", "http/1.1"])
    client = client_context(certificate="client")
    client.set_alpn_protocols(["http/1.1"])
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    client.keylog_filename = str(tmp_path / "keys")
    address = peers.serve_layers(show_client, layers, server)
    with connect_tls(address, Minimal(client), layers=layers) as stream:
        tls = stream.get_extra_info("ssl_object")
        assert tls.context is client
        assert tls.cipher()[:2] == ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLSv1.2")
        assert tls.selected_alpn_protocol() == "http/1.1"
        assert stream.read() == b"(('DNS', 'client.test'),)"
        # Each layer has its own.
        assert (stream.get_extra_info("socket").context is client) == (layers == 1)
    assert "CLIENT_RANDOM" in (tmp_path / "keys").read_text()


class Interrupted(ssl.SSLContext):
    def wrap_socket(self, *args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", [ssl.SSLContext, Interrupted])
@pytest.mark.parametrize("option", [0, HIDES])
def test_its_options_are_left_as_they_were(
    peers: Peers, kind: type[ssl.SSLContext], option: int
) -> None:
    context = kind(ssl.PROTOCOL_TLS_CLIENT)
    context.options = before = (context.options & ~HIDES) | option
    # It trusts nobody.
    with pytest.raises((ssl.SSLCertVerificationError, KeyboardInterrupt)):
        connect_tls(peers.serve_tls(refused=True), context)
    assert context.options == before


# ---- One context for many threads


@pytest.fixture(params=["ssl", "truststore"])
def shared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "ssl":
        return client_context()
    truststore = pytest.importorskip("truststore", reason="truststore is not installed")
    if not sys.platform.startswith("linux"):
        pytest.skip("only OpenSSL's store, on Linux, can be given the tests' authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "ca.pem"))
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def test_a_stalled_handshake_does_not_hold_up_others(peers: Peers, shared: Any) -> None:
    others_are_done = threading.Event()

    def stall(conn: Any) -> None:
        conn.recv(65536)
        assert others_are_done.wait(HANG), "the others waited for the stalled one"

    with in_thread(connect_tls, peers.serve(stall), shared) as stalled:
        for _ in range(3):
            connect_tls(peers.serve_layers(silent, 1), shared).close()
        assert not stalled.done()
        others_are_done.set()
        assert isinstance(stalled.exception(HANG), ssl.SSLError)


def cut(conn: Any) -> None:
    conn.sendall(b"all of it?")


def assert_truncated(stream: httpx_net.NetworkStream) -> None:
    assert stream.read() == b"all of it?"
    with pytest.raises(ssl.SSLEOFError, match="suppress_ragged_eofs"):
        stream.read()


def test_it_verifies_and_shows_truncation(peers: Peers, shared: Any) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        connect_tls(peers.serve_tls(certificate="untrusted", refused=True), shared)
    with connect_tls(peers.serve_layers(cut, 1), shared) as stream:
        assert_truncated(stream)


def test_threads_that_share_it_do_not_hide_truncation_from_each_other(peers: Peers) -> None:
    """One might put the option back while the other makes a connection, where it is on."""
    another_came_in = threading.Event()

    class Slow(ssl.SSLContext):
        def wrap_socket(self, *args: Any, **options: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                another_came_in.set()
                first.exception(HANG)
            else:
                # Time for the main thread to come in, if it may.
                another_came_in.wait(0.1)
            return super().wrap_socket(*args, **options)

    context = Slow(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(CERTIFICATES / "ca.pem")
    with in_thread(connect_tls, peers.serve_layers(silent, 1), context) as first:
        with connect_tls(peers.serve_layers(cut, 1), context) as stream:
            assert_truncated(stream)
        first.result(HANG).close()


# ---- A socket that is TLS already


def wrapped_socket(address: Address) -> ssl.SSLSocket:
    context = client_context()
    # What is the stream's business otherwise is here the caller's, who makes the connection.
    context.options &= ~HIDES
    sock = socket.create_connection(address, timeout=HANG)
    return context.wrap_socket(sock, server_hostname="localhost")


def test_tls_can_be_started_inside_a_socket_that_is_tls_already(peers: Peers) -> None:
    with httpx_net.NetworkStream(wrapped_socket(peers.serve_layers(echo, 2))) as stream:
        stream.start_tls(client_context(), "localhost")
        stream.write(b"hello")
        assert stream.read() == b"hello"


def test_its_truncation_is_an_error_unless_it_is_suppressed(peers: Peers) -> None:
    with httpx_net.NetworkStream(wrapped_socket(peers.serve_layers(cut, 1))) as stream:
        assert_truncated(stream)
    sock = wrapped_socket(peers.serve_layers(cut, 1))
    with httpx_net.NetworkStream(sock, suppress_ragged_eofs=True) as stream:
        assert [stream.read(), stream.read()] == [b"all of it?", b""]
