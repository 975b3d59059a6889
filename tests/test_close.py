"""``close`` may come from anywhere, at any moment, and no thread ever meets a stranger's socket.

The number of a descriptor that is closed belongs to whoever opens the next one. So it is given back
by the last thread that leaves.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

import httpx_net
from interrupts import interrupted_at
from peers import (
    HANG,
    Peers,
    TLSInside,
    Use,
    asleep,
    bottom,
    connect_tls,
    echo,
    everywhere,
    in_thread,
    in_time,
    on_tls,
    read,
    say_goodbye,
    silent,
    start_tls,
    wait_until,
    write_much,
)

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


@everywhere
@uses
def test_the_number_is_not_given_back_while_a_thread_sleeps_on_it(
    idle: Any, layers: int, use: Use
) -> None:
    stream = idle(layers)
    descriptor = Descriptor(stream)
    with asleep(use, stream) as (using, may_go_on):
        stream.close()
        assert descriptor.is_open()
        may_go_on.set()
        assert_closed_error(using.exception(HANG))
    assert not descriptor.is_open()


@everywhere
def test_the_last_of_two_gives_the_number_back(idle: Any, layers: int) -> None:
    stream = idle(layers)
    descriptor = Descriptor(stream)
    with asleep(read, stream) as (reading, may_go_on):
        with in_thread(in_time, write_much, stream) as writing:
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
@uses
def test_whoever_waits_wakes_at_once_and_many_may_close_at_the_same_moment(
    idle: Any, layers: int, use: Use
) -> None:
    stream = idle(layers)
    descriptor = Descriptor(stream)
    together = threading.Barrier(8)

    def close() -> None:
        together.wait(HANG)
        stream.close()
        stream.close()

    with in_thread(use, stream) as using, ThreadPoolExecutor(8) as pool:
        for closing in [pool.submit(close) for _ in range(8)]:
            closing.result(HANG)
        assert_closed_error(using.exception(HANG / 4))
    assert not descriptor.is_open()


# ---- In the very thread that is inside


@contextmanager
def closed_at(moment: int, stream: httpx_net.NetworkStream) -> Iterator[list[object]]:
    """A signal handler closes *stream* at the n-th line that the package comes to.

    Gives a list of those that it has been at.
    """
    lines: list[object] = []

    def close(frame: FrameType, event: str) -> None:
        line = frame.f_code, frame.f_lineno
        if line not in lines:
            lines.append(line)
            if len(lines) == moment:
                stream.close()

    # It is asked at each line, and never presses.
    with interrupted_at(0, counts=close):
        yield lines


@pytest.mark.parametrize(("layers", "seconds"), [(0, None), (0, HANG), (1, HANG), (2, HANG)])
def test_a_signal_handler_may_close_at_any_line(
    peers: Peers, layers: int, seconds: float | None
) -> None:
    for moment in range(1, 500):
        stream = connect_tls(peers.serve_layers(echo, layers), layers=layers)
        descriptor = Descriptor(stream)
        try:
            with closed_at(moment, stream) as lines, httpx_net.timeout(seconds):
                stream.write(b"?")
                stream.read()
                stream.get_extra_info("is_readable")
        except OSError as error:
            assert_closed_error(error)
        stream.close()
        assert not descriptor.is_open(), lines[moment - 1]
        if len(lines) < moment:
            break
    assert 10 < moment < 499


# ---- TLS says goodbye if nobody is inside


@on_tls
def test_while_others_wait_the_peer_hears_a_goodbye_all_the_same(peers: Peers, layers: int) -> None:
    ends: list[bytes] = []

    def listens(conn: Any) -> None:
        assert isinstance(conn, TLSInside)
        ends.append(conn.recv(100))
        silent(bottom(conn))

    stream = connect_tls(peers.serve_layers(listens, layers), layers=layers)
    with in_thread(in_time, read, stream) as reading:
        stream.close()
        assert_closed_error(reading.exception(HANG))
    wait_until(lambda: ends == [b""])


@on_tls
def test_a_close_after_the_peers_goodbye_is_what_a_read_reports(peers: Peers, layers: int) -> None:
    may_end = threading.Event()

    def end(conn: Any) -> None:
        assert may_end.wait(HANG)
        say_goodbye(conn)
        silent(bottom(conn))

    stream = connect_tls(peers.serve_layers(end, layers), layers=layers)
    with asleep(read, stream) as (reading, may_go_on):
        may_end.set()
        assert select.select([stream.get_extra_info("socket")], [], [], HANG)[0]
        # Both ends have said goodbye after this, and ssl takes the TLS off the socket.
        stream.close()
        may_go_on.set()
        assert_closed_error(reading.exception(HANG))
