"""Who a server has to prove to be, and what the arguments of ``start_tls`` have to be for that."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from peers import Peers, TLSInside, client_context, connect_tls, echo, server_context, silent

both_layers = pytest.mark.parametrize("layers", [1, 2], ids=["TLS", "TLS in TLS"])


@both_layers
@pytest.mark.parametrize(
    ("certificate", "hostname", "code", "reason"),
    [
        ("expired", "localhost", 10, "certificate has expired"),
        ("self-signed", "localhost", 18, "self.signed certificate"),
        ("untrusted", "localhost", 20, "unable to get local issuer certificate"),
        ("wrong-name", "localhost", 62, "Hostname mismatch.* not valid for 'localhost'"),
        ("server", "sub.server.test.", 62, "Hostname mismatch.* not valid for 'sub.server.test'"),
        ("server", "127.0.0.2", 64, r"IP address mismatch.* not valid for '127\.0\.0\.2'"),
        ("server", "[::2%1]", 64, "IP address mismatch.* not valid for '::2'"),
    ],
)
def test_who_proves_something_else_is_refused_and_hears_why(
    peers: Peers, layers: int, certificate: str, hostname: str, code: int, reason: str
) -> None:
    def refused(conn: Any) -> None:
        with pytest.raises(ssl.SSLError, match="ALERT"):
            TLSInside(server_context(certificate), conn)
        # Whatever is around the failed layer ends in an orderly way.
        assert conn.recv(1) == b""

    stream = connect_tls(peers.serve_layers(refused, layers - 1), layers=layers - 1)
    with pytest.raises(ssl.SSLCertVerificationError, match=reason) as caught:
        stream.start_tls(client_context(), hostname)
    assert caught.value.verify_code == code
    assert repr(stream).endswith(" CLOSED]>")


def lenient(verify_mode: ssl.VerifyMode) -> ssl.SSLContext:
    """A context that verifies no name."""
    context = client_context()
    context.check_hostname = False
    context.verify_mode = verify_mode
    return context


@both_layers
@pytest.mark.parametrize(
    ("certificate", "context", "hostname"),
    [
        ("untrusted", client_context("other-ca"), "localhost"),
        ("wrong-name", lenient(ssl.CERT_REQUIRED), None),
        ("self-signed", lenient(ssl.CERT_NONE), "localhost"),
    ],
)
def test_whom_the_context_accepts_is_accepted(
    peers: Peers, layers: int, certificate: str, context: ssl.SSLContext, hostname: str | None
) -> None:
    address = peers.serve_layers(echo, layers, server_context(certificate))
    with connect_tls(address, context, hostname=hostname, layers=layers) as stream:
        assert stream.get_extra_info("ssl_object").server_hostname == hostname
        stream.write(b"hello")
        assert stream.read() == b"hello"


@both_layers
@pytest.mark.parametrize(
    ("written", "verified", "sent"),
    [
        ("localhost", "localhost", "localhost"),
        ("server.test.", "server.test", "server.test"),
        ("bücher.example.", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        # RFC 6066, section 3: addresses are not sent.
        ("127.0.0.1", "127.0.0.1", None),
        ("[::1]", "::1", None),
        ("::1%lo", "::1", None),
        ("0:0:0:0:0:0:0:1", "0:0:0:0:0:0:0:1", None),
    ],
)
def test_a_name_is_verified_and_sent_however_it_is_written(
    peers: Peers, layers: int, written: str, verified: str, sent: str | None
) -> None:
    seen: list[str | None] = []
    context = server_context("server")
    context.sni_callback = lambda _, name, __: seen.append(name)  # type: ignore[assignment]
    address = peers.serve_layers(silent, layers, context)
    with connect_tls(address, hostname=written, layers=layers) as stream:
        assert stream.get_extra_info("ssl_object").server_hostname == verified
    assert seen == [sent]


@pytest.mark.parametrize(
    ("error", "context", "hostname"),
    [
        *((ValueError, client_context(), bad) for bad in ("", "a..b", "a\0b", "[::1", "straße.de")),
        (TypeError, client_context(), b"localhost"),
        # The context checks the name, so there has to be one.
        (ValueError, client_context(), None),
        (ValueError, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), None),
        *((TypeError, no_context, "localhost") for no_context in (None, "localhost", object())),
    ],
)
@pytest.mark.parametrize("below", [0, 1], ids=["on TCP", "inside TLS"])
def test_bad_arguments_leave_the_stream_as_it_was(
    peers: Peers, below: int, error: type[Exception], context: Any, hostname: Any
) -> None:
    def shown() -> list[object]:
        return [repr(stream), *map(stream.get_extra_info, ("socket", "ssl_object"))]

    with connect_tls(peers.serve_layers(echo, below), layers=below) as stream:
        before = shown()
        with pytest.raises(error):
            stream.start_tls(context, hostname)
        assert shown() == before
        # An echo of anything that went out earlier would come first.
        stream.write(b"still here")
        assert stream.read() == b"still here"
