"""What an operation costs: in time, in memory, in requests per second."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import contenders
import httpx_net
from contenders import READ_SIZE
from measure import Batch, Extent, Row, row
from servers import Server, answer, client_context, server_context

LIMIT = 60.0  # a deadline that no benchmark meets
SMALL = bytes(64)
ROOT = Path(__file__).parents[2]
BYTECODE = "PYTHONDONTWRITEBYTECODE"

Pair = tuple[socket.socket, socket.socket]  # ours, theirs


# ---- One small read or write that need not wait: both ends in this thread


def tcp_pair() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    for sock in (ours, theirs):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    return ours, theirs


def tls_pair() -> Pair:
    ours, theirs = tcp_pair()
    accepted: list[ssl.SSLSocket] = []

    def accept() -> None:
        accepted.append(server_context().wrap_socket(theirs, server_side=True))

    thread = threading.Thread(target=accept)
    thread.start()
    secured = client_context().wrap_socket(ours, server_hostname="localhost")
    thread.join()
    accepted[0].sendall(b".")
    secured.recv(1)  # and with it the session tickets, which are nobody's data
    return secured, accepted[0]


def small_reads(contender: Any, pair: Pair, limit: float | None, count: int = 50) -> Batch:
    ours, theirs = pair
    conn = contender.wrap(ours)

    def batch() -> float:
        for _ in range(count):  # one TLS record each
            theirs.sendall(SMALL)
        with contender.block(limit):
            start = perf_counter()
            contender.reads(conn, len(SMALL), count, limit)
            return (perf_counter() - start) / count * 1e6

    return batch


def small_writes(contender: Any, pair: Pair, limit: float | None, count: int = 50) -> Batch:
    ours, theirs = pair
    conn = contender.wrap(ours)

    def batch() -> float:
        with contender.block(limit):
            start = perf_counter()
            contender.writes(conn, SMALL, count, limit)
            seconds = perf_counter() - start
        taken = 0
        while taken < count * len(SMALL):
            taken += len(theirs.recv(READ_SIZE))
        return seconds / count * 1e6

    return batch


def small_operations(extent: Extent) -> Iterator[Row]:
    goals = {
        ("read", "plain", None): 1.30,
        ("write", "plain", None): 1.30,
        ("read", "plain", LIMIT): 0.55,
        ("write", "plain", LIMIT): 0.62,
        ("read", "TLS", None): 1.05,
        ("write", "TLS", None): 1.15,
        ("read", "TLS", LIMIT): 0.95,
        ("write", "TLS", LIMIT): 0.85,
    }
    for kind, make in (("plain", tcp_pair), ("TLS", tls_pair)):
        for limit, under in ((None, "no deadline"), (LIMIT, "a deadline")):
            for verb, measured in (("read", small_reads), ("write", small_writes)):
                yield row(
                    f"{verb} 64 bytes, {kind}, {under}",
                    {each.name: measured(each, make(), limit) for each in contenders.streams()},
                    rounds=extent.rounds(1000),
                    goal=goals[verb, kind, limit],
                )


# ---- Blocks


class Empty:
    """The least that a class can do as a block."""

    __slots__ = ()

    def __init__(self, seconds: float) -> None:
        pass

    def __enter__(self) -> Empty:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


def blocks(extent: Extent) -> Iterator[Row]:
    def entering(block: Callable[[float], Any], count: int = 200) -> Batch:
        def batch() -> float:
            start = perf_counter()
            for _ in range(count):
                with block(3.0):
                    pass
            return (perf_counter() - start) / count * 1e6

        return batch

    batches = {"empty": entering(Empty), "httpx_net": entering(httpx_net.timeout)}
    if contenders.httpx is not None:
        batches["httpx 1.0"] = entering(contenders.httpx.timeout)
    rounds = extent.rounds(1000)
    goal = 0.5 / 0.17
    yield row("enter and leave a block", batches, rounds, goal=goal, baseline="empty")


# ---- There and back


def echoing(server: Server, tls: ssl.SSLContext | None) -> socket.socket:
    conn = connected(server, tls)
    conn.sendall(b"ECHO\r\n\r\n")
    return conn


def connected(server: Server, tls: ssl.SSLContext | None) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.plain if tls is None else server.tls))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    return sock if tls is None else tls.wrap_socket(sock, server_hostname="localhost")


def ping_pong(extent: Extent, server: Server) -> Iterator[Row]:
    """With both ends on one processor, so that nothing one does is hidden by the other's doing."""

    def exchanging(contender: Any, conn: Any, limit: float | None, count: int = 10) -> Batch:
        def batch() -> float:
            with contender.block(limit):
                start = perf_counter()
                contender.exchanges(conn, SMALL, count, limit)
                return (perf_counter() - start) / count * 1e6

        return batch

    for kind, tls in (("plain", None), ("TLS", client_context())):
        for limit, under in ((None, "no deadline"), (LIMIT, "a deadline")):
            yield row(
                f"ping-pong of 64 bytes, {kind}, {under}",
                {
                    each.name: exchanging(each, each.wrap(echoing(server, tls)), limit)
                    for each in contenders.streams()
                },
                rounds=extent.rounds(1000),
                goal=1.03 if tls or limit else 1.06,
            )


