"""Load: a thousand threads at once, ten thousand connections one after another."""

from __future__ import annotations

import gc
import selectors
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import httpx_net
from conftest import open_descriptors
from peers import HANG, Address, Peers, client_context, descriptors, server_context, wait_until

pytestmark = pytest.mark.load

THREADS = 1000
CYCLES = 10_000
LONG = 120.0  # seconds; all of this takes a tenth

net = httpx_net.NetworkBackend()


class Echo:
    """One thread that sends everything back, to any number of clients at once."""

    def __init__(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        self._listener = listener
        self._context = context
        self.accepted = 0
        self._selector = selectors.DefaultSelector()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="echo", daemon=True)

    def __enter__(self) -> Echo:
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join(HANG)

    @property
    def address(self) -> Address:
        ip, port = self._listener.getsockname()
        return ip, port

    def clients(self) -> int:
        return len(self._selector.get_map()) - 1

    def _run(self) -> None:
        while not self._over.is_set():
            for key, _ in self._selector.select(0.05):
                try:
                    key.data(key.fileobj)
                except (BlockingIOError, ssl.SSLWantReadError):
                    pass
                except OSError:  # the client is gone
                    self._end(key.fileobj)
        for key in list(self._selector.get_map().values()):
            self._end(key.fileobj)
        self._selector.close()

    def _accept(self, listener: socket.socket) -> None:
        conn, _ = listener.accept()
        self.accepted += 1
        conn.setblocking(False)
        if self._context is not None:
            conn = self._context.wrap_socket(
                conn, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
        self._selector.register(conn, selectors.EVENT_READ, self._echo)

    def _echo(self, conn: socket.socket) -> None:
        while data := conn.recv(65536):  # which does the handshake as well
            conn.send(data)  # as little as these clients say always fits
        self._end(conn)

    def _end(self, conn: Any) -> None:
        self._selector.unregister(conn)
        conn.close()


def start(stream: httpx_net.NetworkStream, context: ssl.SSLContext | None) -> None:
    if context is not None:
        stream.start_tls(context, "localhost")


def exchange(stream: httpx_net.NetworkStream, data: bytes) -> None:
    stream.write(data)
    received = b""
    while len(received) < len(data):
        received += stream.read()
    assert received == data


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_each_of_a_thousand_threads_has_its_own_deadline_and_stream(
    peers: Peers, tls: bool
) -> None:
    context = client_context() if tls else None
    together = threading.Barrier(THREADS)

    def scene(number: int) -> None:
        mine = LONG + number
        with httpx_net.timeout(mine), net.connect(*echo.address) as stream:
            start(stream, context)
            exchange(stream, b"I am %d" % number)
            together.wait(LONG)  # all are connected, and inside of a block
            exchange(stream, b"I am still %d" % number)
            assert mine - LONG < httpx_net.remaining() < mine
            short = 0.05 + number / 10_000
            begun = time.monotonic()
            with pytest.raises(TimeoutError) as caught, httpx_net.timeout(short):
                stream.read()
            assert time.monotonic() - begun >= short
            assert str(caught.value).endswith(f"timed out: timeout({short!r}) expired")
            exchange(stream, b"I was %d" % number)
            together.wait(LONG)
        assert httpx_net.remaining() is None

    def guarded(number: int) -> None:
        try:
            scene(number)
        except BaseException:
            together.abort()  # or the others would wait for one that has failed
            raise

    before = len(open_descriptors())
    with (
        descriptors(2 * THREADS + 200),
        Echo(peers.listen(backlog=THREADS), server_context("server") if tls else None) as echo,
    ):
        with ThreadPoolExecutor(THREADS) as pool:
            done = [pool.submit(guarded, number) for number in range(THREADS)]
        failures = [error for each in done if (error := each.exception()) is not None]
        if failures:  # rather the cause than a barrier that it broke
            raise next(e for e in failures if not isinstance(e, threading.BrokenBarrierError))
    assert len(open_descriptors()) == before


@pytest.mark.parametrize(
    ("tls", "cycles"), [(False, CYCLES), (True, CYCLES // 20)], ids=["plain", "TLS"]
)
def test_thousands_of_connections_leave_nothing(peers: Peers, tls: bool, cycles: int) -> None:
    context = client_context() if tls else None
    server = server_context("server") if tls else None
    if server is not None:
        server.num_tickets = 0

    def cycle() -> None:
        with httpx_net.timeout(HANG), net.connect(*echo.address) as stream:
            start(stream, context)
            exchange(stream, b"x")  # not to outrun the listener, which would cost a second each

    def measure(made: int) -> tuple[int, int]:
        wait_until(lambda: echo.accepted == made and not echo.clients())
        gc.collect()
        return len(open_descriptors()), sys.getallocatedblocks()

    with Echo(peers.listen(), server) as echo:
        repeat(cycle, some := cycles // 10)
        descriptors_before, blocks_before = measure(some)
        repeat(cycle, cycles)
        descriptors_after, blocks_after = measure(some + cycles)
    assert descriptors_after == descriptors_before
    assert blocks_after - blocks_before < cycles / 10  # of memory; one for each would be a leak


def repeat(call: Callable[[], object], times: int) -> None:
    for _ in range(times):
        call()
