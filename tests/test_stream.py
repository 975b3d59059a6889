"""``NetworkStream`` on plain sockets: what reading, writing and closing promise."""

from __future__ import annotations

import array
import ctypes
import errno
import gc
import os
import re
import select
import socket
import ssl
import struct
import sys
import threading
import time
import tracemalloc
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import pytest

import httpx_net
from dialing import run_python
from httpx_net import NetworkStream, _stream, _wait, timeout
from httpx_net._tls import RECORD_SIZE
from peers import (
    HANG,
    Address,
    Peers,
    client_context,
    client_may_leave,
    connect_tls,
    echo,
    is_truncation,
    silent,
    wait_until,
)

MIB = 1024 * 1024
DAY = 86_400.0
PACKAGE = os.path.dirname(httpx_net.__file__)

Ends = tuple[NetworkStream, socket.socket]

# Elsewhere a socketpair is made of TCP, and its ends have addresses.
unix_sockets = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets"
)


@pytest.fixture
def ends(pair: tuple[socket.socket, socket.socket]) -> Iterator[Ends]:
    """A stream over one end of a ``socketpair``, and the other end."""
    ours, theirs = pair
    with NetworkStream(ours) as stream:
        yield stream, theirs


@pytest.fixture(params=["tcp", "unix"])
def plain(request: pytest.FixtureRequest, peers: Peers) -> Iterator[Ends]:
    """A stream over TCP, then over a ``socketpair``, and the socket at its other end."""
    ours, theirs = tcp_pair(peers) if request.param == "tcp" else socket.socketpair()
    theirs.settimeout(HANG)
    with NetworkStream(ours) as stream, theirs:
        yield stream, theirs


def tcp_pair(peers: Peers, family: int = socket.AF_INET) -> tuple[socket.socket, socket.socket]:
    listener = peers.listen(family)
    ours = socket.socket(family)
    ours.connect(listener.getsockname())
    theirs, _ = listener.accept()
    return ours, theirs


@contextmanager
def times_out(seconds: float) -> Iterator[pytest.ExceptionInfo[TimeoutError]]:
    """What is in the block ends with a TimeoutError after *seconds*, and never before."""
    start = time.monotonic()
    with pytest.raises(TimeoutError) as caught, timeout(seconds):
        yield caught
    assert seconds <= time.monotonic() - start < seconds + 2.0  # the slack is for slow machines


@contextmanager
def in_thread(function: Callable[..., Any], *args: Any) -> Iterator[Future[Any]]:
    """Run *function* in a thread, which by the time that the block begins waits in the library."""
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(function(*args))
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until_it_waits(thread)
    yield result
    result.exception(HANG)
    thread.join(HANG)


def until_it_waits(thread: threading.Thread) -> None:
    """Return when *thread* has been at one place inside ``httpx_net`` for 20 ms."""
    seen, since = None, 0.0
    deadline = time.monotonic() + HANG
    while time.monotonic() < deadline:
        place = place_in_package(sys._current_frames().get(thread.ident or 0))
        if place is None or place != seen:
            seen, since = place, time.monotonic()
        elif time.monotonic() - since > 0.02:
            return
        time.sleep(0.001)
    raise AssertionError("the thread does not wait")


def place_in_package(frame: FrameType | None) -> object:
    """Where in ``httpx_net`` the innermost call of *frame* is; None outside of it."""
    while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return frame and (frame.f_code, frame.f_lasti)


def take(sock: socket.socket, size: int = -1) -> bytes:
    """*size* bytes from *sock*; or all there is, up to the end."""
    received = bytearray()
    while len(received) != size and (
        data := sock.recv(min(MIB, size - len(received)) if size > 0 else MIB)
    ):
        received += data
    return bytes(received)


def fill(sock: socket.socket) -> int:
    """Send to *sock* until no more goes without waiting; returns how much went."""
    seconds, sent = sock.gettimeout(), 0
    sock.settimeout(0.0)
    with suppress(BlockingIOError):
        while True:
            sent += sock.send(bytes(65536))
    sock.settimeout(seconds)
    return sent


def drop(sock: socket.socket) -> None:
    """Close *sock* with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# ---- Reading


def test_a_read_returns_what_has_come(plain: Ends) -> None:
    stream, peer = plain
    peer.sendall(b"hello")
    assert stream.read() == b"hello"


def test_a_read_waits_for_the_first_byte_and_for_no_more(ends: Ends) -> None:
    stream, peer = ends
    with in_thread(stream.read, 100) as reading:
        peer.sendall(b"h")
        assert reading.result(HANG) == b"h"


def test_a_read_takes_at_most_max_bytes_and_leaves_the_rest(ends: Ends) -> None:
    stream, peer = ends
    peer.sendall(b"hello")
    assert stream.read(1) == b"h"
    assert stream.read(max_bytes=3) == b"ell"
    assert stream.read(10**12) == b"o"


def test_a_read_takes_64_kib_unless_told_otherwise(ends: Ends) -> None:
    stream, peer = ends
    sent = fill(peer)
    assert sent > 65536
    assert len(stream.read()) == 65536
    assert len(stream.read(None)) == min(65536, sent - 65536)


def test_a_read_allocates_no_more_than_1_mib_whatever_is_asked(ends: Ends) -> None:
    stream, peer = ends
    peer.sendall(b"hello")
    with traced_memory() as peak:
        assert stream.read(10**15) == b"hello"
    assert peak() < 1.1 * MIB


@pytest.mark.parametrize("max_bytes", [0, -1, -(10**30)])
def test_max_bytes_below_one_is_a_value_error(ends: Ends, max_bytes: int) -> None:
    stream, peer = ends
    peer.sendall(b"x")
    with pytest.raises(ValueError, match=f"max_bytes must be 1 or more, not {max_bytes}"):
        stream.read(max_bytes)
    assert stream.read() == b"x"


@pytest.mark.parametrize("max_bytes", [1.0, "1", b"1", True, False, (1,)])
def test_max_bytes_that_is_no_int_is_a_type_error(ends: Ends, max_bytes: Any) -> None:
    stream, peer = ends
    peer.sendall(b"x")
    with pytest.raises(TypeError, match="max_bytes must be an int or None") as caught:
        stream.read(max_bytes)
    assert repr(max_bytes) in str(caught.value)
    assert stream.read() == b"x"


def test_the_end_of_the_stream_is_said_again_each_time(plain: Ends) -> None:
    stream, peer = plain
    peer.sendall(b"last")
    peer.close()
    assert [stream.read() for _ in range(4)] == [b"last", b"", b"", b""]
    with timeout(HANG):
        assert stream.read() == b""


def test_a_peer_that_has_ended_its_half_still_listens(plain: Ends) -> None:
    stream, peer = plain
    peer.shutdown(socket.SHUT_WR)
    assert stream.read() == b""
    stream.write(b"goodbye")
    assert peer.recv(100) == b"goodbye"


def test_a_reset_names_the_peer_and_the_reason(peers: Peers) -> None:
    ours, theirs = tcp_pair(peers)
    ip, port = ours.getpeername()
    with NetworkStream(ours) as stream:
        drop(theirs)
        with pytest.raises(ConnectionResetError) as caught:
            stream.read()
    reason = os.strerror(errno.ECONNRESET)
    assert caught.value.errno == errno.ECONNRESET
    assert str(caught.value) == f"[Errno {errno.ECONNRESET}] read from {ip}:{port} failed: {reason}"


@pytest.mark.parametrize("seconds", [None, HANG])
def test_a_reset_is_said_again_each_time(peers: Peers, seconds: float | None) -> None:
    ours, theirs = tcp_pair(peers)
    with NetworkStream(ours) as stream, timeout(seconds):
        drop(theirs)
        errors = [read_error(stream) for _ in range(3)]
    assert {type(error) for error in errors} == {ConnectionResetError}
    assert len({str(error) for error in errors}) == 1
    assert len({id(error) for error in errors}) == 3


def read_error(stream: NetworkStream) -> OSError:
    with pytest.raises(OSError, match="read from") as caught:
        stream.read()
    return caught.value


def test_what_came_before_a_reset_can_be_read(peers: Peers) -> None:
    ours, theirs = tcp_pair(peers)
    with NetworkStream(ours) as stream:
        theirs.sendall(b"last words")
        drop(theirs)
        assert stream.read() == b"last words"
        assert isinstance(read_error(stream), ConnectionResetError)


def test_where_a_write_has_met_a_reset_a_read_takes_it_for_no_end(peers: Peers) -> None:
    ours, theirs = tcp_pair(peers)
    with NetworkStream(ours) as stream:
        drop(theirs)
        with pytest.raises(ConnectionResetError, match="write to"):
            stream.write(b"x")
        error = read_error(stream)
        assert isinstance(error, ConnectionResetError)
        assert str(error).startswith(f"[Errno {errno.ECONNRESET}] read from 127.0.0.1:")


def test_a_read_under_no_deadline_waits_for_as_long_as_it_takes(ends: Ends) -> None:
    stream, peer = ends
    with in_thread(stream.read) as reading:
        peer.sendall(b"at last")
        assert reading.result(HANG) == b"at last"


# ---- Writing


SIZES = [1, 2, 65536, MIB, MIB + 1, 5 * MIB + 7]
FORMS: list[Callable[[bytes], Any]] = [
    bytes,
    bytearray,
    memoryview,
    lambda data: memoryview(bytearray(data)),
    lambda data: memoryview(data + bytes(-len(data) % 4)).cast("I"),
    lambda data: memoryview(data + bytes(-len(data) % 4)).cast("B", (-(-len(data) // 4), 4)),
    lambda data: memoryview((ctypes.c_char * len(data)).from_buffer_copy(data)),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seconds", [None, HANG])
def test_a_write_sends_all_of_it(
    peers: Peers, form: Callable[[bytes], Any], size: int, seconds: float | None
) -> None:
    received: list[bytes] = []
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    ours = peers.serve_pair(lambda conn: received.append(take(conn)))
    with NetworkStream(ours) as stream, timeout(seconds):
        assert stream.write(form(data)) is None  # type: ignore[func-returns-value]
    peers.close()
    assert received == [bytes(form(data))]


@pytest.mark.parametrize("data", [b"", bytearray(), memoryview(b""), memoryview(b"").cast("I")])
def test_an_empty_write_sends_nothing(ends: Ends, data: bytes) -> None:
    stream, peer = ends
    stream.write(data)
    with timeout(HANG):
        stream.write(data)
    stream.close()
    assert peer.recv(1) == b""


@pytest.mark.parametrize("data", ["text", None, 7, [1], array.array("B", b"x"), object()])
def test_what_is_not_bytes_is_a_type_error(ends: Ends, data: Any) -> None:
    stream, peer = ends
    with pytest.raises(TypeError, match="must be bytes, a bytearray or a memoryview") as caught:
        stream.write(data)
    assert repr(data) in str(caught.value)
    stream.close()
    assert peer.recv(1) == b""


@pytest.mark.parametrize(
    "view", [memoryview(bytes(8))[::2], memoryview(bytes(8))[::-1], memoryview(bytes(3 * MIB))[::2]]
)
def test_a_view_with_gaps_is_a_value_error(ends: Ends, view: memoryview) -> None:
    stream, peer = ends
    with pytest.raises(ValueError, match="must be contiguous") as caught:
        stream.write(view)
    assert repr(view) in str(caught.value)
    stream.close()
    assert peer.recv(1) == b""


@contextmanager
def traced_memory() -> Iterator[Callable[[], int]]:
    """Gives a function: the most bytes that were allocated at a time, beyond those from before."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("seconds", [None, HANG])
