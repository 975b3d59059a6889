"""Every kind of stream is run through ``conformance``, and broken ones do not pass it."""

from __future__ import annotations

import errno
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest

import conformance
import httpx_net
from conformance import PROMISES, Peer, Promise, check_promise, check_stream
from httpx_net import NetworkStream, NetworkStreamInterface
from peers import HANG, Peers, client_context, inside_tls, server_context

Pair = tuple[NetworkStreamInterface, Peer]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "LIMIT", 0.02)


# ---- Streams that keep the promises


class WrappingStream(NetworkStreamInterface):
    """A stream that is made of another one."""

    def __init__(self, stream: NetworkStreamInterface) -> None:
        self.stream = stream

    def read(self, max_bytes: int | None = None) -> bytes:
        return self.stream.read(max_bytes)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.stream.write(data)

    def start_tls(self, ctx: Any, hostname: str | None = None) -> None:
        self.stream.start_tls(ctx, hostname)

    def get_extra_info(self, key: str) -> Any:
        return self.stream.get_extra_info(key)

    def close(self) -> None:
        self.stream.close()


def socketpair(blocking: bool = True) -> Pair:
    ours, theirs = socket.socketpair()
    ours.setblocking(blocking)
    theirs.settimeout(HANG)
    return NetworkStream(ours), theirs


def nonblocking(peers: Peers) -> Pair:
    return socketpair(blocking=False)


def tcp(peers: Peers) -> Pair:
    with peers.listen() as listener:
        stream = httpx_net.NetworkBackend().connect(*listener.getsockname())
        theirs, _ = listener.accept()
    theirs.settimeout(HANG)
    return stream, theirs


def tls(peers: Peers, version: ssl.TLSVersion, layers: int = 1) -> Pair:
    stream, conn = tcp(peers)
    context = server_context("server")
    context.minimum_version = context.maximum_version = version
    # A client that closes before it has read them sends a reset.
    context.num_tickets = 0
    with ThreadPoolExecutor(1) as pool:
        peer = pool.submit(inside_tls, conn, layers, context)
        for _ in range(layers):
            stream.start_tls(client_context(), hostname="localhost")
        return stream, peer.result(HANG)


def tls_1_2(peers: Peers) -> Pair:
    return tls(peers, ssl.TLSVersion.TLSv1_2)


def tls_1_3(peers: Peers) -> Pair:
    return tls(peers, ssl.TLSVersion.TLSv1_3)


def tls_in_tls(peers: Peers) -> Pair:
    return tls(peers, ssl.TLSVersion.TLSv1_3, layers=2)


def wrapping(peers: Peers) -> Pair:
    stream, peer = tcp(peers)
    return WrappingStream(stream), peer


KINDS = [tcp, nonblocking, tls_1_2, tls_1_3, tls_in_tls, wrapping]

each_promise = pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)


@each_promise
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_our_streams_keep_every_promise(
    peers: Peers, kind: Callable[[Peers], Pair], promise: Promise
) -> None:
    check_promise(promise, lambda: kind(peers))


