"""The matrix of deadlines: everything that waits, against everything a peer can do wrong.

Each cell is played under a deadline, which has to end it, on time; and under one that has been
cancelled, which must not: after its time has passed the peer mends its ways, and the operation has
to succeed. What brings nothing at all has to end by its deadline even where the clock stands still,
as it does in tests that freeze it.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any

import pytest

import httpx_net
from dialing import Listed, Resolver
from httpx_net import NetworkStream
from peers import (
    HANG,
    MIB,
    Address,
    Handler,
    Peers,
    client_context,
    client_may_leave,
    frozen_clock,
    inside_tls,
    silent,
    times_out,
)

# In seconds: each deadline, and the time between two bytes of a slow peer.
LIMIT = 0.02
PAUSE = 0.005

# Bytes, after which some peers die: less than a handshake takes.
HALF = 400

READ = b"read" * 16_384
WRITTEN = bytes(MIB)

# What the kernel takes off a writer's hands has not been read by anybody.
SMALL_BUFFERS = httpx_net.NetworkBackend(
    socket_options=[(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)]
)

# What waits, and what puts an end to the wait. Both are there once the scene is set.
Scene = AbstractContextManager[tuple[Callable[[], object], Callable[[], object]]]


# ---- On a stream


def honest(passed: int) -> int:
    return 65_536


def nothing(passed: int) -> int:
    return 0


def one_at_a_time(passed: int) -> int:
    return 1


def half(passed: int) -> int:
    return max(0, HALF - passed)


# How many bytes may go next, once so many have passed.
Pace = Callable[[int], int]

# What becomes of the bytes to the client, and of those from it.
SENDING: dict[str, tuple[Pace, Pace]] = {
    "silent": (nothing, honest),
    "drips": (one_at_a_time, honest),
    "dies after half": (half, honest),
}
READING: dict[str, tuple[Pace, Pace]] = {
    "never reads": (honest, nothing),
    "sips": (honest, one_at_a_time),
    "stops reading after half": (honest, half),
}


class Relay:
    """Stands between the client and an honest server, and has a vice.

    It shows from ``spoil()`` to ``release()``; before and after, all bytes pass at once.
    """

    def __init__(self, peers: Peers, server: Handler, down: Pace, up: Pace) -> None:
        self._down, self._up = down, up
        self._spoiled, self._released = threading.Event(), threading.Event()
        self._target = peers.serve(server)
        self.address: Address = peers.serve(self._run)
        self.spoil, self.release = self._spoiled.set, self._released.set

    def _run(self, client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        with socket.create_connection(self._target, timeout=HANG) as server:
            up = threading.Thread(target=self._carry, args=(client, server, self._up))
            up.start()
            self._carry(server, client, self._down)
            up.join()

    def _carry(self, source: socket.socket, sink: socket.socket, pace: Pace) -> None:
        passed = 0
        with suppress(ConnectionError):
            while True:
                if not select.select([source], [], [], PAUSE)[0]:
                    continue
                there = len(source.recv(65_536, socket.MSG_PEEK))
                # Look at this after the bytes: if it says so, they came after spoil().
                vicious = self._spoiled.is_set() and not self._released.is_set()
                size = pace(passed) if vicious else 65_536
                if size:
                    # Take none but the bytes that we have seen.
                    data = source.recv(min(size, there) or 1)
                    if not data:
                        break
                    sink.sendall(data)
                    passed += len(data) if vicious else 0
                if vicious and size < 65_536:
                    self._released.wait(PAUSE)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def handshake(stream: NetworkStream) -> None:
    stream.start_tls(client_context(), hostname="localhost")


def read(stream: NetworkStream) -> None:
    stream.write(b"?")
    left = len(READ)
    while left:
        left -= len(stream.read(left))


def write(stream: NetworkStream) -> None:
    stream.write(WRITTEN)


@contextmanager
def on_stream(
    act: Callable[[NetworkStream], None], layers: int, paces: tuple[Pace, Pace], peers: Peers
) -> Iterator[Any]:
    """*act* on a stream in so many layers of TLS, to a peer whose vice shows from now on."""

    def answers_each_question_mark(conn: Any) -> None:
        with client_may_leave():
            conn = inside_tls(conn, layers + (act is handshake))
            while data := conn.recv(65_536):
                if b"?" in data:
                    conn.sendall(READ)

    relay = Relay(peers, answers_each_question_mark, *paces)
    with SMALL_BUFFERS.connect(*relay.address) as stream:
        for _ in range(layers):
            handshake(stream)
        relay.spoil()
        try:
            yield partial(act, stream), relay.release
        finally:
            relay.release()


# ---- Before there is one


@contextmanager
def looking_up(peers: Peers) -> Iterator[Any]:
    """A connect to a name; its resolver doesn't answer."""
    resolver = Resolver()
    resolver.answers["somebody.test"] = _, port = peers.serve(silent)
    resolver.hang()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolver)
        try:
            yield lambda: SMALL_BUFFERS.connect("somebody.test", port).close(), resolver.answer
        finally:
            resolver.answer()


@contextmanager
def connecting(dead: int, live: int, delay: float | None, peers: Peers) -> Iterator[Any]:
    """A connect to so many addresses that don't answer, and then to so many that do."""
    found = [peers.black_hole() for _ in range(dead)] + [peers.serve(silent) for _ in range(live)]
    net = Listed(found, happy_eyeballs_delay=delay)
    yield lambda: net.connect("somebody.test", 80).close(), lambda: None


# ---- All of it

CELLS: dict[str, Callable[[Peers], Scene]] = {
    f"{act.__name__} in {layers} layers, {vice}": partial(on_stream, act, layers, paces)
    for act, most, vices in (
        (read, 2, SENDING),
        (write, 2, READING),
        (handshake, 1, {**SENDING, **READING}),
    )
    for layers in range(most + 1)
    for vice, paces in vices.items()
}
CELLS["look-up"] = looking_up
CELLS["connect"] = partial(connecting, 1, 1, LIMIT * 1.5)

HOPELESS: dict[str, Callable[[Peers], Scene]] = {
    f"connect to {dead} dead, delay {delay}": partial(connecting, dead, 0, delay)
    for dead in (1, 2)
    for delay in (0.01, 0.25, None)
}


def each(cells: dict[str, Callable[[Peers], Scene]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("cell", cells.values(), ids=cells)


@each(CELLS | HOPELESS)
def test_it_ends_by_its_deadline(peers: Peers, cell: Callable[[Peers], Scene]) -> None:
    with cell(peers) as (act, _), times_out(LIMIT):
        act()


@each({name: CELLS[name] for name in CELLS if not name.endswith(("drips", "sips"))} | HOPELESS)
def test_it_ends_by_its_deadline_where_the_clock_stands_still(
    peers: Peers, cell: Callable[[Peers], Scene]
) -> None:
    with cell(peers) as (act, _), frozen_clock(), times_out(LIMIT):
        act()


@each(CELLS)
def test_it_does_not_end_by_a_cancelled_deadline(
    peers: Peers, cell: Callable[[Peers], Scene]
) -> None:
    with cell(peers) as (act, mend), httpx_net.timeout(LIMIT) as deadline:
        start = time.monotonic()
        mending = threading.Timer(LIMIT * 1.5, mend)
        mending.start()
        deadline.cancel()
        act()
        assert time.monotonic() - start > LIMIT, "this did not wait for anybody"
        mending.join()


def test_the_next_attempt_starts_where_the_clock_stands_still(peers: Peers) -> None:
    with connecting(1, 1, LIMIT, peers) as (connect, _), frozen_clock(), httpx_net.timeout(HANG):
        connect()
