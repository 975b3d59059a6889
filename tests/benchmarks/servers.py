"""The other ends, in processes of their own: ``with Server(processor) as server: server.plain``.

Each connection has a thread, and speaks as much HTTP as the clients need:

- ``GET /bytes/N``: N bytes.
- ``GET /drip/SECONDS``: a byte every twentieth of that time, twenty in all, and then the end.
- ``GET /head/SECONDS``: the same of the head, in as many pieces.
- ``GET /silent/SECONDS``: nothing for that time.
- ``PUT /``: takes the body, answers 204.
- ``PUT /slow/BYTES``: takes so many bytes a second of the body, evenly.
- ``ECHO``: everything that follows comes back.

Ports: ``plain``; ``tls``; ``mute``, which never answers a handshake; ``many``, which echoes from
the start and serves any number of connections from one thread; ``narrow`` and ``narrow_tls``, with
a small receive buffer, so that what a slow reader has not read stays with the sender.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import pin

CERTIFICATES = Path(__file__).parent.parent / "certs"
CHUNK = bytes(1 << 20)
DRIPS = 20

PORTS = ("plain", "tls", "mute", "many", "narrow", "narrow_tls")


class Server:
    """A process of servers, pinned to *processor*, which ends with the block."""

    plain: int
    tls: int
    mute: int
    many: int
    narrow: int
    narrow_tls: int

    def __init__(self, processor: int | None) -> None:
        self._command = [sys.executable, __file__, *([] if processor is None else [str(processor)])]

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        for name, port in zip(PORTS, self._process.stdout.readline().split(), strict=True):
            setattr(self, name, int(port))
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._process:  # closes its standard input, which ends it
            pass


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "server.pem")
    return context


def answer(status: str, length: int) -> bytes:
    """The head of an answer. Its length is known to those who count bytes."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n".encode()


def _serve(conn: socket.socket) -> None:
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    while True:
        head = b""
        while b"\r\n\r\n" not in head:
            data = conn.recv(65536)
            if not data:
                return
            head += data
        head, _, body = head.partition(b"\r\n\r\n")
        lines = head.decode("ascii").lower().split("\r\n")
        method, target, *_ = f"{lines[0]} /".split()
        _, what, number, *_ = f"{target}///".split("/")
        fields = dict(line.split(": ", 1) for line in lines[1:])
        if method == "echo":
            _echo(conn)
            return
        if method == "put":
            _take(conn, fields, len(body), float(number or "inf"))
            conn.sendall(answer("204 No Content", 0))
        elif what == "bytes":
            conn.sendall(answer("200 OK", int(number)))
            for start in range(0, int(number), len(CHUNK)):
                conn.sendall(CHUNK[: int(number) - start])
        elif what == "drip":
            conn.sendall(answer("200 OK", DRIPS))
            for _ in range(DRIPS):
                conn.sendall(b".")
                time.sleep(float(number) / DRIPS)
            return
        elif what == "head":
            head = answer("200 OK", 0)
            size = -(-len(head) // DRIPS)
            for start in range(0, len(head), size):
                conn.sendall(head[start : start + size])
                time.sleep(float(number) / DRIPS)
        else:
            time.sleep(float(number))


def _take(conn: socket.socket, fields: dict[str, str], taken: int, per_second: float) -> None:
    total = int(fields["content-length"])
    buffer = bytearray(256 << 10)
    start = time.monotonic()
    while taken < total:
        size = conn.recv_into(buffer)
        if not size:
            return
        taken += size
        if per_second < float("inf"):
            time.sleep(max(0.0, start + taken / per_second - time.monotonic()))


def _echo(conn: socket.socket) -> None:
    while data := conn.recv(65536):
        conn.sendall(data)


def _echo_to_many(listener: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    conn, _ = listener.accept()
                    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
                    selector.register(conn, selectors.EVENT_READ)
                    continue
                conn = key.fileobj  # type: ignore[assignment]
                data = b""
                with contextlib.suppress(ConnectionError):
                    data = conn.recv(4096)  # small, and the client waits: never blocks
                    conn.sendall(data)
                if not data:
                    selector.unregister(conn)
                    conn.close()


def _listener(
    receive_buffer: int | None = None, host: str = "127.0.0.1", port: int = 0
) -> socket.socket:
    listener = socket.socket()
    if receive_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    listener.bind((host, port))
    listener.listen(512)
    return listener


def _accept(listener: socket.socket, scene: Callable[[socket.socket], object]) -> None:
    def run(conn: socket.socket) -> None:
        with contextlib.suppress(OSError), conn:  # the client may leave at any time
            scene(conn)

    while True:
        conn, _ = listener.accept()
        threading.Thread(target=run, args=(conn,), daemon=True).start()


def main() -> None:
    if len(sys.argv) == 3:  # one more address, of plain HTTP
        listener = _listener(None, sys.argv[1], int(sys.argv[2]))
        sys.stdout.write("\n")
        sys.stdout.flush()
        _accept(listener, _serve)
    pin(int(sys.argv[1]) if len(sys.argv) > 1 else None)
    context = server_context()

    def secured(conn: socket.socket) -> None:
        with context.wrap_socket(conn, server_side=True) as tls:
            _serve(tls)

    def mute(conn: socket.socket) -> None:
        while conn.recv(65536):
            pass

    listeners = {name: _listener() for name in PORTS}
    for name in ("narrow", "narrow_tls"):
        listeners[name] = _listener(32 << 10)
    scenes: dict[str, Any] = {"plain": _serve, "narrow": _serve, "mute": mute}
    for name, listener in listeners.items():
        target, args = _accept, (listener, scenes.get(name, secured))
        if name == "many":
            target, args = _echo_to_many, (listener,)  # type: ignore[assignment]
        threading.Thread(target=target, args=args, daemon=True).start()
    sys.stdout.write(" ".join(str(each.getsockname()[1]) for each in listeners.values()) + "\n")
    sys.stdout.flush()
    sys.stdin.read()  # until the benchmark ends, however it does


if __name__ == "__main__":
    main()
