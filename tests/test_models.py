"""Models: streams against a few lines that say what they are, whatever is done to them.

The deadlines have theirs in test_deadlines, the race has its own in test_race.
"""

from __future__ import annotations

import functools
import math
import random
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import httpx_net
from httpx_net import NetworkStream
from peers import (
    HANG,
    Handler,
    Peers,
    TLSInside,
    bottom,
    client_context,
    drop,
    server_context,
    wait_until,
)
from test_conformance import Pair, socketpair, tcp, tls_1_2, tls_1_3, tls_in_tls

CONTEXT = client_context()
TLSv1_2, TLSv1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


# ---- Bytes: a stream is two queues

# Up to three records, and no more in all than the kernel keeps for a peer that is not reading.
pieces = st.integers(0, 40_000) | st.sampled_from([0, 1, 16_383, 16_384, 16_385])
sizes = st.integers(1, 100) | st.integers(1, 100_000)
steps = st.one_of(
    st.tuples(st.sampled_from(["we write", "they send"]), pieces),
    st.tuples(st.sampled_from(["we read", "they receive"]), sizes),
    st.tuples(st.sampled_from(["we are late", "is it readable?"]), st.just(1)),
)


@pytest.mark.parametrize("make_pair", [tcp, tls_1_2, tls_1_3, tls_in_tls])
@given(script=st.lists(steps, max_size=25), seconds=st.sampled_from([None, HANG]))
@settings(max_examples=25)
def test_what_goes_in_comes_out_in_any_pieces_both_ways(
    make_pair: Callable[[Peers], Pair], script: list[tuple[str, int]], seconds: float | None
) -> None:
    with closing(Peers()) as peers, httpx_net.timeout(seconds):
        stream, peer = make_pair(peers)
        with stream, closing(peer):
            play(stream, peer, script)


def play(stream: Any, peer: Any, script: list[tuple[str, int]]) -> None:
    source = random.Random(0)
    # What is on its way.
    to_them, to_us = bytearray(), bytearray()

    def is_right() -> bool:
        return stream.get_extra_info("is_readable") == bool(to_us)

    for step, number in script:
        if step == "we write" and len(to_them) + number < 80_000:
            to_them += (data := source.randbytes(number))
            stream.write(data)
        elif step == "they send" and 0 < len(to_us) + number < 80_000:
            to_us += (data := source.randbytes(number))
            peer.sendall(data)
        elif step == "they receive" and to_them:
            comes_out(to_them, peer.recv(number), number)
        elif step == "we read" and to_us:
            comes_out(to_us, stream.read(number), number)
        elif step == "we are late":
            with pytest.raises(TimeoutError), httpx_net.timeout(0):
                stream.read(number)
        elif step == "is it readable?":
            wait_until(is_right)
    while to_us:
        comes_out(to_us, stream.read(), 65_536)
    while to_them:
        comes_out(to_them, peer.recv(65_536), 65_536)


def comes_out(queue: bytearray, data: bytes, at_most: int) -> None:
    assert 1 <= len(data) <= at_most
    assert queue.startswith(data)
    del queue[: len(data)]


# ---- Garbage and resets: a peer may say anything, anywhere

# Two records.
PAYLOAD = random.Random(0).randbytes(20_000)
# The bytes on the wire are at least so many, handshakes included.
SAID = 26_000


class Over(Exception):
    """The peer has said the last it had to say."""


class Meddled:
    """What a peer says through *conn*, meddled with after so many bytes of it.

    Then ``vice(conn, rest)`` takes over, with the rest of what was to be sent; what it returns is
    sent instead, and if that is None, nothing more is. From then on the peer does not listen: where
    it would wait for an answer to what nobody has understood, it hears that the stream has ended.
    """

    def __init__(self, conn: Any, after: int, vice: Callable[[Any, bytes], bytes | None]) -> None:
        self._conn = conn
        self._left: float = after
        self._vice = vice

    def recv(self, size: int) -> bytes:
        return b"" if self._left == math.inf else self._conn.recv(size)

    def sendall(self, data: bytes) -> None:
        if len(data) > self._left:
            good = data[: int(self._left)]
            self._conn.sendall(good)
            rest = self._vice(self._conn, data[len(good) :])
            if rest is None:
                raise Over
            data, self._left = rest, math.inf
        self._left -= len(data)
        self._conn.sendall(data)


def ends(conn: Any, rest: bytes) -> None:
    """Say no more."""


def resets(conn: Any, rest: bytes) -> None:
    drop(bottom(conn))


def talks(garbage: bytes) -> Callable[[Any, bytes], None]:
    """Say *garbage* instead, and no more."""
    return lambda conn, rest: conn.sendall(garbage)


def adds(garbage: bytes) -> Callable[[Any, bytes], bytes]:
    """Say *garbage* in between."""
    return lambda conn, rest: garbage + rest


def flips(bit: int) -> Callable[[Any, bytes], bytes]:
    """Change a bit of what is to come next."""
    return lambda conn, rest: bytes([rest[0] ^ (1 << bit)]) + rest[1:]


