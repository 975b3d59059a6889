"""``is_readable`` on TLS: what arrives is not always something to read."""

from __future__ import annotations

import gc
import select
import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest

import httpx_net
from peers import HANG, Peers, bottom, connect_tls, drop, echo, say_goodbye, silent, wait_until

both_layers = pytest.mark.parametrize("layers", [1, 2], ids=["TLS", "TLS in TLS"])


def is_readable(stream: httpx_net.NetworkStream) -> bool:
    """What the stream says, three times: asking must not change the answer."""
    answers = {stream.get_extra_info("is_readable") for _ in range(3)}
    assert len(answers) == 1
    return bool(answers.pop())


def becomes_readable(stream: httpx_net.NetworkStream) -> None:
    wait_until(lambda: stream.get_extra_info("is_readable"))
    assert is_readable(stream)


def test_tickets_do_not_make_a_stream_readable(peers: Peers) -> None:
    with connect_tls(peers.serve_tls(echo, tickets=2)) as stream:
        # What arrives here, unasked, is all tickets.
        assert select.select([stream.get_extra_info("socket")], [], [], HANG)[0]
        assert not is_readable(stream)
        with httpx_net.timeout(0.05), pytest.raises(TimeoutError):
            stream.read()
        assert not is_readable(stream)


def test_data_behind_tickets_makes_a_stream_readable(peers: Peers) -> None:
    with connect_tls(peers.serve_tls(echo, tickets=2)) as stream:
        stream.write(b"hello")
        becomes_readable(stream)
        assert stream.read() == b"hello"
        assert not is_readable(stream)


@both_layers
def test_half_a_record_does_not_make_a_stream_readable(peers: Peers, layers: int) -> None:
    may_finish = threading.Event()

    def speak_in_pieces(conn: Any) -> None:
        conn.tls.write(b"first")
        first = conn.outgoing.read()
        conn.tls.write(b"second")
        second = conn.outgoing.read()
        conn.outer.sendall(first + second[:10])
        assert may_finish.wait(HANG)
        conn.outer.sendall(second[10:])
        silent(conn)

    with connect_tls(peers.serve_layers(speak_in_pieces, layers), layers=layers) as stream:
        assert stream.read() == b"first"
        assert not is_readable(stream)
        # A read that times out loses none of what has come.
        with httpx_net.timeout(0.05), pytest.raises(TimeoutError):
            stream.read()
        may_finish.set()
        becomes_readable(stream)
        assert stream.read() == b"second"


def test_what_waits_between_two_layers_makes_a_stream_readable(peers: Peers) -> None:
    def speak(conn: Any) -> None:
        # Two records, in one of the layer below.
        conn.tls.write(b"one")
        conn.tls.write(b"two")
        conn.flush()
        silent(conn)

    with connect_tls(peers.serve_layers(speak, 2), layers=2) as stream:
        assert stream.read() == b"one"
        assert is_readable(stream)
        assert stream.read() == b"two"
        assert not is_readable(stream)


@pytest.mark.parametrize("asked_first", [False, True])
def test_a_record_in_many_pieces_can_be_read_once_they_have_all_come(
    peers: Peers, asked_first: bool
) -> None:
    all_sent = threading.Event()

    def speak_in_pieces(conn: Any) -> None:
        conn.tls.write(b"x" * 100)
        for byte in conn.outgoing.read():
            conn.outer.tls.write(bytes([byte]))
        # All of these records in one of the outermost layer.
        conn.outer.flush()
        all_sent.set()
        silent(conn)

    with connect_tls(peers.serve_layers(speak_in_pieces, 3), layers=3) as stream:
        assert all_sent.wait(HANG)
        assert not asked_first or is_readable(stream)
        with httpx_net.timeout(HANG / 2):
            assert stream.read() == b"x" * 100


def end_and_stay(conn: Any) -> None:
    say_goodbye(conn)
    silent(bottom(conn))


def cut(conn: Any) -> None:
    conn.recv(1)


def reset(conn: Any) -> None:
    conn.recv(1)
    drop(bottom(conn))


@both_layers
@pytest.mark.parametrize(
    ("how", "expected"),
    [(end_and_stay, b""), (cut, ssl.SSLEOFError), (reset, ConnectionResetError)],
)
def test_an_end_of_any_kind_makes_a_stream_readable_for_good(
    peers: Peers, layers: int, how: Callable[[Any], None], expected: object
) -> None:
    def outcome() -> object:
        try:
            return stream.read()
        except OSError as error:
            return type(error)

    with connect_tls(peers.serve_layers(how, layers), layers=layers) as stream:
        stream.write(b"x")
        # A pool must not take it, however often it has been read.
        for _ in range(3):
            becomes_readable(stream)
            with httpx_net.timeout(HANG / 2):
                assert outcome() == expected


@both_layers
def test_asking_neither_waits_nor_asks_for_the_deadline(peers: Peers, layers: int) -> None:
    with connect_tls(peers.serve_layers(echo, layers), layers=layers) as stream:
        with httpx_net.timeout(0):
            assert not is_readable(stream)
        stream.write(b"hello")
        with httpx_net.timeout(0):
            becomes_readable(stream)
        assert stream.read() == b"hello"


@both_layers
def test_a_stream_that_was_asked_goes_with_its_last_reference(peers: Peers, layers: int) -> None:
    stream = connect_tls(peers.serve_layers(silent, layers), layers=layers)
    gc.disable()
    try:
        assert not is_readable(stream)
        with pytest.warns(ResourceWarning):
            del stream
    finally:
        gc.enable()
