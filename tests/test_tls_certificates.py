"""Who a server has to prove to be: bad certificates, as badssl.com has them, and names."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from peers import (
    CERTIFICATES,
    Peers,
    TLSInside,
    client_context,
    connect_tls,
    echo,
    server_context,
    silent,
    wait_until,
)

both_layers = pytest.mark.parametrize("layers", [1, 2], ids=["TLS", "TLS in TLS"])


# ---- Certificates


def revoking_context() -> ssl.SSLContext:
    """One that looks certificates up in the list of those that were revoked."""
    context = client_context()
    context.load_verify_locations(CERTIFICATES / "crl.pem")
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


@both_layers
@pytest.mark.parametrize(
    ("certificate", "reason", "code"),
    [
        ("expired", "certificate has expired", 10),
        ("wrong-name", "Hostname mismatch, certificate is not valid for 'localhost'", 62),
        ("self-signed", "self.signed certificate", 18),
        ("untrusted", "unable to get local issuer certificate", 20),
        ("incomplete-chain", "unable to get local issuer certificate", 20),
        ("revoked", "certificate revoked", 23),
    ],
)
def test_a_bad_certificate_is_refused_and_the_peer_hears_why(
    peers: Peers, layers: int, certificate: str, reason: str, code: int
) -> None:
    heard: list[object] = []

    def refused(conn: Any) -> None:
        with pytest.raises(ssl.SSLError) as caught:
            TLSInside(server_context(certificate), conn)
        # Whatever is around the failed layer ends in an orderly way.
        heard.extend([caught.value.reason, conn.recv(1)])

    stream = connect_tls(peers.serve_layers(refused, layers - 1), layers=layers - 1)
    with pytest.raises(ssl.SSLCertVerificationError, match=reason) as caught:
        stream.start_tls(
            revoking_context() if certificate == "revoked" else client_context(), "localhost"
        )
    assert caught.value.verify_code == code
    assert repr(stream).endswith(" CLOSED]>")
    wait_until(lambda: len(heard) == 2)
    assert "ALERT" in str(heard[0])
    assert heard[1] == b""


@pytest.mark.parametrize(
    ("certificate", "context"),
    [
        ("server", client_context()),
        ("chained", client_context()),
        ("untrusted", client_context("other-ca")),
        ("server", revoking_context()),
        # Only a context that has the list looks at it.
        ("revoked", client_context()),
    ],
)
def test_a_good_certificate_is_accepted(
    peers: Peers, certificate: str, context: ssl.SSLContext
) -> None:
    address = peers.serve_tls(certificate=certificate)
    with connect_tls(address, context) as stream:
        assert stream.get_extra_info("ssl_object").getpeercert()


def test_a_context_that_verifies_nothing_accepts_anything(peers: Peers) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with connect_tls(peers.serve_tls(certificate="self-signed"), context) as stream:
        assert stream.get_extra_info("ssl_object").getpeercert() == {}


# ---- Names


@both_layers
@pytest.mark.parametrize(
    ("written", "verified"),
    [
        ("localhost", "localhost"),
        ("LocalHost", "localhost"),
        ("localhost.", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("::1%lo", "::1"),
        ("[::1%1]", "::1"),
        ("0:0:0:0:0:0:0:1", "0:0:0:0:0:0:0:1"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("bücher.example.", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
    ],
)
def test_a_name_is_verified_however_it_is_written(
    peers: Peers, layers: int, written: str, verified: str
) -> None:
    address = peers.serve_layers(silent, layers)
    with connect_tls(address, hostname=written, layers=layers) as stream:
        assert stream.get_extra_info("ssl_object").server_hostname.lower() == verified


@both_layers
@pytest.mark.parametrize(
    "written", ["elsewhere.test", "sub.server.test", "127.0.0.2", "::2", "[::2]", "server.tes"]
)
def test_another_name_is_refused(peers: Peers, layers: int, written: str) -> None:
    def refused(conn: Any) -> None:
        with pytest.raises(ssl.SSLError):
            TLSInside(server_context("server"), conn)

    address = peers.serve_layers(refused, layers - 1)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        connect_tls(address, hostname=written, layers=layers)


@both_layers
@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("server.test.", "server.test"),
        ("bücher.example", "xn--bcher-kva.example"),
        # RFC 6066, section 3: addresses are not sent.
        ("127.0.0.1", None),
        ("[::1]", None),
    ],
)
def test_the_server_is_sent_the_name(
    peers: Peers, layers: int, written: str, sent: str | None
) -> None:
    seen: list[str | None] = []
    context = server_context("server")
    context.sni_callback = lambda _, name, __: seen.append(name)  # type: ignore[assignment]
    address = peers.serve_layers(silent, layers, context)
    connect_tls(address, hostname=written, layers=layers).close()
    assert seen == [sent]


@both_layers
def test_without_a_name_none_is_verified(peers: Peers, layers: int) -> None:
    context = client_context()
    context.check_hostname = False
    address = peers.serve_layers(echo, layers, server_context("wrong-name"))
    with connect_tls(address, context, hostname=None, layers=layers) as stream:
        assert stream.get_extra_info("ssl_object").server_hostname is None
        stream.write(b"hello")
        assert stream.read() == b"hello"


# ---- Refused before the socket is touched


@pytest.mark.parametrize(
    ("error", "hostname"),
    [
        *((ValueError, name) for name in ("", ".", "..", "a..b", ".a", "a" * 64, "a." * 127 + "a")),
        *((ValueError, name) for name in ("a\0b", "localhost\0.evil", " localhost", "localhost\n")),
        *((ValueError, name) for name in ("::g", "[::1", "::1%", "1:2")),
        *((ValueError, name) for name in ("straße.de", "bü..example", "ü" * 70, "\ud800")),
        *((TypeError, thing) for thing in (b"localhost", 1, True, ["localhost"])),
        # The context checks the name, so there has to be one.
        (ValueError, None),
    ],
)
@pytest.mark.parametrize("below", [0, 1], ids=["on TCP", "inside TLS"])
def test_a_bad_hostname_leaves_the_stream_as_it_was(
    peers: Peers, below: int, error: type[Exception], hostname: Any
) -> None:
    assert_refused(peers, below, error, client_context(), hostname)


@pytest.mark.parametrize("context", [None, "localhost", object(), ssl])
def test_what_is_no_context_leaves_the_stream_as_it_was(peers: Peers, context: Any) -> None:
    assert_refused(peers, 0, TypeError, context, "localhost")


def assert_refused(
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