@pytest.mark.parametrize("form", [bytes, bytearray])
def test_a_large_write_copies_nothing(
    peers: Peers, form: Callable[[int], bytes], seconds: float | None
) -> None:
    buffer = bytearray(65536)
    received = 0

    def drain(conn: socket.socket) -> None:
        nonlocal received
        while got := conn.recv_into(buffer):
            received += got

    data = form(64 * MIB)
    with NetworkStream(peers.serve_pair(drain)) as stream, timeout(seconds):
        with traced_memory() as peak:
            stream.write(data)
        assert peak() < MIB
    peers.close()
    assert received == len(data)


def test_the_data_may_be_changed_once_the_write_has_returned(ends: Ends) -> None:
    stream, peer = ends
    data = bytearray(b"before")
    stream.write(data)
    data += b"and grown"
    data[:] = b"after"
    assert peer.recv(100) == b"before"


def test_a_write_that_times_out_tells_how_far_it_got(plain: Ends) -> None:
    stream, peer = plain
    with times_out(0.05) as caught:
        stream.write(bytes(32 * MIB))
    sent = caught.value.characters_written  # type: ignore[attr-defined]
    assert f" timed out after {sent} of {32 * MIB} bytes: timeout(0.05) exp" in str(caught.value)
    stream.close()
    assert 0 < sent == len(take(peer))


def test_the_caller_may_go_on_from_where_a_write_stopped(plain: Ends) -> None:
    stream, peer = plain
    data = os.urandom(MIB) * 8
    with pytest.raises(TimeoutError) as caught, timeout(0.05):
        stream.write(data)
    sent = caught.value.characters_written  # type: ignore[attr-defined]
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(take, peer, len(data))
        stream.write(memoryview(data)[sent:])
        assert received.result(HANG) == data


def test_an_early_answer_can_be_read_after_a_write_that_timed_out(plain: Ends) -> None:
    stream, peer = plain
    peer.sendall(b"413 enough")
    with pytest.raises(TimeoutError), timeout(0.05):
        stream.write(bytes(32 * MIB))
    assert stream.read() == b"413 enough"


@pytest.mark.parametrize("seconds", [None, HANG])
def test_a_write_to_a_peer_that_leaves_tells_how_far_it_got(
    peers: Peers, seconds: float | None
) -> None:
    ours, theirs = tcp_pair(peers)
    ip, port = ours.getpeername()

    def leave(conn: socket.socket) -> None:
        take(conn, 2 * MIB)
        drop(conn)

    peers.run(leave, theirs)
    gone = pytest.raises((BrokenPipeError, ConnectionResetError))
    with NetworkStream(ours) as stream, timeout(seconds), gone as caught:
        stream.write(bytes(64 * MIB))
    sent = caught.value.characters_written  # type: ignore[union-attr]
    assert 2 * MIB <= sent < 64 * MIB
    reason = os.strerror(caught.value.errno or 0)
    assert f"write to {ip}:{port} failed after {sent} of {64 * MIB} bytes: {reason}" in str(
        caught.value
    )


def test_the_count_is_zero_where_nothing_went_out(ends: Ends) -> None:
    stream, peer = ends
    peer.close()
    with pytest.raises(BrokenPipeError, match="after 0 of 5 bytes") as caught:
        stream.write(b"hello")
    assert caught.value.characters_written == 0


# ---- Under a deadline


def test_silence_times_out(plain: Ends) -> None:
    stream, _ = plain
    with times_out(0.05) as caught:
        stream.read()
    assert type(caught.value) is TimeoutError
    assert caught.value.errno is None


def test_the_text_of_a_read_that_timed_out_says_what_whom_and_which(peers: Peers) -> None:
    ours, theirs = tcp_pair(peers)
    ip, port = ours.getpeername()
    with theirs, NetworkStream(ours) as stream, times_out(0.05) as caught:
        stream.read()
    assert str(caught.value) == f"read from {ip}:{port} timed out: timeout(0.05) expired"


@unix_sockets
def test_the_text_of_a_peer_without_an_address_says_so(ends: Ends) -> None:
    with times_out(0.01) as caught:
        ends[0].read()
    assert str(caught.value) == "read from an unnamed peer timed out: timeout(0.01) expired"


@unix_sockets
def test_the_text_of_a_write_under_a_passed_deadline_has_a_count_of_zero(ends: Ends) -> None:
    with pytest.raises(TimeoutError) as caught, timeout(0):
        ends[0].write(b"hello")
    text = "write to an unnamed peer timed out after 0 of 5 bytes: timeout(0) expired"
    assert str(caught.value) == text
    assert caught.value.characters_written == 0  # type: ignore[attr-defined]


