"""What every stream promises, as a function that any stream can be run through.

If you bring a ``NetworkStreamInterface`` of your own, this tells whether a client can rely on it::

    import socket
    from conformance import check_stream

    def make_pair():
        ours, theirs = socket.socketpair()
        theirs.settimeout(10.0)
        return MyStream(ours), theirs

    def test_my_stream_keeps_the_promises():
        check_stream(make_pair)

*make_pair* returns a stream that is connected, and its peer: a socket, or anything else that has
``recv(size)``, ``sendall(data)`` and ``close()``. Both are new each time, and both are closed for
you. When the peer is closed, the stream has to end in an orderly way; where your stream does TLS,
this is the peer that says goodbye first (``close_notify``). Give the peer a timeout: a stream that
breaks a promise then fails, instead of hanging.

``PROMISES`` has the checks one by one, for a test runner that likes to show them by name; run each
with ``check_promise(promise, make_pair)``. A broken promise is an AssertionError, or whatever the
stream raised. It takes a second or two: deadlines are waited for.

This needs nothing but the standard library and ``httpx_net``, so you may copy the file.
"""

from __future__ import annotations

import array
import errno
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

import httpx_net
from httpx_net import NetworkStreamInterface as Stream

# Seconds: the deadlines that are waited for.
LIMIT = 0.05
# How late a deadline may be, on slow machines. A quiet one needs a millisecond.
SLACK = 2.0
# How long a check may take. Most need a few milliseconds.
PATIENCE = 10.0
MIB = 1024 * 1024


class Peer(Protocol):
    """The other end: as much of a socket as the checks need."""

    def recv(self, size: int, /) -> bytes: ...

    def sendall(self, data: bytes, /) -> object: ...

    def close(self) -> object: ...


Promise = Callable[[Any, Any], None]
MakePair = Callable[[], tuple[Stream, Peer]]


def check_stream(make_pair: MakePair) -> None:
    """Check that the streams of *make_pair* keep all the promises of ``NetworkStreamInterface``."""
    for promise in PROMISES:
        check_promise(promise, make_pair)


def check_promise(promise: Promise, make_pair: MakePair) -> None:
    """Check one of ``PROMISES`` on a new pair."""
    stream, peer = make_pair()
    # A read that nothing bounds, on a stream that has lost what it waits for, ends by this.
    watchdog = threading.Timer(PATIENCE, peer.close)
    watchdog.daemon = True
    watchdog.start()
    try:
        promise(stream, peer)
    finally:
        watchdog.cancel()
        watchdog.join(PATIENCE)
        try:
            stream.close()
        finally:
            with suppress(OSError):
                peer.close()


# ---- Reading


def it_implements_the_interface(stream: Stream, peer: Peer) -> None:
    assert isinstance(stream, Stream)


def a_read_returns_what_the_peer_sent(stream: Stream, peer: Peer) -> None:
    peer.sendall(b"hello")
    data = stream.read()
    assert type(data) is bytes
    assert data + take(stream, 5 - len(data)) == b"hello"


def a_read_does_not_wait_for_more_than_one_byte(stream: Stream, peer: Peer) -> None:
    peer.sendall(b"h")
    with httpx_net.timeout(PATIENCE):
        assert stream.read(100) == b"h"


def a_read_returns_at_most_max_bytes(stream: Stream, peer: Peer) -> None:
    peer.sendall(b"hello")
    assert stream.read(1) == b"h"
    assert stream.read(max_bytes=1) == b"e"
    # To ask for more than there is, is fine.
    assert stream.read(MIB)[:1] == b"l"


def the_rest_stays_for_the_next_read(stream: Stream, peer: Peer) -> None:
    data = bytes(range(256)) * 8
    peer.sendall(data)
    read = b""
    while len(read) < len(data):
        piece = stream.read(7)
        assert 1 <= len(piece) <= 7
        read += piece
    assert read == data


def bad_values_of_max_bytes_are_refused(stream: Stream, peer: Peer) -> None:
    peer.sendall(b"x")
    for number in (0, -1):
        with raises(ValueError):
            stream.read(number)
    for thing in ("1", 1.5, b"1"):
        with raises(TypeError):
            stream.read(thing)  # type: ignore[arg-type]
    assert stream.read() == b"x", "a refused read must not consume anything"


def the_end_of_the_stream_is_the_end_each_time(stream: Stream, peer: Peer) -> None:
    peer.sendall(b"last words")
    peer.close()
    assert take(stream, 10) == b"last words"
    for _ in range(3):
        assert stream.read() == b""
    with httpx_net.timeout(PATIENCE):
        assert stream.read(1) == b""


