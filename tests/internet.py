"""The places that the documentation talks to: ``www.example.com`` and its neighbours, on loopback.

Samples are run as printed, so they name real-looking hosts, addresses and ports. An ``Internet``
stands between them and the system: names resolve to their addresses; whoever connects
to one of these reaches a peer on loopback, made for this one connection; and ``getpeername`` gives
the documented address back, so that what a sample prints can be compared to the letter. Nothing
gets out: there is no way to anywhere else.
"""

from __future__ import annotations

import errno
import selectors
import socket
import ssl
import struct
import threading
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from peers import (
    CERTIFICATES,
    HANG,
    Address,
    Handler,
    Peers,
    client_may_leave,
    dripping,
    reset,
    send_close_notify,
    server_context,
    silent,
    wrap_server,
)

# As many names lead to one address, or one to several.
HOSTS = {
    "example.com": ["93.184.216.34"],
    "half-dead.example.com": ["203.0.113.11", "93.184.216.34"],
    "mixed.example.com": ["203.0.113.10", "203.0.113.11"],
    "intranet.example.com": ["10.0.0.5"],
    # This one never answers.
    "slow-dns.example.com": [],
}

ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 14\r\nConnection: close\r\n\r\nHello, world!\n"
)


class Internet:
    """All of it, for one test. ``close`` lets look-ups that hang come to their end."""

    def __init__(self, peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
        self._peers = peers
        # By the address of the peer.
        self._documented: dict[Address, Address] = {}
        self._over = threading.Event()
        self._context = server_context("server")
        self._hosts = dict(HOSTS)
        self._routes: dict[Any, Callable[[], Any]] = {}
        self._routes["/run/app.sock"] = lambda: peers.serve_unix(web)
        www = {80: self.to(web), 443: self.to_tls(web)}
        self._add("www", "93.184.216.34", www)
        self._add("drip", "203.0.113.8", {80: self.to(drip)})
        self._add("silent", "203.0.113.9", {80: self.to(silent), 443: self.to(silent)})
        self._add("closed", "203.0.113.10", {80: peers.closed_port, 443: peers.closed_port})
        self._add("dead", "203.0.113.11", {80: peers.black_hole, 443: peers.black_hole})
        self._add("reset", "203.0.113.12", {80: self.to(reset)})
        self._add("cut", "203.0.113.13", {443: self.to_tls(cut_off)})
        proxies = {1080: self.to(self.socks_proxy), 3128: self.to(self.http_proxy)}
        to_www = {443: lambda: peers.serve_proxy(www[443]())}
        self._add("proxy", "203.0.113.14", {**proxies, **to_www})
        self._add("members", "203.0.113.15", {443: self.to_tls(web, client_ca="ca")})
        self._add("wrong-name", "203.0.113.16", {443: self.to_a_bad("wrong-name")})
        self._add("expired", "203.0.113.17", {443: self.to_a_bad("expired")})
        self._add("self-signed", "203.0.113.18", {443: self.to_a_bad("self-signed")})
        self._add("full", "203.0.113.19", {80: self.to(self.full), 443: self.to_tls(self.full)})
        self._add("api", "203.0.113.20", {80: self.to(answers_all)})
        self._add("chunked", "203.0.113.21", {80: self.to(chunked)})
        self._add("plain", "203.0.113.22", {443: self.to(no_tls)})
        self._patch(monkeypatch)
        # What makes the system's authorities, and so create_default_context(), trust the tests'.
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "ca.pem"))

    def close(self) -> None:
        self._over.set()

    def _add(self, name: str, ip: str, ports: dict[int, Callable[[], Address]]) -> None:
        self._hosts[f"{name}.example.com"] = [ip]
        self._routes |= {(ip, port): way for port, way in ports.items()}

    def to(self, handler: Handler) -> Callable[[], Address]:
        return lambda: self._peers.serve(handler)

    def to_tls(self, handler: Handler, client_ca: str | None = None) -> Callable[[], Address]:
        # One context for all who ask for nothing special, so that sessions can be resumed.
        context = server_context("server", client_ca=client_ca) if client_ca else self._context

        def secured(conn: socket.socket) -> None:
            try:
                with client_may_leave(), wrap_server(context, conn) as tls:
                    handler(tls)
            except ssl.SSLError as error:
                if error.reason != "PEER_DID_NOT_RETURN_A_CERTIFICATE":
                    raise

        return self.to(secured)

    def to_a_bad(self, certificate: str) -> Callable[[], Address]:
        return lambda: self._peers.serve_tls(certificate=certificate, refused=True)

    def full(self, conn: socket.socket) -> None:
        """Read nothing, so that soon no more can be written."""
        self._over.wait(HANG)

    def http_proxy(self, conn: socket.socket) -> None:
        """Do what CONNECT asks for, unless it is for port 25."""
        # The client may leave, and then there is nothing to shut down.
        with suppress(OSError):
            host, _, port = head(conn).split()[1].decode().rpartition(":")
            if port == "25":
                conn.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                return
            with self._open(host, int(port)) as server:
                conn.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                relay(conn, server)

    def socks_proxy(self, conn: socket.socket) -> None:
        """RFC 1928: no authentication, CONNECT to a name."""
        with suppress(OSError):
            assert conn.recv(3) == b"\x05\x01\x00"
            conn.sendall(b"\x05\x00")
            *start, length = conn.recv(5)
            assert start == [5, 1, 0, 3]
            host = conn.recv(length).decode()
            (port,) = struct.unpack("!H", conn.recv(2))
            if host not in self._hosts:
                conn.sendall(b"\x05\x04\x00\x01" + bytes(6))
                return
            with self._open(host, port) as server:
                conn.sendall(b"\x05\x00\x00\x01" + bytes(6))
                relay(conn, server)

    def _open(self, host: str, port: int) -> socket.socket:
        return socket.create_connection(self._route((self._hosts[host][0], port)), timeout=HANG)

    def _route(self, address: Any) -> Any:
        """The address on loopback to which *address* leads."""
        if isinstance(address, str):
            if address not in self._routes:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        else:
            address = tuple(address[:2])
            if address[0] == "127.0.0.1":
                return address
        assert address in self._routes, f"no way to {address}"
        peer = self._routes[address]()
        self._documented[peer] = address
        return peer

    def _patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        getaddrinfo, getpeername = socket.getaddrinfo, socket.socket.getpeername
        connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

        def patched_getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            name = host.decode() if isinstance(host, bytes) else host
            if kwargs.get("flags", 0) & socket.AI_NUMERICHOST or name not in self._hosts:
                if name.endswith(".example.com") and not kwargs.get("flags"):
                    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
                return getaddrinfo(host, port, *args, **kwargs)
            if not self._hosts[name]:
                self._over.wait(HANG)
            found = [getaddrinfo(ip, port, type=socket.SOCK_STREAM) for ip in self._hosts[name]]
            return [info for infos in found for info in infos]

        def patched_getpeername(sock: socket.socket) -> Any:
            address = getpeername(sock)
            return self._documented.get(address, address)

        monkeypatch.setattr(socket, "getaddrinfo", patched_getaddrinfo)
        monkeypatch.setattr(socket.socket, "getpeername", patched_getpeername)
        for name, method in (("connect", connect), ("connect_ex", connect_ex)):
            monkeypatch.setattr(socket.socket, name, as_of_socket(routed(method, self._route)))


