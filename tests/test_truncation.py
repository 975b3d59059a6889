"""An end without close_notify is truncation, on every Python, whatever the context says."""

from __future__ import annotations

import errno
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import httpx_net
from dialing import run_python
from peers import (
    CERTIFICATES,
    HANG,
    Address,
    Peers,
    client_context,
    connect_tls,
    reset,
    send_close_notify,
    server_context,
    silent,
    wait_until,
    wrap_server,
)

HIDES = ssl.OP_IGNORE_UNEXPECTED_EOF  # an option that is on by default in some releases

VERSIONS = [
    pytest.param(ssl.TLSVersion.TLSv1_2, id="TLSv1.2"),
    pytest.param(ssl.TLSVersion.TLSv1_3, id="TLSv1.3"),
]


def cut(conn: Any) -> None:
    """Say something, and end without a goodbye."""
    conn.sendall(b"half of it")


def end(conn: Any) -> None:
    """Say something, and end as one should, in each layer."""
    conn.sendall(b"all of it")
    while conn is not None:
        if isinstance(conn, ssl.SSLSocket):
            send_close_notify(conn)
        else:
            conn.send_close_notify()
        conn = getattr(conn, "outer", None)


def cut_inside(conn: Any) -> None:
    """End the outer stream as one should, and the inner one not at all: so does a proxy."""
    conn.sendall(b"half of it")
    send_close_notify(conn.outer)


def cut_outside(conn: Any) -> None:
    """End the inner stream as one should; what happens outside of it does not matter then."""
    conn.sendall(b"all of it")
    conn.send_close_notify()


def context_with(options: int) -> ssl.SSLContext:
    """A client's, in which truncation is hidden as *options* say, whatever the release does."""
    context = client_context()
    context.options = (context.options & ~HIDES) | options
    return context


@pytest.fixture(params=[0, HIDES], ids=["told", "hidden"])
def context(request: pytest.FixtureRequest) -> ssl.SSLContext:
    return context_with(request.param)


def assert_truncated(stream: httpx_net.NetworkStream) -> None:
    assert stream.read() == b"half of it"
    for _ in range(3):  # it stays what it is
        with pytest.raises(ssl.SSLEOFError, match="suppress_ragged_eofs=True") as caught:
            stream.read()
    assert "without close_notify" in str(caught.value)
    assert str(caught.value).startswith(f"read from 127.0.0.1:{server_port(stream)} failed: ")


def server_port(stream: httpx_net.NetworkStream) -> int:
    return int(stream.get_extra_info("server_addr")[1])


def assert_ended(stream: httpx_net.NetworkStream, said: bytes = b"all of it") -> None:
    assert [stream.read() for _ in range(4)] == [said, b"", b"", b""]


# ---- It is told


