"""Certificates as badssl.com has them: each refused, with a text that tells what is wrong."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest

import httpx_net
from peers import (
    CERTIFICATES,
    Address,
    TLSInside,
    client_context,
    connect_tls,
    server_context,
    wait_until,
)

NO_ISSUER = "unable to get local issuer certificate"

REFUSED = [
    ("expired", "certificate has expired", 10),
    ("wrong-name", "Hostname mismatch, certificate is not valid for 'localhost'", 62),
    ("self-signed", "self.signed certificate", 18),
    ("untrusted", NO_ISSUER, 20),
    ("incomplete-chain", NO_ISSUER, 20),
    ("revoked", "certificate revoked", 23),
]


def revoking_context() -> ssl.SSLContext:
    """One that looks certificates up in the list of those that were revoked."""
    context = client_context()
    context.load_verify_locations(CERTIFICATES / "crl.pem")
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


@pytest.mark.parametrize(("certificate", "reason", "code"), REFUSED)
def test_a_bad_certificate_is_refused_by_name(
    serve_tls: Callable[..., Address], certificate: str, reason: str, code: int
) -> None:
    address = serve_tls(certificate=certificate, refused=True)
    context = revoking_context() if certificate == "revoked" else client_context()
    stream = httpx_net.NetworkBackend().connect(*address)
    with pytest.raises(ssl.SSLCertVerificationError, match=reason) as caught:
        stream.start_tls(context, "localhost")
    assert f"TLS handshake for 'localhost' with 127.0.0.1:{address[1]} failed" in str(caught.value)
    assert caught.value.verify_code == code
    assert repr(stream).endswith(" CLOSED]>")


@pytest.mark.parametrize(("certificate", "reason", "code"), REFUSED)
def test_a_bad_certificate_is_refused_inside_tls_too_and_the_peer_is_told(
    serve_tls: Callable[..., Address], certificate: str, reason: str, code: int
) -> None:
    alerts = []

    def refused(outer: ssl.SSLSocket) -> None:
        with pytest.raises(ssl.SSLError) as caught:
            TLSInside(server_context(certificate), outer)
        alerts.append(caught.value.reason)
        assert outer.recv(1) == b""  # and the outer stream ends as it should

    stream = connect_tls(serve_tls(refused, tickets=0))
    with pytest.raises(ssl.SSLCertVerificationError, match=reason) as caught:
        stream.start_tls(
            revoking_context() if certificate == "revoked" else client_context(), "localhost"
        )
    assert caught.value.verify_code == code
    assert repr(stream).endswith(" CLOSED]>")
    wait_until(lambda: alerts)
    assert "ALERT" in alerts[0]


@pytest.mark.parametrize(
    ("certificate", "context"),
    [
        ("server", client_context()),
        ("chained", client_context()),
        ("untrusted", client_context("other-ca")),
        ("server", revoking_context()),
        ("revoked", client_context()),  # nobody looks, unless told to
    ],
)
def test_a_good_one_is_taken(
    serve_tls: Callable[..., Address], certificate: str, context: ssl.SSLContext
) -> None:
    with connect_tls(serve_tls(certificate=certificate), context) as stream:
        assert stream.get_extra_info("ssl_object").getpeercert()


def test_what_the_context_does_not_verify_is_not_verified(
    serve_tls: Callable[..., Address],
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with connect_tls(serve_tls(certificate="self-signed"), context) as stream:
        assert stream.get_extra_info("ssl_object").getpeercert() == {}
