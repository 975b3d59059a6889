"""Every kind of stream is run through ``conformance``, and broken ones do not pass it."""

from __future__ import annotations

import errno
import queue
import select
import socket
import ssl
import threading
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest

import conformance
import httpx_net
from conformance import PROMISES, Peer, Promise, check_promise, check_stream
from httpx_net import NetworkStream, NetworkStreamInterface
from peers import (
    HANG,
    Peers,
    TLSInside,
    bottom,
    client_context,
    say_goodbye,
    server_context,
)

Pair = tuple[NetworkStreamInterface, Peer]


class TLSPeer:
    """The server's end of a TLS stream of so many layers; it says goodbye before it closes."""

    def __init__(self, conn: Any, layers: int, **versions: ssl.TLSVersion) -> None:
        context = server_context("server")
        # A client that closes before it has read them sends a reset.
        context.num_tickets = 0
        for name, version in versions.items():
            setattr(context, name, version)
        for _ in range(layers):
            conn = TLSInside(context, conn)
        self.conn, self.recv, self.sendall = conn, conn.recv, conn.sendall

    def close(self) -> None:
        with suppress(OSError):
            say_goodbye(self.conn)
        bottom(self.conn).close()


class RecordingStream(NetworkStreamInterface):
    """A stream that keeps what has passed through another one."""

    def __init__(self, stream: NetworkStreamInterface) -> None:
        self.stream = stream
        self.received: list[bytes] = []
        self.sent: list[bytes] = []

    def read(self, max_bytes: int | None = None) -> bytes:
        data = self.stream.read(max_bytes)
        self.received.append(data)
        return data

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.stream.write(data)
        self.sent.append(bytes(data))

    def start_tls(self, ctx: Any, hostname: str | None = None) -> None:
        self.stream.start_tls(ctx, hostname)

    def get_extra_info(self, key: str) -> Any:
        return self.stream.get_extra_info(key)

    def close(self) -> None:
        self.stream.close()


# ---- The kinds of streams


def socketpair(peers: Peers | None = None) -> Pair:
    ours, theirs = socket.socketpair()
    theirs.settimeout(HANG)
    return NetworkStream(ours), theirs


def tcp(peers: Peers, family: int = socket.AF_INET) -> Pair:
    with peers.listen(family) as listener:
        stream = httpx_net.NetworkBackend().connect(*listener.getsockname()[:2])
        theirs, _ = listener.accept()
        theirs.settimeout(HANG)
        return stream, theirs


def tcp_ipv6(peers: Peers) -> Pair:
    return tcp(peers, socket.AF_INET6)


def unix(peers: Peers) -> Pair:
    given: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
    ours = socket.socket(socket.AF_UNIX)
    ours.connect(peers.serve_unix(lambda conn: given.put(conn.dup())))
    theirs = given.get(timeout=HANG)
    theirs.settimeout(HANG)
    return NetworkStream(ours), theirs


def nonblocking(peers: Peers) -> Pair:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(HANG)
    return NetworkStream(ours), theirs


def tls(peers: Peers, layers: int = 1, **versions: ssl.TLSVersion) -> Pair:
    stream, conn = tcp(peers)
    with ThreadPoolExecutor(1) as pool:
        peer = pool.submit(TLSPeer, conn, layers, **versions)
        for _ in range(layers):
            stream.start_tls(client_context(), hostname="localhost")
        return stream, peer.result(HANG)


def tls_1_2(peers: Peers) -> Pair:
    return tls(peers, maximum_version=ssl.TLSVersion.TLSv1_2)


def tls_1_3(peers: Peers) -> Pair:
    return tls(peers, minimum_version=ssl.TLSVersion.TLSv1_3)


def tls_in_tls(peers: Peers) -> Pair:
    return tls(peers, layers=2)


def recording(peers: Peers) -> Pair:
    stream, peer = tcp(peers)
    return RecordingStream(stream), peer