def test_the_text_names_the_deadline_that_was_nearest(ends: Ends) -> None:
    with timeout(0.02), timeout(60.0), pytest.raises(TimeoutError, match=r"timeout\(0\.02\)"):
        ends[0].read()
    with timeout(60.0), timeout(0.02), pytest.raises(TimeoutError, match=r"timeout\(0\.02\)"):
        ends[0].read()


def test_the_error_comes_without_the_story_of_how_it_was_found(ends: Ends) -> None:
    with times_out(0.01) as caught:
        ends[0].read()
    assert caught.value.__suppress_context__


def test_a_read_that_timed_out_has_lost_nothing(ends: Ends) -> None:
    stream, peer = ends
    with times_out(0.05):
        stream.read()
    peer.sendall(b"late")
    assert stream.read() == b"late"


def test_a_passed_deadline_beats_waiting_data(plain: Ends) -> None:
    stream, peer = plain
    peer.sendall(b"here")
    with timeout(0), pytest.raises(TimeoutError):
        stream.read()
    assert stream.read() == b"here"


def test_a_passed_deadline_beats_the_end_of_the_stream(plain: Ends) -> None:
    stream, peer = plain
    peer.close()
    with timeout(0), pytest.raises(TimeoutError):
        stream.read()
    assert stream.read() == b""


@pytest.mark.parametrize("data", [b"x", b"", bytes(2 * MIB)])
def test_under_a_passed_deadline_nothing_is_sent(ends: Ends, data: bytes) -> None:
    stream, peer = ends
    with timeout(0), pytest.raises(TimeoutError):
        stream.write(data)
    stream.close()
    assert peer.recv(1) == b""


def test_under_a_passed_deadline_the_socket_is_left_alone(ends: Ends) -> None:
    stream, _ = ends
    with timeout(0):
        with suppress(TimeoutError):
            stream.read()
        with suppress(TimeoutError):
            stream.write(b"x")
    assert stream.get_extra_info("socket").gettimeout() is None


def test_a_dripping_peer_does_not_extend_the_deadline(peers: Peers) -> None:
    def drip(conn: socket.socket) -> None:
        with client_may_leave():
            while True:
                conn.sendall(b".")
                time.sleep(0.01)

    with NetworkStream(peers.serve_pair(drip)) as stream, times_out(0.1):
        while True:
            assert stream.read() != b""


def test_a_peer_that_takes_a_byte_at_a_time_does_not_extend_the_deadline(peers: Peers) -> None:
    enough = threading.Event()

    def sip(conn: socket.socket) -> None:
        while not enough.wait(0.001):
            conn.recv(1)

    with NetworkStream(peers.serve_pair(sip)) as stream, times_out(0.1):
        stream.write(bytes(4 * MIB))
    enough.set()


def test_a_peer_that_always_has_room_does_not_extend_the_deadline(peers: Peers) -> None:
    def gulp(conn: socket.socket) -> None:
        buffer = bytearray(MIB)
        while conn.recv_into(buffer):
            pass

    with NetworkStream(peers.serve_pair(gulp)) as stream, times_out(0.05):
        while True:
            stream.write(bytes(8 * MIB))


def test_a_cancelled_deadline_does_not_fire(ends: Ends) -> None:
    stream, peer = ends
    with timeout(0.05) as t:
        t.cancel()
        with in_thread(stream.read) as reading:
            time.sleep(0.1)  # until the deadline would have passed
            peer.sendall(b"late")
            assert reading.result(HANG) == b"late"


def test_a_cancel_from_another_thread_holds_from_the_next_wait_on(ends: Ends) -> None:
    stream, peer = ends
    cancelled = timeout(0.15)

    def read() -> bytes:
        with cancelled:
            return stream.read()

    with in_thread(read) as reading:
        cancelled.cancel()
        time.sleep(0.2)  # until the deadline would have passed
        assert not reading.done()
        peer.sendall(b"late")
        assert reading.result(HANG) == b"late"


def test_the_outer_deadline_holds_where_the_inner_one_is_cancelled(ends: Ends) -> None:
    with times_out(0.05) as caught, timeout(0.01) as t:
        t.cancel()
        ends[0].read()
    assert "timeout(0.05) expired" in str(caught.value)


@pytest.mark.parametrize("seconds", [30 * DAY, 50 * DAY, 4294967.32, 1e300, 10**400])
def test_a_deadline_of_any_length_works(plain: Ends, seconds: float) -> None:
    stream, peer = plain  # settimeout() makes 0.02 s of one of them
    with ThreadPoolExecutor(1) as pool, timeout(seconds):
        answer = pool.submit(lambda: (time.sleep(0.06), peer.sendall(peer.recv(1))))
        stream.write(b"x")
        assert stream.read() == b"x"
        answer.result(HANG)


class RecordingPoll:
    """A ``select.poll`` that tells how many milliseconds it was asked to wait, each time."""

    asked: list[float | None]

    def __init__(self) -> None:
        self._poll = RecordingPoll.real()
        self.register = self._poll.register

    def poll(self, milliseconds: float | None) -> Any:
        self.asked.append(milliseconds)
        return self._poll.poll(milliseconds)

    real = getattr(select, "poll", None)


