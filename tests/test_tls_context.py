"""The context is the caller's: what it asks for happens, and whatever behaves like one will do."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import httpx_net
from conftest import open_descriptors
from httpx_net import _tls
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
    wait_until,
    wrap_server,
)


class Delegating:
    """Behaves like an ``ssl.SSLContext``, and is none. *extra* is for ``wrap_...``."""

    __slots__ = ("_context", "_extra")

    def __init__(self, context: ssl.SSLContext, **extra: Any) -> None:
        object.__setattr__(self, "_context", context)
        object.__setattr__(self, "_extra", extra)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._context, name, value)

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        return self._context.wrap_socket(*args, **options, **self._extra)

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        return self._context.wrap_bio(*args, **options, **self._extra)


class Unhashable(Delegating):
    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other


@pytest.fixture(params=[1, 2], ids=["TLS", "TLS in TLS"])
def layers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.parametrize("kind", [Delegating, Unhashable])
@pytest.mark.parametrize("hides", [False, True])
def test_whatever_behaves_like_a_context_will_do(
    peers: Peers, layers: int, kind: Callable[[Any], Any], hides: bool
) -> None:
    context = client_context()
    if hides:
        context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    address = peers.serve_tls_in_tls(lambda conn: conn.sendall(b"hello"), layers=layers)
    with connect_tls(address, kind(context), layers=layers) as stream:
        assert stream.read() == b"hello"
        with pytest.raises(ssl.SSLEOFError):
            stream.read()


@pytest.mark.parametrize("kind", [ssl.SSLContext, Delegating])
def test_the_socket_is_of_the_class_that_the_context_wants(
    serve_tls: Callable[..., Address], kind: type
) -> None:
    class Mine(ssl.SSLSocket):
        pass

    context = client_context()
    context.sslsocket_class = Mine
    with connect_tls(
        serve_tls(), context if kind is ssl.SSLContext else Delegating(context)
    ) as stream:
        assert type(stream.get_extra_info("socket")) is Mine
        assert stream.get_extra_info("ssl_object") is stream.get_extra_info("socket")


# ---- What a client needs of it, read back


def serve_with(peers: Peers, layers: int, server: ssl.SSLContext, handler: Any = silent) -> Address:
    """A peer whose innermost TLS is as *server* has it."""
    if layers == 2:
        return peers.serve_tls(lambda conn: handler(TLSInside(server, conn)), tickets=0)

    def secured(conn: Any) -> None:
        with wrap_server(server, conn) as tls:
            handler(tls)

    return peers.serve(secured)


def connect_with(address: Address, layers: int, context: Any) -> httpx_net.NetworkStream:
    """A stream to it; *context* is for the innermost TLS."""
    stream = connect_tls(address, layers=layers - 1)
    stream.start_tls(context, "localhost")
    return stream


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), (["spdy/1"], None), ([], None)],
)
def test_alpn(peers: Peers, layers: int, offered: list[str], chosen: str | None) -> None:
    server, client = server_context("server"), client_context()
    server.set_alpn_protocols(["h2", "http/1.1"])
    if offered:
        client.set_alpn_protocols(offered)
    with connect_with(serve_with(peers, layers, server), layers, client) as stream:
        assert stream.get_extra_info("ssl_object").selected_alpn_protocol() == chosen


def show_client(conn: Any) -> None:
    tls = getattr(conn, "tls", conn)
    conn.sendall(repr(tls.getpeercert()["subjectAltName"]).encode())


def test_a_client_certificate(peers: Peers, layers: int) -> None:
    server = server_context("server", client_ca="ca")
    client = client_context(certificate="client")
    with connect_with(serve_with(peers, layers, server, show_client), layers, client) as stream:
        assert stream.read() == b"(('DNS', 'client.test'),)"
        assert stream.get_extra_info("ssl_object").context is client


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_that_is_missing(
    serve_tls: Callable[..., Address], version: ssl.TLSVersion
) -> None:
    address = serve_tls(client_ca="ca", refused=True, maximum_version=version)
    # On TLS 1.3 the client is done before the server has looked: the first read tells.
    with (
        pytest.raises((ssl.SSLError, ConnectionError), match=r"127\.0\.0\.1"),
        connect_tls(address) as stream,
    ):
        stream.read()


def test_a_client_certificate_that_is_asked_for_while_the_client_reads(peers: Peers) -> None:
    """The answer is the TLS layer's own: nobody writes it, so the read has to send it."""

    def ask(inner: TLSInside) -> None:
        inner.tls.verify_client_post_handshake()
        inner.tls.do_handshake()  # which makes the question
        inner.flush()
        while not inner.tls.getpeercert():
            inner.incoming.write(inner.outer.recv(65536))
            with pytest.raises(ssl.SSLWantReadError):
                inner.tls.read(1)
        show_client(inner)

    server = server_context("server", client_ca="ca")
    client = client_context(certificate="client")
    server.post_handshake_auth = client.post_handshake_auth = True
    address = serve_with(peers, 2, server, ask)
    with connect_with(address, 2, client) as stream, httpx_net.timeout(HANG / 2):
        assert stream.read() == b"(('DNS', 'client.test'),)"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_session_resumption(peers: Peers, layers: int, version: ssl.TLSVersion) -> None:
    server, client = server_context("server"), client_context()
    server.maximum_version = version
    with connect_with(serve_with(peers, layers, server, echo), layers, client) as stream:
        stream.write(b"x")
        assert stream.read() == b"x"  # on TLS 1.3 the ticket comes before it
        session = stream.get_extra_info("ssl_object").session
        assert stream.get_extra_info("ssl_object").session_reused is False
    resuming = Delegating(client, session=session)
    with connect_with(serve_with(peers, layers, server, echo), layers, resuming) as stream:
        assert stream.get_extra_info("ssl_object").session_reused is True
        stream.write(b"again")
        assert stream.read() == b"again"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(peers: Peers, layers: int, version: ssl.TLSVersion) -> None:
    client = client_context()
    client.minimum_version = client.maximum_version = version
    address = serve_with(peers, layers, server_context("server"))
    with connect_with(address, layers, client) as stream:
        tls = stream.get_extra_info("ssl_object")
        assert tls.version() == version.name.replace("_", ".")
        assert tls.context.minimum_version == version


