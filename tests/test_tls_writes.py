"""Writes on TLS: in records, counted; after one that failed nothing follows."""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import httpx_net
from peers import HANG, Address, Peers, client_context, client_may_leave, connect_tls, echo, silent

RECORD = 16_384
PAYLOAD = random.Random(0).randbytes(24 << 20)  # more than any socket buffers


class SlowPeer:
    """A peer that reads nothing until it is told to, and then all there is."""

    def __init__(self) -> None:
        self.read_on, self.over = threading.Event(), threading.Event()
        self.received = bytearray()
        self.clean: bool | None = None  # did it end with a close_notify?

    def __call__(self, conn: Any) -> None:
        try:
            assert self.read_on.wait(HANG)
            conn.sendall(b"still here")
            while data := conn.recv(1 << 20):
                self.received += data
            self.clean = True
        except (ssl.SSLError, ConnectionError):
            self.clean = False
        finally:
            self.over.set()


@pytest.fixture(params=[1, 2], ids=["TLS", "TLS in TLS"])
def layers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def fail_to_write(stream: httpx_net.NetworkStream) -> int:
    """Have a write end at its deadline; returns how far it is said to have come."""
    with pytest.raises(TimeoutError) as caught, httpx_net.timeout(0.1):
        stream.write(PAYLOAD)
    sent: int = caught.value.characters_written  # type: ignore[attr-defined]
    assert f" timed out after {sent} of {len(PAYLOAD)} bytes: timeout(0.1) exp" in str(caught.value)
    return sent


def test_a_write_that_times_out_says_how_many_records_it_came(peers: Peers, layers: int) -> None:
    peer = SlowPeer()
    with connect_tls(peers.serve_tls_in_tls(peer, layers=layers), layers=layers) as stream:
        sent = fail_to_write(stream)
        peer.read_on.set()
        assert stream.read() == b"still here"
    assert 0 < sent < len(PAYLOAD)
    assert sent % RECORD == 0
    assert peer.over.wait(HANG)
    # The record in flight may have arrived or not.
    assert sent <= len(peer.received) <= sent + RECORD
    assert peer.received == PAYLOAD[: len(peer.received)]


@pytest.mark.parametrize("size", [0, 1, 5, 100, RECORD - 1, RECORD, RECORD + 1, 100_000])
def test_nothing_follows_a_failed_write_and_the_text_says_why(
    peers: Peers, layers: int, size: int
) -> None:
    peer = SlowPeer()
    with connect_tls(peers.serve_tls_in_tls(peer, layers=layers), layers=layers) as stream:
        fail_to_write(stream)
        peer.read_on.set()
        for _ in range(2):
            with pytest.raises(BrokenPipeError, match="earlier write") as caught:
                stream.write(b"S" * size)
            assert caught.value.characters_written == 0  # type: ignore[attr-defined]
            assert str(size) in str(caught.value)
        assert stream.read() == b"still here"
    assert peer.over.wait(HANG)
    assert peer.received == PAYLOAD[: len(peer.received)]


def test_reads_go_on_after_a_failed_write(peers: Peers, layers: int) -> None:
    peer = SlowPeer()
    with connect_tls(peers.serve_tls_in_tls(peer, layers=layers), layers=layers) as stream:
        fail_to_write(stream)
        peer.read_on.set()
        with httpx_net.timeout(HANG):
            assert stream.read(5) == b"still"
            assert stream.read() == b" here"


@pytest.mark.parametrize("size", [100, RECORD])
def test_tls_can_not_be_started_inside_of_a_broken_write_side(
    serve_tls: Callable[..., Address], size: int
) -> None:
    peer = SlowPeer()
    small = [(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)]  # so that it is full in time
    stream = connect_tls(serve_tls(peer, tickets=0), socket_options=small)
    with pytest.raises(BrokenPipeError, match="earlier write"):
        for _ in range(100):  # until a deadline falls into a record, which then has this size
            with suppress(TimeoutError), httpx_net.timeout(0.05):
                while True:
                    stream.write(b"S" * size)
    peer.read_on.set()
    with httpx_net.timeout(0.5), pytest.raises(BrokenPipeError, match="earlier write"):
        stream.start_tls(client_context(), "localhost")
    stream.close()
    assert peer.over.wait(HANG)
    assert bytes(peer.received).strip(b"S") == b""


def test_a_write_under_a_passed_deadline_breaks_nothing(peers: Peers, layers: int) -> None:
    with connect_tls(peers.serve_tls_in_tls(echo, layers=layers), layers=layers) as stream:
        with httpx_net.timeout(0), pytest.raises(TimeoutError, match="after 0 of 5 bytes"):
            stream.write(b"never")
        stream.write(b"later")
        assert stream.read() == b"later"


class InterruptedInTheThirdRecord(ssl.SSLSocket):
    written = 0

    def write(self, data: Any) -> int:
        self.written += 1
        if self.written == 3:
            raise KeyboardInterrupt
        return super().write(data)


class InterruptedBehindTheThirdRecord(InterruptedInTheThirdRecord):
    def write(self, data: Any) -> int:
        if self.written == 2:
            ssl.SSLSocket.write(self, data)
        return super().write(data)