@pytest.fixture
def polled(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The milliseconds of each poll, None for as long as it takes."""
    if RecordingPoll.real is None:
        pytest.skip("this system has no poll")
    monkeypatch.setattr(RecordingPoll, "asked", [], raising=False)
    monkeypatch.setattr(select, "poll", RecordingPoll)
    return RecordingPoll.asked


@pytest.mark.parametrize("seconds", [50 * DAY, 0.2])
def test_a_long_wait_is_made_of_slices(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, polled: list[float | None], seconds: float
) -> None:
    stream, peer = ends
    monkeypatch.setattr(_wait, "_LONGEST_WAIT", 0.01)
    with timeout(HANG):
        stream.write(b"x")  # from here on the stream polls, outside of blocks as well
    with ThreadPoolExecutor(1) as pool, timeout(seconds):
        pool.submit(lambda: (time.sleep(0.1), peer.sendall(b"x")))
        assert stream.read() == b"x"
    assert len(polled) > 2
    assert max(polled) == 10


@pytest.mark.parametrize("seconds", [None, float("inf")])
def test_a_wait_without_a_deadline_needs_no_slices(
    ends: Ends, polled: list[float | None], seconds: float | None
) -> None:
    stream, peer = ends
    with timeout(HANG):
        stream.write(b"x")  # from here on the stream polls, outside of blocks as well
    with ThreadPoolExecutor(1) as pool, timeout(seconds):
        pool.submit(lambda: (wait_until(lambda: polled), peer.sendall(b"x")))
        assert stream.read() == b"x"
    assert polled == [None]


def test_a_wait_is_never_early(ends: Ends) -> None:
    fd = ends[0].get_extra_info("socket").fileno()
    for seconds in (0.0003, 0.0021):  # poll counts in milliseconds
        start = time.monotonic()
        assert _wait.wait((fd,), _wait.READ, seconds) == []
        assert time.monotonic() - start >= seconds


def test_a_wait_asks_for_what_is_left_and_no_more(ends: Ends, polled: list[float]) -> None:
    fd = ends[0].get_extra_info("socket").fileno()
    for seconds in (0.0, 0.002):
        _wait.wait((fd,), _wait.READ, seconds)
    with suppress(TimeoutError), timeout(0.02):
        ends[0].read()
    assert polled[:2] == [0.0, 2.0]
    assert max(polled[2:]) <= 20.0
    assert len(polled[2:]) <= 2
    ends[1].sendall(b"x")
    with timeout(100.0):
        ends[0].read()
    assert 99_000.0 < polled[-1] <= 100_000.0


def test_no_slice_is_longer_than_poll_can_wait() -> None:
    assert DAY * 1000 < 2**31
    with timeout(50 * DAY):
        assert _wait.next_wait() == DAY


def test_a_timeout_of_the_kernel_names_no_deadline_of_ours(peers: Peers) -> None:
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is None:
        pytest.skip("no TCP_USER_TIMEOUT on this system: its ETIMEDOUT takes minutes")
    ours, theirs = tcp_pair(peers)
    ours.setsockopt(socket.IPPROTO_TCP, option, 50)  # milliseconds
    timed_out = pytest.raises(TimeoutError)
    with theirs, NetworkStream(ours) as stream, timeout(HANG), timed_out as caught:
        stream.write(bytes(64 * MIB))
    assert caught.value.errno == errno.ETIMEDOUT
    assert os.strerror(errno.ETIMEDOUT) in str(caught.value)
    assert "timeout(" not in str(caught.value)
    assert "timed out after" not in str(caught.value)


# ---- How it waits


def test_outside_every_block_the_kernel_waits(ends: Ends) -> None:
    stream, peer = ends
    peer.sendall(b"x")
    stream.read()
    stream.write(b"x")
    assert stream.get_extra_info("socket").gettimeout() is None


def read(stream: NetworkStream) -> object:
    return stream.read()


def write(stream: NetworkStream) -> object:
    return stream.write(b"x")


@pytest.mark.parametrize("operation", [read, write])
def test_the_first_operation_under_a_deadline_ends_that_for_good(
    ends: Ends, operation: Callable[[NetworkStream], object]
) -> None:
    stream, peer = ends
    peer.sendall(b"x")
    sock = stream.get_extra_info("socket")
    with timeout(HANG):
        operation(stream)
        assert sock.gettimeout() == 0.0
    stream.write(b"x")
    assert sock.gettimeout() == 0.0


def test_it_does_so_after_a_full_buffer_that_was_read_without_one(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stream, "_BULK", 4)
    ours, theirs = pair
    theirs.sendall(b"full")
    with NetworkStream(ours) as stream:
        assert stream.read(4) == b"full"
        with timeout(HANG):
            stream.write(b"x")
        assert ours.gettimeout() == 0.0


@pytest.mark.skipif(os.name == "nt", reason="there SO_RCVTIMEO is a number, not a timeval")
def test_it_does_so_after_a_timeout_that_is_an_option_of_the_socket(pair: Any) -> None:
    ours, theirs = pair
    a_moment = struct.pack("@ll", 0, 1000)  # after which the kernel says EAGAIN
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, a_moment)

    class Stream(NetworkStream):
        def _wait(self, event: int) -> None:
            theirs.send(b"x")
            super()._wait(event)

    with Stream(ours) as stream:
        assert stream.read() == b"x"
        with timeout(HANG):
            stream.write(b"x")
        assert ours.gettimeout() == 0.0


def test_after_that_a_read_outside_every_block_still_waits(ends: Ends) -> None:
    stream, peer = ends
    with times_out(0.01):
        stream.read()
    with in_thread(stream.read) as reading:
        peer.sendall(b"at last")
        assert reading.result(HANG) == b"at last"


def test_after_that_a_write_outside_every_block_still_waits(plain: Ends) -> None:
    stream, peer = plain
    with pytest.raises(TimeoutError) as caught, timeout(0.01):
        stream.write(bytes(16 * MIB))
    sent = caught.value.characters_written  # type: ignore[attr-defined]
    rest = 32 * MIB  # more than any buffer has room for, however early that deadline came
    with in_thread(stream.write, bytes(rest)) as writing:
        assert len(take(peer, sent + rest)) == sent + rest
        assert writing.result(HANG) is None


@pytest.mark.parametrize("seconds", [0.01, 5.0])
def test_a_timeout_of_the_socket_is_lifted(
    pair: tuple[socket.socket, socket.socket], seconds: float
) -> None:
    ours, peer = pair
    ours.settimeout(seconds)
    with NetworkStream(ours) as stream:
        assert ours.gettimeout() is None
        with in_thread(stream.read) as reading:
            time.sleep(0.05)  # until it would have fired
            peer.sendall(b"late")
            assert reading.result(HANG) == b"late"


def test_a_default_timeout_is_lifted(monkeypatch: pytest.MonkeyPatch, serve: Any) -> None:
    def late(conn: socket.socket) -> None:
        conn.recv(1)
        time.sleep(0.05)
        conn.sendall(b"late")

    address = serve(late)
    socket.setdefaulttimeout(0.01)
    try:
        with httpx_net.NetworkBackend().connect(*address) as stream:
            stream.write(b"x")
            assert stream.read() == b"late"
    finally:
        socket.setdefaulttimeout(None)


def test_a_nonblocking_socket_stays_so_and_waits_all_the_same(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, peer = pair
    ours.setblocking(False)
    with NetworkStream(ours) as stream, in_thread(stream.read) as reading:
        assert ours.gettimeout() == 0.0
        peer.sendall(b"at last")
        assert reading.result(HANG) == b"at last"


def test_where_another_thread_was_quicker_a_read_waits_on(ends: Ends) -> None:
    stream, peer = ends

    def read_in_time() -> bytes:
        with timeout(0.15):
            return stream.read()

    with in_thread(read_in_time) as one, in_thread(read_in_time) as another:
        peer.sendall(b"x")
        outcomes = [one.exception(HANG), another.exception(HANG)]
    assert {type(outcome) for outcome in outcomes} == {type(None), TimeoutError}


def test_threads_on_one_stream_do_not_share_their_deadlines(plain: Ends) -> None:
    stream, peer = plain

    def write_in_time() -> None:
        with timeout(60.0):
            stream.write(bytes(32 * MIB))

    with in_thread(write_in_time) as writing:
        with times_out(0.02) as caught:
            stream.read()
        assert "timeout(0.02)" in str(caught.value)
        assert not writing.done()
        peer.close()
        assert isinstance(writing.exception(HANG), ConnectionError)


def test_a_read_outside_every_block_is_not_bounded_by_anothers_deadline(plain: Ends) -> None:
    stream, peer = plain
    with in_thread(stream.read) as reading:
        with pytest.raises(TimeoutError), timeout(0.05):
            stream.write(bytes(32 * MIB))
        assert not reading.done()
        peer.sendall(b"at last")
        assert reading.result(HANG) == b"at last"


def test_one_thread_reads_while_another_writes(peers: Peers) -> None:
    data = os.urandom(MIB) * 8

    def write_in_time() -> None:
        with timeout(HANG):
            stream.write(data)

    with NetworkStream(peers.serve_pair(echo)) as stream, ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_in_time)
        with timeout(HANG):
            assert take_from(stream, len(data)) == data
        writing.result(HANG)


def take_from(stream: NetworkStream, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        received += stream.read(size - len(received)) or b"the end came too early" * size
    return bytes(received)


def test_a_descriptor_beyond_1024_is_no_obstacle(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    fcntl = pytest.importorskip("fcntl")
    ours, peer = pair
    with more_descriptors(2000):
        high = socket.socket(fileno=fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, 1500))
        with NetworkStream(high) as stream:
            assert high.fileno() >= 1500
            with times_out(0.02):
                stream.read()
            peer.sendall(b"x")
            assert stream.get_extra_info("is_readable")
            assert stream.read() == b"x"


@contextmanager
def more_descriptors(least: int) -> Iterator[None]:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < least:
        pytest.skip(f"this machine allows {hard} descriptors, and {least} are needed")
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, least), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def without_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, and where gevent or eventlet has been at work."""
    monkeypatch.delattr(select, "poll", raising=False)


WITHOUT_POLL = """
import select, socket
for name in [name for name in vars(select) if "poll" in name.lower()]:
    delattr(select, name)
import httpx_net
from httpx_net import _wait

ours, theirs = socket.socketpair()
with theirs, httpx_net.NetworkStream(ours) as stream:
    try:
        with httpx_net.timeout(0.01):
            stream.read()
    except TimeoutError:
        theirs.send(b"x")
    with httpx_net.timeout(60):
        print(stream.read(), _wait.READ, _wait.WRITE)
"""


def test_a_system_that_never_had_poll_knows_its_events() -> None:
    assert run_python(WITHOUT_POLL) == "b'x' 1 4\n"  # POLLIN and POLLOUT, as everywhere


@pytest.mark.usefixtures("without_poll")
def test_without_poll_a_read_waits_and_times_out(ends: Ends) -> None:
    stream, peer = ends
    with times_out(0.05):
        stream.read()
    with in_thread(stream.read) as reading:
        peer.sendall(b"at last")
        assert reading.result(HANG) == b"at last"


@pytest.mark.usefixtures("without_poll")
def test_without_poll_a_write_waits_and_times_out(ends: Ends) -> None:
    stream, peer = ends
    with times_out(0.05) as caught:
        stream.write(bytes(4 * MIB))
    sent = caught.value.characters_written  # type: ignore[attr-defined]
    rest = 32 * MIB  # more than any buffer has room for, however early that deadline came
    with in_thread(stream.write, bytes(rest)) as writing:
        assert len(take(peer, sent + rest)) == sent + rest
        assert writing.result(HANG) is None


@pytest.mark.usefixtures("without_poll")
def test_without_poll_an_idle_stream_is_told_from_one_that_is_readable(ends: Ends) -> None:
    stream, peer = ends
    assert not stream.get_extra_info("is_readable")
    peer.sendall(b"x")
    assert stream.get_extra_info("is_readable")


@pytest.mark.usefixtures("without_poll")
def test_without_poll_a_close_wakes_a_reader(ends: Ends) -> None:
    stream, _ = ends
    with times_out(0.01):
        stream.read()
    with in_thread(stream.read) as reading:
        stream.close()
        assert_closed(reading.exception(HANG))


# ---- Closing


def assert_closed(error: BaseException | None) -> None:
    assert isinstance(error, OSError)
    assert error.errno == errno.EBADF
    assert "the stream is closed" in str(error)


def test_close_closes_the_socket(ends: Ends) -> None:
    stream, peer = ends
    sock = stream.get_extra_info("socket")
    stream.close()
    assert sock.fileno() == -1
    assert peer.recv(1) == b""


def test_closing_twice_is_closing_once(ends: Ends) -> None:
    stream, _ = ends
    stream.close()
    with open(os.devnull) as reused:  # likely under the number that has become free
        stream.close()
        assert os.fstat(reused.fileno())


def test_the_with_statement_closes_on_the_way_out(pair: tuple[socket.socket, ...]) -> None:
    ours, peer = pair
    with pytest.raises(KeyboardInterrupt), NetworkStream(ours) as stream:
        assert isinstance(stream, NetworkStream)
        raise KeyboardInterrupt
    assert repr(stream).endswith('CLOSED"]>') or repr(stream).endswith("CLOSED]>")
    assert peer.recv(1) == b""


def write_nothing(stream: NetworkStream) -> object:
    return stream.write(b"")


USES: list[Callable[[NetworkStream], object]] = [
    lambda stream: stream.read(),
    lambda stream: stream.read(1),
    lambda stream: stream.write(b"x"),
    write_nothing,
    lambda stream: stream.write(bytes(2 * MIB)),
    lambda stream: stream.start_tls(client_context(), hostname="localhost"),
]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("seconds", [None, 0, HANG])
def test_a_closed_stream_cannot_be_used(
    plain: Ends, use: Callable[[NetworkStream], object], seconds: float | None
) -> None:
    stream, _ = plain
    stream.close()
    with timeout(seconds), pytest.raises(OSError, match="the stream is closed") as caught:
        use(stream)
    assert_closed(caught.value)


def test_the_text_of_a_closed_stream_says_what_was_tried(peers: Peers) -> None:
    ours, theirs = tcp_pair(peers)
    ip, port = ours.getpeername()
    stream = NetworkStream(ours)
    stream.close()
    theirs.close()
    with pytest.raises(OSError, match=f"read from {ip}:{port} failed: the stream is closed"):
        stream.read()


@pytest.mark.parametrize("polling", [False, True])
@pytest.mark.parametrize("seconds", [None, 60.0])
def test_close_wakes_a_reader(plain: Ends, polling: bool, seconds: float | None) -> None:
    stream, _ = plain
    if polling:
        with times_out(0.01):
            stream.read()

    def read_in_time() -> bytes:
        with timeout(seconds):
            return stream.read()

    with in_thread(read_in_time) as reading:
        stream.close()
        assert_closed(reading.exception(HANG))


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_close_wakes_a_writer(plain: Ends, seconds: float | None) -> None:
    stream, _ = plain

    def write_in_time() -> None:
        with timeout(seconds):
            stream.write(bytes(64 * MIB))

    with in_thread(write_in_time) as writing:
        stream.close()
        error = writing.exception(HANG)
    assert_closed(error)
    assert 0 < error.characters_written < 64 * MIB  # type: ignore[union-attr]


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_close_wakes_a_reader_of_tls(serve_tls: Callable[..., Address], seconds: float) -> None:
    def read_in_time() -> bytes:
        with timeout(seconds):
            return stream.read()

    with httpx_net.NetworkBackend().connect(*serve_tls(silent)) as stream:
        stream.start_tls(client_context(), hostname="localhost")
        with in_thread(read_in_time) as reading:
            stream.close()
            assert_closed(reading.exception(HANG))


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_close_wakes_a_writer_of_tls(serve_tls: Callable[..., Address], seconds: float) -> None:
    enough = threading.Event()

    def write_in_time() -> None:
        with timeout(seconds):
            stream.write(bytes(64 * MIB))

    with httpx_net.NetworkBackend().connect(*serve_tls(lambda conn: enough.wait(HANG))) as stream:
        stream.start_tls(client_context(), hostname="localhost")
        with in_thread(write_in_time) as writing:
            stream.close()
            assert_closed(writing.exception(HANG))
        enough.set()


class ClosedMeanwhile(socket.socket):
    """A socket whose stream another thread closes just before it looks at the descriptor."""

    stream: NetworkStream | None = None

    def fileno(self) -> int:
        if self.stream is not None:
            stream, self.stream = self.stream, None
            stream.close()
        return super().fileno()


@pytest.fixture
def closed_meanwhile(pair: tuple[socket.socket, ...]) -> Iterator[NetworkStream]:
    sock = ClosedMeanwhile(fileno=pair[0].detach())
    sock.setblocking(False)
    with NetworkStream(sock) as stream:
        sock.stream = stream
        yield stream


@pytest.mark.parametrize("use", [lambda stream: stream.read(), lambda s: s.write(bytes(9 * MIB))])
def test_a_close_just_before_the_wait_is_a_closed_stream(
    closed_meanwhile: NetworkStream, use: Callable[[NetworkStream], object]
) -> None:
    with pytest.raises(OSError, match="the stream is closed") as caught:
        use(closed_meanwhile)
    assert_closed(caught.value)


def test_a_stream_closed_while_it_is_asked_is_readable(closed_meanwhile: NetworkStream) -> None:
    assert closed_meanwhile.get_extra_info("is_readable") is True


@pytest.mark.parametrize("seconds", [None, HANG])
@pytest.mark.parametrize("use", [lambda stream: stream.read(), lambda s: s.write(bytes(9 * MIB))])
def test_a_socket_closed_behind_the_streams_back_is_an_os_error(
    ends: Ends, use: Callable[[NetworkStream], object], seconds: float | None
) -> None:
    stream, _ = ends
    with times_out(0.01):
        stream.read()
    stream.get_extra_info("socket").close()
    assert stream.get_extra_info("is_readable") is True
    with timeout(seconds), pytest.raises(OSError, match="failed") as caught:
        use(stream)
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("seconds", [None, 0])
def test_close_neither_waits_nor_fails_with_a_full_send_buffer(
    plain: Ends, seconds: float | None
) -> None:
    stream, _ = plain
    sock = stream.get_extra_info("socket")
    fill(sock)
    start = time.monotonic()
    with timeout(seconds):
        stream.close()
    assert time.monotonic() - start < 1.0
    assert sock.fileno() == -1


def test_what_was_written_before_close_is_delivered(plain: Ends) -> None:
    stream, peer = plain
    sent = fill(stream.get_extra_info("socket"))
    stream.close()
    assert len(take(peer)) == sent


def test_close_does_not_fail_where_the_connection_is_lost(peers: Peers) -> None:
    ours, theirs = tcp_pair(peers)
    stream = NetworkStream(ours)
    drop(theirs)
    stream.close()
    assert ours.fileno() == -1


def test_close_does_not_fail_where_the_descriptor_is_gone(ends: Ends) -> None:
    stream, _ = ends
    os.close(stream.get_extra_info("socket").fileno())
    stream.close()
    stream.close()


def test_close_waits_where_the_caller_asked_it_to_linger(peers: Peers) -> None:
    ours, theirs = tcp_pair(peers)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, int(HANG)))
    sent = fill(ours)
    with theirs, in_thread(NetworkStream(ours).close) as closing:
        assert not closing.done()
        assert len(take(theirs)) == sent
        assert closing.result(HANG) is None