def skips(count: int) -> Callable[[Any, bytes], bytes]:
    return lambda conn, rest: rest[count:]


# As long as what is expected, or looking like it: handshake, alert or data.
records = st.builds(
    lambda kind, version, body: bytes([kind, 3, version]) + len(body).to_bytes(2, "big") + body,
    st.integers(20, 24),
    st.integers(0, 4),
    st.binary(max_size=300),
)
garbage = st.binary(max_size=2000) | records | st.just(b"HTTP/1.1 400 Bad Request\r\n\r\n")
vices = st.one_of(
    st.just(ends),
    st.builds(talks, garbage),
    st.builds(adds, garbage),
    st.builds(flips, st.integers(0, 7)),
    st.builds(skips, st.integers(1, 30)),
)
# Most stages are over early, so look there more often.
moments = st.integers(0, 4000) | st.integers(0, SAID)

DOCUMENTED = {
    OSError,
    ConnectionResetError,
    BrokenPipeError,
    ConnectionAbortedError,
    ssl.SSLError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    ssl.SSLCertVerificationError,
}


def says_all_meddled_with(
    layers: int, inside: bool, moment: int, vice: Any, version: ssl.TLSVersion = TLSv1_3
) -> Handler:
    """A peer that does TLS and says ``PAYLOAD``; its *vice* comes on the wire, or inside of TLS."""
    context = server_context()
    context.maximum_version = version

    def peer(conn: Any) -> None:
        ends: list[TLSInside] = []
        with suppress(Over, OSError):
            if not inside:
                conn = Meddled(conn, moment, vice)
            for _ in range(layers):
                conn = TLSInside(context, conn)
                ends.append(conn)
                if inside and len(ends) == 1:
                    conn = Meddled(conn, moment, vice)
            conn.sendall(PAYLOAD)
            ends.pop().send_close_notify()
        with suppress(Over, OSError):
            # The outer stream ends in an orderly way, whatever goes on inside.
            if inside:
                ends[0].send_close_notify()

    return peer


def hear_all(connect: Callable[[], NetworkStream], layers: int) -> OSError | None:
    """Read what that peer says; returns the error that it ends with, if not with the end."""
    received, failure = bytearray(), None
    try:
        # Nothing here lasts until this deadline.
        with httpx_net.timeout(HANG), connect() as stream:
            for _ in range(layers):
                stream.start_tls(CONTEXT, "localhost")
            while data := stream.read():
                received += data
    except OSError as exc:
        failure = exc.with_traceback(None)
    assert PAYLOAD.startswith(received)
    assert received == PAYLOAD or failure
    return failure


@pytest.mark.parametrize("version", [TLSv1_2, TLSv1_3])
@pytest.mark.parametrize(
    ("layers", "inside"), [(1, False), (2, False), (2, True)], ids=["TLS", "outside", "inside"]
)
@given(moment=moments, vice=vices)
@settings(max_examples=60)
def test_whatever_a_peer_says_no_other_byte_comes_out_and_only_documented_errors(
    version: ssl.TLSVersion, layers: int, inside: bool, moment: int, vice: Any
) -> None:
    peer = says_all_meddled_with(layers, inside, moment, vice, version)
    with closing(Peers()) as peers:
        failure = hear_all(lambda: NetworkStream(peers.serve_pair(peer)), layers)
    assert failure is None or type(failure) in DOCUMENTED


@pytest.mark.parametrize("suppress_ragged_eofs", [False, True])
@pytest.mark.parametrize(
    ("layers", "inside"),
    [(0, False), (1, False), (2, False), (2, True)],
    ids=["plain", "TLS", "TLS in TLS", "inside TLS"],
)
def test_a_reset_at_any_stage_is_an_error(
    peers: Peers, layers: int, inside: bool, suppress_ragged_eofs: bool
) -> None:
    backend = httpx_net.NetworkBackend(suppress_ragged_eofs=suppress_ragged_eofs)
    for moment in (0, 1, *range(100, len(PAYLOAD), 700)):
        address = peers.serve(says_all_meddled_with(layers, inside, moment, resets))
        failure = hear_all(functools.partial(backend.connect, *address), layers)
        assert isinstance(failure, ConnectionResetError)


# ---- Arguments: anything at all is refused before it costs a byte

anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.fractions(),
    st.decimals(),
    st.text(st.characters()),
    st.binary(),
    st.builds(bytearray, st.binary()),
    st.builds(memoryview, st.binary()),
    st.tuples(st.text(st.characters()), st.integers()),
    st.lists(st.integers() | st.binary(), max_size=4),
    st.dictionaries(st.text(), st.integers(), max_size=2),
    st.builds(object),
    st.sampled_from([int, len, Ellipsis, NotImplemented, ValueError(), socket.AF_INET]),
)
nearly_names = st.one_of(
    st.text(st.sampled_from("a1.-:[]%\0 \n/@ß\u202e\ud800"), max_size=5),
    st.from_regex(r"\A\[?[0-9a-f:.%]{1,20}\]?\Z"),
    st.ip_addresses().map(str),
    st.text("a", min_size=60, max_size=300),
)


