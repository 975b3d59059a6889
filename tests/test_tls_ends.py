"""An end without close_notify is truncation, on every Python, whatever the context says."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

import httpx_net
from peers import (
    CERTIFICATES,
    HANG,
    Address,
    Peers,
    bottom,
    client_context,
    connect_tls,
    say_goodbye,
    server_context,
    silent,
)

# Early releases of 3.10 and 3.11 have this option on in every context, and then OpenSSL takes
# truncation for an end.
HIDES = ssl.OP_IGNORE_UNEXPECTED_EOF

VERSIONS = [
    pytest.param(ssl.TLSVersion.TLSv1_2, id="TLSv1.2"),
    pytest.param(ssl.TLSVersion.TLSv1_3, id="TLSv1.3"),
]


@pytest.fixture(params=[~0, ~HIDES], ids=["as it comes", "without the option"])
def context(request: pytest.FixtureRequest) -> ssl.SSLContext:
    context = client_context()
    context.options &= request.param
    return context


# ---- How a peer ends, once it has said something


def cut(conn: Any) -> None:
    conn.sendall(b"all of it?")


def cut_inside_an_orderly_end(conn: Any) -> None:
    """As behind a proxy, when it closes after the server's connection has been cut."""
    conn.sendall(b"all of it?")
    say_goodbye(conn.outer)


def cut_inside_a_record(conn: Any) -> None:
    conn.sendall(b"all of it?")
    conn.tls.write(bytes(100))
    conn.outer.sendall(conn.outgoing.read()[:50])
    say_goodbye(conn.outer)


def end(conn: Any) -> None:
    conn.sendall(b"all of it?")
    say_goodbye(conn)


def end_and_cut_outside(conn: Any) -> None:
    conn.sendall(b"all of it?")
    conn.send_close_notify()


def end_and_stay(conn: Any) -> None:
    end(conn)
    silent(bottom(conn))


End = Callable[[Any], None]

TRUNCATIONS = [
    *((cut, layers) for layers in (1, 2)),
    *((cut_inside_an_orderly_end, layers) for layers in (2, 3)),
    *((cut_inside_a_record, layers) for layers in (1, 2)),
]
ENDS = [
    *((end, layers) for layers in (1, 2, 3)),
    *((end_and_cut_outside, layers) for layers in (2, 3)),
    *((end_and_stay, layers) for layers in (1, 2)),
]


def serve_end(
    peers: Peers, how: End, layers: int, version: ssl.TLSVersion | None = None
) -> Address:
    server = server_context("server")
    server.num_tickets = 0
    if version is not None:
        server.maximum_version = version
    return peers.serve_layers(how, layers, server)


# ---- What it is to a read


@pytest.mark.parametrize(("how", "layers"), TRUNCATIONS)
@pytest.mark.parametrize("version", VERSIONS)
def test_without_close_notify_every_read_reports_truncation(
    peers: Peers, context: ssl.SSLContext, how: End, layers: int, version: ssl.TLSVersion
) -> None:
    with connect_tls(serve_end(peers, how, layers, version), context, layers=layers) as stream:
        assert stream.read() == b"all of it?"
        for _ in range(3):
            with pytest.raises(ssl.SSLEOFError, match=r"close_notify.*suppress_ragged_eofs=True"):
                stream.read()


@pytest.mark.parametrize(("how", "layers"), ENDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_after_close_notify_every_read_reports_the_end(
    peers: Peers, context: ssl.SSLContext, how: End, layers: int, version: ssl.TLSVersion
) -> None:
    address = serve_end(peers, how, layers, version)
    with connect_tls(address, context, layers=layers) as stream, httpx_net.timeout(HANG / 2):
        assert [stream.read() for _ in range(4)] == [b"all of it?", b"", b"", b""]


@pytest.mark.parametrize(("how", "layers"), TRUNCATIONS)
def test_suppress_ragged_eofs_takes_truncation_for_the_end(
    peers: Peers, context: ssl.SSLContext, how: End, layers: int
) -> None:
    address = serve_end(peers, how, layers)
    with connect_tls(address, context, layers=layers, suppress_ragged_eofs=True) as stream:
        assert [stream.read() for _ in range(4)] == [b"all of it?", b"", b"", b""]


def test_suppress_ragged_eofs_can_be_given_to_a_stream(
    peers: Peers, context: ssl.SSLContext
) -> None:
    sock = socket.create_connection(serve_end(peers, cut, 1))
    with httpx_net.NetworkStream(sock, suppress_ragged_eofs=True) as stream:
        stream.start_tls(context, "localhost")
        assert [stream.read(), stream.read()] == [b"all of it?", b""]


def test_suppress_ragged_eofs_takes_nothing_else_for_the_end(peers: Peers) -> None:
    stream = connect_tls(peers.serve_layers(silent, 1), suppress_ragged_eofs=True)
    with httpx_net.timeout(0.05), pytest.raises(TimeoutError):
        stream.read()
    threading.Timer(0.05, stream.close).start()
    with httpx_net.timeout(HANG), pytest.raises(OSError, match="the stream is closed"):
        stream.read()


# ---- The context is the caller's


class Interrupted(ssl.SSLContext):
    def wrap_socket(self, *args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("kind", "certificate", "error"),
    [
        (ssl.SSLContext, "server", None),
        (ssl.SSLContext, "wrong-name", ssl.SSLCertVerificationError),
        (Interrupted, "server", KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("option", [0, HIDES])
def test_its_options_are_left_as_they_were(
    peers: Peers, kind: type[ssl.SSLContext], certificate: str, error: Any, option: int
) -> None:
    context = kind(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(CERTIFICATES / "ca.pem")
    context.options = before = (context.options & ~HIDES) | option
    address = peers.serve_tls(certificate=certificate, refused=error is not None)
    with pytest.raises(error) if error else nullcontext():
        connect_tls(address, context).close()
    assert context.options == before


def test_threads_that_share_it_do_not_hide_truncation_from_each_other(peers: Peers) -> None:
    """One might put the option back while the other makes a connection, where it is on."""
    first_is_inside, first_is_done = threading.Event(), threading.Event()

    class Slow(ssl.SSLContext):
        def wrap_socket(self, *args: Any, **options: Any) -> Any:
            if first_is_inside.is_set():
                first_is_done.wait(HANG)
            else:
                first_is_inside.set()
                # Time for the other thread to come in, if it may.
                first_is_done.wait(0.1)
            return super().wrap_socket(*args, **options)

    def connect_first() -> None:
        connect_tls(addresses[0], context).close()
        first_is_done.set()

    context = Slow(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(CERTIFICATES / "ca.pem")
    before = context.options
    addresses = [peers.serve_layers(silent, 1), serve_end(peers, cut, 1)]
    first = threading.Thread(target=connect_first)
    first.start()
    assert first_is_inside.wait(HANG)
    with connect_tls(addresses[1], context) as stream:
        assert stream.read() == b"all of it?"
        with pytest.raises(ssl.SSLEOFError):
            stream.read()
    first.join()
    assert context.options == before
