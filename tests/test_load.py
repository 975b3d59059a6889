"""Load: a thousand threads at once, thousands of connections, threads in each other's way.

What the package does without a lock, and lists in docs/design.rst, is hammered here, with and
without the GIL. ``HTTPX_NET_LOAD_SECONDS=60 pytest -m load`` hammers for longer.
"""

from __future__ import annotations

import collections
import errno
import gc
import os
import random
import selectors
import socket
import ssl
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

import httpx_net
from conftest import open_descriptors
from dialing import info
from httpx_net import NetworkStream
from peers import (
    HANG,
    Address,
    Peers,
    client_context,
    connect_tls,
    descriptors,
    echo,
    server_context,
    wait_until,
    wrap_server,
)

pytestmark = pytest.mark.load

THREADS = 1000
CYCLES = 5_000

# In seconds: how long each scene with threads that meet goes on, and what none of this comes near.
HAMMERED = float(os.environ.get("HTTPX_NET_LOAD_SECONDS", "0.3"))
LONG = 120.0 + HAMMERED

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
                # The client is gone.
                except OSError:
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
        # On TLS, recv does the handshake as well.
        while data := conn.recv(65536):
            # There is always room for the little that these clients say.
            conn.send(data)
        self._end(conn)

    def _end(self, conn: Any) -> None:
        self._selector.unregister(conn)
        conn.close()


def start(stream: NetworkStream, context: ssl.SSLContext | None) -> None:
    if context is not None:
        stream.start_tls(context, "localhost")


def exchange(stream: NetworkStream, data: bytes) -> None:
    stream.write(data)
    received = b""
    while len(received) < len(data):
        received += stream.read()
    assert received == data


@pytest.mark.parametrize(
    ("tls", "count"), [(False, THREADS), (True, THREADS // 3)], ids=["plain", "TLS"]
)
def test_each_of_many_threads_has_its_own_deadline_and_stream(
    peers: Peers, tls: bool, count: int
) -> None:
    context = client_context() if tls else None
    together = threading.Barrier(count)

    def scene(number: int) -> None:
        mine = LONG + number
        with httpx_net.timeout(mine), net.connect(*echo.address) as stream:
            start(stream, context)
            exchange(stream, b"I am %d" % number)
            # By now all are connected, and inside a block.
            together.wait(LONG)
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
            # The others must not wait for a thread that has failed.
            together.abort()
            raise

    before = len(open_descriptors())
    with (
        descriptors(2 * count + 200),
        Echo(peers.listen(backlog=count), server_context("server") if tls else None) as echo,
    ):
        with ThreadPoolExecutor(count) as pool:
            done = [pool.submit(guarded, number) for number in range(count)]
        failures = [error for each in done if (error := each.exception()) is not None]
        # Raise the cause rather than the barrier that it broke.
        if failures:
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
            # Without an exchange we would outrun the listener, which costs a second each time.
            exchange(stream, b"x")

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
    # A block of memory for each connection would be a leak.
    assert blocks_after - blocks_before < cycles / 10


def repeat(call: Callable[[], object], times: int) -> None:
    for _ in range(times):
        call()


# ---- Threads that meet


def rounds() -> Iterator[None]:
    end = time.monotonic() + HAMMERED
    while time.monotonic() < end:
        yield


def spin(longest: int) -> None:
    """Let a moment pass, so that the threads of a scene meet at another line each time."""
    for _ in range(random.randrange(longest)):
        pass


def start_thread(scene: Callable[[], object]) -> Future[Any]:
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(scene())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result


def at_once(*scenes: Callable[[], object]) -> None:
    """Run each in a thread of its own; what one raises is raised here, or that it hangs."""
    for result in [start_thread(scene) for scene in scenes]:
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
        using = start_thread(in_time)
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
    sent, received, all_sent = [0, 0], [0, 0], threading.Event()

    def count(counted: list[int], data: bytes) -> None:
        counted[:] = counted[0] + len(data), zlib.crc32(data, counted[1])

    def write() -> None:
        for _ in rounds():
            data = random.randbytes(random.randrange(1, 100_000))
            with httpx_net.timeout(LONG):
                stream.write(data)
            count(sent, data)
        all_sent.set()

    def read() -> None:
        while not all_sent.is_set() or received[0] < sent[0]:
            try:
                with httpx_net.timeout(random.choice((0.0005, 0.1))):
                    count(received, stream.read())
            except TimeoutError:
                pass

    with connect_tls(peers.serve_layers(echo, layers), layers=layers) as stream:
        at_once(write, read)
    assert received == sent


def test_sixty_four_threads_share_a_backend_and_a_context(peers: Peers) -> None:
    context = client_context()

    def connect_and_talk() -> None:
        for _ in rounds():
            server, secure = random.choice(((plain, None), (tls, context)))
            host = random.choice(("127.0.0.1", "localhost", "LOCALHOST"))
            with (
                httpx_net.timeout(LONG),
                httpx_net.timeout(LONG) as inner,
                net.connect(host, server.address[1]) as stream,
            ):
                start(stream, secure)
                if random.random() < 0.5:
                    inner.cancel()
                exchange(stream, random.randbytes(random.randrange(1, 5000)))
            assert httpx_net.remaining() is None

    with (
        Echo(peers.listen(backlog=128), None) as plain,
        Echo(peers.listen(backlog=128), server_context("server")) as tls,
    ):
        at_once(*[connect_and_talk] * 64)


IGNORED = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)


@pytest.mark.skipif(
    not ssl.create_default_context().options & IGNORED,
    reason="the contexts of this Python hide no truncation",
)
def test_truncation_is_an_error_for_all_who_share_contexts_that_hide_it(peers: Peers) -> None:
    contexts = [client_context() for _ in range(2)]
    before = [context.options for context in contexts]
    server = server_context("server")

    def cut_off(conn: socket.socket) -> None:
        with wrap_server(server, conn) as tls:
            tls.recv(1)

    def meet_truncation() -> None:
        for _ in rounds():
            with httpx_net.timeout(LONG), net.connect(*address) as stream:
                stream.start_tls(random.choice(contexts), "localhost")
                stream.write(b"x")
                with pytest.raises(ssl.SSLEOFError):
                    stream.read()

    address = peers.serve_in_turn(cut_off)
    at_once(*[meet_truncation] * 8)
    assert [context.options for context in contexts] == before
