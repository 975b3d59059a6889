"""A transport for httpx 0.28: ``httpx.Client(transport=Transport())``.

Needs ``httpcore_backend.py`` beside it. Give it a pool of your own for certificates, limits,
HTTP/2, or a proxy (an ``httpcore.HTTPProxy``), made with ``network_backend=Backend()``. For httpx2,
import that instead, and httpcore2: ``import httpx2 as httpx``, ``import httpcore2 as httpcore``.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

import httpcore
import httpx
from httpcore_backend import Backend


@contextlib.contextmanager
def httpx_errors() -> Iterator[None]:
    """The errors of the two packages have the same names."""
    try:
        yield
    except (
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.TimeoutException,
        httpcore.UnsupportedProtocol,
    ) as exc:
        raise getattr(httpx, type(exc).__name__)(str(exc)) from exc


class Body(httpx.SyncByteStream):
    def __init__(self, parts: Any) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        with httpx_errors():
            yield from self._parts

    def close(self) -> None:
        self._parts.close()


class Transport(httpx.BaseTransport):
    def __init__(self, pool: httpcore.ConnectionPool | None = None) -> None:
        self._pool = pool or httpcore.ConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=100,  # the limits of httpx.Client; those of httpcore are lower
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=Backend(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        with httpx_errors():
            response = self._pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=url,
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=Body(response.stream),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._pool.close()