def test_a_minimum_version_that_the_peer_does_not_have(serve_tls: Callable[..., Address]) -> None:
    client = client_context()
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    address = serve_tls(maximum_version=ssl.TLSVersion.TLSv1_2, refused=True)
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        connect_tls(address, client)


def test_the_key_log(peers: Peers, layers: int, tmp_path: Path) -> None:
    client = client_context()
    client.keylog_filename = str(tmp_path / "keys")
    address = serve_with(peers, layers, server_context("server"))
    with connect_with(address, layers, client) as stream:
        log = stream.get_extra_info("ssl_object").context.keylog_filename
    assert Path(log).read_text().count("CLIENT_TRAFFIC_SECRET_0") == 1


def test_ciphers(peers: Peers, layers: int) -> None:
    client = client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    address = serve_with(peers, layers, server_context("server"))
    with connect_with(address, layers, client) as stream:
        cipher = stream.get_extra_info("ssl_object").cipher()
        assert cipher[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"


# ---- A socket that is TLS already


def wrapped_socket(address: Address, **options: Any) -> ssl.SSLSocket:
    context = client_context()
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # here that is the caller's business
    sock = socket.create_connection(address, timeout=HANG)
    return context.wrap_socket(sock, server_hostname="localhost", **options)


def test_a_stream_of_a_socket_that_is_tls_already(serve_tls: Callable[..., Address]) -> None:
    sock = wrapped_socket(serve_tls(echo))
    with httpx_net.NetworkStream(sock) as stream:
        assert repr(stream).endswith(" TLS]>")
        assert stream.get_extra_info("ssl_object") is stream.get_extra_info("socket") is sock
        stream.write(bytes(100_000))
        assert len(read_exactly(stream, 100_000)) == 100_000
        with httpx_net.timeout(0.05), pytest.raises(TimeoutError):
            stream.read()
        assert stream.get_extra_info("is_readable") is False


@pytest.mark.parametrize("suppress", [False, True])
def test_truncation_of_a_socket_that_is_tls_already(
    serve_tls: Callable[..., Address], suppress: bool
) -> None:
    sock = wrapped_socket(serve_tls(lambda conn: conn.sendall(b"x")), suppress_ragged_eofs=True)
    with httpx_net.NetworkStream(sock, suppress_ragged_eofs=suppress) as stream:
        assert stream.read() == b"x"
        if suppress:
            assert stream.read() == b""
        else:
            with pytest.raises(ssl.SSLEOFError, match="suppress_ragged_eofs"):
                stream.read()


def test_tls_inside_of_a_socket_that_is_tls_already(peers: Peers) -> None:
    with httpx_net.NetworkStream(wrapped_socket(peers.serve_tls_in_tls(echo))) as stream:
        stream.start_tls(client_context(), "localhost")
        stream.write(b"hello")
        assert stream.read() == b"hello"


def test_closing_a_socket_that_is_tls_already_says_goodbye(
    serve_tls: Callable[..., Address],
) -> None:
    def hears(conn: ssl.SSLSocket) -> None:
        assert conn.recv(1) == b""

    httpx_net.NetworkStream(wrapped_socket(serve_tls(hears, tickets=0))).close()


def read_exactly(stream: httpx_net.NetworkStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += stream.read(size - len(data))
    return data


# ---- Corners


@pytest.mark.parametrize("an_earlier_one_with_its_id_had_some", [False, True])
def test_a_context_needs_no_options(
    serve_tls: Any, monkeypatch: pytest.MonkeyPatch, an_earlier_one_with_its_id_had_some: bool
) -> None:
    class Context:
        wrap_socket = staticmethod(client_context().wrap_socket)
        wrap_bio = staticmethod(client_context().wrap_bio)

    context = Context()
    seen = {id(context)} if an_earlier_one_with_its_id_had_some else set()
    monkeypatch.setattr(_tls, "_hiding", seen)
    with connect_tls(serve_tls(silent), context) as stream:
        assert stream.get_extra_info("ssl_object").version() == "TLSv1.3"


class InterruptedContext:
    """A context that hides truncation, with an interrupt while its options are put back."""

    def __init__(self) -> None:
        self._context = client_context()
        self._options = int(ssl.OP_IGNORE_UNEXPECTED_EOF)

    @property
    def options(self) -> int:
        return self._options

    @options.setter
    def options(self, options: int) -> None:
        back, self._options = bool(options), options
        if back:
            raise KeyboardInterrupt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def test_an_interrupt_behind_wrap_socket_leaves_nothing_open(serve: Any) -> None:
    before = len(open_descriptors())
    stream = httpx_net.NetworkBackend().connect(*serve(silent))
    with pytest.raises(KeyboardInterrupt):
        stream.start_tls(context := InterruptedContext(), "localhost")
    assert repr(stream).endswith(" CLOSED]>")
    assert context.options
    wait_until(lambda: len(open_descriptors()) <= before)