@pytest.mark.parametrize("version", VERSIONS)
def test_truncation_is_an_error(
    serve_tls: Callable[..., Address], context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    with connect_tls(serve_tls(cut, maximum_version=version), context) as stream:
        assert_truncated(stream)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_end_is_no_truncation(
    serve_tls: Callable[..., Address], context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    with connect_tls(serve_tls(end, maximum_version=version), context) as stream:
        assert_ended(stream)


def test_truncation_is_an_error_in_a_context_as_it_comes(
    serve_tls: Callable[..., Address],
) -> None:
    with connect_tls(serve_tls(cut), client_context()) as stream:
        assert_truncated(stream)


@pytest.mark.parametrize("how", [cut, cut_inside])
@pytest.mark.parametrize("layers", [2, 3])
def test_truncation_inside_is_an_error_however_the_outer_stream_ends(
    peers: Peers, context: ssl.SSLContext, how: Callable[[Any], None], layers: int
) -> None:
    if how is cut_inside and layers == 3:
        how = cut_between
    with connect_tls(peers.serve_tls_in_tls(how, layers=layers), context, layers=layers) as stream:
        assert_truncated(stream)


def cut_between(conn: Any) -> None:
    """End the outer two of three layers as one should."""
    conn.sendall(b"half of it")
    conn.outer.send_close_notify()
    send_close_notify(conn.outer.outer)


@pytest.mark.parametrize("version", VERSIONS)
def test_truncation_behind_a_proxy_is_an_error(
    peers: Peers, context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    proxy = peers.serve_proxy(peers.serve_tls(cut, maximum_version=version))
    with connect_tls(proxy, context) as stream, httpx_net.timeout(HANG / 2):
        stream.write(b"CONNECT server.test:443 HTTP/1.1\r\n\r\n")
        assert stream.read().startswith(b"HTTP/1.1 200")
        stream.start_tls(context, "server.test")
        assert stream.get_extra_info("ssl_object").version() == version.name.replace("_", ".")
        assert_truncated(stream)


@pytest.mark.parametrize("how", [end, cut_outside])
@pytest.mark.parametrize("layers", [2, 3])
def test_an_end_inside_is_no_truncation(
    peers: Peers, context: ssl.SSLContext, how: Callable[[Any], None], layers: int
) -> None:
    with connect_tls(peers.serve_tls_in_tls(how, layers=layers), context, layers=layers) as stream:
        assert_ended(stream)


@pytest.mark.parametrize("layers", [1, 2])
def test_truncation_is_an_error_where_is_readable_was_asked_first(
    peers: Peers, context: ssl.SSLContext, layers: int
) -> None:
    with connect_tls(peers.serve_tls_in_tls(cut, layers=layers), context, layers=layers) as stream:
        assert stream.read(4) == b"half"
        assert stream.read() == b" of it"
        wait_until(lambda: stream.get_extra_info("is_readable"))
        assert stream.get_extra_info("is_readable") is True
        for _ in range(3):
            with pytest.raises(ssl.SSLEOFError, match="suppress_ragged_eofs"):
                stream.read()


def test_half_a_record_and_no_more_is_truncation(peers: Peers, context: ssl.SSLContext) -> None:
    def half_a_record(inner: Any) -> None:
        inner.tls.write(b"x" * 100)
        inner.outer.sendall(inner.outgoing.read()[:50])
        send_close_notify(inner.outer)

    with (
        connect_tls(peers.serve_tls_in_tls(half_a_record), context, layers=2) as stream,
        pytest.raises(ssl.SSLEOFError, match="suppress_ragged_eofs"),
    ):
        stream.read()


@pytest.mark.parametrize("layers", [1, 2])
def test_the_end_is_said_again_each_time_while_tcp_stays_open(peers: Peers, layers: int) -> None:
    def end_and_stay(conn: Any) -> None:
        end(conn)
        while not isinstance(conn, ssl.SSLSocket):
            conn = conn.outer
        silent(conn)

    address = peers.serve_tls_in_tls(end_and_stay, layers=layers)
    with connect_tls(address, layers=layers) as stream, httpx_net.timeout(HANG / 2):
        assert_ended(stream)
        assert stream.get_extra_info("is_readable") is True


# ---- The way out


@pytest.mark.parametrize("version", VERSIONS)
def test_suppress_ragged_eofs_takes_truncation_for_the_end(
    serve_tls: Callable[..., Address], context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    address = serve_tls(cut, maximum_version=version)
    with connect_tls(address, context, suppress_ragged_eofs=True) as stream:
        assert_ended(stream, b"half of it")


@pytest.mark.parametrize("how", [cut, cut_inside])
def test_suppress_ragged_eofs_holds_inside_tls_too(
    peers: Peers, context: ssl.SSLContext, how: Callable[[Any], None]
) -> None:
    address = peers.serve_tls_in_tls(how)
    with connect_tls(address, context, layers=2, suppress_ragged_eofs=True) as stream:
        assert_ended(stream, b"half of it")


def test_suppress_ragged_eofs_can_be_asked_of_a_stream(
    serve_tls: Callable[..., Address], context: ssl.SSLContext
) -> None:
    sock = socket.create_connection(serve_tls(cut))
    with httpx_net.NetworkStream(sock, suppress_ragged_eofs=True) as stream:
        stream.start_tls(context, "localhost")
        assert_ended(stream, b"half of it")


@pytest.mark.parametrize("ask_first", [False, True])
@pytest.mark.parametrize("suppress", [False, True])
def test_a_reset_is_an_error_even_so(
    serve_tls: Callable[..., Address], context: ssl.SSLContext, suppress: bool, ask_first: bool
) -> None:
    address = serve_tls(reset, tickets=0)
    with connect_tls(address, context, suppress_ragged_eofs=suppress) as stream:
        stream.write(b"x")
        if ask_first:
            wait_until(lambda: stream.get_extra_info("is_readable"))
        with pytest.raises(ConnectionResetError, match=r"read from 127\.0\.0\.1:"):
            stream.read()


@pytest.mark.parametrize("ask_first", [False, True])
def test_a_reset_inside_tls_is_an_error_even_so(peers: Peers, ask_first: bool) -> None:
    def reset_below(inner: Any) -> None:
        assert inner.recv(1) == b"x"
        inner.outer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        inner.outer.close()

    address = peers.serve_tls_in_tls(reset_below)
    with connect_tls(address, layers=2, suppress_ragged_eofs=True) as stream:
        stream.write(b"x")
        if ask_first:
            wait_until(lambda: stream.get_extra_info("is_readable"))
        with pytest.raises(ConnectionResetError):
            stream.read()


def test_a_deadline_is_an_error_even_so(serve_tls: Callable[..., Address]) -> None:
    with connect_tls(serve_tls(), suppress_ragged_eofs=True) as stream:
        with httpx_net.timeout(0.05), pytest.raises(TimeoutError):
            stream.read()
        with httpx_net.timeout(0), pytest.raises(TimeoutError):
            stream.read()


# ---- The context is the caller's


@pytest.mark.parametrize("certificate", ["server", "wrong-name"])
def test_the_options_of_the_context_are_what_they_were(
    serve_tls: Callable[..., Address], context: ssl.SSLContext, certificate: str
) -> None:
    before = context.options
    address = serve_tls(certificate=certificate, refused=certificate != "server")
    try:
        connect_tls(address, context).close()
    except ssl.SSLCertVerificationError:
        assert certificate == "wrong-name"
    assert context.options == before


def test_ctrl_c_leaves_the_options_of_the_context_what_they_were(
    serve: Callable[..., Address],
) -> None:
    class Interrupted(ssl.SSLContext):
        def wrap_socket(self, *args: Any, **options: Any) -> Any:
            raise KeyboardInterrupt

    context = Interrupted(ssl.PROTOCOL_TLS_CLIENT)
    context.options |= HIDES
    before = context.options
    stream = httpx_net.NetworkBackend().connect(*serve(lambda conn: conn.recv(1)))
    with pytest.raises(KeyboardInterrupt):
        stream.start_tls(context, "localhost")
    assert context.options == before


def test_threads_that_share_a_context_are_all_told_and_leave_it_as_it_was(
    peers: Peers, context: ssl.SSLContext
) -> None:
    before, outcomes, together = context.options, [], threading.Barrier(8)

    def read_all(addresses: list[Address]) -> None:
        together.wait()
        for address in addresses:
            try:
                with connect_tls(address, context) as stream:
                    while stream.read():
                        pass
                outcomes.append("end")
            except ssl.SSLEOFError:
                outcomes.append("truncation")

    scenes = [[peers.serve_tls(cut) for _ in range(10)] for _ in range(8)]
    threads = [threading.Thread(target=read_all, args=[scene]) for scene in scenes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["truncation"] * 80
    assert context.options == before


def test_an_openssl_that_does_not_know_the_option_is_not_asked_for_it() -> None:
    script = "import ssl; del ssl.OP_IGNORE_UNEXPECTED_EOF"  # as with OpenSSL 1.1.1
    script += "; from httpx_net import _tls; print(_tls._HIDES_TRUNCATION)"
    assert run_python(script) == "0\n"


def test_only_one_thread_at_a_time_makes_a_connection_where_truncation_is_hidden(
    peers: Peers,
) -> None:
    """The scene in which putting the option back too early, or never, would show."""
    inside, go_on = threading.Event(), threading.Event()
    seen = []

    class Slow(ssl.SSLContext):
        def wrap_socket(self, *args: Any, **options: Any) -> Any:
            first = not inside.is_set()
            inside.set()
            seen.append(self.options & HIDES)
            if first:
                go_on.wait(0.1)  # time for the other to come, if it may
            seen.append(self.options & HIDES)
            return super().wrap_socket(*args, **options)

    context = Slow(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(CERTIFICATES / "ca.pem")
    context.options |= HIDES
    addresses = [peers.serve_tls(), peers.serve_tls()]
    first = threading.Thread(target=lambda: connect_tls(addresses[0], context).close())
    first.start()
    assert inside.wait(10)
    connect_tls(addresses[1], context).close()
    first.join()
    assert seen == [0] * 4
    assert context.options & HIDES


# ---- Corners


class Odd(ssl.SSLSocket):
    """An SSLSocket whose errors are not as OpenSSL's are."""

    def do_handshake(self, block: bool = False) -> None:
        if self.server_hostname == "nobody":
            raise ssl.SSLCertVerificationError("unknown authority")
        super().do_handshake(block)

    def read(self, *args: Any) -> Any:
        raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred")  # and no reason


@pytest.fixture
def odd() -> ssl.SSLContext:
    context = client_context()
    context.sslsocket_class = Odd
    return context


def test_an_error_of_one_argument_is_told_by_that(serve: Any, odd: ssl.SSLContext) -> None:
    with (
        httpx_net.NetworkBackend().connect(*serve(silent)) as stream,
        pytest.raises(ssl.SSLCertVerificationError) as caught,
    ):
        stream.start_tls(odd, "nobody")
    assert str(caught.value).startswith("TLS handshake for 'nobody' with 127.0.0.1:")
    assert str(caught.value).endswith(" failed: unknown authority")


@pytest.mark.parametrize(
    ("error", "told"), [(OSError(), " failed: "), (OSError(errno.EIO, ""), " failed: [Errno 5] ")]
)
def test_an_error_without_a_text_is_told_by_what_it_has(
    serve_tls: Any, odd: Any, monkeypatch: Any, error: OSError, told: str
) -> None:
    def read(*args: object) -> None:
        raise error

    monkeypatch.setattr(Odd, "read", read)
    with (
        connect_tls(serve_tls(silent), odd) as stream,
        pytest.raises(OSError, match="read from") as caught,
    ):
        stream.read()
    assert str(caught.value).endswith(told)


def test_an_end_on_a_connection_that_stands_is_no_reset(serve_tls: Any, odd: Any) -> None:
    with (
        connect_tls(serve_tls(silent), odd) as stream,
        pytest.raises(ssl.SSLEOFError, match="the stream ended without close_notify"),
    ):
        stream.read()


def test_an_end_on_a_connection_that_is_gone_is_a_reset(serve_tls: Any, odd: Any) -> None:
    def gone() -> bool:
        with suppress(OSError):
            return not stream.get_extra_info("socket").getpeername()
        return True

    with connect_tls(serve_tls(reset), odd) as stream:
        stream.write(b"?")
        wait_until(gone)
        with pytest.raises(ConnectionResetError, match="read from"):
            stream.read()


def test_a_cut_with_bytes_unread_is_no_end(serve_pair: Any) -> None:
    def peer(conn: socket.socket) -> None:
        tls = wrap_server(server_context("server"), conn)
        received.wait(HANG)
        tls.close()  # over unread bytes, which is a reset on a Unix socket, too

    received = threading.Event()
    with httpx_net.NetworkStream(serve_pair(peer)) as stream:
        stream.start_tls(client_context(), hostname="localhost")
        stream.write(b"x" * 20_000)
        received.set()
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            stream.read()


def test_a_truncation_is_said_again_with_its_reason(serve_tls: Any) -> None:
    with connect_tls(serve_tls(lambda conn: None, tickets=0)) as stream:
        for _ in range(3):
            with pytest.raises(ssl.SSLEOFError) as caught:
                stream.read()
            assert caught.value.reason == "UNEXPECTED_EOF_WHILE_READING"
