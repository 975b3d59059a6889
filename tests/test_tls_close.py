"""``close`` ends every layer with close_notify if that takes no waiting, and waits for nobody."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import httpx_net
from peers import (
    HANG,
    Peers,
    TLSInside,
    client_context,
    connect_tls,
    silent,
)

all_layers = pytest.mark.parametrize("layers", [1, 2, 3])


def hear(ends: list[str], *, ends_first: bool = False) -> Any:
    """A peer that says hello and notes in *ends* how each layer ends, the innermost first.

    It answers no goodbye before it has heard them all, so waiting for the answer would be seen.
    """

    def peer(conn: Any) -> None:
        conn.sendall(b"hello")
        if ends_first:
            conn.send_close_notify()
        while isinstance(conn, TLSInside):
            ends.append(how_it_ends(conn))
            conn = conn.outer

    return peer


def how_it_ends(conn: TLSInside) -> str:
    try:
        while conn.recv(65536):
            pass
    except (ssl.SSLError, ConnectionError):
        return "cut"
    return "goodbye"


# ---- What comes before


def nothing(stream: httpx_net.NetworkStream) -> None:
    assert stream.read() == b"hello"


def a_write(stream: httpx_net.NetworkStream) -> None:
    assert stream.read() == b"hello"
    stream.write(b"x")


def a_read_that_times_out(stream: httpx_net.NetworkStream) -> None:
    assert stream.read() == b"hello"
    with pytest.raises(TimeoutError), httpx_net.timeout(0.05):
        stream.read()


def a_read_that_leaves_something(stream: httpx_net.NetworkStream) -> None:
    assert stream.read(1) == b"h"


def a_look_at_whether_it_is_readable(stream: httpx_net.NetworkStream) -> None:
    assert stream.read(1) == b"h"
    assert stream.get_extra_info("is_readable")


@all_layers
@pytest.mark.parametrize(
    "before",
    [
        nothing,
        a_write,
        a_read_that_times_out,
        a_read_that_leaves_something,
        a_look_at_whether_it_is_readable,
    ],
)
def test_every_layer_says_goodbye(
    peers: Peers, layers: int, before: Callable[[httpx_net.NetworkStream], None]
) -> None:
    ends: list[str] = []
    with connect_tls(peers.serve_layers(hear(ends), layers), layers=layers) as stream:
        before(stream)
        start = time.monotonic()
    assert time.monotonic() - start < HANG / 4
    peers.close()
    assert ends == ["goodbye"] * layers


@all_layers
def test_every_layer_says_goodbye_to_a_peer_that_has_said_it(peers: Peers, layers: int) -> None:
    ends: list[str] = []
    address = peers.serve_layers(hear(ends, ends_first=True), layers)
    with connect_tls(address, layers=layers) as stream:
        assert [stream.read(), stream.read()] == [b"hello", b""]
    peers.close()
    assert ends == ["goodbye"] * layers


class Held(ssl.SSLSocket):
    """A thread that writes is held up inside OpenSSL, which must not be entered by another."""

    inside, may_leave = threading.Event(), threading.Event()

    def write(self, data: Any) -> int:
        self.inside.set()
        assert self.may_leave.wait(HANG)
        return super().write(data)

    def unwrap(self) -> socket.socket:
        assert self.may_leave.is_set(), "there is a thread inside"
        return super().unwrap()


def test_no_goodbye_is_said_while_another_thread_is_inside(peers: Peers) -> None:
    context = client_context()
    context.sslsocket_class = Held
    stream = connect_tls(peers.serve_layers(silent, 1), context)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(stream.write, b"x")
        assert Held.inside.wait(HANG)
        stream.close()
        Held.may_leave.set()
        with pytest.raises(OSError, match="the stream is closed"):
            writing.result(HANG)
