"""TLS inside TLS: every layer is its own, and the deadline is one."""

from __future__ import annotations

import random
import ssl
import time
from typing import Any

import pytest

from peers import (
    HANG,
    Peers,
    client_context,
    connect_tls,
    echo,
    silent,
    take_from,
    times_out,
)


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_bytes_pass_in_both_directions_at_any_depth(peers: Peers, layers: int) -> None:
    payload = random.Random(0).randbytes(300_000)
    with connect_tls(peers.serve_layers(echo, layers), layers=layers) as stream:
        for start in range(0, len(payload), 50_000):
            expected = payload[start : start + 50_000]
            stream.write(expected)
            assert take_from(stream, 50_000) == expected


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_it_shows_the_innermost_tls_and_the_outermost_socket(peers: Peers, layers: int) -> None:
    with connect_tls(peers.serve_layers(silent, layers), layers=layers) as stream:
        inner, outer = stream.get_extra_info("ssl_object"), stream.get_extra_info("socket")
        assert isinstance(inner, ssl.SSLObject)
        assert isinstance(outer, ssl.SSLSocket)
        assert repr(stream).endswith(" TLS]>")


def test_each_layer_has_its_own_context(peers: Peers) -> None:
    proxy = peers.serve_proxy(peers.serve_tls(echo, alpn=["h2"], certificate="untrusted"))
    with connect_tls(proxy, client_context("ca"), hostname="proxy.test") as stream:
        stream.write(b"CONNECT server.test:443 HTTP/1.1\r\n\r\n")
        assert stream.read().startswith(b"HTTP/1.1 200")
        context = client_context("other-ca")
        context.set_alpn_protocols(["h2"])
        stream.start_tls(context, "server.test")
        assert stream.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        assert stream.get_extra_info("socket").selected_alpn_protocol() is None
        stream.write(b"hello")
        assert stream.read() == b"hello"


def test_records_that_mean_nothing_do_not_extend_the_deadline(peers: Peers) -> None:
    class Flooded(ssl.SSLSocket):
        """Always has one more record for the TLS inside: a HelloRequest, which OpenSSL ignores."""

        over = time.monotonic() + HANG

        def read(self, *args: Any) -> bytes:
            assert time.monotonic() < self.over, "it never looks at the deadline"
            return b"\x16\x03\x03\x00\x04" + bytes(4)

    context = client_context()
    context.sslsocket_class = Flooded
    stream = connect_tls(peers.serve_layers(silent, 1), context)
    with times_out(0.1):
        stream.start_tls(client_context(), "localhost")