KINDS = [
    tcp,
    tcp_ipv6,
    *([unix] if hasattr(socket, "AF_UNIX") else []),
    socketpair,
    nonblocking,
    tls_1_2,
    tls_1_3,
    tls_in_tls,
    recording,
]


each_promise = pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)


@each_promise
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_our_streams_keep_every_promise(
    peers: Peers, kind: Callable[[Peers], Pair], promise: Promise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conformance, "LIMIT", 0.02)
    check_promise(promise, lambda: kind(peers))


@each_promise
def test_they_keep_them_where_there_is_no_poll(
    promise: Promise, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on Windows, and where gevent or eventlet has been at work.
    monkeypatch.delattr(select, "poll", raising=False)
    monkeypatch.setattr(conformance, "LIMIT", 0.02)
    check_promise(promise, socketpair)


# ---- Streams that do not


class Broken(RecordingStream):
    """A stream over TCP that breaks some promises."""

    breaks: tuple[Promise, ...]

    @property
    def sock(self) -> Any:
        return self.stream.get_extra_info("socket")


class ReadsBytearrays(Broken):
    breaks = (conformance.a_read_returns_what_the_peer_sent,)

    def read(self, max_bytes: int | None = None) -> bytes:
        return bytearray(super().read(max_bytes))  # type: ignore[return-value]


class ReadsUntilFull(Broken):
    breaks = (conformance.a_read_does_not_wait_for_more_than_one_byte,)

    def read(self, max_bytes: int | None = None) -> bytes:
        data = super().read(max_bytes)
        while data and len(data) < (max_bytes or 0):
            data += super().read((max_bytes or 0) - len(data))
        return data


class ReadsTooMuch(Broken):
    breaks = (conformance.a_read_returns_at_most_max_bytes,)

    def read(self, max_bytes: int | None = None) -> bytes:
        return super().read(None if max_bytes is None else max(max_bytes, 2))


class LosesTheRest(Broken):
    breaks = (conformance.the_rest_stays_for_the_next_read,)

    def read(self, max_bytes: int | None = None) -> bytes:
        return super().read()[:max_bytes]


class TakesAnyMaxBytes(Broken):
    breaks = (conformance.bad_values_of_max_bytes_are_refused,)

    def read(self, max_bytes: int | None = None) -> bytes:
        return super().read(max_bytes if isinstance(max_bytes, int) and max_bytes > 0 else None)


class RaisesAtTheEnd(Broken):
    breaks = (conformance.the_end_of_the_stream_is_the_end_each_time,)

    def read(self, max_bytes: int | None = None) -> bytes:
        data = super().read(max_bytes)
        if not data and self.received[-2:-1] == [b""]:
            raise EOFError
        return data


class EndsEarly(Broken):
    breaks = (conformance.much_can_be_read,)

    def read(self, max_bytes: int | None = None) -> bytes:
        return b"" if sum(map(len, self.received)) > 1_000_000 else super().read(max_bytes)


class GivesUpAfterAWhile(Broken):
    breaks = (
        conformance.a_read_without_a_deadline_waits,
        conformance.a_cancelled_deadline_does_not_fire,
        conformance.a_deadline_ends_with_its_block,
        conformance.a_deadline_of_any_length_works,
    )

    def read(self, max_bytes: int | None = None) -> bytes:
        with httpx_net.timeout(0.01):
            return super().read(max_bytes)


class TellsHowMuch(Broken):
    breaks = (conformance.a_write_sends_all_of_it,)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(data)
        return len(data)  # type: ignore[return-value]


class WritesItems(Broken):
    breaks = (conformance.a_memoryview_of_other_things_is_the_bytes_below,)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(memoryview(data).cast("B")[: len(data)])


class WritesABitMore(Broken):
    breaks = (conformance.an_empty_write_sends_nothing,)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(data or b"?")


class WritesText(Broken):
    breaks = (conformance.bad_data_is_refused,)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(data.encode() if isinstance(data, str) else data)


class WritesLater(Broken):
    breaks = (conformance.what_was_written_may_be_changed_afterwards,)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.unwritten = data

    def close(self) -> None:
        self.stream.write(self.unwritten)
        super().close()


class WritesOnlySome(Broken):
    breaks = (
        conformance.much_can_be_written,
        conformance.much_can_be_written_under_a_deadline,
        conformance.reads_and_writes_take_turns,
    )

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(memoryview(data).cast("B")[:65536])


class HasATimeoutOfItsOwn(Broken):
    breaks = (
        conformance.silence_times_out,
        conformance.a_read_that_timed_out_has_consumed_nothing,
        conformance.the_nearest_deadline_rules,
    )

    def read(self, max_bytes: int | None = None) -> bytes:
        self.sock.settimeout(conformance.LIMIT + conformance.SLACK)
        return bytes(self.sock.recv(max_bytes or 65536))


class FiresEarly(Broken):
    breaks = (conformance.silence_times_out,)

    def read(self, max_bytes: int | None = None) -> bytes:
        left = httpx_net.remaining()
        with httpx_net.timeout(left and left * 0.5):
            return super().read(max_bytes)


class LooksBeforeItAsks(Broken):
    breaks = (conformance.a_passed_deadline_beats_waiting_data,)

    def read(self, max_bytes: int | None = None) -> bytes:
        if self.get_extra_info("is_readable"):
            return bytes(self.sock.recv(max_bytes or 65536))
        return super().read(max_bytes)


class SendsBeforeItAsks(Broken):
    breaks = (conformance.under_a_passed_deadline_nothing_is_sent,)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        sent = self.sock.send(data[:1])
        super().write(data[sent:])


class KeepsSilentAboutProgress(Broken):
    breaks = (conformance.a_peer_that_never_reads_is_timed_out,)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        try:
            super().write(data)
        except TimeoutError as error:
            raise TimeoutError(str(error)) from None


class StartsTheClockAgain(Broken):
    breaks = (
        conformance.a_dripping_peer_does_not_extend_the_deadline,
        conformance.a_peer_that_sips_does_not_extend_the_deadline,
    )

    def read(self, max_bytes: int | None = None) -> bytes:
        self.sock.settimeout(conformance.LIMIT + conformance.SLACK)
        return bytes(self.sock.recv(max_bytes or 65536))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.sock.settimeout(conformance.LIMIT + conformance.SLACK)
        sent = 0
        while sent < len(data):
            sent += self.sock.send(data[sent : sent + 1])


class ClosesOnce(Broken):
    breaks = (conformance.close_can_be_called_again,)
    closed = False

    def close(self) -> None:
        if self.closed:
            raise OSError("closed already")
        self.closed = True
        super().close()


class ForgetsToClose(Broken):
    breaks = (
        conformance.close_ends_the_stream_for_the_peer,
        conformance.the_with_statement_gives_the_stream_and_closes_it,
    )

    def close(self) -> None:
        pass


class ClosesInTimeOrNotAtAll(Broken):
    breaks = (conformance.close_works_under_a_passed_deadline,)

    def close(self) -> None:
        httpx_net.remaining()
        super().close()


class SaysGoodbye(Broken):
    breaks = (conformance.close_works_where_the_peer_is_gone,)

    def close(self) -> None:
        for _ in range(2):
            self.stream.write(b"goodbye")
        super().close()


class WaitsForAGoodbye(Broken):
    breaks = (conformance.close_does_not_wait_for_a_peer_that_never_reads,)

    def close(self) -> None:
        with suppress(OSError), httpx_net.timeout(conformance.SLACK * 1.1):
            self.stream.read()
        super().close()


class ReadsNothingOnceClosed(Broken):
    breaks = (conformance.a_closed_stream_cannot_be_used,)

    def read(self, max_bytes: int | None = None) -> bytes:
        return b"" if "CLOSED" in repr(self.stream) else super().read(max_bytes)


class TakesAClosedStreamForALostOne(Broken):
    breaks = (
        conformance.close_in_another_thread_wakes_a_read,
        conformance.close_in_another_thread_wakes_a_write,
    )

    def read(self, max_bytes: int | None = None) -> bytes:
        with self.loss():
            return super().read(max_bytes)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        with self.loss():
            super().write(data)

    @contextmanager
    def loss(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            raise ConnectionResetError(errno.ECONNRESET, "the connection is lost") from None


class LetsOneThreadInAtATime(Broken):
    breaks = (conformance.one_thread_may_read_while_another_writes,)

    def __init__(self, stream: NetworkStreamInterface) -> None:
        super().__init__(stream)
        self.lock = threading.Lock()

    def read(self, max_bytes: int | None = None) -> bytes:
        with self.lock:
            return super().read(max_bytes)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        with self.lock:
            super().write(data)


class GivesAnotherStream(Broken):
    breaks = (conformance.the_with_statement_gives_the_stream_and_closes_it,)

    def __enter__(self) -> Any:
        return self.stream


class SwallowsExceptions(Broken):
    breaks = (conformance.the_with_statement_lets_exceptions_pass,)

    def __exit__(self, *args: Any) -> bool:  # type: ignore[override]
        self.close()
        return True


class KnowsNoUnknownKey(Broken):
    breaks = (conformance.an_unknown_key_is_none,)

    def get_extra_info(self, key: str) -> Any:
        if (info := super().get_extra_info(key)) is None:
            raise KeyError(key)
        return info


class ForgetsItsAddresses(Broken):
    breaks = (conformance.the_addresses_are_still_there_after_close,)

    def get_extra_info(self, key: str) -> Any:
        return None if self.sock.fileno() < 0 else super().get_extra_info(key)


class IsAlwaysReadable(Broken):
    breaks = (conformance.it_knows_whether_it_is_readable,)

    def get_extra_info(self, key: str) -> Any:
        return key == "is_readable" or super().get_extra_info(key)


class IsADuck:
    breaks = (conformance.it_implements_the_interface,)

    def __init__(self, stream: NetworkStreamInterface) -> None:
        self.close = stream.close


BROKEN = [
    pytest.param(broken, promise, id=f"{broken.__name__}-{promise.__name__}")
    for broken in (*Broken.__subclasses__(), IsADuck)
    for promise in broken.breaks
]


@pytest.mark.parametrize(("broken", "promise"), BROKEN)
def test_a_stream_that_breaks_a_promise_is_found_out(
    broken: Callable[[Any], Any], promise: Promise, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A broken stream that is found out late is found out, so a slow machine needs no patience.
    monkeypatch.setattr(conformance, "SLACK", 0.05)
    monkeypatch.setattr(conformance, "PATIENCE", 0.3)
    stream, peer = tcp(peers)
    peer.settimeout(0.1)  # type: ignore[attr-defined]
    with stream, pytest.raises((AssertionError, OSError, EOFError, KeyError)):
        check_promise(promise, lambda: (broken(stream), peer))


def test_each_check_finds_out_somebody() -> None:
    assert {parameters.values[1] for parameters in BROKEN} == set(PROMISES)


# ---- For its users


class TestWithUnittest(unittest.TestCase):
    def test_my_stream(self) -> None:
        check_stream(socketpair)


def test_no_check_has_been_forgotten() -> None:
    arguments = {"stream", "peer", "return"}
    checks = [
        thing
        for thing in vars(conformance).values()
        if getattr(thing, "__annotations__", {}).keys() == arguments
    ]
    assert set(checks) == set(PROMISES)


def test_both_ends_are_closed_whatever_happens() -> None:
    made: list[Any] = []

    def make_pair() -> Pair:
        made.extend(socketpair())
        return made[0], made[1]

    def broken(stream: Any, peer: Any) -> None:
        raise AssertionError

    with pytest.raises(AssertionError):
        check_promise(broken, make_pair)
    stream, peer = made
    assert stream.get_extra_info("socket").fileno() == -1
    assert peer.fileno() == -1