def a_read_without_a_deadline_waits(stream: Stream, peer: Peer) -> None:
    with later(lambda: peer.sendall(b"late")):
        assert take(stream, 4) == b"late"


def much_can_be_read(stream: Stream, peer: Peer) -> None:
    data = pattern(2 * MIB + 1)
    with meanwhile(lambda: peer.sendall(data)), httpx_net.timeout(PATIENCE):
        assert take(stream, len(data)) == data


# ---- Writing


def a_write_sends_all_of_it(stream: Stream, peer: Peer) -> None:
    writes = [b"bytes, ", bytearray(b"a bytearray, "), memoryview(b"and a memoryview")]
    for data in writes:
        assert stream.write(data) is None  # type: ignore[func-returns-value]
    assert receive(peer, 36) == b"bytes, a bytearray, and a memoryview"


def a_memoryview_of_other_things_is_the_bytes_below(stream: Stream, peer: Peer) -> None:
    stream.write(memoryview(bytes(range(16))).cast("I"))
    assert receive(peer, 16) == bytes(range(16))


def an_empty_write_sends_nothing(stream: Stream, peer: Peer) -> None:
    for nothing in (b"", bytearray(), memoryview(b"")):
        stream.write(nothing)
    stream.write(b"x")
    assert peer.recv(2) == b"x"


def bad_data_is_refused(stream: Stream, peer: Peer) -> None:
    for thing in ("text", None, 7, [1, 2]):
        with raises(TypeError):
            stream.write(thing)  # type: ignore[arg-type]
    stream.write(b"x")
    assert peer.recv(2) == b"x", "a refused write must not send anything"


def what_was_written_may_be_changed_afterwards(stream: Stream, peer: Peer) -> None:
    data = bytearray(b"before")
    stream.write(data)
    data[:] = b"after it"
    assert receive(peer, 6) == b"before"


def much_can_be_written(stream: Stream, peer: Peer) -> None:
    data = pattern(2 * MIB + 1)
    received: list[bytes] = []
    for seconds in (None, PATIENCE):
        with (
            httpx_net.timeout(seconds),
            meanwhile(lambda: received.append(receive(peer, len(data)))),
        ):
            stream.write(data)
    assert received == [data, data]


def reads_and_writes_take_turns(stream: Stream, peer: Peer) -> None:
    for size in (1, 100, 16_384, 16_385, 65_537):
        data = pattern(size)
        with meanwhile(lambda size=size: peer.sendall(receive(peer, size))):
            stream.write(data)
            assert take(stream, size) == data


def one_thread_may_read_while_another_writes(stream: Stream, peer: Peer) -> None:
    data = pattern(2 * MIB + 1)

    def write() -> None:
        # By then the read waits.
        time.sleep(LIMIT)
        with httpx_net.timeout(PATIENCE):
            stream.write(data)

    def echo() -> None:
        left = len(data)
        while left:
            piece = peer.recv(65_536)
            assert piece, f"the stream ended {left} bytes early"
            peer.sendall(piece)
            left -= len(piece)

    with meanwhile(write), meanwhile(echo), httpx_net.timeout(PATIENCE / 2):
        assert take(stream, len(data)) == data


# ---- Deadlines


def silence_times_out_and_nothing_is_lost(stream: Stream, peer: Peer) -> None:
    with times_out():
        stream.read()
    peer.sendall(b"late")
    assert take(stream, 4) == b"late"


def a_passed_deadline_beats_waiting_data(stream: Stream, peer: Peer) -> None:
    peer.sendall(b"ab")
    # The other byte is there, too, then.
    assert stream.read(1) == b"a"
    with raises(TimeoutError), httpx_net.timeout(0):
        stream.read()
    assert stream.read() == b"b"


def under_a_passed_deadline_nothing_is_sent(stream: Stream, peer: Peer) -> None:
    for data in (b"not this", b"", pattern(MIB)):
        with raises(TimeoutError), httpx_net.timeout(0):
            stream.write(data)
    # What comes instead? On TLS the write side may be broken now, so the end has to do.
    stream.close()
    assert peer.recv(1) == b""


def a_peer_that_never_reads_is_timed_out(stream: Stream, peer: Peer) -> None:
    error = write_until_it_times_out(stream)
    if error is not None:
        sent = getattr(error, "characters_written", None)
        assert isinstance(sent, int), "the error must tell how much went out: characters_written"
        assert 0 <= sent < MIB


