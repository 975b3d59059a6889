"""``urllib3`` 2.x under the deadlines of httpx_net: ``over_httpx_net(urllib3.PoolManager())``.

Needs ``stream_socket.py`` beside it. To use a backend of your own, set ``Connection.net``.
"""

from __future__ import annotations

import socket
from typing import Any

import urllib3
from stream_socket import StartTLS, StreamSocket
from urllib3 import connection, exceptions, poolmanager
from urllib3.util import create_urllib3_context
from urllib3.util.ssl_ import resolve_cert_reqs

import httpx_net


class Connection(connection.HTTPConnection):
    net = httpx_net.NetworkBackend(suppress_ragged_eofs=True)

    def _new_conn(self) -> Any:  # urllib3's own hook
        if self.source_address:
            raise ValueError("source_address: give the backend a local_address instead")
        timeout = urllib3.Timeout.resolve_default_timeout(self.timeout)
        try:
            with httpx_net.timeout(timeout):
                sock = StreamSocket(self.net.connect(self._dns_host, self.port), timeout)
        except socket.gaierror as exc:
            raise exceptions.NameResolutionError(self.host, self, exc) from exc
        except TimeoutError as exc:
            raise exceptions.ConnectTimeoutError(self, str(exc)) from exc
        except OSError as exc:
            raise exceptions.NewConnectionError(self, str(exc)) from exc
        for option in self.socket_options or ():
            sock.setsockopt(*option)
        return sock

    @property
    def is_connected(self) -> bool:  # asked before a connection is used again
        stream = getattr(self.sock, "stream", None)
        return super().is_connected if stream is None else not stream.get_extra_info("is_readable")


class TLSConnection(Connection, connection.HTTPSConnection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ssl_context: Any = StartTLS(self.ssl_context or self._default_context())
        if self.proxy_config and self.proxy and self.proxy.scheme == "https":
            proxy: Any = StartTLS(
                self.proxy_config.ssl_context or self._default_context(proxy=True)
            )
            self.proxy_config = self.proxy_config._replace(ssl_context=proxy)

    def _default_context(self, proxy: bool = False) -> Any:  # as urllib3 makes its own
        context: Any = create_urllib3_context(cert_reqs=resolve_cert_reqs(self.cert_reqs))
        context.minimum_version = self.ssl_minimum_version or context.minimum_version
        context.maximum_version = self.ssl_maximum_version or context.maximum_version
        authorities = self.ca_certs, self.ca_cert_dir, self.ca_cert_data
        if not any(authorities):
            context.load_default_certs()
        elif proxy:  # urllib3 loads them into the other context itself
            context.load_verify_locations(*authorities)
        return context


class HTTPConnectionPool(urllib3.HTTPConnectionPool):
    ConnectionCls: Any = Connection


class HTTPSConnectionPool(urllib3.HTTPSConnectionPool):
    ConnectionCls: Any = TLSConnection


def over_httpx_net(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    """Have *manager*, a ``PoolManager`` or a ``ProxyManager``, connect by httpx_net."""
    if manager.pool_classes_by_scheme is not poolmanager.pool_classes_by_scheme:
        raise ValueError(f"{manager!r} has pools of its own, which would be passed over")
    manager.pool_classes_by_scheme = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}
    return manager
