"""Load: hundreds of threads at once, thousands of connections, threads in each other's way.

What the package does without a lock, and lists in docs/design.rst, is hammered here, with and
without the GIL. ``HTTPX_NET_LOAD_SECONDS=60 pytest -m load`` hammers for longer.
"""

from __future__ import annotations

import collections
import errno
import gc
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import httpx_net
from conftest import open_descriptors
from dialing import info
from httpx_net import NetworkStream
from peers import (
    HANG,
    Peers,
    client_context,
    connect_tls,
    descriptors,
    echo,
    inside_tls,
    start,
    take,
    wait_until,
)

pytestmark = pytest.mark.load

THREADS = 600
CYCLES = 2_000

# In seconds: how long each scene with threads that meet goes on, and what none of this comes near.
HAMMERED = float(os.environ.get("HTTPX_NET_LOAD_SECONDS", "0.2"))
LONG = 120.0 + HAMMERED

net = httpx_net.NetworkBackend()


def exchange(stream: NetworkStream, data: bytes) -> None:
    stream.write(data)
    assert take(stream, len(data)) == data


@pytest.mark.parametrize(
    ("layers", "count"), [(0, THREADS), (1, THREADS // 3)], ids=["plain", "TLS"]
)
def test_each_of_many_threads_has_its_own_deadline_and_stream(
    peers: Peers, layers: int, count: int
) -> None:
    context = client_context()
    together = threading.Barrier(count, timeout=LONG / 4)
    address = peers.serve_at_once(lambda conn: echo(inside_tls(conn, layers)), count)

    def scene(number: int) -> None:
        mine = LONG + number
        with httpx_net.timeout(mine), net.connect(*address) as stream:
            for _ in range(layers):
                stream.start_tls(context, "localhost")
            exchange(stream, b"I am %d" % number)
            # By now all are connected, and inside a block.
            together.wait()
            exchange(stream, b"I am still %d" % number)
            assert mine - LONG < httpx_net.remaining() < mine
            short = 0.05 + number / 10_000
            begun = time.monotonic()
            with pytest.raises(TimeoutError) as caught, httpx_net.timeout(short):
                stream.read()
            assert time.monotonic() - begun >= short
            assert str(caught.value).endswith(f"timed out: timeout({short!r}) expired")
            exchange(stream, b"I was %d" % number)
            together.wait()
        assert httpx_net.remaining() is None

    with descriptors(2 * count + 200), ThreadPoolExecutor(count) as pool:
        done = [pool.submit(scene, number) for number in range(count)]
    failures = [error for each in done if (error := each.exception()) is not None]
    # Raise the cause rather than the barrier that it broke.
    failures.sort(key=lambda error: isinstance(error, threading.BrokenBarrierError))
    if failures:
        raise failures[0]


@pytest.mark.parametrize(
    ("layers", "cycles"), [(0, CYCLES), (1, CYCLES // 10)], ids=["plain", "TLS"]
)
def test_thousands_of_connections_leave_nothing(peers: Peers, layers: int, cycles: int) -> None:
    context = client_context()
    before = len(open_descriptors())
    address = peers.serve_in_turn(lambda conn: echo(inside_tls(conn, layers)))

    def memory_after(times: int) -> int:
        for _ in range(times):
            with httpx_net.timeout(HANG), connect_tls(address, context, layers=layers) as stream:
                # Without an exchange we would outrun the listener, which costs a second each time.
                exchange(stream, b"x")
        # The listener is still there.
        wait_until(lambda: len(open_descriptors()) == before + 1)
        gc.collect()
        return sys.getallocatedblocks()

    blocks = memory_after(cycles // 10)
    # A block of memory for each connection would be a leak.
    assert memory_after(cycles) - blocks < cycles / 10


# ---- Threads that meet


def rounds() -> Iterator[None]:
    end = time.monotonic() + HAMMERED
    while time.monotonic() < end:
        yield


def spin(longest: int) -> None:
    """Let a moment pass, so that the threads of a scene meet at another line each time."""
    for _ in range(random.randrange(longest)):
        pass


def at_once(*scenes: Callable[[], object]) -> None:
    """Run each in a thread of its own; what one raises is raised here, or that it hangs."""
    for _, result in [start(scene) for scene in scenes]:
        result.result(LONG)


def test_a_cancel_wins_wherever_it_meets_the_enter() -> None:
    meet = threading.Barrier(2, timeout=HANG)
    block: httpx_net.timeout | None = None

    def enter() -> None:
        nonlocal block
        for _ in rounds():
            block = httpx_net.timeout(LONG)
            meet.wait()
            spin(40)
            with block:
                meet.wait()
                assert httpx_net.remaining() is None
                assert not block.expired()
        block = None
        meet.wait()

    def cancel() -> None:
        meet.wait()
        while block is not None:
            spin(40)
            block.cancel()
            meet.wait()
            meet.wait()

    at_once(enter, cancel)


def test_generators_closed_in_other_threads_take_their_own_deadlines_along() -> None:
    handed: collections.deque[Iterator[None]] = collections.deque()
    closed: collections.deque[None] = collections.deque()
    over = threading.Event()

    def bounded(duration: float) -> Iterator[None]:
        with httpx_net.timeout(duration):
            yield

    def own() -> None:
        given = 0
        for _ in rounds():
            with httpx_net.timeout(50.0):
                for _ in range(random.randrange(1, 12)):
                    generator = bounded(random.choice((60.0, 70.0, 100.0)))
                    next(generator)
                    handed.append(generator)
                    given += 1
                    with httpx_net.timeout(random.choice((10.0, 60.0, 200.0))):
                        assert httpx_net.remaining() <= 50.0
                    assert 10.0 < httpx_net.remaining() <= 50.0
            wait_until(lambda given=given: len(closed) == given)
            assert httpx_net.remaining() is None
        over.set()

    def close() -> None:
        while not over.is_set():
            try:
                handed.popleft().close()
                closed.append(None)
            except IndexError:
                time.sleep(0)

    at_once(own, close, close, close)


def test_whoever_looks_up_gets_the_answer_for_their_own_name_or_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses = {f"name{i}.test": f"127.0.0.{i}" for i in range(1, 5)}

    def answer(host: Any, port: int, family: int = 0, *args: Any, **options: Any) -> Any:
        time.sleep(random.random() * 0.003)
        name = host if isinstance(host, str) else host.decode()
        if name not in addresses or family == socket.AF_INET6:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [info((addresses[name], port))]

    def look_up() -> None:
        for _ in rounds():
            name, port = random.choice([*addresses, "nobody.test"]), random.randrange(1, 65_536)
            try:
                with httpx_net.timeout(random.choice((HANG, 0.001, 0.002))):
                    (found,) = net.getaddrinfo(name, port)
            except socket.gaierror:
                assert name == "nobody.test"
            except TimeoutError:
                pass
            else:
                assert found[4] == (addresses[name], port)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    at_once(*[look_up] * 32)


@pytest.mark.parametrize("duration", [None, LONG], ids=["no deadline", "deadline"])
@pytest.mark.parametrize(
    "use", [lambda s: s.read(), lambda s: s.write(bytes(3_000_000))], ids=["read", "write"]
)
def test_a_closed_descriptor_is_used_again_at_once_and_nobody_mistakes_it(
    use: Callable[[NetworkStream], object], duration: float | None
) -> None:
    def in_time() -> None:
        with httpx_net.timeout(duration):
            use(stream)

    for _ in rounds():
        ours, theirs = socket.socketpair()
        stream = NetworkStream(ours)
        _, using = start(in_time)
        spin(300)
        stream.close()
        pairs = [socket.socketpair() for _ in range(3)]
        for _, another in pairs:
            another.send(b"for somebody else")
        error = using.exception(HANG)
        assert isinstance(error, OSError)
        assert error.errno == errno.EBADF, error
        for one, another in pairs:
            assert one.recv(100) == b"for somebody else"
            another.close()
            assert one.recv(1) == b""
            one.close()
        theirs.close()


@pytest.mark.parametrize("layers", [1, 2], ids=["TLS", "TLS in TLS"])
def test_one_thread_reads_what_another_writes_on_tls(peers: Peers, layers: int) -> None:
    sent, received, all_sent = bytearray(), bytearray(), threading.Event()

    def write() -> None:
        for _ in rounds():
            data = random.randbytes(random.randrange(1, 100_000))
            with httpx_net.timeout(LONG):
                stream.write(data)
            sent.extend(data)
        all_sent.set()

    def read() -> None:
        while not all_sent.is_set() or len(received) < len(sent):
            try:
                with httpx_net.timeout(random.choice((0.0005, 0.1))):
                    received.extend(stream.read())
            except TimeoutError:
                pass

    with connect_tls(peers.serve_layers(echo, layers), layers=layers) as stream:
        at_once(write, read)
    assert received == sent