def a_dripping_peer_does_not_extend_the_deadline(stream: Stream, peer: Peer) -> None:
    with slowly(lambda: peer.sendall(b".")), times_out():
        while stream.read():
            pass


def a_peer_that_sips_does_not_extend_the_deadline(stream: Stream, peer: Peer) -> None:
    with slowly(lambda: peer.recv(1)):
        # On a slow machine the deadline may have passed before anything is written.
        stream.write(bytes(100))
        write_until_it_times_out(stream)


def the_nearest_deadline_rules(stream: Stream, peer: Peer) -> None:
    with httpx_net.timeout(60.0), times_out():
        stream.read()
    with times_out(), httpx_net.timeout(60.0):
        stream.read()


def a_cancelled_deadline_does_not_fire(stream: Stream, peer: Peer) -> None:
    with later(lambda: peer.sendall(b"late")), httpx_net.timeout(LIMIT) as deadline:
        deadline.cancel()
        assert take(stream, 4) == b"late"


def a_deadline_ends_with_its_block(stream: Stream, peer: Peer) -> None:
    peer.sendall(b"x")
    with httpx_net.timeout(PATIENCE), httpx_net.timeout(LIMIT) as deadline:
        deadline.cancel()
        assert stream.read() == b"x"
    with times_out():
        stream.read()
    with later(lambda: peer.sendall(b"late")):
        assert take(stream, 4) == b"late"


def a_deadline_of_any_length_works(stream: Stream, peer: Peer) -> None:
    # settimeout() takes the first for 0.02 s.
    for seconds in (4294967.32, 1e300):
        with later(lambda: peer.sendall(receive(peer, 4))), httpx_net.timeout(seconds):
            stream.write(b"ping")
            assert take(stream, 4) == b"ping"


# ---- The end


def close_can_be_called_again(stream: Stream, peer: Peer) -> None:
    for _ in range(3):
        assert stream.close() is None  # type: ignore[func-returns-value]


def close_ends_the_stream_for_the_peer(stream: Stream, peer: Peer) -> None:
    stream.write(b"last words")
    stream.close()
    assert receive(peer, 10) == b"last words"
    assert peer.recv(1) == b""


def close_works_under_a_passed_deadline(stream: Stream, peer: Peer) -> None:
    with httpx_net.timeout(0):
        stream.close()
    assert peer.recv(1) == b""


def close_works_where_the_peer_is_gone(stream: Stream, peer: Peer) -> None:
    peer.close()
    with suppress(OSError):
        for _ in range(3):
            stream.write(b"x")
    stream.close()


def close_does_not_wait_for_a_peer_that_never_reads(stream: Stream, peer: Peer) -> None:
    write_until_it_times_out(stream)
    start = time.monotonic()
    stream.close()
    assert time.monotonic() - start < SLACK


def a_closed_stream_cannot_be_used(stream: Stream, peer: Peer) -> None:
    peer.sendall(b"unread")
    stream.close()
    uses: list[Callable[[], object]] = [
        stream.read,
        lambda: stream.write(b"x"),
        lambda: stream.start_tls(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), hostname="localhost"),
    ]
    for use in uses:
        with raises(OSError) as caught:
            use()
        assert caught[0].errno == errno.EBADF, repr(caught[0])


def close_in_another_thread_wakes_a_read(stream: Stream, peer: Peer) -> None:
    close_wakes(stream, stream.read)


def close_in_another_thread_wakes_a_write(stream: Stream, peer: Peer) -> None:
    close_wakes(stream, lambda: write_much(stream))


def the_with_statement_gives_the_stream_and_closes_it(stream: Stream, peer: Peer) -> None:
    with stream as given:
        assert given is stream
    with raises(OSError):
        stream.read()
    assert peer.recv(1) == b""


def the_with_statement_lets_exceptions_pass(stream: Stream, peer: Peer) -> None:
    with raises(KeyboardInterrupt), stream:
        raise KeyboardInterrupt
    assert peer.recv(1) == b""


# ---- What it knows


def an_unknown_key_is_none(stream: Stream, peer: Peer) -> None:
    assert stream.get_extra_info("a key that nobody knows") is None
    stream.close()
    assert stream.get_extra_info("a key that nobody knows") is None


def the_addresses_are_still_there_after_close(stream: Stream, peer: Peer) -> None:
    keys = "client_addr", "server_addr"
    before = [stream.get_extra_info(key) for key in keys]
    stream.close()
    assert [stream.get_extra_info(key) for key in keys] == before


