"""A network backend for httpcore 1.x: ``httpcore.ConnectionPool(network_backend=Backend())``.

For httpcore2, import that instead: ``import httpcore2 as httpcore``.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore

import httpx_net


@contextlib.contextmanager
def limited(timeout: float | None, late: type, failed: type) -> Iterator[None]:
    """Within httpcore's own *timeout* too, and with the errors that its callers expect."""
    try:
        with httpx_net.timeout(timeout):
            yield
    except TimeoutError as exc:
        raise late(str(exc)) from exc
    except OSError as exc:
        raise failed(str(exc)) from exc


class Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpx_net.NetworkStreamInterface) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with limited(timeout, httpcore.ReadTimeout, httpcore.ReadError):
            return self._stream.read(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer:  # httpcore's HTTP/2 writes nothing now and then, and then reads
            with limited(timeout, httpcore.WriteTimeout, httpcore.WriteError):
                self._stream.write(buffer)

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> Stream:
        try:
            with limited(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
                self._stream.start_tls(ssl_context, server_hostname)
        except BaseException:
            self.close()
            raise
        return self

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)  # the keys are the same

    def close(self) -> None:
        self._stream.close()


class Backend(httpcore.NetworkBackend):
    def __init__(self, net: httpx_net.NetworkBackendInterface | None = None) -> None:
        self._net = net or httpx_net.NetworkBackend(suppress_ragged_eofs=True)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Stream:
        if local_address is not None or socket_options:
            raise ValueError("local_address, socket_options: give them to net instead")
        with limited(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
            return Stream(self._net.connect(host, port))

    def sleep(self, seconds: float) -> None:  # between the attempts of ConnectionPool(retries=...)
        with limited(None, httpcore.ConnectTimeout, httpcore.ConnectError):
            left = httpx_net.remaining()
            time.sleep(seconds if left is None else min(seconds, left))
