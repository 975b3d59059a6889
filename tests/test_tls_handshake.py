"""When ``start_tls`` returns, a handshake has happened; when it fails, the stream is closed."""

from __future__ import annotations

import errno
import ssl
import sys
import threading
from typing import Any

import pytest

import httpx_net
from peers import (
    CERTIFICATES,
    HANG,
    Address,
    Peers,
    TLSInside,
    bottom,
    client_context,
    connect_tls,
    drop,
    say_goodbye,
    server_context,
    silent,
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


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_after_start_tls_a_handshake_has_happened(peers: Peers, layers: int) -> None:
    peer_agrees = threading.Event()
    address = peers.serve_layers(lambda conn: peer_agrees.set() or silent(conn), layers)
    with connect_tls(address, layers=layers) as stream:
        assert peer_agrees.wait(HANG)
        tls = stream.get_extra_info("ssl_object")
        assert tls.version() == "TLSv1.3"
        assert ("DNS", "localhost") in tls.getpeercert()["subjectAltName"]
        assert repr(stream).endswith(" TLS]>")


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


def reset_at_once(conn: Any) -> None:
    conn.recv(65536)
    drop(bottom(conn))


def reset_half_way(conn: Any) -> None:
    half_a_handshake(conn)
    drop(bottom(conn))


def speak_gibberish(conn: Any) -> None:
    conn.recv(65536)
    conn.sendall(bytes(range(1, 256)) * 8)


def speak_http(conn: Any) -> None:
    conn.recv(65536)
    conn.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\nThe plain HTTP request was sent to HTTPS port")


@pytest.mark.parametrize(
    ("peer", "kind", "reason"),
    [
        (hang_up, ssl.SSLError, "EOF"),
        (leave_politely, ssl.SSLError, "EOF"),
        (half_a_handshake, ssl.SSLError, "EOF"),
        (reset_at_once, ConnectionResetError, "reset by peer|is gone"),
        (reset_half_way, ConnectionResetError, "reset by peer|is gone"),
        (speak_gibberish, ssl.SSLError, "the peer does not speak TLS"),
        (speak_http, ssl.SSLError, "the peer does not speak TLS"),
    ],
)
# An end within the handshake is never taken for the end of the stream.
@pytest.mark.parametrize("suppress", [False, True], ids=["strict", "lenient"])
def test_a_failed_handshake_says_with_whom_and_why_and_closes_the_stream(
    peers: Peers, below: int, peer: Any, kind: type[OSError], reason: str, suppress: bool
) -> None:
    stream = connect(peers, peer, below, suppress_ragged_eofs=suppress)
    port = stream.get_extra_info("server_addr")[1]
    with pytest.raises(kind, match=reason) as caught:
        stream.start_tls(client_context(), "server.test")
    assert f"TLS handshake for 'server.test' with 127.0.0.1:{port} failed: " in str(caught.value)
    assert_closed(stream)


def test_a_handshake_that_times_out_closes_the_stream(peers: Peers, below: int) -> None:
    heard: list[bytes] = []

    def stall(conn: Any) -> None:
        while not heard or heard[-1]:
            heard.append(conn.recv(65536))

    stream = connect(peers, stall, below)
    with httpx_net.timeout(0.05), pytest.raises(TimeoutError, match=r"timeout\(0\.05\) expired"):
        stream.start_tls(client_context(), "localhost")
    assert_closed(stream)
    # The outer stream ends in an orderly way, and nothing but a ClientHello has gone out.
    wait_until(lambda: heard[-1:] == [b""])
    assert heard[0][:1] == b"\x16"
    assert b"not in clear" not in b"".join(heard)


def test_under_a_passed_deadline_the_peer_hears_nothing(peers: Peers, below: int) -> None:
    def hear_nothing(conn: Any) -> None:
        assert conn.recv(1) == b""

    stream = connect(peers, hear_nothing, below)
    with httpx_net.timeout(0), pytest.raises(TimeoutError, match=r"timeout\(0\) expired"):
        stream.start_tls(client_context(), "localhost")
    assert_closed(stream)


def test_the_deadline_of_a_handshake_ends_with_its_block(peers: Peers) -> None:
    go_on = threading.Event()

    def speak_late(conn: Any) -> None:
        tls = TLSInside(server_context("server"), conn)
        assert go_on.wait(HANG)
        tls.sendall(b"late")

    with connect(peers, speak_late, 0) as stream:
        with httpx_net.timeout(0.5):
            stream.start_tls(client_context(), "localhost")
        threading.Timer(0.6, go_on.set).start()
        assert stream.read() == b"late"


class Refusing:
    """A context whose own code objects, as one with a policy of its own may."""

    def wrap_socket(self, *args: Any, **options: Any) -> Any:
        raise OSError("not today")

    wrap_bio = wrap_socket


@pytest.mark.parametrize("context", [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Refusing()])
def test_a_context_that_refuses_closes_the_stream(peers: Peers, below: int, context: Any) -> None:
    stream = connect(peers, silent, below)
    address = stream.get_extra_info("client_addr")
    with pytest.raises(OSError, match=r"TLS handshake with 127.* failed: (not today|.*SERVER)"):
        stream.start_tls(context)
    assert_closed(stream)
    assert stream.get_extra_info("client_addr") == address


# ---- Interruptions


class Pressed:
    """Ctrl-C is pressed when its handshake begins."""

    def do_handshake(self, block: bool = False) -> None:
        raise KeyboardInterrupt


class PressedSocket(Pressed, ssl.SSLSocket):
    pass


class PressedObject(Pressed, ssl.SSLObject):
    pass


def test_ctrl_c_in_a_handshake_closes_the_stream(peers: Peers, below: int) -> None:
    stream = connect(peers, silent, below)
    context = client_context()
    context.sslsocket_class, context.sslobject_class = PressedSocket, PressedObject
    with pytest.raises(KeyboardInterrupt):
        stream.start_tls(context, "localhost")
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


# ---- One context for many threads


@pytest.fixture(params=["ssl", "truststore"])
def shared_context(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "ssl":
        return client_context()
    truststore = pytest.importorskip("truststore", reason="truststore is not installed")
    if not sys.platform.startswith("linux"):
        pytest.skip("only OpenSSL's store, on Linux, can be given the tests' authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "ca.pem"))
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def test_a_stalled_handshake_does_not_hold_up_others_on_its_context(
    peers: Peers, shared_context: Any
) -> None:
    stalled, release, outcomes = threading.Event(), threading.Event(), []

    def stall(conn: Any) -> None:
        conn.recv(65536)
        stalled.set()
        assert release.wait(HANG), "the others waited for the stalled one"

    def shake_hands(address: Address) -> None:
        try:
            connect_tls(address, shared_context).close()
            outcomes.append("done")
        except ssl.SSLError:
            outcomes.append("stalled")

    addresses = [peers.serve(stall), *(peers.serve_layers(silent, 1) for _ in range(15))]
    threads = [threading.Thread(target=shake_hands, args=[address]) for address in addresses]
    threads[0].start()
    assert stalled.wait(HANG)
    for thread in threads[1:]:
        thread.start()
    for thread in threads[1:]:
        thread.join(HANG)
    release.set()
    threads[0].join(HANG)
    assert outcomes == ["done"] * 15 + ["stalled"]


def test_it_verifies_and_shows_truncation_like_any_other(peers: Peers, shared_context: Any) -> None:
    address = peers.serve_tls(certificate="untrusted", refused=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        connect_tls(address, shared_context)
    address = peers.serve_layers(hang_up, 1)
    with connect_tls(address, shared_context) as stream, pytest.raises(ssl.SSLEOFError):
        stream.write(b"x")
        stream.read()