def it_knows_whether_it_is_readable(stream: Stream, peer: Peer) -> None:
    if stream.get_extra_info("is_readable") is None:
        # This stream does not know the key.
        return
    assert not stream.get_extra_info("is_readable"), "nothing has come yet"
    peer.sendall(b"ab")
    becomes_readable(stream)
    assert stream.read(1) == b"a"
    assert stream.get_extra_info("is_readable"), "there is more to read"
    assert stream.read() == b"b"
    assert not stream.get_extra_info("is_readable"), "all has been read"
    peer.close()
    becomes_readable(stream)
    assert stream.read() == b""


# All of the functions above that are about a stream and its peer.
PROMISES: tuple[Promise, ...] = tuple(
    check
    for check in list(globals().values())
    if getattr(check, "__annotations__", {}).keys() == {"stream", "peer", "return"}
)


# ---- Tools


def pattern(size: int) -> bytes:
    """*size* bytes in which every stretch is different."""
    return array.array("I", range(size // 4 + 1)).tobytes()[:size]


def take(stream: Stream, size: int) -> bytes:
    """Read *size* bytes."""
    data = bytearray()
    while len(data) < size:
        piece = stream.read(size - len(data))
        assert piece, f"the stream ended after {len(data)} of {size} bytes"
        data += piece
    return bytes(data)


def receive(peer: Peer, size: int) -> bytes:
    """What the peer receives, *size* bytes of it."""
    data = bytearray()
    while len(data) < size:
        piece = peer.recv(min(65_536, size - len(data)))
        assert piece, f"the peer received {len(data)} of {size} bytes"
        data += piece
    return bytes(data)


def becomes_readable(stream: Stream) -> None:
    """Wait until what the peer has sent is there."""
    until = time.monotonic() + PATIENCE
    while not stream.get_extra_info("is_readable"):
        assert time.monotonic() < until, "it does not become readable"
        time.sleep(0.001)


def write_until_it_times_out(stream: Stream) -> TimeoutError | None:
    """Write MiB after MiB. None if there's no end: a stream with room for all need not wait."""
    with suppress(TooMuchRoom), times_out() as caught:
        write_much(stream)
    return caught[0] if caught else None


def write_much(stream: Stream) -> None:
    for _ in range(64):
        stream.write(bytes(MIB))
    raise TooMuchRoom


class TooMuchRoom(Exception):
    """So much that no peer need ever read."""


def close_wakes(stream: Stream, use: Callable[[], object]) -> None:
    start = time.monotonic()
    with later(stream.close), suppress(TooMuchRoom), raises(OSError) as caught:
        use()
    assert time.monotonic() - start < LIMIT * 2 + SLACK, "it woke late"
    assert not caught or caught[0].errno == errno.EBADF, repr(caught[0])


@contextmanager
def raises(expected: type[BaseException]) -> Iterator[list[Any]]:
    """The block has to raise *expected*; gives a list that the exception will be in."""
    caught: list[Any] = []
    try:
        yield caught
    except expected as error:
        caught.append(error)
    else:
        raise AssertionError(f"{expected.__name__} was not raised")


@contextmanager
def times_out() -> Iterator[list[Any]]:
    """What is in the block has to end by the deadline of ``LIMIT`` seconds, and not before."""
    start = time.monotonic()
    with raises(TimeoutError) as caught, httpx_net.timeout(LIMIT):
        yield caught
    took = time.monotonic() - start
    assert took >= LIMIT, f"the deadline of {LIMIT} s fired {LIMIT - took} s early"
    assert took < LIMIT + SLACK, f"the deadline of {LIMIT} s fired {took - LIMIT} s late"


@contextmanager
def meanwhile(function: Callable[[], object]) -> Iterator[None]:
    """Run the peer's part of a scene in a thread; what it raises is raised here."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(PATIENCE)
    assert not thread.is_alive(), "the peer is stuck"
    if errors:
        raise errors.pop()


def later(function: Callable[[], object]) -> AbstractContextManager[None]:
    """The same, when a deadline of ``LIMIT`` seconds would have passed."""
    return meanwhile(lambda: (time.sleep(LIMIT * 2), function()))


@contextmanager
def slowly(function: Callable[[], object]) -> Iterator[None]:
    """The same again and again, eight times in ``LIMIT`` seconds, while the block lasts."""
    over = threading.Event()

    def go_on() -> None:
        # Until it is clear that nothing ends the block.
        until = time.monotonic() + (LIMIT + SLACK) * 1.5
        while not over.wait(LIMIT / 8) and time.monotonic() < until:
            function()

    with meanwhile(go_on):
        try:
            yield
        finally:
            over.set()
