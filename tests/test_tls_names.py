"""Whom the certificate has to be for: names as people write them, as certificates have them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

import httpx_net
from peers import (
    Address,
    Peers,
    client_context,
    connect_tls,
    echo,
    server_context,
    silent,
    wrap_server,
)

# as written, as it is verified
NAMES = [
    ("localhost", "localhost"),
    ("LocalHost", "LocalHost"),
    ("localhost.", "localhost"),
    ("server.test.", "server.test"),
    ("127.0.0.1", "127.0.0.1"),
    ("::1", "::1"),
    ("[::1]", "::1"),
    ("::1%lo", "::1"),
    ("[::1%1]", "::1"),
    ("0:0:0:0:0:0:0:1", "0:0:0:0:0:0:0:1"),
    ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("XN--BCHER-KVA.example", "XN--BCHER-KVA.example"),
    ("bücher.example", "xn--bcher-kva.example"),
    ("bücher.example.", "xn--bcher-kva.example"),
    ("BÜCHER.example", "xn--bcher-kva.example"),
]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("written", "verified"), NAMES)
def test_a_name_is_verified_however_it_is_written(
    peers: Peers, written: str, verified: str, layers: int
) -> None:
    address = peers.serve_tls_in_tls(layers=layers)
    with connect_tls(address, hostname=written, layers=layers) as stream:
        assert stream.get_extra_info("ssl_object").server_hostname.lower() == verified.lower()


@pytest.mark.parametrize(
    "written",
    ["elsewhere.test", "sub.server.test", "127.0.0.2", "::2", "[::2]", "example", "server.tes"],
)
def test_another_name_is_refused(serve_tls: Callable[..., Address], written: str) -> None:
    address = serve_tls(refused=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        connect_tls(address, hostname=written)


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("server.test", "server.test"),
        ("server.test.", "server.test"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("127.0.0.1", None),  # RFC 6066, section 3: no literal addresses
        ("[::1]", None),
    ],
)
def test_the_server_is_told_the_name(
    serve: Callable[..., Address], written: str, sent: str | None
) -> None:
    told: list[str | None] = []
    context = server_context("server")
    context.sni_callback = lambda _, name, __: told.append(name)  # type: ignore[assignment]

    def listens(conn: socket.socket) -> None:
        with wrap_server(context, conn) as tls:
            silent(tls)

    connect_tls(serve(listens), hostname=written).close()
    assert told == [sent]


# ---- Without a name


def unchecking_context() -> ssl.SSLContext:
    """One that trusts any server that the authority has vouched for, whatever its name."""
    context = client_context()
    context.check_hostname = False
    return context


@pytest.mark.parametrize("layers", [1, 2])
def test_none_is_no_name_where_the_context_does_not_check_it(peers: Peers, layers: int) -> None:
    address = peers.serve_tls_in_tls(echo, layers=layers, certificate="wrong-name")
    with connect_tls(address, unchecking_context(), hostname=None, layers=layers) as stream:
        assert stream.get_extra_info("ssl_object").server_hostname is None
        stream.write(b"hello")
        assert stream.read() == b"hello"


def test_an_error_without_a_name_still_says_with_whom(serve_tls: Callable[..., Address]) -> None:
    address = serve_tls(certificate="untrusted", refused=True)
    whom = rf"TLS handshake with 127\.0\.0\.1:{address[1]} failed: .*unable to get local issuer"
    with pytest.raises(ssl.SSLCertVerificationError, match=whom):
        connect_tls(address, unchecking_context(), hostname=None)


# ---- Refused before the socket is touched


def assert_refused(
    serve: Callable[..., Address], error: type[Exception], context: Any, hostname: Any
) -> None:
    with httpx_net.NetworkBackend().connect(*serve(echo)) as stream:
        sock = stream.get_extra_info("socket")
        with pytest.raises(error):
            stream.start_tls(context, hostname)
        assert stream.get_extra_info("socket") is sock
        assert stream.get_extra_info("ssl_object") is None
        assert "TLS" not in repr(stream)
        stream.write(b"in clear, and the first")  # an echo of anything else would come before
        assert stream.read() == b"in clear, and the first"


@pytest.mark.parametrize(
    "hostname",
    [
        *("", ".", "..", "a..b", ".a", "a" * 64, "a." * 127 + "a", "a\0b", "localhost\0.evil"),
        *(" localhost", "local host", "localhost\n", "::g", "[::1", "::1%", "1:2"),
        *("straße.de", "bü..example", "ü" * 70, "\ud800"),
    ],
)
def test_a_name_that_no_certificate_can_have_leaves_the_stream_as_it_was(
    serve: Callable[..., Address], hostname: str
) -> None:
    assert_refused(serve, ValueError, client_context(), hostname)


@pytest.mark.parametrize("hostname", [b"localhost", 1, True, ["localhost"], object()])
def test_what_is_no_name_leaves_the_stream_as_it_was(
    serve: Callable[..., Address], hostname: Any
) -> None:
    assert_refused(serve, TypeError, client_context(), hostname)


def test_none_where_the_context_checks_names_leaves_the_stream_as_it_was(
    serve: Callable[..., Address],
) -> None:
    assert_refused(serve, ValueError, client_context(), None)


@pytest.mark.parametrize("context", [None, "localhost", object(), ssl])
def test_what_is_no_context_leaves_the_stream_as_it_was(
    serve: Callable[..., Address], context: Any
) -> None:
    assert_refused(serve, TypeError, context, "localhost")
