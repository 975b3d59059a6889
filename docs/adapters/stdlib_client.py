"""``http.client`` and ``urllib.request`` under the deadlines of httpx_net.

Needs ``stream_socket.py`` beside it. To bring a backend of your own, set ``Connecting.net``.
"""

from __future__ import annotations

import http.client
import socket
import urllib.request
from typing import Any

from stream_socket import StartTLS, StreamSocket

import httpx_net


class Connecting:
    """What both kinds of connection have in common: where their socket comes from."""

    net = httpx_net.NetworkBackend(suppress_ragged_eofs=True)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = self._connect_stream  # http.client's own hook

    def _connect_stream(self, address: Any, timeout: Any, source_address: Any) -> StreamSocket:
        if source_address is not None:
            raise ValueError("source_address: give the backend a local_address instead")
        if not isinstance(timeout, (int, float, type(None))):  # a marker: none was given
            timeout = socket.getdefaulttimeout()
        with httpx_net.timeout(timeout):
            return StreamSocket(self.net.connect(*address), timeout)

    def _tunnel(self) -> None:
        try:
            super()._tunnel()
        except BaseException:  # early releases leave a file of the socket open, and so the stream
            if self.sock is not None:
                self.sock.stream.close()
            raise


class HTTPConnection(Connecting, http.client.HTTPConnection):
    pass


class HTTPSConnection(Connecting, http.client.HTTPSConnection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._context = StartTLS(self._context)


class HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(HTTPConnection, request)


class HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(HTTPSConnection, request, context=self._context)


def build_opener(context: Any = None, *handlers: Any) -> urllib.request.OpenerDirector:
    """``urllib.request.build_opener``, with the two handlers above in place of the usual ones."""
    return urllib.request.build_opener(HTTPHandler, HTTPSHandler(context=context), *handlers)