@pytest.mark.parametrize("when", [InterruptedInTheThirdRecord, InterruptedBehindTheThirdRecord])
def test_ctrl_c_in_a_write_breaks_the_write_side(
    serve_tls: Callable[..., Address], when: type[ssl.SSLSocket]
) -> None:
    peer = SlowPeer()
    peer.read_on.set()
    context = client_context()
    context.sslsocket_class = when
    with connect_tls(serve_tls(peer, tickets=0), context) as stream:
        with pytest.raises(KeyboardInterrupt):
            stream.write(PAYLOAD[:100_000])
        with pytest.raises(BrokenPipeError, match="earlier write"):
            stream.write(PAYLOAD[:100_000])
        assert stream.read() == b"still here"
    assert peer.over.wait(HANG)
    assert len(peer.received) in (2 * RECORD, 3 * RECORD)
    assert peer.received == PAYLOAD[: len(peer.received)]


def test_an_error_that_is_not_of_the_network_breaks_the_write_side_too(
    serve_tls: Callable[..., Address],
) -> None:
    class NoMemory(ssl.SSLSocket):
        def write(self, data: Any) -> int:
            raise MemoryError

    context = client_context()
    context.sslsocket_class = NoMemory
    with connect_tls(serve_tls(), context) as stream:
        with pytest.raises(MemoryError):
            stream.write(b"x")
        with pytest.raises(BrokenPipeError, match="earlier write"):
            stream.write(b"x")


def test_writes_go_out_in_records(serve_tls: Callable[..., Address]) -> None:
    sizes = []

    class Counting(ssl.SSLSocket):
        def write(self, data: Any) -> int:
            sizes.append(memoryview(data).nbytes)
            return super().write(data)

    context = client_context()
    context.sslsocket_class = Counting
    with connect_tls(serve_tls(), context) as stream:
        stream.write(bytes(3 * RECORD + 5))
    assert sizes == [RECORD, RECORD, RECORD, 5]


def test_all_of_it_arrives_whatever_its_size_and_type(peers: Peers, layers: int) -> None:
    with connect_tls(peers.serve_tls_in_tls(echo, layers=layers), layers=layers) as stream:
        for size in (1, RECORD - 1, RECORD, RECORD + 1, 3 * RECORD + 5):
            data = PAYLOAD[: size + -size % 8]
            for kind in (bytes, bytearray, memoryview, lambda data: memoryview(data).cast("Q")):
                stream.write(kind(data))
                assert read_exactly(stream, len(data)) == data


def test_a_write_of_nothing_sends_nothing(peers: Peers, layers: int) -> None:
    with connect_tls(peers.serve_tls_in_tls(echo, layers=layers), layers=layers) as stream:
        for nothing in (b"", bytearray(), memoryview(b"")):
            stream.write(nothing)
        stream.write(b"something")
        assert stream.read() == b"something"


def test_a_peer_that_takes_a_little_at_a_time_does_not_extend_the_deadline(
    peers: Peers, layers: int
) -> None:
    over = threading.Event()

    def sip(conn: Any) -> None:
        with client_may_leave():
            while not over.wait(0.001) and conn.recv(RECORD):
                pass
            silent(conn)

    with connect_tls(peers.serve_tls_in_tls(sip, layers=layers), layers=layers) as stream:
        start = time.monotonic()
        with pytest.raises(TimeoutError, match=r"timeout\(0\.1\) expired"), httpx_net.timeout(0.1):
            while True:
                stream.write(PAYLOAD[: 40 * RECORD])
        assert 0.1 <= time.monotonic() - start < 2.0
        over.set()


def test_a_peer_that_always_has_room_does_not_extend_it_either(
    serve_tls: Callable[..., Address],
) -> None:
    class Slow(ssl.SSLSocket):
        def write(self, data: Any) -> int:
            time.sleep(0.02)  # as a machine would be; the socket never has to wait
            return super().write(data)

    context = client_context()
    context.sslsocket_class = Slow
    with connect_tls(serve_tls(), context) as stream:
        with pytest.raises(TimeoutError) as caught, httpx_net.timeout(0.1):
            stream.write(bytes(100 * RECORD))
        assert caught.value.characters_written < 50 * RECORD  # type: ignore[attr-defined]


def test_a_lifted_deadline_does_not_end_a_write(peers: Peers, layers: int) -> None:
    peer = SlowPeer()
    with connect_tls(peers.serve_tls_in_tls(peer, layers=layers), layers=layers) as stream:
        with httpx_net.timeout(0.03) as t:
            t.cancel()
            threading.Timer(0.06, peer.read_on.set).start()
            stream.write(PAYLOAD)
        assert stream.read() == b"still here"
    assert peer.over.wait(HANG)
    assert peer.clean is True
    assert peer.received == PAYLOAD


def read_exactly(stream: httpx_net.NetworkStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += stream.read(size - len(data))
    return data


def test_after_a_failed_write_on_TLS_the_next_one_says_why(serve_tls: Any) -> None:
    def full(conn: ssl.SSLSocket) -> None:
        over.wait(HANG)

    over, much = threading.Event(), bytes(20_000_000)
    with connect_tls(serve_tls(full, tickets=0)) as stream:
        with pytest.raises(TimeoutError, match=r"after [1-9]"), httpx_net.timeout(0.2):
            stream.write(much)
        with pytest.raises(BrokenPipeError) as caught:
            stream.write(b"x")
        with (
            pytest.raises(BrokenPipeError, match="stopped inside a record"),
            httpx_net.timeout(1.0),
        ):
            stream.start_tls(client_context(), "localhost")
        over.set()
    assert str(caught.value).endswith(
        " failed after 0 of 1 bytes: an earlier write stopped inside a record"
    )
