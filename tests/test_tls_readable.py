"""``is_readable`` on TLS: what arrives is not always something to read."""

from __future__ import annotations

import itertools
import random
import select
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest

import httpx_net
from peers import (
    HANG,
    Address,
    Peers,
    TLSInside,
    client_context,
    connect_tls,
    echo,
    reset,
    send_close_notify,
    server_context,
    silent,
    wait_until,
)

pytestmark = pytest.mark.skipif(
    not hasattr(select, "poll"), reason="the tests look at the socket with select.poll"
)


def polls_readable(stream: httpx_net.NetworkStream) -> bool:
    """What somebody would see who looked at the socket alone."""
    poller = select.poll()
    poller.register(stream.get_extra_info("socket"), select.POLLIN)
    return bool(poller.poll(0))


def is_readable(stream: httpx_net.NetworkStream) -> bool:
    """What the stream says, three times: asking must not change the answer."""
    answers = {stream.get_extra_info("is_readable") for _ in range(3)}
    assert len(answers) == 1
    return bool(answers.pop())


def test_tickets_do_not_make_a_stream_readable(serve_tls: Callable[..., Address]) -> None:
    with connect_tls(serve_tls(tickets=2)) as stream:
        wait_until(lambda: polls_readable(stream))
        assert stream.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert stream.get_extra_info("is_readable") is False
        assert is_readable(stream) is False


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_idle_stream_is_not_readable(
    serve_tls: Callable[..., Address], version: ssl.TLSVersion
) -> None:
    with connect_tls(serve_tls(tickets=0, maximum_version=version)) as stream:
        assert is_readable(stream) is False


def test_a_read_waits_for_data_where_there_are_only_tickets(
    serve_tls: Callable[..., Address],
) -> None:
    with connect_tls(serve_tls(tickets=2)) as stream:
        wait_until(lambda: polls_readable(stream))
        with httpx_net.timeout(0.05), pytest.raises(TimeoutError):
            stream.read()
        assert is_readable(stream) is False


def test_data_behind_tickets_makes_a_stream_readable(serve_tls: Callable[..., Address]) -> None:
    with connect_tls(serve_tls(echo, tickets=2)) as stream:
        stream.write(b"hello")
        wait_until(lambda: stream.get_extra_info("is_readable"))
        assert is_readable(stream) is True
        assert stream.read() == b"hello"
        assert is_readable(stream) is False


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_decrypted_data_makes_a_stream_readable(peers: Peers, layers: int) -> None:
    with connect_tls(peers.serve_tls_in_tls(echo, layers=layers), layers=layers) as stream:
        stream.write(b"hello")
        assert stream.read(1) == b"h"
        assert not polls_readable(stream)
        assert is_readable(stream) is True
        assert stream.read(2) == b"el"
        assert is_readable(stream) is True
        assert stream.read() == b"lo"
        assert is_readable(stream) is False


@pytest.mark.parametrize("layers", [1, 2])
def test_the_end_makes_a_stream_readable(peers: Peers, layers: int) -> None:
    def end(conn: Any) -> None:
        send_close_notify(conn) if layers == 1 else conn.send_close_notify()
        silent(conn if layers == 1 else conn.outer)

    address = peers.serve_tls_in_tls(end, layers=layers)
    with connect_tls(address, layers=layers) as stream, httpx_net.timeout(HANG / 2):
        wait_until(lambda: stream.get_extra_info("is_readable"))
        assert is_readable(stream) is True
        assert stream.read() == b""
        assert is_readable(stream) is True  # a pool must not take it, however often it has read
        assert stream.read() == b""


@pytest.mark.parametrize("layers", [1, 2])
def test_truncation_makes_a_stream_readable(peers: Peers, layers: int) -> None:
    address = peers.serve_tls_in_tls(lambda conn: None, layers=layers)
    with connect_tls(address, layers=layers) as stream:
        wait_until(lambda: stream.get_extra_info("is_readable"))
        assert is_readable(stream) is True
        with pytest.raises(ssl.SSLEOFError):
            stream.read()
        assert is_readable(stream) is True


def test_an_error_makes_a_stream_readable(serve_tls: Callable[..., Address]) -> None:
    with connect_tls(serve_tls(reset, tickets=0)) as stream:
        stream.write(b"x")
        wait_until(lambda: stream.get_extra_info("is_readable"))
        assert is_readable(stream) is True
        with pytest.raises(ConnectionResetError):
            stream.read()
        assert is_readable(stream) is True


