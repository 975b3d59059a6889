"""The adapters of docs/adapters put whole clients under a deadline, and keep what the clients had.

Clients that are not installed are skipped; two environments have them all::

    pip install pytest hypothesis httpcore "httpx==0.28.*" httpcore2 httpx2 urllib3 requests
    pip install pytest hypothesis --pre "httpx==1.0.dev6"
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import httpx_net
from clients import PIECE, Client, clients
from conftest import Using
from internet import head
from peers import HANG, Address, Peers, server_context, silent, wrap_server

TIGHT = 0.1  # seconds: the deadline of a scene that has to meet it
PROXY, PROXY_OVER_TLS = "http://proxy.example.com:3128", "https://proxy.example.com:443"

# What is asked for, and by which proxy, if by any: it is the server, the proxy, its handshake, the
# network or the resolver that does not answer, or that drips.
TROUBLES = {
    "drip": ("http://drip.example.com/", None),
    "silence": ("http://silent.example.com/", None),
    "no handshake": ("https://silent.example.com/", None),
    "no connection": ("http://dead.example.com/", None),
    "no look-up": ("http://slow-dns.example.com/", None),
    "a dripping proxy": ("http://www.example.com/", "http://drip.example.com"),
    "a silent proxy": ("https://www.example.com/", "http://silent.example.com"),
    "no handshake by proxy": ("https://silent.example.com/", PROXY),
    "no handshake with the proxy": ("https://www.example.com/", "https://silent.example.com"),
}
ROUTES = {
    "http": ("http://www.example.com/", None),
    "https": ("https://www.example.com/", None),
    "http by proxy": ("http://www.example.com/", "http://www.example.com:80"),
    "https by proxy": ("https://www.example.com/", PROXY),
    "https by proxy over TLS": ("https://www.example.com/", PROXY_OVER_TLS),
}
OWN_TIMEOUT = pytest.mark.parametrize(
    "own", [{}, {"timeout": None}, {"timeout": HANG}], ids=["not given", "None", "given"]
)


def knows(kind: type[Client], proxy: str | None) -> bool:
    return proxy is None or proxy.partition(":")[0] in kind.proxies


def ends_in_time(client: Client, url: str, body: bytes | None = None, within: float = TIGHT) -> str:
    """Ends when it should, with the error of the client; its text, with those of its causes."""
    started = time.monotonic()
    with pytest.raises(client.late) as caught, httpx_net.timeout(within):
        client.get(url, body)
    assert TIGHT <= time.monotonic() - started < TIGHT + 2.0
    return "".join(traceback.format_exception(caught.value))


@clients()
@OWN_TIMEOUT
@pytest.mark.parametrize("trouble", TROUBLES)
def test_every_trouble_ends_at_the_deadline(
    kind: type[Client], using: Using, own: Any, trouble: str
) -> None:
    url, proxy = TROUBLES[trouble]
    if knows(kind, proxy):
        text = ends_in_time(using(proxy=proxy, **own), url)
        assert f"timeout({TIGHT}) expired" in text


@clients()
def test_an_upload_that_nobody_reads_ends_at_the_deadline(using: Using) -> None:
    ends_in_time(using(), "http://full.example.com/", bytes(20_000_000))


@clients()
@pytest.mark.parametrize("trouble", ["silence", "no handshake", "no connection", "no look-up"])
def test_the_timeout_of_the_client_still_counts(using: Using, trouble: str) -> None:
    ends_in_time(using(timeout=TIGHT), TROUBLES[trouble][0], within=HANG)


@clients()
@OWN_TIMEOUT
@pytest.mark.parametrize("route", ROUTES)
def test_a_request_is_answered(kind: type[Client], using: Using, own: Any, route: str) -> None:
    url, proxy = ROUTES[route]
    if knows(kind, proxy):
        for within in (None, HANG):
            with httpx_net.timeout(within):
                assert using(proxy=proxy, **own).get(url) == b"Hello, world!\n"


@clients()
@pytest.mark.parametrize("host", ["closed", "wrong-name", "self-signed"])
def test_what_is_refused_is_the_clients_error(using: Using, host: str) -> None:
    scheme, text = ("http", "refused") if host == "closed" else ("https", "verify failed")
    with pytest.raises(Exception, match=text):
        using().get(f"{scheme}://{host}.example.com/")


def url(address: Address, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{address[1]}/"


@clients()
def test_a_body_goes_and_comes_in_one_piece_and_as_it_arrives(using: Using, peers: Any) -> None:
    body, seen = bytes(range(256)) * 4096, threading.Event()

    def server(conn: socket.socket) -> None:
        with conn.makefile("rb") as file:
            while file.readline() != b"\r\n":
                pass
            assert file.read(len(body)) == body
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:PIECE])
        assert seen.wait(HANG)
        conn.sendall(body[PIECE:])
        silent(conn)

    pieces = using().stream(url(peers.serve(server)), body)
    received = [next(pieces)]
    seen.set()
    assert b"".join([*received, *pieces]) == body


@clients(lambda kind: kind.keeps_connections)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_is_used_again_unless_the_server_has_ended_it(
    kind: type[Client], using: Using, peers: Peers, scheme: str
) -> None:
    client, listener, gone = using(), peers.listen(), threading.Event()

    def server(conn: socket.socket) -> None:
        for numbers in (b"12", b"3"):
            conn, _ = listener.accept()
            conn.settimeout(HANG)
            with conn if scheme == "http" else wrap_server(server_context("server"), conn) as conn:
                for number in numbers:
                    head(conn)
                    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%c" % number)
            gone.set()

    peers.run(server, peers.bound())
    where = url(listener.getsockname(), scheme)
    assert [client.get(where), client.get(where)] == [b"1", b"2"]
    assert gone.wait(HANG)
    # Some don't look whether a connection has ended.
    assert (client if kind.checks_idle_connections else using()).get(where) == b"3"


@clients(lambda kind: kind.serves_threads)
def test_forty_threads_have_forty_connections(using: Using, peers: Peers) -> None:
    client, listener = using(), peers.listen()

    def server(conn: socket.socket) -> None:
        """Answer nobody before all are there."""
        with contextlib.ExitStack() as stack:
            for conn in [stack.enter_context(listener.accept()[0]) for _ in range(40)]:
                conn.settimeout(HANG)
                head(conn)
                conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")

    def get(_: int) -> bytes:
        with httpx_net.timeout(HANG):
            return client.get(url(listener.getsockname()))

    peers.run(server, peers.bound())
    with ThreadPoolExecutor(40) as threads:
        assert list(threads.map(get, range(40))) == [b"hi"] * 40