@each_promise
def test_they_keep_them_where_there_is_no_poll(
    peers: Peers, promise: Promise, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on Windows, and where gevent or eventlet has been at work.
    monkeypatch.delattr(select, "poll", raising=False)
    check_promise(promise, lambda: tcp(peers))


def test_one_call_checks_all_of_them() -> None:
    check_stream(socketpair)


def test_both_ends_are_closed_whatever_happens() -> None:
    stream, peer = socketpair()
    with pytest.raises(ZeroDivisionError):
        check_promise(lambda stream, peer: 1 / 0, lambda: (stream, peer))
    assert stream.get_extra_info("socket").fileno() == -1
    assert peer.fileno() == -1  # type: ignore[attr-defined]


# ---- Streams that do not


class Broken(WrappingStream):
    """A stream over TCP that breaks some promises."""

    breaks: tuple[Promise, ...]

    @property
    def sock(self) -> Any:
        return self.stream.get_extra_info("socket")


class ReadsWhatItLikes(Broken):
    breaks = (
        conformance.a_read_returns_what_the_peer_sent,
        conformance.bad_values_of_max_bytes_are_refused,
    )

    def read(self, max_bytes: Any = None) -> Any:
        valid = isinstance(max_bytes, int) and max_bytes > 0
        return bytearray(super().read(max_bytes if valid else None))


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


class RaisesAtTheEnd(Broken):
    breaks = (conformance.the_end_of_the_stream_is_the_end_each_time,)
    ended = False

    def read(self, max_bytes: int | None = None) -> bytes:
        if self.ended:
            raise EOFError
        data = super().read(max_bytes)
        self.ended = not data
        return data


class EndsEarly(Broken):
    breaks = (conformance.much_can_be_read,)
    left = 1_000_000

    def read(self, max_bytes: int | None = None) -> bytes:
        data = super().read(max_bytes)[: self.left]
        self.left -= len(data)
        return data


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


class WritesWhateverItGets(Broken):
    breaks = (
        conformance.a_write_sends_all_of_it,
        conformance.a_memoryview_of_other_things_is_the_bytes_below,
        conformance.an_empty_write_sends_nothing,
        conformance.bad_data_is_refused,
    )

    def write(self, data: Any) -> Any:
        sent = data.encode() if isinstance(data, str) else memoryview(data).cast("B")[: len(data)]
        super().write(sent or b"?")
        return len(sent)


class WritesLater(Broken):
    breaks = (conformance.what_was_written_may_be_changed_afterwards,)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.unwritten = data

    def close(self) -> None:
        self.stream.write(self.unwritten)
        super().close()


class WritesOnlySome(Broken):
    breaks = (conformance.much_can_be_written, conformance.reads_and_writes_take_turns)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(memoryview(data).cast("B")[:65536])


class HasATimeoutOfItsOwn(Broken):
    breaks = (
        conformance.silence_times_out_and_nothing_is_lost,
        conformance.the_nearest_deadline_rules,
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


class FiresEarly(Broken):
    breaks = (conformance.silence_times_out_and_nothing_is_lost,)

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


class ForgetsToClose(Broken):
    breaks = (
        conformance.close_ends_the_stream_for_the_peer,
        conformance.the_with_statement_gives_the_stream_and_closes_it,
    )

    def close(self) -> None:
        pass


class SaysGoodbye(Broken):
    breaks = (
        conformance.close_can_be_called_again,
        conformance.close_works_under_a_passed_deadline,
        conformance.close_works_where_the_peer_is_gone,
    )

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


class TakesAClosedStreamForALostOne(Broken):
    breaks = (
        conformance.close_in_another_thread_wakes_a_read,
        conformance.close_in_another_thread_wakes_a_write,
        conformance.a_closed_stream_cannot_be_used,
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
    lock = threading.Lock()

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


class KnowsLittle(Broken):
    breaks = (
        conformance.an_unknown_key_is_none,
        conformance.the_addresses_are_still_there_after_close,
        conformance.it_knows_whether_it_is_readable,
    )

    def get_extra_info(self, key: str) -> Any:
        if key == "is_readable":
            return True
        info = super().get_extra_info(key)
        if info is None or self.sock.fileno() < 0:
            raise KeyError(key)
        return info


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
    monkeypatch.setattr(conformance, "PATIENCE", 0.1)
    stream, peer = tcp(peers)
    peer.settimeout(0.05)  # type: ignore[attr-defined]
    with stream, pytest.raises((AssertionError, OSError, EOFError, KeyError)):
        check_promise(promise, lambda: (broken(stream), peer))


def test_each_check_finds_out_somebody() -> None:
    assert {parameters.values[1] for parameters in BROKEN} == set(PROMISES)
