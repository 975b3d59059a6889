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
from peers import HANG, MIB, Peers, client_context, connect_tls, echo, silent, times_out

RECORD = 16_384
# More than any socket buffers.
PAYLOAD = random.Random(0).randbytes(24 * MIB)

both_layers = pytest.mark.parametrize("layers", [1, 2], ids=["TLS", "TLS in TLS"])


class SlowPeer:
    """A peer that says something when it may, and reads nothing until it may do that, too."""

    def __init__(self) -> None:
        self.may_speak, self.may_read = threading.Event(), threading.Event()
        self.received = bytearray()

    def __call__(self, conn: Any) -> None:
        assert self.may_speak.wait(HANG)
        conn.sendall(b"413 enough")
        assert self.may_read.wait(HANG)
        # The client may leave in the middle of a record.
        with suppress(ssl.SSLError, ConnectionError):
            while data := conn.recv(MIB):
                self.received += data


@both_layers
def test_a_write_that_has_to_wait_sends_everything_once(peers: Peers, layers: int) -> None:
    peer = SlowPeer()
    with connect_tls(peers.serve_layers(peer, layers), layers=layers) as stream:
        peer.may_speak.set()
        threading.Timer(0.05, peer.may_read.set).start()
        stream.write(PAYLOAD)
        assert stream.read() == b"413 enough"
    peers.close()
    assert peer.received == PAYLOAD


@both_layers
def test_nothing_follows_a_write_that_timed_out(peers: Peers, layers: int) -> None:
    peer = SlowPeer()
    with connect_tls(peers.serve_layers(peer, layers), layers=layers) as stream:
        with times_out(0.1) as caught:
            stream.write(PAYLOAD)
        sent: int = caught.value.characters_written  # type: ignore[attr-defined]
        assert f" timed out after {sent} of {len(PAYLOAD)} bytes: " in str(caught.value)
        # From here on there is room for more.
        peer.may_speak.set()
        peer.may_read.set()
        sock = stream.get_extra_info("socket")
        assert select.select([sock], [], [], HANG)[0]
        for size in (0, 1, RECORD, RECORD + 1):
            with pytest.raises(BrokenPipeError, match=f"of {size} bytes: an earlier wr") as broken:
                stream.write(b"S" * size)
            assert broken.value.characters_written == 0  # type: ignore[attr-defined]
        # A write that was never begun has no reason to read ahead.
        assert select.select([sock], [], [], 0)[0]
        assert stream.read() == b"413 enough"
        with pytest.raises(BrokenPipeError, match="an earlier write"):
            stream.start_tls(client_context(), "localhost")
        assert repr(stream).endswith(" CLOSED]>")
    peers.close()
    # The record in flight may have arrived or not.
    assert 0 < sent <= len(peer.received) <= sent + RECORD < len(PAYLOAD)
    assert PAYLOAD.startswith(peer.received)


@both_layers
def test_an_early_answer_can_be_read_while_the_peer_takes_nothing(
    peers: Peers, layers: int
) -> None:
    peer = SlowPeer()
    with connect_tls(peers.serve_layers(peer, layers), layers=layers) as stream:
        with times_out(0.1):
            stream.write(PAYLOAD)
        # Leave no room even for the rest of a record.
        with suppress(BlockingIOError):
            while True:
                socket.socket.send(stream.get_extra_info("socket"), bytes(MIB))
        peer.may_speak.set()
        with httpx_net.timeout(HANG / 2):
            assert stream.read(3) == b"413"
            assert stream.read() == b" enough"
        peer.may_read.set()


@both_layers
def test_a_write_under_a_passed_deadline_breaks_nothing(peers: Peers, layers: int) -> None:
    with connect_tls(peers.serve_layers(echo, layers), layers=layers) as stream:
        for data in (b"never", PAYLOAD):
            with httpx_net.timeout(0), pytest.raises(TimeoutError, match="after 0 of"):
                stream.write(data)
        stream.write(b"later")
        assert stream.read() == b"later"


def test_a_peer_that_always_has_room_does_not_extend_the_deadline(peers: Peers) -> None:
    class Slow(ssl.SSLSocket):
        """The socket takes each record, but in its time, as on a slow machine."""

        def write(self, data: Any) -> int:
            time.sleep(0.02)
            return super().write(data)

    context = client_context()
    context.sslsocket_class = Slow
    with connect_tls(peers.serve_layers(silent, 1), context) as stream:
        with times_out(0.05) as caught:
            stream.write(bytes(100 * RECORD))
        assert caught.value.characters_written < 50 * RECORD  # type: ignore[attr-defined]