# ---- Collected unclosed


def collect(stream: list[NetworkStream]) -> list[str]:
    """Let go of the only reference; returns the texts of the ResourceWarnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stream.clear()
        gc.collect()
    assert {w.category for w in caught} <= {ResourceWarning}
    return [str(w.message) for w in caught]


def test_a_stream_collected_unclosed_is_one_warning(peers: Peers) -> None:
    ours, theirs = tcp_pair(peers)
    ip, port = ours.getpeername()
    fd = ours.fileno()
    streams = [NetworkStream(ours)]
    del ours
    assert collect(streams) == [f'unclosed <NetworkStream ["{ip}:{port}"]>']
    with theirs, pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fd)


def test_a_stream_that_was_closed_is_none(pair: tuple[socket.socket, ...]) -> None:
    streams = [NetworkStream(pair[0])]
    streams[0].close()
    assert collect(streams) == []


def test_a_stream_that_was_never_made_is_none() -> None:
    with warnings.catch_warnings(), socket.socket() as sock:
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="connected"):
            NetworkStream(sock)
        gc.collect()
        assert sock.fileno() >= 0  # and the socket is its caller's still


class Local:
    """What a caller has in its frame when an operation fails."""


@pytest.mark.parametrize("use", [use for use in USES if use is not write_nothing])
@pytest.mark.parametrize("seconds", [0, 0.01])
def test_an_error_keeps_nothing_of_its_caller_alive(
    ends: Ends, use: Callable[[NetworkStream], object], seconds: float
) -> None:
    fill(ends[0].get_extra_info("socket"))

    def call() -> weakref.ref[Local]:
        local = Local()
        with suppress(TimeoutError), timeout(seconds):
            use(ends[0])
            raise AssertionError("it did not wait")
        return weakref.ref(local)

    gc.disable()
    try:
        assert call()() is None, "the error is in a cycle with its traceback"
    finally:
        gc.enable()


@pytest.mark.parametrize("seconds", [None, HANG])
def test_the_error_of_a_read_keeps_no_stream_alive(peers: Peers, seconds: float | None) -> None:
    ours, theirs = tcp_pair(peers)
    stream: NetworkStream | None = NetworkStream(ours)
    with suppress(TimeoutError), timeout(0.01):
        stream.read()
    drop(theirs)
    with timeout(seconds), suppress(ConnectionResetError):
        stream.read()
    gc.disable()
    try:
        with pytest.warns(ResourceWarning, match="unclosed"):
            stream = None
    finally:
        gc.enable()
    assert stream is None
    assert ours.fileno() == -1


def test_a_tls_stream_collected_unclosed_says_no_goodbye(
    serve_tls: Callable[..., Address],
) -> None:
    def cut_off(conn: ssl.SSLSocket) -> None:
        with pytest.raises(ssl.SSLError) as caught:
            conn.recv(1)
        assert is_truncation(caught.value)

    streams = [connect_tls(serve_tls(cut_off, tickets=0))]
    assert len(collect(streams)) == 1


def test_the_warning_points_at_the_line_that_let_go(pair: tuple[socket.socket, ...]) -> None:
    stream: NetworkStream | None = NetworkStream(pair[0])
    with pytest.warns(ResourceWarning) as caught:
        stream = None
    assert [w.filename for w in caught] == [__file__]
    assert stream is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_that_collects_a_stream_leaves_its_parents_alone(peers: Peers) -> None:
    ours, theirs = tcp_pair(peers)
    theirs.settimeout(HANG)
    streams = [NetworkStream(ours)]
    del ours
    assert in_child(lambda: collect(streams)) == 0
    with theirs, streams[0] as stream:
        stream.write(b"ping")
        assert theirs.recv(4) == b"ping"
        theirs.sendall(b"pong")
        assert stream.read() == b"pong"


def in_child(function: Callable[[], object]) -> int:
    """Call *function* in a forked child; returns its exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads: no matter
        child = os.fork()
    if not child:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# ---- What it knows


