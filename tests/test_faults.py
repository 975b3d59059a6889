"""Faults: an interrupt at any line, no memory at any call, resets at any stage.

Nothing is left over, no byte is left out, and what a signal handler raises comes out as it is.
"""

from __future__ import annotations

import errno
import gc
import linecache
import queue
import random
import socket
import ssl
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

import httpx_net
from conftest import open_descriptors
from dialing import Resolver
from interrupts import interrupted_at
from peers import (
    HANG,
    Address,
    Meddled,
    Over,
    Peers,
    TLSInside,
    bottom,
    client_context,
    drop,
    say_goodbye,
    server_context,
    wait_until,
)

net = httpx_net.NetworkBackend()
# Three records.
PAYLOAD = random.Random(0).randbytes(40_000)


@pytest.fixture(scope="module")
def context() -> ssl.SSLContext:
    context = client_context()
    # Early 3.10 and 3.11 set it, and then a connection is made under a lock; but to leave
    # `with lock:` is a line to a trace function, and not a place where a signal arrives.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


def nothing_is_open_beyond(descriptors: int) -> Callable[[], bool]:
    """Whether no more are open; a build without a GIL may have some to collect."""

    def so_it_is() -> bool:
        if len(open_descriptors()) == descriptors:
            return True
        gc.collect()
        return False

    return so_it_is


def secured(layers: int, handler: Callable[[Any], object]) -> Callable[[Any], None]:
    """A peer that does TLS in so many *layers*; the client may go at any time."""
    context = server_context("server")
    context.num_tickets = 0

    def peer(conn: Any) -> None:
        with suppress(OSError):
            for _ in range(layers):
                conn = TLSInside(context, conn)
            handler(conn)

    return peer


def echo_once(conn: Any) -> None:
    conn.sendall(conn.recv(100))
    conn.recv(1)


# ---- Interrupts


def survivable(frame: FrameType, event: str) -> bool:
    """All but two moments of which no Python code can make anything.

    An interrupt where ``timeout.__exit__`` begins comes too late for the block and too early for
    the method: no context manager written in Python survives that. And what is raised in a
    finalizer, CPython only prints.
    """
    code = frame.f_code
    leaving = event == "call" and code is httpx_net.timeout.__exit__.__code__
    return not leaving and code.co_name != "__del__"


INTERRUPTS: dict[str, Callable[[], BaseException]] = {
    "Ctrl-C": KeyboardInterrupt,
    "a handler's reset": lambda: ConnectionResetError(errno.ECONNRESET, "of the handler's"),
    "a handler's timeout": lambda: TimeoutError("of the handler's"),
}
each_interrupt = pytest.mark.parametrize("interrupt", INTERRUPTS.values(), ids=INTERRUPTS)


def assert_interrupts_leave_nothing(
    interrupt: Callable[[], BaseException], scene: Callable[[], None], at_least: int
) -> None:
    """Run *scene* again and again, interrupted at its n-th line, until it gets to its end."""
    before = len(open_descriptors())
    for moment in range(5000):
        exception, raised = interrupt(), None
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                with interrupted_at(moment, exception, survivable) as where:
                    scene()
            except type(exception) as error:
                raised, text = error, str(error)
                exception.__traceback__ = None
            # The peer is in this process, and closes its end when it sees ours go.
            wait_until(nothing_is_open_beyond(before))
        assert httpx_net.remaining() is None, where
        # A stream that was not let into its `with`, or not out, is closed by its finalizer.
        at_the_door = any(function.endswith(("__enter__", "__exit__")) for function in where)
        assert not warned or at_the_door, where
        if not where:
            break
        assert raised is exception, (where, raised)
        assert text == str(interrupt()), where
    assert at_least < moment < 5000


@pytest.mark.parametrize("layers", [0, 1, 2], ids=["plain", "TLS", "TLS in TLS"])
@pytest.mark.parametrize(
    ("interrupt", "seconds"),
    [
        (INTERRUPTS["Ctrl-C"], None),
        (INTERRUPTS["Ctrl-C"], HANG),
        (INTERRUPTS["a handler's reset"], None),
        (INTERRUPTS["a handler's timeout"], HANG),
    ],
    ids=["Ctrl-C", "Ctrl-C under a deadline", "reset", "timeout under a deadline"],
)
def test_an_interrupt_at_any_line_comes_out_as_it_is_and_leaves_nothing(
    peers: Peers, context: ssl.SSLContext, layers: int, seconds: float | None, interrupt: Any
) -> None:
    address = peers.serve_in_turn(secured(layers, echo_once))

    def scene() -> None:
        with httpx_net.timeout(seconds), net.connect(*address) as stream:
            for _ in range(layers):
                stream.start_tls(context, "localhost")
            stream.write(b"hello")
            assert stream.read() == b"hello"

    assert_interrupts_leave_nothing(interrupt, scene, at_least=100)


@each_interrupt
def test_an_interrupt_at_any_line_leaves_no_look_up(
    peers: Peers, resolver: Resolver, interrupt: Any
) -> None:
    ip, port = peers.serve_in_turn(secured(0, echo_once))
    resolver.answers["www.example.com"] = (ip, port)

    def scene() -> None:
        with httpx_net.timeout(HANG), net.connect("www.example.com", port):
            pass

    assert_interrupts_leave_nothing(interrupt, scene, at_least=150)
    assert len(resolver.asked) > 50


# ---- No memory


