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
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import pytest

import httpx_net
from dialing import Listed, Resolver
from httpx_net import NetworkStream
from peers import (
    HANG,
    POLL,
    SLACK,
    Address,
    Handler,
    Peers,
    TLSInside,
    client_context,
    client_may_leave,
    frozen_clock,
    server_context,
)

# In seconds: each deadline, and the time between two bytes of a slow peer.
LIMIT = 0.03
PAUSE = 0.005

# Bytes, after which some peers die: less than a handshake takes.
HALF = 400

READ = b"read" * 16_384
WRITTEN = bytes(4 * 1024 * 1024)

# What the kernel takes off a writer's hands has not been read by anybody.
SMALL_BUFFERS = httpx_net.NetworkBackend(
    socket_options=[(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)]
)


# ---- What can go wrong on the way


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


class Vice(NamedTuple):
    """What becomes of the bytes: those to the client, and those from it."""

    name: str
    down: Pace = honest
    up: Pace = honest


SILENT = Vice("silent", down=nothing)
DRIPS = Vice("drips", down=one_at_a_time)
DIES = Vice("dies after half", down=half)
NEVER_READS = Vice("never reads", up=nothing)
SIPS = Vice("slow reader", up=one_at_a_time)
STOPS = Vice("stops reading after half", up=half)