def many_threads(extent: Extent, server: Server) -> Iterator[Row]:
    """Threads that exchange messages with one server, each under its own deadline."""
    threads, exchanges = 200, 10

    def crowd(contender: Any) -> Batch:
        address = "127.0.0.1", server.many
        conns = []
        for _ in range(threads):
            sock = socket.create_connection(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            conns.append(contender.wrap(sock))

        def batch() -> float:
            together = threading.Barrier(threads + 1)

            def one(conn: Any) -> None:
                together.wait()
                with contender.block(LIMIT):
                    contender.exchanges(conn, SMALL, exchanges, LIMIT)
                together.wait()

            running = [threading.Thread(target=one, args=(conn,)) for conn in conns]
            for thread in running:
                thread.start()
            together.wait()
            start = perf_counter()
            together.wait()
            seconds = perf_counter() - start
            for thread in running:
                thread.join()
            return seconds / threads / exchanges * 1e6

        return batch

    yield row(
        f"{threads} threads, ping-pong of 64 bytes, a deadline each",
        {each.name: crowd(each) for each in contenders.streams()},
        rounds=extent.rounds(60),
        goal=1.03,
    )


# ---- Large transfers


def downloads(extent: Extent, far: Server) -> Iterator[Row]:
    """Processor time, since the peer and the kernel's copying decide how long it takes.

    Each on a connection of its own: some cost half as much again as others, whoever uses them.
    """
    size, rounds = (64 << 20) // extent.shrink, extent.rounds(16)  # 1 GiB in all

    def downloading(contender: Any, tls: ssl.SSLContext | None, limit: float | None) -> Batch:
        def batch() -> float:
            raw = connected(far, tls)
            raw.sendall(contenders.request("GET", f"/bytes/{size}"))
            with contextlib.closing(contender.wrap(raw)) as conn:
                start = process_time()
                contender.download(conn, len(answer("200 OK", size)) + size, limit)
                return (process_time() - start) * (1 << 30) / size

        return batch

    for kind, tls in (("plain", None), ("TLS", client_context())):
        for limit, under in ((None, "no deadline"), (LIMIT, "a deadline")):
            yield row(
                f"download of 1 GiB, {kind}, {under}, processor time",
                {each.name: downloading(each, tls, limit) for each in contenders.streams()},
                rounds,
                unit="s",
                goal=1.02 if tls else 1.03,
            )


def uploads(extent: Extent, far: Server) -> Iterator[Row]:
    size, rounds = (256 << 20) // extent.shrink, extent.rounds(9)
    body = bytes(size)
    head = contenders.request("PUT", "/", size)

    def uploading(contender: Any, conn: Any) -> Batch:
        def batch() -> float:
            start = perf_counter()
            contender.upload(conn, head, body, LIMIT)
            return perf_counter() - start

        return batch

    def allocating(contender: Any, conn: Any) -> Batch:
        def batch() -> float:
            tracemalloc.start()
            contender.upload(conn, head, body, LIMIT)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return peak / (1 << 20)

        return batch

    for kind, tls in (("plain", None), ("TLS", client_context())):
        what = f"upload of {size >> 20} MiB, one bytes object, {kind}, a deadline"
        batches = {
            each.name: uploading(each, each.wrap(connected(far, tls)))
            for each in contenders.streams()
        }
        slow = 12.0  # seconds enough for those who copy all that is left with each call
        goal = None if tls else 0.75
        yield row(what, batches, rounds, unit="s", goal=goal, most_seconds=slow)
        if tls is None:
            batches = {
                each.name: allocating(each, each.wrap(connected(far, tls)))
                for each in contenders.streams()
            }
            yield row(f"{what}: memory", batches, 1, unit="MiB", baseline=None)


# ---- Connecting


def opening(contender: Any, host: str, limit: float | None, count: int = 5) -> Batch:
    """Connect and close. The listener is in this process: nobody else has to be scheduled."""
    family, _, _, _, sockaddr = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server(sockaddr[:2], family=family, backlog=2 * count)
    address = host, listener.getsockname()[1]

    def batch() -> float:
        start = perf_counter()
        for _ in range(count):
            contender.connect_and_close(address, limit)
        seconds = perf_counter() - start
        for _ in range(count):
            listener.accept()[0].close()
        return seconds / count * 1e6

    return batch


def connecting(extent: Extent) -> Iterator[Row]:
    goals = {
        ("127.0.0.1", None): 1.25,
        ("127.0.0.1", LIMIT): 1.35,
        ("localhost", None): 1.25,
        ("localhost", LIMIT): 5.5,
    }
    for host in ("127.0.0.1", "localhost"):
        for limit, under in ((None, "no deadline"), (LIMIT, "a deadline")):
            yield row(
                f"connect to {host} and close, {under}",
                {each.name: opening(each, host, limit) for each in contenders.connecting()},
                rounds=extent.rounds(500),
                goal=goals[host, limit],
            )


def keepalive(extent: Extent) -> Iterator[Row]:
    """What it costs to ask the kernel to keep connections alive, which is on by default."""
    batches = {
        f"keepalive={seconds}": opening(contenders.HttpxNet(keepalive=seconds), "127.0.0.1", None)
        for seconds in (None, 60.0)
    }
    what = "connect to 127.0.0.1 and close, no deadline"
    yield row(what, batches, extent.rounds(500), baseline="keepalive=None")


# ---- What it takes to have it at all


def memory(extent: Extent) -> Iterator[Row]:
    """Bytes of an open stream, and of what it keeps, on top of its socket."""

    def keeping(make_pair: Callable[[], Pair], contender: Any, count: int = 100) -> Batch:
        def batch() -> float:
            with contextlib.ExitStack() as stack:
                pairs = [make_pair() for _ in range(count)]
                for ours, theirs in pairs:
                    stack.enter_context(ours)
                    stack.enter_context(theirs)
                conns = [None] * count
                tracemalloc.start()
                for number, (ours, _) in enumerate(pairs):
                    conns[number] = contender.wrap(ours)
                size = tracemalloc.get_traced_memory()[0]
                tracemalloc.stop()
                for conn in conns:
                    conn.close()  # type: ignore[attr-defined]
                return size / count

        return batch

    batches = {each.name: keeping(tcp_pair, each) for each in contenders.streams()}
    yield row("an open stream", batches, extent.rounds(3), unit="B", baseline=None)


def imports(extent: Extent) -> Iterator[Row]:
    """In a new process each, after the modules that every client needs, and from bytecode."""

    def importing(module: str, cache: str) -> Batch:
        code = (
            "import sys, socket, ssl, threading, time; start = time.perf_counter(); "
            f"import {module}; print(time.perf_counter() - start)"
        )
        environ = {name: value for name, value in os.environ.items() if name != BYTECODE}
        environ |= {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": cache}

        def batch() -> float:
            return float(subprocess.check_output([sys.executable, "-c", code], env=environ)) * 1e3

        batch()  # compiles it
        return batch

    with tempfile.TemporaryDirectory() as cache:
        modules = ["httpx_net", "http.client", *contenders.versions()]
        yield row(
            "import, after socket, ssl and threading",
            {module: importing(module, cache) for module in modules},
            rounds=extent.rounds(30),
            unit="ms",
            baseline=None,
        )
