"""STARTTLS: what was said in clear stays apart from what is said on TLS, in both directions."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest

import httpx_net
from peers import (
    HANG,
    Address,
    client_context,
    client_may_leave,
    echo,
    server_context,
    wait_until,
    wrap_server,
)

net = httpx_net.NetworkBackend()


def upgrade(answer: bytes, then: Callable[[socket.socket], object]) -> Any:
    """A peer that greets, and upgrades when it is asked to: *answer* in clear, *then* the rest."""

    def peer(conn: socket.socket) -> None:
        conn.sendall(b"220 ready\r\n")
        assert conn.recv(10) == b"STARTTLS\r\n"
        conn.sendall(answer)
        then(conn)

    return peer


def tls_echo(conn: socket.socket) -> None:
    with wrap_server(server_context("server"), conn) as tls:
        echo(tls)


def ask_for_tls(stream: httpx_net.NetworkStream, answer: bytes = b"220 go\r\n") -> None:
    assert stream.read() == b"220 ready\r\n"
    stream.write(b"STARTTLS\r\n")
    received = b""
    while len(received) < len(answer):
        received += stream.read(len(answer) - len(received))
    assert received == answer


def test_a_stream_is_upgraded_in_place(serve: Callable[..., Address]) -> None:
    with net.connect(*serve(upgrade(b"220 go\r\n", tls_echo))) as stream:
        addresses = stream.get_extra_info("client_addr"), stream.get_extra_info("server_addr")
        ask_for_tls(stream)
        assert stream.start_tls(client_context(), "localhost") is None
        assert addresses == (
            stream.get_extra_info("client_addr"),
            stream.get_extra_info("server_addr"),
        )
        stream.write(b"secret")
        assert stream.read() == b"secret"


def test_an_upgrade_under_a_deadline(serve: Callable[..., Address]) -> None:
    with (
        net.connect(*serve(upgrade(b"220 go\r\n", tls_echo))) as stream,
        httpx_net.timeout(HANG),
    ):
        ask_for_tls(stream)
        assert stream.get_extra_info("is_readable") is False
        stream.start_tls(client_context(), "localhost")
        stream.write(b"secret")
        assert stream.read() == b"secret"


def refused_tls(conn: socket.socket) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        tls_echo(conn)


@pytest.mark.parametrize("ask_first", [False, True])
def test_what_was_injected_in_clear_is_not_taken_for_what_came_on_tls(
    serve: Callable[..., Address], ask_first: bool
) -> None:
    """As in CVE-2011-0411: a man in the middle adds to the answer what he wants to be trusted."""
    stream = net.connect(*serve(upgrade(b"220 go\r\n250 injected\r\n", refused_tls)))
    ask_for_tls(stream)
    if ask_first:
        wait_until(lambda: stream.get_extra_info("is_readable"))
    with pytest.raises(ssl.SSLError, match="TLS handshake for 'localhost'"):
        stream.start_tls(client_context(), "localhost")
    with pytest.raises(OSError, match="the stream is closed"):
        stream.read()


def test_tls_is_not_taken_for_an_answer_in_clear(serve: Callable[..., Address]) -> None:
    """A peer that talks TLS at once, and a client that waits for a greeting first."""

    def at_once(conn: socket.socket) -> None:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            tls_echo(conn)

    with (
        net.connect(*serve(at_once)) as stream,
        pytest.raises(TimeoutError),
        httpx_net.timeout(0.05),
    ):
        stream.read()


def test_what_is_written_after_a_refused_upgrade_does_not_go_out_in_clear(
    serve: Callable[..., Address],
) -> None:
    heard, over = bytearray(), threading.Event()

    def talks_on(conn: socket.socket) -> None:
        conn.sendall(b"220 go on in clear\r\n")
        with client_may_leave():
            while data := conn.recv(65536):
                heard.extend(data)
        over.set()

    stream = net.connect(*serve(upgrade(b"220 go\r\n", talks_on)))
    ask_for_tls(stream)
    with pytest.raises(ssl.SSLError):
        stream.start_tls(client_context(), "localhost")
    with pytest.raises(OSError, match="the stream is closed"):
        stream.write(b"password")
    assert over.wait(HANG)
    assert b"password" not in heard


def test_nothing_is_sent_in_clear_between_the_last_word_and_the_handshake(
    serve: Callable[..., Address],
) -> None:
    firsts = []

    def look(conn: socket.socket) -> None:
        firsts.append(conn.recv(3, socket.MSG_PEEK))
        tls_echo(conn)

    with net.connect(*serve(upgrade(b"220 go\r\n", look))) as stream:
        ask_for_tls(stream)
        stream.start_tls(client_context(), "localhost")
    assert firsts[0][:2] == b"\x16\x03"  # a handshake record


def test_a_passed_deadline_between_both_loses_nothing_but_the_stream(
    serve: Callable[..., Address],
) -> None:
    def hears_nothing(conn: socket.socket) -> None:
        assert conn.recv(1) == b""

    stream = net.connect(*serve(upgrade(b"220 go\r\n", hears_nothing)))
    ask_for_tls(stream)
    with pytest.raises(TimeoutError), httpx_net.timeout(0):
        stream.start_tls(client_context(), "localhost")
    assert repr(stream).endswith(" CLOSED]>")