def allocates(frame: FrameType, event: str) -> bool:
    """Whether the frame is in TLS, and begins something for which it needs memory: a call.

    Above TLS, bytes that have been decrypted are lost with the call that would have returned them,
    and nothing can be promised.
    """
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return frame.f_globals["__name__"] == "httpx_net._tls" and "(" in line


def out_of_memory(moment: int) -> Any:
    """``with out_of_memory(n) as where:``: at the n-th call within TLS there is none left."""
    return interrupted_at(moment, MemoryError(), allocates)


def connect_tls_in_tls(address: Address, context: ssl.SSLContext) -> httpx_net.NetworkStream:
    stream = net.connect(*address)
    for _ in range(2):
        stream.start_tls(context, "localhost")
    return stream


def says_all(conn: TLSInside) -> None:
    conn.sendall(PAYLOAD)
    say_goodbye(conn)
    bottom(conn).recv(1)


def test_without_memory_a_read_fails_and_later_ones_leave_out_no_byte(
    peers: Peers, context: ssl.SSLContext
) -> None:
    address = peers.serve_in_turn(secured(2, says_all))
    for moment in range(1000):
        received, ended = bytearray(), False
        with connect_tls_in_tls(address, context) as stream, httpx_net.timeout(HANG):
            with suppress(MemoryError), out_of_memory(moment) as where:
                read_all(stream, received)
            # Bytes that were lost on the way up are found missing.
            with suppress(OSError):
                read_all(stream, received)
                ended = True
        assert PAYLOAD.startswith(received), where
        assert received == PAYLOAD or not ended, where
        if not where:
            assert ended
            break
    assert 30 < moment < 1000


def read_all(stream: httpx_net.NetworkStream, received: bytearray) -> None:
    while data := stream.read():
        received += data


def test_without_memory_a_write_fails_and_nothing_follows_it(
    peers: Peers, context: ssl.SSLContext
) -> None:
    all_received: queue.SimpleQueue[bytearray] = queue.SimpleQueue()

    def answers_first(conn: TLSInside) -> None:
        received = bytearray()
        conn.sendall(b"still read")
        try:
            while data := conn.recv(65536):
                received += data
        finally:
            all_received.put(received)

    address = peers.serve_in_turn(secured(2, answers_first))
    for moment in range(1000):
        with connect_tls_in_tls(address, context) as stream, httpx_net.timeout(HANG):
            try:
                with out_of_memory(moment) as where:
                    stream.write(PAYLOAD)
            except MemoryError:
                with pytest.raises(BrokenPipeError, match="an earlier write stopped"):
                    stream.write(PAYLOAD)
            assert stream.read() == b"still read", where
        received = all_received.get(timeout=HANG)
        assert PAYLOAD.startswith(received), where
        if not where:
            assert received == PAYLOAD
            break
    assert 30 < moment < 1000


def test_without_memory_a_handshake_fails_and_the_stream_is_closed(
    peers: Peers, context: ssl.SSLContext
) -> None:
    address = peers.serve_in_turn(secured(2, echo_once))
    before = len(open_descriptors())
    for moment in range(1000):
        with net.connect(*address) as stream:
            stream.start_tls(context, "localhost")
            try:
                with out_of_memory(moment) as where:
                    stream.start_tls(context, "localhost")
            except MemoryError:
                if " CLOSED" not in repr(stream):
                    # It came to the arguments and no further, so the stream is as it was.
                    stream.start_tls(context, "localhost")
                    continue
                wait_until(nothing_is_open_beyond(before))
        if not where:
            break
    assert 15 < moment < 1000


# ---- Resets


def reset_after(layers: int, count: int, inside: bool) -> Callable[[Any], None]:
    """A peer that says ``PAYLOAD``, but drops the connection after *count* bytes.

    *inside* counts what the inner TLS says, and not what is on the wire.
    """
    context = server_context("server")
    context.num_tickets = 0

    def peer(conn: socket.socket) -> None:
        def dropped(said: Any, rest: bytes) -> None:
            drop(conn)

        said: Any = conn if inside else Meddled(conn, count, dropped)
        with suppress(Over, ssl.SSLError, ConnectionError):
            for layer in range(layers):
                said = TLSInside(context, said)
                if inside and layer == 0:
                    said = Meddled(said, count, dropped)
            said.sendall(PAYLOAD)
            drop(conn)

    return peer


@pytest.mark.parametrize("suppress_ragged_eofs", [False, True])
@pytest.mark.parametrize(
    ("layers", "inside"),
    [(0, False), (1, False), (2, False), (2, True)],
    ids=["plain", "TLS", "TLS in TLS", "inside TLS"],
)
def test_a_reset_at_any_stage_is_an_error(
    peers: Peers, context: ssl.SSLContext, layers: int, inside: bool, suppress_ragged_eofs: bool
) -> None:
    backend = httpx_net.NetworkBackend(suppress_ragged_eofs=suppress_ragged_eofs)
    before = len(open_descriptors())
    for count in (0, 1, *range(100, 45_000, 1500)):
        received = bytearray()
        address = peers.serve(reset_after(layers, count, inside))
        with (
            pytest.raises(OSError) as caught,
            httpx_net.timeout(HANG),
            backend.connect(*address) as stream,
        ):
            for _ in range(layers):
                stream.start_tls(context, "localhost")
            read_all(stream, received)
        assert not isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, ConnectionResetError) or "handshake" in str(caught.value)
        assert PAYLOAD.startswith(received)
        wait_until(nothing_is_open_beyond(before))