def mostly(these: st.SearchStrategy[Any], others: st.SearchStrategy[Any]) -> Any:
    return st.integers(0, 3).flatmap(lambda n: these if n else others)


hosts = mostly(nearly_names, anything)
ports = mostly(st.just(80), anything | st.integers(-1, 65_537))


class Touched(Exception):
    """Something would have gone to the network."""


class Untouched(httpx_net.NetworkBackend):
    def getaddrinfo(self, host: str, port: int) -> Any:
        assert host.isascii()
        assert host.isprintable()
        assert " " not in host
        assert 1 <= port <= 65_535
        assert type(port) is int
        raise Touched


@contextmanager
def refused_or(*fine: type[BaseException]) -> Iterator[None]:
    """The arguments are refused; or it comes to what is *fine*."""
    with suppress(ValueError, TypeError, *fine):
        yield


@given(hosts, ports)
def test_any_arguments_of_connect(host: Any, port: Any) -> None:
    with refused_or(Touched):
        Untouched().connect(host, port)
        pytest.fail("neither refused nor looked up")


@given(hosts, ports)
def test_any_arguments_of_getaddrinfo(host: Any, port: Any) -> None:
    def touched(name: bytes, *args: Any, flags: int = 0, **options: Any) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return real(name, *args, flags=flags, **options)
        raise Touched

    real = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch, refused_or(Touched, socket.gaierror):
        patch.setattr(socket, "getaddrinfo", touched)
        found = httpx_net.NetworkBackend().getaddrinfo(host, port)
        assert found[0][4][1] == port


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "local_address": hosts | st.tuples(hosts, ports),
            "socket_options": anything | st.lists(st.tuples(anything, anything, anything)),
            "keepalive": anything,
            "happy_eyeballs_delay": anything,
            "suppress_ragged_eofs": anything,
        },
    )
)
def test_any_arguments_of_a_backend(options: dict[str, Any]) -> None:
    with refused_or():
        assert repr(httpx_net.NetworkBackend(**options)) == "<NetworkBackend [threaded]>"


@given(anything)
def test_any_argument_of_timeout(seconds: Any) -> None:
    with refused_or(), httpx_net.timeout(seconds) as block:
        with suppress(TimeoutError):
            assert httpx_net.remaining() is None or httpx_net.remaining() > 0
        assert not block.expired() or seconds < 1
    assert httpx_net.remaining() is None


@given(anything)
def test_any_argument_of_a_stream(sock: Any) -> None:
    with pytest.raises(TypeError):
        NetworkStream(sock)


@contextmanager
def new_pair() -> Iterator[tuple[Any, Any]]:
    stream, theirs = socketpair()
    with stream, closing(theirs):
        yield stream, theirs


@given(anything)
def test_any_argument_of_read(max_bytes: Any) -> None:
    with new_pair() as (stream, theirs):
        theirs.sendall(b"x")
        with refused_or():
            assert stream.read(max_bytes) == b"x"
            theirs.sendall(b"x")
        assert stream.read() == b"x"


@given(anything)
def test_any_argument_of_write(data: Any) -> None:
    with new_pair() as (stream, theirs):
        sent = b""
        with refused_or():
            stream.write(data)
            sent = bytes(data)
        stream.close()
        assert theirs.recv(65_536) == sent


contexts = st.just(CONTEXT) | st.just(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) | anything


@given(contexts, hosts)
def test_any_arguments_of_start_tls(context: Any, hostname: Any) -> None:
    with new_pair() as (stream, theirs):
        try:
            with httpx_net.timeout(0):
                stream.start_tls(context, hostname)
        # The arguments were good, and the deadline came next.
        except TimeoutError:
            assert " CLOSED" in repr(stream)
            return
        except (ValueError, TypeError):
            pass
        stream.write(b"in clear as before")
        assert theirs.recv(100) == b"in clear as before"


@given(hosts)
def test_any_server_name_that_is_not_refused_is_one_that_ssl_takes(hostname: Any) -> None:
    with new_pair() as (stream, theirs):
        theirs.shutdown(socket.SHUT_WR)
        # A handshake that begins fails where it waits for an answer.
        with refused_or(ssl.SSLError):
            stream.start_tls(CONTEXT, hostname)
        began = " CLOSED" in repr(stream)
        stream.close()
        assert theirs.recv(1) == (b"\x16" if began else b"")


KEYS = ["client_addr", "server_addr", "socket", "ssl_object", "is_readable"]


# Hypothesis finds the real keys in the source.
@given(anything.filter(lambda key: key not in KEYS))
def test_any_key_of_get_extra_info(key: Any) -> None:
    with new_pair() as (stream, _):
        assert stream.get_extra_info(key) is None