def test_an_unknown_key_is_none(ends: Ends) -> None:
    assert ends[0].get_extra_info("weather") is None


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_addresses_of_tcp_are_pairs(peers: Peers, family: int) -> None:
    ours, theirs = tcp_pair(peers, family)
    with theirs, NetworkStream(ours) as stream:
        assert stream.get_extra_info("server_addr") == theirs.getsockname()[:2]
        assert stream.get_extra_info("client_addr") == theirs.getpeername()[:2]
        assert stream.get_extra_info("socket") is ours
        assert stream.get_extra_info("ssl_object") is None


@unix_sockets
def test_the_addresses_of_a_unix_socket_are_paths(peers: Peers) -> None:
    path = peers.serve_unix(silent)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"{path}.client")
    sock.connect(path)
    with NetworkStream(sock) as stream:
        assert stream.get_extra_info("server_addr") == path
        assert stream.get_extra_info("client_addr") == f"{path}.client"


@unix_sockets
def test_the_addresses_of_a_socketpair_are_empty(ends: Ends) -> None:
    stream, _ = ends
    assert stream.get_extra_info("server_addr") == ""
    assert stream.get_extra_info("client_addr") == ""


def test_the_addresses_are_there_after_close_and_after_a_reset(peers: Peers) -> None:
    ours, theirs = tcp_pair(peers)
    addresses = ours.getsockname(), ours.getpeername()
    stream = NetworkStream(ours)
    drop(theirs)
    assert both_addresses(stream) == addresses
    stream.close()
    assert both_addresses(stream) == addresses


def both_addresses(stream: NetworkStream) -> tuple[Any, Any]:
    return stream.get_extra_info("client_addr"), stream.get_extra_info("server_addr")


def refused(*args: object) -> None:
    raise AssertionError("this is the long way")


@pytest.mark.parametrize("max_bytes", [1, 65_536, MIB])
def test_a_usual_max_bytes_is_checked_without_a_call(
    plain: Ends, monkeypatch: pytest.MonkeyPatch, max_bytes: int
) -> None:
    stream, peer = plain
    monkeypatch.setattr(_stream, "_check_max_bytes", refused)
    peer.sendall(b"x")
    assert stream.read(max_bytes) == b"x"