class Relay:
    """Stands between the client and an honest server, and has a vice.

    It shows from ``spoil()`` to ``release()``; before and after, all bytes pass at once.
    """

    def __init__(self, peers: Peers, server: Handler, vice: Vice) -> None:
        self._vice = vice
        self._spoiled, self._released = threading.Event(), threading.Event()
        self._target = peers.serve(server)
        self.address: Address = peers.serve(self._run)
        self.spoil, self.release = self._spoiled.set, self._released.set

    def _run(self, client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        with socket.create_connection(self._target, timeout=HANG) as server:
            up = threading.Thread(target=self._carry, args=(client, server, self._vice.up))
            up.start()
            self._carry(server, client, self._vice.down)
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


def server_of(layers: int) -> Handler:
    """An honest server, in so many layers of TLS: for each question mark it sends ``READ``."""

    def handler(conn: Any) -> None:
        context = server_context("server")
        with client_may_leave():
            for _ in range(layers):
                conn = TLSInside(context, conn)
            while data := conn.recv(65_536):
                if b"?" in data:
                    conn.sendall(READ)

    return handler


# ---- The operations


def handshake(stream: NetworkStream) -> None:
    stream.start_tls(client_context(), hostname="localhost")


def read(stream: NetworkStream) -> None:
    stream.write(b"?")
    left = len(READ)
    while left:
        left -= len(stream.read(left))


def write(stream: NetworkStream) -> None:
    stream.write(WRITTEN)


class Operation(NamedTuple):
    name: str
    layers_before: int
    act: Callable[[NetworkStream], None]
    layers_of_server: int


HANDSHAKES = [
    Operation("handshake", 0, handshake, 1),
    Operation("inner handshake", 1, handshake, 2),
]
READS = [
    Operation(f"{kind}read", layers, read, layers)
    for layers, kind in enumerate(("", "TLS ", "inner "))
]
WRITES = [
    Operation(f"{kind}write", layers, write, layers)
    for layers, kind in enumerate(("", "TLS ", "inner "))
]
CELLS = [
    *((operation, vice) for operation in READS for vice in (SILENT, DRIPS, DIES)),
    *((operation, vice) for operation in WRITES for vice in (NEVER_READS, SIPS, STOPS)),
    *(
        (operation, vice)
        for operation in HANDSHAKES
        for vice in (SILENT, DRIPS, DIES, NEVER_READS, SIPS, STOPS)
    ),
]


def each(cells: list[tuple[Operation, Vice]]) -> pytest.MarkDecorator:
    names = [f"{operation.name}, {vice.name}" for operation, vice in cells]
    return pytest.mark.parametrize(("operation", "vice"), cells, ids=names)


@contextmanager
def on_stage(
    peers: Peers, operation: Operation, vice: Vice
) -> Iterator[tuple[NetworkStream, Relay]]:
    """A stream that is ready for the operation, over a relay whose vice shows from now on."""
    relay = Relay(peers, server_of(operation.layers_of_server), vice)
    with SMALL_BUFFERS.connect(*relay.address) as stream:
        for _ in range(operation.layers_before):
            handshake(stream)
        relay.spoil()
        try:
            yield stream, relay
        finally:
            relay.release()


@contextmanager
def times_out() -> Iterator[None]:
    """What is in the block ends by a deadline of ``LIMIT``, on time, and that has passed for good.

    It measures by a clock that ``frozen_clock`` does not freeze.
    """
    start = time.perf_counter()
    with pytest.raises(TimeoutError) as caught, httpx_net.timeout(LIMIT) as t:
        try:
            yield
        finally:
            assert t.expired()
            with pytest.raises(TimeoutError):
                httpx_net.remaining()
    assert LIMIT <= time.perf_counter() - start < LIMIT + SLACK
    assert f"timeout({LIMIT}) expired" in str(caught.value)


@contextmanager
def times_out_at_a_standstill() -> Iterator[None]:
    """The same where the clock stands still."""
    with frozen_clock(), times_out():
        yield


@contextmanager
def cancelled(release: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Under a cancelled deadline of ``LIMIT``; what is in the block has to outlast it."""
    start = time.monotonic()
    mend = threading.Timer(LIMIT * 1.5, release)
    mend.start()
    with httpx_net.timeout(LIMIT) as t:
        t.cancel()
        yield
    assert time.monotonic() - start > LIMIT, "this did not wait for anybody"
    mend.join()


@each(CELLS)
def test_it_ends_by_its_deadline(peers: Peers, operation: Operation, vice: Vice) -> None:
    with on_stage(peers, operation, vice) as (stream, _), times_out():
        operation.act(stream)


@each(CELLS)
def test_it_does_not_end_by_a_cancelled_deadline(
    peers: Peers, operation: Operation, vice: Vice
) -> None:
    with on_stage(peers, operation, vice) as (stream, relay), cancelled(relay.release):
        operation.act(stream)


@each([(operation, vice) for operation, vice in CELLS if vice not in (DRIPS, SIPS)])
def test_it_ends_by_its_deadline_where_the_clock_stands_still(
    peers: Peers, operation: Operation, vice: Vice
) -> None:
    with on_stage(peers, operation, vice) as (stream, _), times_out_at_a_standstill():
        operation.act(stream)


# ---- Before there is a stream


@pytest.fixture
def hanging(resolver: Resolver, peers: Peers) -> Iterator[Resolver]:
    """A resolver that doesn't answer; when it does, ``somebody.test`` has an address."""
    resolver.answers["somebody.test"] = peers.serve(server_of(0))
    resolver.hang()
    yield resolver
    resolver.answer()


def connect_by_name(resolver: Resolver) -> None:
    port = resolver.answers["somebody.test"][1]  # type: ignore[index]
    httpx_net.NetworkBackend().connect("somebody.test", port).close()


def test_resolving_ends_by_its_deadline(hanging: Resolver) -> None:
    with times_out():
        connect_by_name(hanging)


def test_resolving_ends_by_its_deadline_where_the_clock_stands_still(hanging: Resolver) -> None:
    with times_out_at_a_standstill():
        connect_by_name(hanging)


def test_resolving_does_not_end_by_a_cancelled_deadline(hanging: Resolver) -> None:
    with cancelled(hanging.answer):
        connect_by_name(hanging)


class Hole(Peers):
    """Peers that can open their black hole."""

    def __init__(self) -> None:
        super().__init__()
        self.connected = threading.Event()

    def listen(self, family: int = socket.AF_INET, backlog: int = 128) -> socket.socket:
        self.listener = super().listen(family, backlog)
        return self.listener

    def open(self) -> None:
        """Accept whoever comes, until the client has: its SYN is sent again after a second."""
        self.listener.settimeout(POLL)
        until = time.monotonic() + HANG
        while not self.connected.is_set() and time.monotonic() < until:
            with suppress(TimeoutError):
                self.listener.accept()[0].close()


@pytest.fixture
def hole() -> Iterator[Hole]:
    hole = Hole()
    yield hole
    hole.close()


def test_connecting_to_one_ends_by_its_deadline(hole: Hole) -> None:
    address = hole.black_hole()
    with times_out():
        httpx_net.NetworkBackend().connect(*address)


def test_connecting_to_one_does_not_end_by_a_cancelled_deadline(hole: Hole) -> None:
    address = hole.black_hole()
    with cancelled(hole.open):
        httpx_net.NetworkBackend().connect(*address).close()
        hole.connected.set()


@pytest.mark.parametrize("delay", [0.01, 0.25, None])
def test_connecting_to_several_ends_by_its_deadline(hole: Hole, delay: float | None) -> None:
    net = Listed([hole.black_hole(), hole.black_hole()], happy_eyeballs_delay=delay)
    with times_out():
        net.connect("somebody.test", 80)


@pytest.mark.parametrize("delay", [0.01, 0.25, None])
@pytest.mark.parametrize("count", [1, 2])
def test_connecting_ends_by_its_deadline_where_the_clock_stands_still(
    hole: Hole, count: int, delay: float | None
) -> None:
    net = Listed([hole.black_hole() for _ in range(count)], happy_eyeballs_delay=delay)
    with times_out_at_a_standstill():
        net.connect("somebody.test", 80)


def test_the_next_attempt_starts_where_the_clock_stands_still(hole: Hole, peers: Peers) -> None:
    found = [hole.black_hole(), peers.serve(server_of(0))]
    with frozen_clock(), httpx_net.timeout(HANG):
        Listed(found, happy_eyeballs_delay=LIMIT).connect("somebody.test", 80).close()


def test_connecting_to_several_does_not_end_by_a_cancelled_deadline(
    hole: Hole, peers: Peers
) -> None:
    found = [hole.black_hole(), peers.serve(server_of(0))]
    with cancelled():
        Listed(found, happy_eyeballs_delay=LIMIT * 1.5).connect("somebody.test", 80).close()
