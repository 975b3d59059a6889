"""A socket, as far as ``http.client`` and who builds on it needs one, over an httpx_net stream.

Every call asks the deadlines of its thread. The client's own timeout, which comes by
``settimeout``, goes on counting for each call anew, inside of them.
"""

from __future__ import annotations

import io
import socket
from typing import Any

import httpx_net


class StreamSocket:
    def __init__(self, stream: httpx_net.NetworkStream, timeout: float | None = None) -> None:
        self.stream = stream
        self.timeout = timeout
        self._closed = False
        self._io_refs = 0  # the open files of makefile(), counted as a socket counts them

    def settimeout(self, timeout: float | None) -> None:
        self.timeout = timeout

    def sendall(self, data: Any) -> None:
        with httpx_net.timeout(self.timeout):
            self.stream.write(memoryview(data))  # a TypeError is http.client's cue to iterate

    def recv(self, size: int) -> bytes:
        with httpx_net.timeout(self.timeout):
            return self.stream.read(size)

    def recv_into(self, buffer: Any) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def makefile(self, mode: str = "rb") -> io.BufferedReader:
        self._io_refs += 1
        return io.BufferedReader(socket.SocketIO(self, "rb"))  # type: ignore[arg-type]

    def close(self) -> None:
        self._closed = True
        if not self._io_refs:
            self.stream.close()

    def _decref_socketios(self) -> None:  # a SocketIO calls it when it is closed
        self._io_refs -= 1
        if self._closed:
            self.close()

    def setsockopt(self, *option: Any) -> None:
        self.stream.get_extra_info("socket").setsockopt(*option)

    def fileno(self) -> int:
        return self.stream.get_extra_info("socket").fileno()

    def getpeercert(self, binary_form: bool = False) -> Any:
        return self.stream.get_extra_info("ssl_object").getpeercert(binary_form)


class StartTLS:
    """An ``ssl.SSLContext`` whose ``wrap_socket`` is ``start_tls``, for clients that call it."""

    def __init__(self, context: Any) -> None:
        vars(self)["context"] = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self.context, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.context, name, value)

    def wrap_socket(self, sock: StreamSocket, server_hostname: str | None = None) -> StreamSocket:
        with httpx_net.timeout(sock.timeout):
            sock.stream.start_tls(self.context, server_hostname)
        return sock