def test_a_closed_stream_is_readable_for_a_read_raises_at_once(
    serve_tls: Callable[..., Address],
) -> None:
    stream = connect_tls(serve_tls())
    stream.close()
    assert is_readable(stream) is True


class InPieces:
    """A peer that sends records as it is told to, in pieces; TLS inside TLS or not."""

    def __init__(self) -> None:
        self.go_on = [threading.Event(), threading.Event()]

    def __call__(self, tls: TLSInside) -> None:
        tls.tls.write(b"first")
        first = tls.outgoing.read()
        tls.tls.write(b"second")
        second = tls.outgoing.read()
        assert self.go_on[0].wait(HANG)
        tls.outer.sendall(first + second[:10])
        assert self.go_on[1].wait(HANG)
        tls.outer.sendall(second[10:])
        silent(tls)


def assert_half_a_record_is_nothing(stream: httpx_net.NetworkStream, peer: InPieces) -> None:
    peer.go_on[0].set()
    assert stream.read() == b"first"
    assert is_readable(stream) is False
    with httpx_net.timeout(0.05), pytest.raises(TimeoutError):
        stream.read()
    peer.go_on[1].set()
    wait_until(lambda: stream.get_extra_info("is_readable"))
    assert stream.read() == b"second"


def test_half_a_record_does_not_make_a_stream_readable(serve: Callable[..., Address]) -> None:
    peer = InPieces()
    context = server_context("server")
    with connect_tls(serve(lambda conn: peer(TLSInside(context, conn)))) as stream:
        assert_half_a_record_is_nothing(stream, peer)


@pytest.mark.parametrize("layers", [2, 3])
def test_half_a_record_inside_does_not_make_a_stream_readable(peers: Peers, layers: int) -> None:
    peer = InPieces()
    with connect_tls(peers.serve_tls_in_tls(peer, layers=layers), layers=layers) as stream:
        assert_half_a_record_is_nothing(stream, peer)


@pytest.mark.parametrize("layers", [1, 2])
def test_asking_loses_no_byte(peers: Peers, layers: int) -> None:
    payload = random.Random(0).randbytes(1_000_000)

    def send(conn: Any) -> None:
        conn.sendall(payload)
        send_close_notify(conn) if layers == 1 else conn.send_close_notify()

    sizes = itertools.cycle([1, 7, 16_383, 16_384, 16_385, None, 100, 65_536, 200_000])
    received = bytearray()
    with connect_tls(peers.serve_tls_in_tls(send, layers=layers), layers=layers) as stream:
        for size in sizes:
            wait_until(lambda: stream.get_extra_info("is_readable"))
            data = stream.read(size)
            assert size is None or len(data) <= size
            if not data:
                break
            received += data
    assert received == payload


def test_asking_neither_waits_nor_asks_for_the_deadline(
    serve_tls: Callable[..., Address],
) -> None:
    with connect_tls(serve_tls()) as stream, httpx_net.timeout(0):
        assert stream.get_extra_info("is_readable") is False


def test_whether_an_SSLSocket_is_readable_is_told_without_waiting(serve_tls: Any) -> None:
    sock = client_context().wrap_socket(
        socket.create_connection(serve_tls(silent)), server_hostname="localhost"
    )
    with httpx_net.NetworkStream(sock) as stream:
        select.select([sock], [], [], HANG)  # the tickets of TLS 1.3, which are no data
        assert stream.get_extra_info("is_readable") is False


def test_to_ask_at_the_end_does_not_make_the_next_read_wait(serve_tls: Any) -> None:
    def peer(conn: ssl.SSLSocket) -> None:
        waits.wait(HANG)
        send_close_notify(conn)
        over.wait(HANG)  # TCP stays open

    waits, over = threading.Event(), threading.Event()
    with connect_tls(serve_tls(peer, tickets=0)) as stream:
        with pytest.raises(TimeoutError), httpx_net.timeout(0.01):
            stream.read()  # from here on a read begins by waiting
        waits.set()
        with httpx_net.timeout(HANG / 4):  # long before the peer gives up, which would end it, too
            assert stream.read() == b""
            assert stream.get_extra_info("is_readable")
            assert stream.read() == b""
            assert stream.read() == b""
        over.set()