@pytest.mark.parametrize("size", [1, 4096, RECORD_SIZE])
def test_what_goes_at_once_is_sent_as_it_is(
    serve_tls: Any, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(_stream, "memoryview", refused, raising=False)
    with connect_tls(serve_tls(echo)) as stream:
        stream.write(b"x" * size)
        assert stream.read(1) == b"x"


def test_whoever_asks_whether_it_is_readable_does_not_wait(
    plain: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(fds: Any, event: int, seconds: float) -> list[int]:
        waited.append(seconds)
        return _wait.wait(fds, event, seconds)

    waited: list[float] = []
    monkeypatch.setattr(_stream, "wait", wait)
    assert plain[0].get_extra_info("is_readable") is False
    assert waited == [0.0]


def test_it_is_readable_when_a_read_would_return_at_once(plain: Ends) -> None:
    stream, peer = plain
    assert stream.get_extra_info("is_readable") is False
    peer.sendall(b"x")
    assert stream.get_extra_info("is_readable") is True
    stream.read()
    assert stream.get_extra_info("is_readable") is False


def test_the_end_is_readable(plain: Ends) -> None:
    stream, peer = plain
    peer.close()
    assert stream.get_extra_info("is_readable") is True
    assert stream.read() == b""
    assert stream.get_extra_info("is_readable") is True


def test_a_reset_and_a_closed_stream_are_readable(peers: Peers) -> None:
    ours, theirs = tcp_pair(peers)
    with NetworkStream(ours) as stream:
        drop(theirs)
        assert stream.get_extra_info("is_readable") is True
    assert stream.get_extra_info("is_readable") is True


def test_asking_whether_it_is_readable_needs_no_time(ends: Ends) -> None:
    stream, peer = ends
    with timeout(0):
        assert stream.get_extra_info("is_readable") is False
        peer.sendall(b"x")
        assert stream.get_extra_info("is_readable") is True


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_repr_shows_the_numeric_address(peers: Peers, family: int) -> None:
    ours, theirs = tcp_pair(peers, family)
    port = theirs.getsockname()[1]
    where = f"[::1]:{port}" if family == socket.AF_INET6 else f"127.0.0.1:{port}"
    with theirs, NetworkStream(ours) as stream:
        assert repr(stream) == f'<NetworkStream ["{where}"]>'
    assert repr(stream) == f'<NetworkStream ["{where}" CLOSED]>'


def test_the_repr_shows_tls(serve_tls: Callable[..., Address]) -> None:
    ip, port = address = serve_tls(silent)
    with httpx_net.NetworkBackend().connect(*address) as stream:
        stream.start_tls(client_context(), hostname="localhost")
        assert repr(stream) == f'<NetworkStream ["{ip}:{port}" TLS]>'
    assert repr(stream) == f'<NetworkStream ["{ip}:{port}" TLS CLOSED]>'


@unix_sockets
def test_the_repr_shows_the_path_of_a_unix_socket(peers: Peers) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path := peers.serve_unix(silent))
    with NetworkStream(sock) as stream:
        assert repr(stream) == f'<NetworkStream ["{path}"]>'


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract Unix sockets")
def test_the_repr_of_an_abstract_unix_socket_is_its_name(peers: Peers) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # the kernel makes up a name
        listener.listen()
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(listener.getsockname())
        with NetworkStream(sock) as stream:
            assert stream.get_extra_info("server_addr") == listener.getsockname()
            assert repr(stream) == f'<NetworkStream ["{listener.getsockname().decode()}"]>'


@unix_sockets
def test_the_repr_of_an_unnamed_peer_is_empty(ends: Ends) -> None:
    stream, _ = ends
    assert repr(stream) == '<NetworkStream [""]>'
    stream.close()
    assert repr(stream) == '<NetworkStream ["" CLOSED]>'


@unix_sockets
def test_the_repr_of_a_subclass_has_its_name(pair: tuple[socket.socket, ...]) -> None:
    class Recorded(NetworkStream):
        pass

    with Recorded(pair[0]) as stream:
        assert repr(stream) == '<Recorded [""]>'


# ---- What it can be made of


@pytest.mark.parametrize("thing", [None, 3, "sock", object(), b"", socket.socket])
def test_what_is_no_socket_is_a_type_error(thing: Any) -> None:
    with pytest.raises(TypeError, match="sock must be a socket") as caught:
        NetworkStream(thing)
    assert repr(thing) in str(caught.value)


def test_a_datagram_socket_is_a_value_error(peers: Peers) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(peers.bound().getsockname())
        with pytest.raises(ValueError, match="must be a stream socket") as caught:
            NetworkStream(sock)
        assert repr(sock) in str(caught.value)


def unconnected() -> socket.socket:
    return socket.socket()


def bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def closed() -> socket.socket:
    sock = socket.socket()
    sock.close()
    return sock


def unconnected_unix() -> socket.socket:
    return socket.socket(socket.AF_UNIX)


def test_a_connection_that_is_lost_already_is_refused(peers: Peers) -> None:
    ours, theirs = tcp_pair(peers)
    drop(theirs)
    with ours, pytest.raises(ValueError, match="must be connected"):
        NetworkStream(ours)


@pytest.mark.parametrize("make", [unconnected, bound, listening, closed, unconnected_unix])
def test_a_socket_that_is_not_connected_is_refused(make: Callable[[], socket.socket]) -> None:
    with make() as sock:
        with pytest.raises(ValueError, match="must be connected") as caught:
            NetworkStream(sock)
        assert repr(sock) in str(caught.value)


@unix_sockets
def test_a_unix_socket_that_is_not_connected_is_refused() -> None:
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ValueError, match="connected"):
        NetworkStream(sock)


def test_the_socket_is_the_one_argument_without_a_name(ends: Ends) -> None:
    with pytest.raises(TypeError):
        NetworkStream()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        NetworkStream(ends[1], True)  # type: ignore[misc]


def test_an_ssl_socket_becomes_a_tls_stream(serve_tls: Callable[..., Address]) -> None:
    sock = socket.create_connection(serve_tls(echo))
    wrapped: ssl.SSLSocket = client_context().wrap_socket(sock, server_hostname="localhost")
    with NetworkStream(wrapped) as stream, timeout(HANG):
        assert repr(stream).endswith(" TLS]>")
        assert stream.get_extra_info("ssl_object") is wrapped
        stream.write(b"hello")
        assert stream.read() == b"hello"


# ---- Corners


posix = pytest.mark.skipif(os.name == "nt", reason="POSIX descriptors and signals")


class Counted(socket.socket):
    """A socket that counts the attempts to read and to write, by their sizes."""

    sizes: list[int]

    def recv(self, size: int, *args: Any) -> bytes:  # type: ignore[override]
        self.sizes.append(size)
        return super().recv(size, *args)

    def send(self, data: Any, *args: Any) -> int:
        self.sizes.append(memoryview(data).nbytes)
        return super().send(data, *args)


class CountedTLS(ssl.SSLSocket):
    """As above, on TLS."""

    sizes: list[int]

    def read(self, size: int = 1024, *args: Any) -> Any:
        self.sizes.append(size)
        return super().read(size, *args)


def would_wait(fd: int, event: int) -> None:
    raise TimeoutError("it would wait")


@contextmanager
def impatient() -> Iterator[None]:
    """Under a deadline, what goes on in this block ends where it would wait."""
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(TimeoutError, match="it would wait"),
        httpx_net.timeout(HANG),
    ):
        patch.setattr(_stream, "wait_in_time", would_wait)
        yield


def attempts_in_vain(stream: httpx_net.NetworkStream) -> int:
    """How often *stream*, to which nothing has come, tries to read before it waits."""
    sizes = stream.get_extra_info("socket").sizes
    sizes.clear()
    with impatient():
        stream.read()
    return len(sizes)


@pytest.mark.parametrize(
    ("size", "max_bytes", "attempts"),
    [(16_384, 16_384, 1), (16_384, 16_385, 0), (16_383, 16_383, 0), (1, 1, 0)],
)
def test_a_read_tries_first_where_more_is_likely_to_have_come(
    pair: Any, size: int, max_bytes: int, attempts: int
) -> None:
    for sock, option in (pair[0], socket.SO_RCVBUF), (pair[1], socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 65_536)
    ours = Counted(fileno=pair[0].detach())
    ours.sizes = []
    with httpx_net.NetworkStream(ours) as stream:
        assert attempts_in_vain(stream) == 1
        assert attempts_in_vain(stream) == 0
        pair[1].sendall(bytes(size))
        assert len(stream.read(max_bytes)) == size
        assert attempts_in_vain(stream) == attempts


