"""``http.client`` and ``urllib.request`` under the deadlines of httpx_net.

Needs ``stream_socket.py`` beside it. To use a backend of your own, set ``Connecting.net``.
"""

from __future__ import annotations

import http.client
import ssl
import urllib.request
from typing import Any

from stream_socket import StartTLS, StreamSocket, seconds

import httpx_net


class Connecting(http.client.HTTPConnection):
    """What both kinds of connection have in common: where their socket comes from."""

    net = httpx_net.NetworkBackend(suppress_ragged_eofs=True)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = self._connect_stream  # http.client's own hook

    def _connect_stream(self, address: Any, timeout: Any, source_address: Any) -> StreamSocket:
        if source_address is not None:
            raise ValueError("source_address: give the backend a local_address instead")
        with httpx_net.timeout(seconds(timeout)):
            return StreamSocket(self.net.connect(*address), timeout)

    def _tunnel(self) -> None:
        try:
            super()._tunnel()  # type: ignore[misc]
        except BaseException:
            # Early releases leave a file of the socket open, and so the stream.
            sock: Any = self.sock
            if sock is not None:
                sock.stream.close()
            raise


class HTTPConnection(Connecting):
    pass


class HTTPSConnection(Connecting, http.client.HTTPSConnection):
    def __init__(self, *args: Any, context: ssl.SSLContext | None = None, **kwargs: Any) -> None:
        super().__init__(*args, context=context, **kwargs)
        self._context: Any = StartTLS(self._context)


class HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(HTTPConnection, req)


class HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(context=context)
        self._ssl_context = context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(HTTPSConnection, req, context=self._ssl_context)


def build_opener(
    context: ssl.SSLContext | None = None, *handlers: Any
) -> urllib.request.OpenerDirector:
    """``urllib.request.build_opener``, with the two handlers above in place of the usual ones."""
    return urllib.request.build_opener(HTTPHandler, HTTPSHandler(context=context), *handlers)
