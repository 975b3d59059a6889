"""How TLS ends: without the peer's close_notify that is truncation, and ``close`` sends ours."""

from __future__ import annotations

import errno
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import httpx_net
from peers import (
    HANG,
    Address,
    Peers,
    TLSInside,
    bottom,
    client_context,
    connect_tls,
    in_thread,
    say_goodbye,
    server_context,
    silent,
    times_out,
)

both_versions = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLSv1.2", "TLSv1.3"]
)


# ---- How a peer ends, once it has said something


def cut(conn: Any) -> None:
    conn.sendall(b"all of it?")


def cut_inside_an_orderly_end(conn: Any) -> None:
    """As behind a proxy, when it closes after the server's connection has been cut."""
    cut(conn)
    say_goodbye(conn.outer)


def cut_inside_a_record(conn: Any) -> None:
    cut(conn)
    conn.tls.write(bytes(100))
    conn.outer.sendall(conn.outgoing.read()[:50])
    say_goodbye(conn.outer)


def end(conn: Any) -> None:
    conn.sendall(b"all of it?")
    say_goodbye(conn)


def end_and_cut_outside(conn: Any) -> None:
    conn.sendall(b"all of it?")
    conn.send_close_notify()


def end_and_stay(conn: Any) -> None:
    end(conn)
    silent(bottom(conn))


def serve_end(
    peers: Peers, how: Callable[[Any], None], layers: int, version: ssl.TLSVersion
) -> Address:
    server = server_context("server")
    server.num_tickets = 0
    server.maximum_version = version
    return peers.serve_layers(how, layers, server)


def test_after_an_error_nobody_needs_certificates(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_them_all(*args: Any, **options: Any) -> None:
        raise OSError(errno.EMFILE, "as truststore does in the place of ssl.SSLContext")

    with connect_tls(serve_end(peers, cut, 1, ssl.TLSVersion.TLSv1_3)) as stream:
        monkeypatch.setattr(ssl.SSLContext, "wrap_bio", load_them_all)
        assert stream.read() == b"all of it?"
        with pytest.raises(ssl.SSLEOFError):
            stream.read()


@pytest.mark.parametrize(
    ("how", "layers"),
    [
        *((cut, layers) for layers in (1, 2)),
        *((cut_inside_an_orderly_end, layers) for layers in (2, 3)),
        *((cut_inside_a_record, layers) for layers in (1, 2)),
    ],
)
@both_versions
@pytest.mark.parametrize("suppress", [False, True], ids=["strict", "forgiving"])
def test_without_close_notify_every_read_reports_truncation_unless_that_is_forgiven(
    peers: Peers, how: Any, layers: int, version: ssl.TLSVersion, suppress: bool
) -> None:
    address = serve_end(peers, how, layers, version)
    with connect_tls(address, layers=layers, suppress_ragged_eofs=suppress) as stream:
        assert stream.read() == b"all of it?"
        for _ in range(3):
            if suppress:
                assert stream.read() == b""
            else:
                with pytest.raises(ssl.SSLEOFError, match=r"close_notify.*suppress_ragged_eofs=T"):
                    stream.read()


@pytest.mark.parametrize(
    ("how", "layers"),
    [
        *((end, layers) for layers in (1, 2, 3)),
        *((end_and_cut_outside, layers) for layers in (2, 3)),
        *((end_and_stay, layers) for layers in (1, 2)),
    ],
)
@both_versions
def test_after_close_notify_every_read_reports_the_end(
    peers: Peers, how: Any, layers: int, version: ssl.TLSVersion
) -> None:
    address = serve_end(peers, how, layers, version)
    with connect_tls(address, layers=layers) as stream, httpx_net.timeout(HANG / 2):
        assert [stream.read() for _ in range(4)] == [b"all of it?", b"", b"", b""]


def test_a_close_that_wakes_a_read_is_not_forgiven(peers: Peers) -> None:
    stream = connect_tls(peers.serve_layers(silent, 1), suppress_ragged_eofs=True)
    with in_thread(stream.read) as reading:
        stream.close()
        with pytest.raises(OSError, match="the stream is closed"):
            reading.result(HANG)


# ---- Our own end


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("peer_ends_first", [False, True])
def test_close_says_goodbye_in_every_layer_and_waits_for_no_answer(
    peers: Peers, layers: int, peer_ends_first: bool
) -> None:
    closed = threading.Event()

    def hear(conn: Any) -> None:
        assert conn.recv(1) == b"?"
        conn.sendall(b"hello")
        if peer_ends_first:
            conn.send_close_notify()
        while isinstance(conn, TLSInside):
            # That is the goodbye of this layer. Anything else is an error.
            assert conn.recv(1) == b""
            conn = conn.outer
        assert closed.wait(HANG)

    with connect_tls(peers.serve_layers(hear, layers), layers=layers) as stream:
        with times_out(0.02):
            stream.read()
        stream.write(b"?")
        # The rest is left unread, unless the end behind it is to be reached.
        assert stream.read(1) == b"h"
        assert stream.get_extra_info("is_readable")
        if peer_ends_first:
            assert [stream.read(), stream.read()] == [b"ello", b""]
    closed.set()


class Held(ssl.SSLSocket):
    """A thread that writes is held up inside OpenSSL, which must not be entered by another."""

    inside, may_leave = threading.Event(), threading.Event()

    def write(self, data: Any) -> int:
        self.inside.set()
        assert self.may_leave.wait(HANG)
        return super().write(data)

    def unwrap(self) -> Any:
        assert self.may_leave.is_set(), "there is a thread inside"
        return super().unwrap()


def test_no_goodbye_is_said_while_another_thread_is_inside(peers: Peers) -> None:
    context = client_context()
    context.sslsocket_class = Held
    stream = connect_tls(peers.serve_layers(silent, 1), context)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(stream.write, b"x")
        assert Held.inside.wait(HANG)
        stream.close()
        Held.may_leave.set()
        with pytest.raises(OSError, match="the stream is closed"):
            writing.result(HANG)
