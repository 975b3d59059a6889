"""HTTPS proxies: TLS to the proxy, CONNECT, and TLS to the server inside of it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    splice,
    take_from,
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


@contextmanager
def haproxy_to(target: Address, peers: Peers, directory: Path) -> Iterator[Address]:
    """Run haproxy in front of *target*; gives its address."""
    haproxy = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if haproxy is None:
        pytest.skip("haproxy is not installed")
    ip, port = peers.serve(connect_proxy(target))
    listener = peers.listen()
    configuration = directory / "haproxy.cfg"
    certificate = CERTIFICATES / "proxy.pem"
    configuration.write_text(
        HAPROXY.format(listener=listener.fileno(), certificate=certificate, ip=ip, port=port)
    )
    # It inherits the socket that listens: no port to agree on, and no moment to wait for.
    command = [haproxy, "-q", "-db", "-f", configuration]
    process = subprocess.Popen(command, pass_fds=[listener.fileno()])
    yield listener.getsockname()[:2]
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


def assert_it_gets_through(stream: httpx_net.NetworkStream) -> None:
    for size in (1, 16_384, 500_000):
        stream.write(bytes(size))
        assert take_from(stream, size) == bytes(size)
    certificate = stream.get_extra_info("ssl_object").getpeercert()
    assert ("DNS", "server.test") in certificate["subjectAltName"]


def test_a_client_gets_through_a_proxy(peers: Peers) -> None:
    with connect_through(peers.serve_proxy(peers.serve_tls(echo))) as stream:
        assert_it_gets_through(stream)


def test_haproxy_is_such_a_proxy(peers: Peers, tmp_path: Path) -> None:
    haproxy = haproxy_to(peers.serve_tls(echo), peers, tmp_path)
    with haproxy as proxy, connect_through(proxy) as stream:
        assert_it_gets_through(stream)


def test_a_server_behind_a_proxy_has_to_prove_its_own_name(peers: Peers) -> None:
    proxy = peers.serve_proxy(peers.serve_tls(certificate="proxy", refused=True))
    with pytest.raises(ssl.SSLCertVerificationError, match=r"for 'server\.test'"):
        connect_through(proxy)


def test_the_server_behind_a_proxy_hears_the_goodbye(peers: Peers) -> None:
    heard = []
    server = peers.serve_tls(lambda conn: heard.append(conn.recv(1)), tickets=0)
    connect_through(peers.serve_proxy(server)).close()
    peers.close()
    assert heard == [b""]
