"""STARTTLS: what was said before the handshake stays apart from what is said after it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import pytest

import httpx_net
from peers import (
    Peers,
    TLSInside,
    client_context,
    connect_tls,
    echo,
    server_context,
    wait_until,
)


@pytest.fixture(params=[0, 1], ids=["on TCP", "inside TLS"])
def below(request: pytest.FixtureRequest) -> int:
    """How many layers of TLS the conversation begins in."""
    return int(request.param)


def ask_for_tls(
    peers: Peers, below: int, answer: bytes, then: Callable[[Any], object]
) -> httpx_net.NetworkStream:
    """A stream to a peer that has been asked for TLS, and has agreed; *then* is what it does."""

    def upgrade(conn: Any) -> None:
        conn.sendall(b"220 ready\r\n")
        assert conn.recv(10) == b"STARTTLS\r\n"
        conn.sendall(answer)
        then(conn)

    stream = connect_tls(peers.serve_layers(upgrade, below), layers=below)
    assert stream.read(11) == b"220 ready\r\n"
    stream.write(b"STARTTLS\r\n")
    assert stream.read(8) == b"220 go\r\n"
    return stream


def test_a_stream_is_upgraded_in_place(peers: Peers, below: int) -> None:
    def upgrade(conn: Any) -> None:
        # Nothing but the handshake comes, or this would fail.
        echo(TLSInside(server_context("server"), conn))

    with ask_for_tls(peers, below, b"220 go\r\n", upgrade) as stream:
        keys = "client_addr", "server_addr"
        addresses = [stream.get_extra_info(key) for key in keys]
        assert stream.start_tls(client_context(), "localhost") is None  # type: ignore[func-returns-value]
        assert [stream.get_extra_info(key) for key in keys] == addresses
        stream.write(b"secret")
        assert stream.read() == b"secret"


@pytest.mark.parametrize("asked_first", [False, True])
def test_what_was_injected_before_the_handshake_is_not_read_after_it(
    peers: Peers, below: int, asked_first: bool
) -> None:
    """As in CVE-2011-0411: a man in the middle adds to the answer what is then trusted."""

    def fail(conn: Any) -> None:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            TLSInside(server_context("server"), conn).recv(1)

    stream = ask_for_tls(peers, below, b"220 go\r\n250 injected\r\n", fail)
    if asked_first:
        wait_until(lambda: stream.get_extra_info("is_readable"))
    with pytest.raises(ssl.SSLError, match="TLS handshake for 'localhost'"):
        stream.start_tls(client_context(), "localhost")
    with pytest.raises(OSError, match="the stream is closed"):
        stream.read()
