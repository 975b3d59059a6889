"""A write on TLS that fails says how far it got, and nothing follows it; reads go on."""

from __future__ import annotations

import random
import select
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

import httpx_net
from peers import HANG, Peers, client_context, connect_tls, echo, silent

RECORD = 16_384
# More than any socket buffers.
PAYLOAD = random.Random(0).randbytes(24 << 20)

both_layers = pytest.mark.parametrize("layers", [1, 2], ids=["TLS", "TLS in TLS"])


class SlowPeer:
    """A peer that reads nothing until it may; before that it speaks, if it is asked to."""

    def __init__(self) -> None:
        self.speak, self.read_on = threading.Event(), threading.Event()
        self.received = bytearray()

    def __call__(self, conn: Any) -> None:
        assert self.speak.wait(HANG)
        conn.sendall(b"413 enough")
        assert self.read_on.wait(HANG)
        with suppress(ssl.SSLError, ConnectionError):
            while data := conn.recv(1 << 20):
                self.received += data


def fail_to_write(stream: httpx_net.NetworkStream) -> int:
    """Have a write end at its deadline; returns how far it is said to have come."""
    with pytest.raises(TimeoutError) as caught, httpx_net.timeout(0.1):
        stream.write(PAYLOAD)
    sent: int = caught.value.characters_written  # type: ignore[attr-defined]
    assert f" timed out after {sent} of {len(PAYLOAD)} bytes: " in str(caught.value)
    return sent


def fill(sock: socket.socket) -> None:
    """Leave no room even for the rest of a record, which poll does not say anything about."""
    in_vain = 0
    while in_vain < 3:
        try:
            socket.socket.send(sock, bytes(65_536))
            in_vain = 0
        except BlockingIOError:
            in_vain += 1
            select.select([], [sock], [], 0.05)


@both_layers
def test_a_write_that_has_to_wait_sends_everything_once(peers: Peers, layers: int) -> None:
    peer = SlowPeer()
    with connect_tls(peers.serve_layers(peer, layers), layers=layers) as stream:
        peer.speak.set()
        threading.Timer(0.05, peer.read_on.set).start()
        stream.write(PAYLOAD)
        assert stream.read() == b"413 enough"
    peers.close()
    assert peer.received == PAYLOAD


@both_layers
def test_a_write_that_times_out_says_how_far_it_got_to_within_a_record(
    peers: Peers, layers: int
) -> None:
    peer = SlowPeer()
    with connect_tls(peers.serve_layers(peer, layers), layers=layers) as stream:
        sent = fail_to_write(stream)
        peer.speak.set()
        peer.read_on.set()
        assert stream.read() == b"413 enough"
    assert 0 < sent < len(PAYLOAD)
    peers.close()
    # The record in flight may have arrived or not.
    assert sent <= len(peer.received) <= sent + RECORD
    assert peer.received == PAYLOAD[: len(peer.received)]


@both_layers
def test_an_early_answer_can_be_read_while_the_peer_takes_nothing(
    peers: Peers, layers: int
) -> None:
    peer = SlowPeer()
    with connect_tls(peers.serve_layers(peer, layers), layers=layers) as stream:
        fail_to_write(stream)
        fill(stream.get_extra_info("socket"))
        peer.speak.set()
        with httpx_net.timeout(HANG / 2):
            assert stream.read(3) == b"413"
            assert stream.read() == b" enough"
        peer.read_on.set()


@both_layers
@pytest.mark.parametrize("size", [0, 1, RECORD, RECORD + 1])
def test_nothing_follows_a_failed_write_and_the_text_says_why(
    peers: Peers, layers: int, size: int
) -> None:
    peer = SlowPeer()
    with connect_tls(peers.serve_layers(peer, layers), layers=layers) as stream:
        fail_to_write(stream)
        # From here on there is room for more.
        peer.speak.set()
        peer.read_on.set()
        for _ in range(2):
            with pytest.raises(BrokenPipeError, match=f"of {size} bytes: an earlier wr") as caught:
                stream.write(b"S" * size)
            assert caught.value.characters_written == 0  # type: ignore[attr-defined]
        assert stream.read() == b"413 enough"
    peers.close()
    assert peer.received == PAYLOAD[: len(peer.received)]


@both_layers
def test_no_tls_is_started_inside_a_failed_write(peers: Peers, layers: int) -> None:
    peer = SlowPeer()
    stream = connect_tls(peers.serve_layers(peer, layers), layers=layers)
    fail_to_write(stream)
    peer.speak.set()
    peer.read_on.set()
    with httpx_net.timeout(HANG), pytest.raises(BrokenPipeError, match="an earlier write"):
        stream.start_tls(client_context(), "localhost")
    assert repr(stream).endswith(" CLOSED]>")
    peers.close()
    assert peer.received == PAYLOAD[: len(peer.received)]


@both_layers
def test_a_write_under_a_passed_deadline_breaks_nothing(peers: Peers, layers: int) -> None:
    with connect_tls(peers.serve_layers(echo, layers), layers=layers) as stream:
        for data in (b"never", PAYLOAD):
            with httpx_net.timeout(0), pytest.raises(TimeoutError, match="after 0 of"):
                stream.write(data)
        stream.write(b"later")
        assert stream.read() == b"later"


class Slow(ssl.SSLSocket):
    """The socket always has room, but each record takes its time, as on a slow machine."""

    def write(self, data: Any) -> int:
        time.sleep(0.02)
        return super().write(data)


def test_a_peer_that_always_has_room_does_not_extend_the_deadline(peers: Peers) -> None:
    context = client_context()
    context.sslsocket_class = Slow
    with connect_tls(peers.serve_layers(silent, 1), context) as stream:
        with pytest.raises(TimeoutError) as caught, httpx_net.timeout(0.1):
            stream.write(bytes(100 * RECORD))
        assert caught.value.characters_written < 50 * RECORD  # type: ignore[attr-defined]
