"""Faults: an interrupt at any line, and no memory at any call.

Nothing is left over, no byte is left out, and what a signal handler raises comes out as it is.
"""

from __future__ import annotations

import errno
import gc
import itertools
import linecache
import queue
import random
import socket
import ssl
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import pytest

import httpx_net
from conftest import open_descriptors
from dialing import Resolver
from interrupts import interrupted_at
from peers import (
    HANG,
    PACKAGE,
    Peers,
    bottom,
    client_context,
    client_may_leave,
    inside_tls,
    on_tls,
    wait_until,
)

net = httpx_net.NetworkBackend()


@pytest.fixture(scope="module")
def context() -> ssl.SSLContext:
    context = client_context()
    # Early 3.10 and 3.11 set it, and then a connection is made under a lock; but to leave
    # `with lock:` is a line to a trace function, and not a place where a signal arrives.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


@pytest.fixture
def quick_collections() -> Iterator[None]:
    """A collection looks at new objects alone: hundreds over all there are take many seconds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


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


def answers_in_each_layer(conn: Any) -> None:
    """Answer a question in clear, the next in TLS, and one in TLS in TLS; the client may go."""
    with suppress(OSError):
        for layers in (0, 1, 1):
            conn = inside_tls(conn, layers)
            conn.sendall(conn.recv(100))
        conn.recv(1)


class Pressed(KeyboardInterrupt, ValueError, IndexError, TypeError):
    """Ctrl-C, of classes that the package catches where they are its own."""


class HandlersReset(ConnectionResetError, ssl.SSLWantReadError):
    """A handler's error, of the classes of a lost connection and of a TLS that has to wait."""


@pytest.mark.usefixtures("quick_collections")
@pytest.mark.parametrize(
    ("interrupt", "seconds"),
    [
        (lambda: Pressed("Ctrl-C"), HANG),
        (lambda: HandlersReset(errno.ECONNRESET, "of the handler's"), None),
        (lambda: TimeoutError("of the handler's"), HANG),
    ],
    ids=["Ctrl-C", "a handler's reset", "a handler's timeout"],
)
def test_an_interrupt_at_any_line_comes_out_as_it_is_and_leaves_nothing(
    peers: Peers,
    resolver: Resolver,
    context: ssl.SSLContext,
    interrupt: Callable[[], BaseException],
    seconds: float | None,
) -> None:
    address = peers.serve_in_turn(answers_in_each_layer)
    resolver.answers["www.example.com"] = address

    def scene() -> None:
        with httpx_net.timeout(seconds), net.connect("www.example.com", address[1]) as stream:
            for layers in range(3):
                if layers:
                    stream.start_tls(context, "localhost")
                stream.write(b"hello")
                assert stream.read() == b"hello"

    before = len(open_descriptors())

    def all_is_closed() -> bool:
        # A build without a GIL may have some to collect.
        gc.collect()
        return len(open_descriptors()) == before

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
            wait_until(all_is_closed)
        assert httpx_net.remaining() is None, where
        # A stream that was not let into its `with`, or not out, is closed by its finalizer.
        at_the_door = any(function.endswith(("__enter__", "__exit__")) for function in where)
        assert not warned or at_the_door, where
        if not where:
            break
        assert raised is exception, (where, raised)
        assert text == str(interrupt()), where
    assert 400 < moment < 5000


@contextmanager
def interrupted_after(number: int) -> Iterator[list[str]]:
    """Press Ctrl-C where so many functions of the package have done their work, and would return.

    Gives a list which the function that is interrupted will be in.
    """
    returns, where = itertools.count(), list[str]()

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "return" and next(returns) == number:
            where.append(frame.f_code.co_name)
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        yield where
    finally:
        sys.settrace(None)


@on_tls
def test_what_a_write_was_interrupted_in_goes_out_once_at_most(
    peers: Peers, context: ssl.SSLContext, layers: int
) -> None:
    def greets_and_listens(conn: Any) -> None:
        conn = inside_tls(conn, layers)
        conn.sendall(b"hello")
        # A record that comes twice is a bad one.
        with client_may_leave():
            while conn.recv(65_536):
                pass

    address = peers.serve_in_turn(greets_and_listens)
    for moment in range(100):
        with net.connect(*address) as stream, httpx_net.timeout(HANG):
            for _ in range(layers):
                stream.start_tls(context, "localhost")
            with suppress(KeyboardInterrupt), interrupted_after(moment) as where:
                stream.write(b"once")
            # What the write has left behind would go out now.
            assert stream.read() == b"hello"
        if not where:
            break
    assert 2 < moment < 100


# ---- No memory

# Three records.
PAYLOAD = random.Random(0).randbytes(40_000)


def allocates(frame: FrameType, event: str) -> bool:
    """Whether the frame is in TLS, and begins something for which it needs memory: a call.

    Above TLS, bytes that have been decrypted are lost with the call that would have returned them,
    and nothing can be promised.
    """
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return frame.f_globals["__name__"] == "httpx_net._tls" and "(" in line


def test_without_memory_a_call_fails_and_no_later_one_leaves_out_a_byte(
    peers: Peers, context: ssl.SSLContext
) -> None:
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def says_and_hears_all(conn: Any) -> None:
        received = bytearray()
        with suppress(OSError):
            conn = inside_tls(conn, 2)
            conn.sendall(PAYLOAD)
            bottom(conn).shutdown(socket.SHUT_WR)
            while data := conn.recv(65_536):
                received += data
        heard.put(received)

    address = peers.serve_in_turn(says_and_hears_all)
    for moment in range(1000):
        received, failing = bytearray(), "handshake"
        with httpx_net.timeout(HANG), net.connect(*address) as stream:
            stream.start_tls(context, "localhost")
            with suppress(MemoryError), interrupted_at(moment, MemoryError(), allocates) as where:
                stream.start_tls(context, "localhost")
                failing = "write"
                stream.write(PAYLOAD)
                failing = "read"
                read_all(stream, received)
            if failing == "read":
                # Bytes that were lost on the way up are found missing.
                with suppress(ssl.SSLError):
                    read_all(stream, received)
                    assert received == PAYLOAD, where
            elif failing == "write":
                with pytest.raises(BrokenPipeError, match="an earlier write stopped"):
                    stream.write(PAYLOAD)
                read_all(stream, received)
            elif " CLOSED" in repr(stream):
                assert stream.get_extra_info("socket").fileno() == -1, where
            else:
                # It came to the arguments and no further, so the stream is as it was.
                stream.start_tls(context, "localhost")
        sent = heard.get(timeout=HANG)
        assert PAYLOAD.startswith(sent), where
        if not where:
            assert sent == PAYLOAD
            break
    assert 75 < moment < 1000


def read_all(stream: httpx_net.NetworkStream, received: bytearray) -> None:
    """Read until all of ``PAYLOAD`` has been received."""
    while len(received) < len(PAYLOAD):
        data = stream.read()
        assert data
        received += data
        assert PAYLOAD.startswith(received)
