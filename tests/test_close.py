"""``close`` may come from anywhere, at any moment, and no thread ever meets a stranger's socket.

The number of a descriptor that is closed belongs to whoever opens the next one. So it is given back
by the last thread that leaves.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import pytest

import httpx_net
from interrupts import interrupted_at
from peers import (
    HANG,
    MIB,
    Peers,
    TLSInside,
    bottom,
    client_context,
    client_may_leave,
    connect_tls,
    in_thread,
    say_goodbye,
    silent,
    take,
    wait_until,
)

LAYERS = {"plain": 0, "TLS": 1, "TLS in TLS": 2}

everywhere = pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS.keys())
both_ways = pytest.mark.parametrize("seconds", [None, HANG], ids=["no deadline", "deadline"])

Use = Callable[[httpx_net.NetworkStream], object]


def read(stream: httpx_net.NetworkStream) -> object:
    return stream.read()


def write_much(stream: httpx_net.NetworkStream) -> object:
    return stream.write(bytes(64 * MIB))


def start_tls(stream: httpx_net.NetworkStream) -> object:
    return stream.start_tls(client_context(), "localhost")


def under(seconds: float | None, use: Use, stream: httpx_net.NetworkStream) -> object:
    with httpx_net.timeout(seconds):
        return use(stream)


uses = pytest.mark.parametrize("use", [read, write_much, start_tls])


@pytest.fixture
def idle(peers: Peers) -> Iterator[Callable[[int], httpx_net.NetworkStream]]:
    """``idle(layers)``: a stream to a peer that takes nothing and says nothing."""
    over = threading.Event()

    def connect(layers: int) -> httpx_net.NetworkStream:
        address = peers.serve_layers(lambda conn: over.wait(HANG), layers)
        return connect_tls(address, layers=layers)

    yield connect
    over.set()


class Descriptor:
    """The descriptor of *stream*, which another socket may have the number of later."""

    def __init__(self, stream: httpx_net.NetworkStream) -> None:
        self.number: int = stream.get_extra_info("socket").fileno()
        self._inode = os.fstat(self.number).st_ino

    def is_open(self) -> bool:
        try:
            return os.fstat(self.number).st_ino == self._inode
        except OSError:
            return False


def assert_closed_error(error: BaseException | None) -> None:
    assert isinstance(error, OSError)
    assert error.errno == errno.EBADF
    assert "the stream is closed" in str(error)


# ---- Who is inside keeps the number


@contextmanager
def held_behind_the_wait() -> Iterator[tuple[threading.Event, threading.Event]]:
    """The next thread that waits is held once it has been woken: ``(it sleeps, it may go on)``.

    This is the moment between the wake of poll(2) and its next look at the number.
    """
    sleeps, may_go_on, poll = threading.Event(), threading.Event(), select.poll

    class Poll:
        def __init__(self) -> None:
            self._poll = poll()
            self.register = self._poll.register

        def poll(self, *args: Any) -> Any:
            if sleeps.is_set():
                return self._poll.poll(*args)
            sleeps.set()
            self._poll.poll(*args)
            assert may_go_on.wait(HANG)
            return self._poll.poll(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "poll", Poll)
        yield sleeps, may_go_on


@everywhere
@uses
def test_the_number_is_not_given_back_while_a_thread_sleeps_on_it(
    idle: Any, layers: int, use: Use
) -> None:
    stream = idle(layers)
    descriptor = Descriptor(stream)
    with (
        held_behind_the_wait() as (sleeps, may_go_on),
        in_thread(under, HANG, use, stream) as using,
    ):
        assert sleeps.wait(HANG)
        stream.close()
        assert descriptor.is_open()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert descriptor.number not in (ours.fileno(), theirs.fileno())
            may_go_on.set()
            assert_closed_error(using.exception(HANG))
    assert not descriptor.is_open()


@everywhere
@both_ways
@uses
def test_whoever_waits_wakes_at_once(
    idle: Any, layers: int, seconds: float | None, use: Use
) -> None:
    stream = idle(layers)
    descriptor = Descriptor(stream)
    with in_thread(under, seconds, use, stream) as using:
        stream.close()
        assert_closed_error(using.exception(HANG / 4))
    wait_until(lambda: not descriptor.is_open())


@everywhere
def test_the_last_of_two_gives_the_number_back(idle: Any, layers: int) -> None:
    stream = idle(layers)
    descriptor = Descriptor(stream)
    with (
        held_behind_the_wait() as (sleeps, may_go_on),
        in_thread(under, HANG, read, stream) as reading,
    ):
        assert sleeps.wait(HANG)
        with in_thread(under, HANG, write_much, stream) as writing:
            stream.close()
            assert_closed_error(writing.exception(HANG))
        assert descriptor.is_open()
        for use in read, write_much, start_tls:
            with pytest.raises(OSError, match="the stream is closed"):
                use(stream)
        assert stream.get_extra_info("is_readable")
        assert descriptor.is_open()
        may_go_on.set()
        assert_closed_error(reading.exception(HANG))
    assert not descriptor.is_open()


@everywhere
def test_many_may_close_at_the_same_moment(idle: Any, layers: int) -> None:
    stream = idle(layers)
    descriptor = Descriptor(stream)
    together = threading.Barrier(8)

    def close() -> None:
        together.wait(HANG)
        stream.close()
        stream.close()

    threads = [threading.Thread(target=close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert not descriptor.is_open()


@everywhere
def test_no_byte_of_another_socket_is_taken(peers: Peers, layers: int) -> None:
    def pours(conn: Any) -> None:
        with client_may_leave(), suppress(OSError):
            while True:
                conn.sendall(bytes(1000))

    def read_on() -> None:
        with httpx_net.timeout(HANG):
            while stream.read(1) == b"\0":
                pass
        raise AssertionError("that is a byte of somebody else's")

    for _ in range(20):
        stream = connect_tls(peers.serve_layers(pours, layers), layers=layers)
        stream.read(1)
        with in_thread_at_once(read_on) as reading:
            stream.close()
            ours, theirs = socket.socketpair()
            with ours, theirs:
                theirs.sendall(b"x" * 100)
                ours.settimeout(HANG)
                assert take(ours, 100) == b"x" * 100
        assert_closed_error(reading[0])


@contextmanager
def in_thread_at_once(function: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Run *function*, which raises, in a thread, which may be anywhere while the block runs."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield raised
    thread.join(HANG)


# ---- In the very thread that is inside


def closing_at_line(
    stream: httpx_net.NetworkStream, moment: int, reached: list[str]
) -> Callable[[FrameType, str, object], Any]:
    """A trace function that closes *stream* at the moment's line of the package."""
    package = os.path.dirname(httpx_net.__file__) + os.sep
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(package):
            return None
        count += 1
        if count == moment:
            reached.append(frame.f_code.co_name)
            sys.settrace(None)
            stream.close()
            sys.settrace(trace)
        return trace

    return trace


