"""A socket, as far as ``http.client`` and what builds on it needs one, over an httpx_net stream.

Every call keeps the deadlines of its thread. The client's own timeout, which it sets by
``settimeout``, still counts for each call by itself, within them.
"""

from __future__ import annotations

import socket
from typing import Any

import httpx_net


def seconds(timeout: Any) -> Any:
    """*timeout*; the default one, where it is the standard library's marker for "not given"."""
    given = isinstance(timeout, (int, float, type(None)))
    return timeout if given else socket.getdefaulttimeout()


class StreamSocket:
    def __init__(self, stream: httpx_net.NetworkStream, timeout: Any = None) -> None:
        self.stream = stream
        self.timeout = seconds(timeout)
        self._closed = False
        self._io_refs = 0  # The open files of makefile(), counted as a socket counts them.

    def settimeout(self, timeout: float | None) -> None:
        self.timeout = timeout

    def sendall(self, data: Any) -> None:
        with httpx_net.timeout(self.timeout):
            # What is no buffer is a TypeError here, and http.client then iterates over it.
            self.stream.write(memoryview(data))

    def recv(self, size: int) -> bytes:
        with httpx_net.timeout(self.timeout):
            return self.stream.read(size)

    def recv_into(self, buffer: Any) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def makefile(self, mode: str = "r", buffering: int | None = None, **text: Any) -> Any:
        # A method in Python, and content with anything that looks like a socket.
        return socket.socket.makefile(self, mode, buffering, **text)  # type: ignore[call-overload]

    def send(self, data: Any) -> int:  # Files that are written to call it.
        self.sendall(data)
        return len(memoryview(data).cast("B"))

    def _decref_socketios(self) -> None:  # A file calls it when it is closed.
        self._io_refs -= 1
        if self._closed:
            self.close()

    def shutdown(self, how: int) -> None:
        # Not SSLSocket.shutdown, which drops TLS and would go on in clear.
        socket.socket.shutdown(self.stream.get_extra_info("socket"), how)

    def close(self) -> None:
        self._closed = True
        if not self._io_refs:
            self.stream.close()

    def __getattr__(self, name: str) -> Any:  # setsockopt, fileno, getpeername, getpeercert, ...
        return getattr(self.stream.get_extra_info("socket"), name)


class StartTLS:
    """An ``ssl.SSLContext`` whose ``wrap_socket`` is ``start_tls``, for clients that call it."""

    def __init__(self, context: Any) -> None:
        if not hasattr(context, "wrap_bio"):
            raise TypeError(f"an ssl.SSLContext is needed, pyOpenSSL's won't do: {context!r}")
        vars(self)["context"] = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self.context, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.context, name, value)

    def wrap_socket(self, sock: StreamSocket, server_hostname: str | None = None) -> StreamSocket:
        with httpx_net.timeout(sock.timeout):
            sock.stream.start_tls(self.context, server_hostname)
        return sock
