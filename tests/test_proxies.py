"""HTTPS proxies: TLS to the proxy, CONNECT, and TLS to the server inside of it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import httpx_net
from peers import (
    CERTIFICATES,
    HANG,
    Address,
    Peers,
    client_context,
    client_may_leave,
    connect_tls,
    echo,
    send_close_notify,
    silent,
    splice,
)

HAPROXY = """
defaults
    mode tcp
    timeout connect 10s
    timeout client 10s
    timeout server 10s

listen https_proxy
    bind fd@{listener} ssl crt {certificate} alpn http/1.1
    server connect {ip}:{port}
"""


def connect_proxy(target: Address) -> Callable[[socket.socket], None]:
    """A peer that does as CONNECT says, in clear."""

    def proxy(conn: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += conn.recv(1)
        assert head.startswith(b"CONNECT "), head
        with client_may_leave(), socket.create_connection(target, timeout=HANG) as server:
            conn.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            splice(conn, server)

    return proxy


Proxy = Callable[[Address], Address]


@pytest.fixture(params=["ours", "haproxy"])
def proxy_to(request: pytest.FixtureRequest, peers: Peers, tmp_path: Path) -> Iterator[Proxy]:
    """``proxy_to(target)``: start an HTTPS proxy to it; returns the proxy's address."""
    if request.param == "ours":
        yield peers.serve_proxy
        return
    haproxy = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if haproxy is None:
        pytest.skip("haproxy is not installed")
    running: list[subprocess.Popen[bytes]] = []

    def start(target: Address) -> Address:
        ip, port = peers.serve(connect_proxy(target))
        listener = peers.listen()
        configuration = tmp_path / "haproxy.cfg"
        configuration.write_text(
            HAPROXY.format(
                listener=listener.fileno(),
                certificate=CERTIFICATES / "proxy.pem",
                ip=ip,
                port=port,
            )
        )
        # It inherits the socket that listens: no port to agree on, and no moment to wait for.
        running.append(
            subprocess.Popen(
                [haproxy, "-q", "-db", "-f", configuration], pass_fds=[listener.fileno()]
            )
        )
        return listener.getsockname()[:2]

    yield start
    for process in running:
        process.terminate()
        process.wait(HANG)


def connect_through(proxy: Address, **options: Any) -> httpx_net.NetworkStream:
    """What a client does, under one deadline."""
    with httpx_net.timeout(HANG):
        stream = connect_tls(proxy, hostname="proxy.test", **options)
        stream.write(b"CONNECT server.test:443 HTTP/1.1\r\nHost: server.test:443\r\n\r\n")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += stream.read(1)
        assert head.startswith(b"HTTP/1.1 200 ")
        stream.start_tls(client_context(), "server.test")
    return stream


def test_a_client_gets_through_a_proxy(proxy_to: Proxy, serve_tls: Callable[..., Address]) -> None:
    with connect_through(proxy_to(serve_tls(echo))) as stream:
        for size in (1, 16_384, 500_000):
            stream.write(bytes(size))
            assert sum(len(data) for data in read_parts(stream, size)) == size
        certificate = stream.get_extra_info("ssl_object").getpeercert()
        assert ("DNS", "server.test") in certificate["subjectAltName"]


def test_the_end_behind_a_proxy_is_an_end(
    proxy_to: Proxy, serve_tls: Callable[..., Address]
) -> None:
    def end(conn: ssl.SSLSocket) -> None:
        conn.sendall(b"all of it")
        send_close_notify(conn)

    with connect_through(proxy_to(serve_tls(end))) as stream, httpx_net.timeout(HANG / 2):
        assert [stream.read() for _ in range(3)] == [b"all of it", b"", b""]


def test_truncation_behind_a_proxy_is_truncation(
    proxy_to: Proxy, serve_tls: Callable[..., Address]
) -> None:
    address = proxy_to(serve_tls(lambda conn: conn.sendall(b"half of it")))
    with connect_through(address) as stream, httpx_net.timeout(HANG / 2):
        assert stream.read() == b"half of it"
        for _ in range(2):
            with pytest.raises(ssl.SSLEOFError, match="suppress_ragged_eofs"):
                stream.read()


def test_truncation_behind_a_proxy_can_be_taken_for_the_end(
    proxy_to: Proxy, serve_tls: Callable[..., Address]
) -> None:
    address = proxy_to(serve_tls(lambda conn: conn.sendall(b"half of it")))
    with connect_through(address, suppress_ragged_eofs=True) as stream, httpx_net.timeout(HANG / 2):
        assert [stream.read() for _ in range(3)] == [b"half of it", b"", b""]


def test_a_server_behind_a_proxy_has_to_prove_its_own_name(
    proxy_to: Proxy, serve_tls: Callable[..., Address]
) -> None:
    address = proxy_to(serve_tls(certificate="proxy", refused=True))
    with pytest.raises(ssl.SSLCertVerificationError, match=r"for 'server\.test'"):
        connect_through(address)


def test_a_deadline_bounds_a_read_through_a_proxy(
    proxy_to: Proxy, serve_tls: Callable[..., Address]
) -> None:
    with connect_through(proxy_to(serve_tls(silent))) as stream:
        with httpx_net.timeout(0.1), pytest.raises(TimeoutError, match=r"timeout\(0\.1\)"):
            stream.read()
        assert stream.get_extra_info("is_readable") is False


def test_the_server_behind_a_proxy_hears_the_goodbye(proxy_to: Proxy, peers: Peers) -> None:
    ends = []

    def hears(conn: ssl.SSLSocket) -> None:
        ends.append(conn.recv(1))

    connect_through(proxy_to(peers.serve_tls(hears, tickets=0))).close()
    peers.close()
    assert ends == [b""]


def read_parts(stream: httpx_net.NetworkStream, size: int) -> Iterator[bytes]:
    while size:
        yield (data := stream.read(size))
        size -= len(data)