@pytest.mark.parametrize(("layers", "seconds"), [(0, None), (0, HANG), (1, HANG), (2, HANG)])
def test_a_signal_handler_may_close_at_any_line(
    peers: Peers, layers: int, seconds: float | None
) -> None:
    def says_something(conn: Any) -> None:
        with suppress(OSError):
            conn.recv(1)
            conn.sendall(b"x")
            silent(conn)

    def use() -> None:
        with httpx_net.timeout(seconds):
            stream.write(b"?")
            stream.read()
            stream.get_extra_info("is_readable")

    for moment in range(1, 2000):
        address = peers.serve_layers(says_something, layers)
        stream = connect_tls(address, layers=layers)
        descriptor = Descriptor(stream)
        reached: list[str] = []
        tracing = sys.gettrace()
        sys.settrace(closing_at_line(stream, moment, reached))
        try:
            use()
        except OSError as error:
            assert_closed_error(error)
        finally:
            sys.settrace(tracing)
        stream.close()
        assert not descriptor.is_open(), reached
        if not reached:
            break
    assert 10 < moment < 1999


@everywhere
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no alarms on this system")
@both_ways
def test_a_signal_handler_may_close_what_it_interrupts(
    idle: Any, layers: int, seconds: float | None
) -> None:
    stream = idle(layers)
    descriptor = Descriptor(stream)
    before = signal.signal(signal.SIGALRM, lambda *_: stream.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(OSError, match="the stream is closed"):
            under(seconds, read, stream)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not descriptor.is_open()


@everywhere
def test_an_interrupt_anywhere_keeps_no_descriptor_for_good(peers: Peers, layers: int) -> None:
    def counts(frame: FrameType, event: str) -> bool:
        return frame.f_code.co_name in ("read", "write", "start_tls")

    def answers(conn: Any) -> None:
        with suppress(OSError):
            conn.recv(1)
            conn.sendall(b"x")
            silent(conn)

    for moment in range(200):
        stream = connect_tls(peers.serve_layers(answers, layers), layers=layers)
        descriptor = Descriptor(stream)
        with suppress(KeyboardInterrupt), interrupted_at(moment, counts=counts) as where:
            stream.write(b"?")
            stream.read()
        stream.close()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del stream
            gc.collect()
        assert not descriptor.is_open(), where
        if not where:
            break
    assert 5 < moment < 199


@everywhere
def test_a_finalizer_may_close_in_the_thread_that_is_inside(idle: Any, layers: int) -> None:
    class Closes:
        def __del__(self) -> None:
            stream.close()

    stream = idle(layers)
    descriptor = Descriptor(stream)
    held = [Closes()]
    tracing = sys.gettrace()

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_name == "recv" or "poll" in frame.f_code.co_names:
            sys.settrace(None)
            held.clear()
        return None

    sys.settrace(trace)
    try:
        with httpx_net.timeout(HANG), pytest.raises(OSError, match="the stream is closed"):
            stream.read()
    finally:
        sys.settrace(tracing)
    assert not descriptor.is_open()


# ---- TLS says goodbye if nobody is inside


@pytest.mark.parametrize("layers", [1, 2], ids=["TLS", "TLS in TLS"])
def test_while_others_wait_the_peer_hears_a_goodbye_all_the_same(peers: Peers, layers: int) -> None:
    ends: list[bytes] = []

    def listens(conn: Any) -> None:
        assert isinstance(conn, TLSInside)
        ends.append(conn.recv(100))
        silent(bottom(conn))

    stream = connect_tls(peers.serve_layers(listens, layers), layers=layers)
    with in_thread(under, HANG, read, stream) as reading:
        stream.close()
        assert_closed_error(reading.exception(HANG))
    wait_until(lambda: ends == [b""])


@pytest.mark.parametrize("layers", [1, 2], ids=["TLS", "TLS in TLS"])
def test_a_close_after_the_peers_goodbye_is_what_a_read_reports(peers: Peers, layers: int) -> None:
    may_end = threading.Event()

    def end(conn: Any) -> None:
        assert may_end.wait(HANG)
        say_goodbye(conn)
        silent(bottom(conn))

    stream = connect_tls(peers.serve_layers(end, layers), layers=layers)
    with (
        held_behind_the_wait() as (sleeps, may_go_on),
        in_thread(under, HANG, read, stream) as reading,
    ):
        assert sleeps.wait(HANG)
        may_end.set()
        assert select.select([stream.get_extra_info("socket")], [], [], HANG)[0]
        # Both ends have said goodbye after this, and ssl takes the TLS off the socket.
        stream.close()
        may_go_on.set()
        assert_closed_error(reading.exception(HANG))