def routed(method: Callable[..., Any], route: Callable[[Any], Any]) -> Any:
    return lambda sock, where: method(sock, route(where))


def as_of_socket(function: Any) -> Any:
    """*function* as if it stood in the module ``socket``.

    An error that ends in a frame of these tests would not be the network's for the package, but
    that of a signal handler.
    """
    return types.FunctionType(function.__code__, vars(socket), closure=function.__closure__)


def head(conn: socket.socket) -> bytes:
    """What a client says up to the first empty line; b"" if it leaves before."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        byte = conn.recv(1)
        if not byte:
            return b""
        data += byte
    return data


def web(conn: socket.socket) -> None:
    """Answer one request, and end the stream as one should."""
    with client_may_leave():
        if head(conn):
            conn.sendall(ANSWER)
        if isinstance(conn, ssl.SSLSocket):
            send_close_notify(conn)
        else:
            # The client may be gone.
            with suppress(OSError):
                conn.shutdown(socket.SHUT_WR)
        silent(conn)


def answers_all(conn: socket.socket) -> None:
    """Answer one request after another."""
    with client_may_leave():
        while head(conn):
            conn.sendall(ANSWER.replace(b"Connection: close\r\n", b""))


def chunked(conn: socket.socket) -> None:
    """Answer one request in chunks."""
    with client_may_leave():
        head(conn)
        conn.sendall(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"7\r\nHello, \r\n7\r\nworld!\n\r\n0\r\n\r\n"
        )
        silent(conn)


def no_tls(conn: socket.socket) -> None:
    """Answer what is no request with plain text."""
    with client_may_leave():
        conn.recv(1)
        conn.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        silent(conn)


def drip(conn: socket.socket) -> None:
    """Answer one request with a byte every tenth of a second."""
    with client_may_leave():
        head(conn)
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        dripping(conn, b"dripping", pause=0.1)


def cut_off(conn: ssl.SSLSocket) -> None:
    """Answer, and end the connection in the middle, without a close_notify."""
    with client_may_leave():
        head(conn)
        conn.sendall(b"HTTP/1.0 200 OK\r\n\r\nPay 100 to Al")


def relay(client: socket.socket, server: socket.socket) -> None:
    """Carry bytes both ways until one side ends."""
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ, server)
        selector.register(server, selectors.EVENT_READ, client)
        while True:
            for key, _ in selector.select(HANG):
                source: Any = key.fileobj
                data = source.recv(65536)
                if not data:
                    key.data.shutdown(socket.SHUT_WR)
                    return
                key.data.sendall(data)