@pytest.mark.parametrize(("size", "attempts"), [(16_384, 1), (16_383, 0)])
def test_on_TLS_it_is_a_full_record_that_more_is_likely_to_follow(
    serve_tls: Any, size: int, attempts: int
) -> None:
    def peer(conn: ssl.SSLSocket) -> None:
        assert begin.wait(HANG)
        conn.sendall(bytes(size))
        assert over.wait(HANG)

    begin, over = threading.Event(), threading.Event()
    context = client_context()
    context.sslsocket_class = CountedTLS
    with connect_tls(serve_tls(peer, tickets=0), context) as stream:
        stream.get_extra_info("socket").sizes = []
        assert attempts_in_vain(stream) == 1
        assert attempts_in_vain(stream) == 0
        begin.set()
        assert len(stream.read()) == size
        assert attempts_in_vain(stream) == attempts
        over.set()


def test_no_read_asks_for_more_than_a_mebibyte(pair: Any) -> None:
    ours = Counted(fileno=pair[0].detach())
    ours.sizes = []
    pair[1].sendall(b"x")
    with httpx_net.NetworkStream(ours) as stream:
        stream.read(2**40)
    assert ours.sizes == [2**20]


def test_no_write_offers_more_than_a_mebibyte_at_once(pair: Any) -> None:
    ours = Counted(fileno=pair[0].detach())
    ours.sizes = []
    with httpx_net.NetworkStream(ours) as stream, impatient():
        stream.write(bytes(20_000_000))
    assert max(ours.sizes) == 2**20


@posix
def test_a_stream_may_have_the_descriptor_of_the_standard_input() -> None:
    run_python(
        """
import os, socket, warnings
import httpx_net

with socket.create_server(("127.0.0.1", 0)) as listener:
    os.close(0)
    stream = httpx_net.NetworkBackend().connect(*listener.getsockname())
    assert stream.get_extra_info("socket").fileno() == 0
    try:
        with httpx_net.timeout(0.01):
            stream.read()
    except TimeoutError:
        pass
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del stream
    assert [warning.category for warning in said] == [ResourceWarning], said
"""
    )


class Hooked(socket.socket):
    """A socket with something to do after each ``send`` and ``recv``."""

    after: Callable[[], object] = staticmethod(lambda: None)

    def send(self, *args: Any) -> int:
        sent = super().send(*args)
        self.after()
        return sent

    def recv(self, *args: Any) -> bytes:
        data = super().recv(*args)
        self.after()
        return data


def test_a_write_that_a_close_overtakes_is_an_error(pair: Any) -> None:
    ours = Hooked(fileno=pair[0].detach())
    stream = httpx_net.NetworkStream(ours)
    ours.after = stream.close
    with pytest.raises(OSError, match="the stream is closed") as caught:
        stream.write(b"hello")
    assert caught.value.errno == errno.EBADF
    assert caught.value.characters_written == 5  # type: ignore[attr-defined]


def test_a_read_that_a_close_overtakes_is_an_error(pair: Any) -> None:
    ours = Hooked(fileno=pair[0].detach())
    stream = httpx_net.NetworkStream(ours)
    pair[1].send(b"hello")
    ours.after = stream.close
    with pytest.raises(
        OSError, match="read from an unnamed peer failed: the stream is closed"
    ) as e:
        stream.read()
    assert e.value.errno == errno.EBADF


def test_an_SSLSocket_that_it_is_given_waits_as_the_deadline_says(serve_tls: Any) -> None:
    plain = socket.create_connection(serve_tls(silent))
    tls = client_context().wrap_socket(plain, server_hostname="localhost")
    with (
        httpx_net.NetworkStream(tls) as stream,
        pytest.raises(TimeoutError, match=r"timeout\(0.05\) expired"),
        httpx_net.timeout(0.05),
    ):
        stream.read()


def behind_its_back(stream: httpx_net.NetworkStream) -> None:
    """Close the socket below *stream*, which it owns; a mistake, that an error has to tell."""
    stream.get_extra_info("socket").close()


def test_a_stream_whose_socket_was_closed_behind_its_back_says_so(pair: Any) -> None:
    with httpx_net.NetworkStream(pair[0]) as stream:
        with pytest.raises(TimeoutError), httpx_net.timeout(0.01):
            stream.read()
        behind_its_back(stream)
        with pytest.raises(
            OSError, match=r" failed: the socket was closed behind the stream's back$"
        ) as caught:
            stream.read()
        assert caught.value.errno == errno.EBADF
        assert stream.get_extra_info("is_readable")


@pytest.mark.parametrize("use", [lambda stream: stream.read(), lambda stream: stream.write(b"x")])
def test_on_TLS_as_well(serve_tls: Any, use: Callable[[Any], object]) -> None:
    with connect_tls(serve_tls(silent)) as stream:
        behind_its_back(stream)
        with pytest.raises(OSError) as caught:
            use(stream)
    assert caught.value.errno == errno.EBADF


def test_nothing_is_said_of_an_unclosed_stream_whose_socket_is_closed(pair: Any) -> None:
    stream = httpx_net.NetworkStream(pair[0])
    behind_its_back(stream)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del stream
    assert said == []


BAD = {
    "sock must be a socket, not None": lambda stream: httpx_net.NetworkStream(None),
    "max_bytes must be an int or None, not '1'": lambda stream: stream.read("1"),
    "max_bytes must be 1 or more, not 0": lambda stream: stream.read(0),
    "data must be bytes, a bytearray or a memoryview, not 'x'": lambda stream: stream.write("x"),
    "data must be contiguous, which <memory at": lambda stream: stream.write(SPACED),
    "context must be an ssl.SSLContext or alike, not None": lambda stream: stream.start_tls(None),
    "hostname must not be None where the context checks it (check_hostname)": (
        lambda stream: stream.start_tls(client_context())
    ),
}


SPACED = memoryview(b"a b c")[::2]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_argument_is_told(pair: Any, text: str) -> None:
    with (
        httpx_net.NetworkStream(pair[0]) as stream,
        pytest.raises((TypeError, ValueError), match="^" + re.escape(text)),
    ):
        BAD[text](stream)


def test_a_socket_that_can_t_be_a_stream_is_told() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, socket.socket() as alone:
        with pytest.raises(ValueError, match=r"^sock must be a stream socket, not <socket"):
            httpx_net.NetworkStream(datagrams)
        with pytest.raises(ValueError, match=f"^sock must be connected, not <socket.*>: {GONE}"):
            httpx_net.NetworkStream(alone)


GONE = os.strerror(errno.ENOTCONN)


def test_a_timeout_of_its_own_is_lifted_from_an_SSLSocket_too(peers: Peers) -> None:
    asked = threading.Event()

    def late(conn: ssl.SSLSocket) -> None:
        assert asked.wait(HANG)
        conn.sendall(b"late")

    address = peers.serve_tls(late)
    sock = client_context().wrap_socket(
        socket.create_connection(address), server_hostname="localhost"
    )
    sock.settimeout(0.01)
    with httpx_net.NetworkStream(sock) as stream:
        reading = threading.Timer(0.05, asked.set)
        reading.start()
        assert stream.read() == b"late"
        reading.join()


def test_a_close_that_is_interrupted_has_closed(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(sock: socket.socket) -> None:
        raise KeyboardInterrupt

    stream = httpx_net.NetworkStream(pair[0])
    monkeypatch.setattr(_stream, "_own_address", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.close()
    assert repr(stream).endswith(" CLOSED]>")
    with pytest.raises(OSError, match="the stream is closed"):
        stream.read()


def test_a_write_that_timed_out_is_not_how_the_stream_ends(pair: Any) -> None:
    ours, theirs = pair
    with httpx_net.NetworkStream(ours) as stream:
        with pytest.raises(TimeoutError), httpx_net.timeout(0.02):
            stream.write(bytes(20_000_000))
        theirs.shutdown(socket.SHUT_WR)
        assert stream.read() == b""


def test_a_number_of_another_class_is_a_number(pair: Any) -> None:
    class Number(int):
        pass

    pair[1].sendall(b"one")
    with httpx_net.NetworkStream(pair[0]) as stream:
        assert stream.read(Number(1)) == b"o"


def test_a_socket_that_was_closed_behind_its_back_has_no_address(pair: Any) -> None:
    with httpx_net.NetworkStream(pair[0]) as stream:
        pair[0].close()
        assert stream.get_extra_info("client_addr") is None
