"""A backend for the pre-releases of httpx 1.0: ``httpx.ConnectionPool(backend=Backend())``."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import urlsplit

import httpx  # type: ignore[import-untyped]

# What a block of httpx.timeout() has left.
from httpx._network import get_current_timeout  # type: ignore[import-untyped]

import httpx_net


class Stream(httpx.Stream):  # type: ignore[misc]
    def __init__(self, stream: httpx_net.NetworkStreamInterface) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        with httpx_net.timeout(get_current_timeout()):
            return self._stream.read(None if size < 0 else size)

    def write(self, data: bytes) -> None:
        with httpx_net.timeout(get_current_timeout()):
            self._stream.write(data)

    def close(self) -> None:
        self._stream.close()


class Backend(httpx.NetworkBackend):  # type: ignore[misc]
    def __init__(
        self,
        ssl_ctx: ssl.SSLContext | None = None,
        net: httpx_net.NetworkBackendInterface | None = None,
    ) -> None:
        self._context = self.create_default_context() if ssl_ctx is None else ssl_ctx
        self._net = net or httpx_net.NetworkBackend(suppress_ragged_eofs=True)

    def connect(self, host: str, port: int) -> Any:
        with httpx_net.timeout(get_current_timeout()):
            return Stream(self._net.connect(host, port))

    def connect_tls(self, host: str, port: int, hostname: str = "") -> Any:
        # The client passes the Host header, which may have the port behind the name.
        name = urlsplit(f"//{hostname}").hostname or host
        with httpx_net.timeout(get_current_timeout()):
            stream = self._net.connect(host, port)
            try:
                stream.start_tls(self._context, name)
            except BaseException:
                stream.close()
                raise
        return Stream(stream)
