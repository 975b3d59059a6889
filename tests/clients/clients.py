"""Clients that others wrote, each with its adapter, behind one face."""

from __future__ import annotations

import contextlib
import importlib
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest

from peers import CERTIFICATES, client_context

ADAPTERS = Path(__file__).parents[2] / "docs" / "adapters"
PIECE = 4096


def adapter(name: str) -> Any:
    """The recipe *name*, imported as its readers do: from a folder with its neighbours."""
    if str(ADAPTERS) not in sys.path:
        sys.path.append(str(ADAPTERS))
    return importlib.import_module(name)


def successor(name: str) -> Any:
    """The recipe *name* for httpcore2 and httpx2: with the imports changed as it says itself."""
    module = ModuleType(name.replace("_", "2_", 1))
    if module.__name__ not in sys.modules:
        sys.modules[module.__name__] = module
        source = (ADAPTERS / f"{name}.py").read_text(encoding="utf-8")
        for package in "httpcore", "httpx":
            source = source.replace(f"\nimport {package}\n", f"\nimport {package}2 as {package}\n")
        source = source.replace("from httpcore_backend import", "from httpcore2_backend import")
        exec(compile(source, module.__name__, "exec"), vars(module))
    return sys.modules[module.__name__]


def installed(name: str, version: str) -> Any:
    """The package *name*, if it is there in *version*, such as ``0.28``; skips the test if not."""
    module = pytest.importorskip(name, reason=f"{name} {version} is not installed")
    if not module.__version__.startswith(f"{version}."):
        pytest.skip(f"{name} {version} is not installed, but {module.__version__}")
    return module


class Client:
    """One client; *proxy* is the URL of its proxy, and a *timeout* among the options is its own.

    Each kind has a ``start``, and a ``request`` that returns an iterator of pieces.
    """

    proxies: tuple[str, ...] = ("http", "https")  # the schemes of proxies that it knows
    keeps_connections = True
    checks_idle_connections = True  # before it uses one again
    serves_threads = True
    late: tuple[type[Exception], ...] = (TimeoutError,)  # raised when a timeout is over

    def __init__(self, proxy: str | None = None, **options: Any) -> None:
        self.proxy, self.options = proxy, options
        self.by_scheme = {"http": proxy, "https": proxy} if proxy else {}
        self.close: Callable[[], object] = lambda: None
        self.start()

    def stream(self, url: str, body: bytes | None = None) -> Iterator[bytes]:
        """The body of the answer, in pieces of that size or as they arrive."""
        return self.request("POST" if body else "GET", url, body)

    def get(self, url: str, body: bytes | None = None) -> bytes:
        return b"".join(self.stream(url, body))


def pieces(response: Any) -> Iterator[bytes]:
    with response as body:
        while len(piece := body.read(PIECE)) == PIECE:
            yield piece
        yield piece  # A short one is the last, and httpx 1.0 lets nobody ask once more.


class HTTPClient(Client):
    proxies = ("http",)
    checks_idle_connections = serves_threads = False
    connection: Any = None

    def start(self) -> None:
        self.module = adapter("stdlib_client")

    def request(self, method: str, url: str, body: bytes | None) -> Iterator[bytes]:
        target = url if self.proxy and url.startswith("http:") else urlsplit(url).path
        self.connection = self.connection or self.connect(
            urlsplit(url), urlsplit(self.proxy or url)
        )
        self.connection.request(method, target, body)
        return pieces(self.connection.getresponse())

    def connect(self, origin: Any, where: Any) -> Any:
        kind = "HTTPSConnection" if origin.scheme == "https" else "HTTPConnection"
        connection = getattr(self.module, kind)(where.hostname, where.port, **self.options)
        if self.proxy and origin.scheme == "https":
            connection.set_tunnel(origin.hostname, 443)
        self.close = connection.close
        return connection


class URLLib(Client):
    proxies = ("http",)
    keeps_connections = False
    late = (TimeoutError, urllib.error.URLError)

    def start(self) -> None:
        handler = urllib.request.ProxyHandler(self.by_scheme)
        self.opener = adapter("stdlib_client").build_opener(client_context(), handler)

    def request(self, method: str, url: str, body: bytes | None) -> Iterator[bytes]:
        return pieces(self.opener.open(url, body, **self.options))


class HTTPCore(Client):
    package, version = "httpcore", "1"
    recipe = staticmethod(adapter)

    def start(self) -> None:
        self.pool, timeout = self.make_pool(self.package, self.version), self.options.get("timeout")
        kinds = dict.fromkeys(("connect", "read", "write", "pool"), timeout)
        self.options = {"extensions": {"timeout": kinds}}

    def make_pool(self, package: str, version: str) -> Any:
        module, context = installed(package, version), client_context()
        self.late, backend = (module.TimeoutException,), self.recipe("httpcore_backend").Backend()
        options = {"max_connections": 40, "network_backend": backend, "ssl_context": context}
        if self.proxy:
            secure = context if self.proxy.startswith("https") else None
            pool = module.HTTPProxy(self.proxy, proxy_ssl_context=secure, **options)
        else:
            pool = module.ConnectionPool(**options)
        self.close = pool.close
        return pool

    def request(self, method: str, url: str, body: bytes | None) -> Iterator[bytes]:
        with self.pool.stream(method, url, content=body, **self.options) as response:
            yield from response.iter_raw() if "x" in self.package else response.iter_stream()


class HTTPX(HTTPCore):
    package, version, core = "httpx", "0.28", ("httpcore", "1")

    def start(self) -> None:
        module = installed(self.package, self.version)
        transport = self.recipe("httpx_transport").Transport(
            self.make_pool(*self.core) if self.proxy else None
        )
        self.pool = module.Client(transport=transport, **{"timeout": None, **self.options})
        self.late, self.options, self.close = (module.TimeoutException,), {}, self.pool.close


class HTTPCore2(HTTPCore):
    package, version = "httpcore2", "2"
    recipe = staticmethod(successor)


class HTTPX2(HTTPX):
    package, version, core = "httpx2", "2", ("httpcore2", "2")
    recipe = staticmethod(successor)


class HTTPX1(Client):
    proxies = ()
    checks_idle_connections = serves_threads = False

    def start(self) -> None:
        self.module = module = installed("httpx", "1.0")
        backend = adapter("httpx1_backend").Backend(client_context())
        self.client = module.Client(transport=module.ConnectionPool(backend=backend))
        self.close = self.client.close

    def request(self, method: str, url: str, body: bytes | None) -> Iterator[bytes]:
        own = self.options.get("timeout")
        with self.module.timeout(own) if own else contextlib.nullcontext():
            yield from pieces(self.client.stream(method, url, content=body))


class URLLib3(Client):
    def start(self) -> None:
        module, ca = installed("urllib3", "2"), str(CERTIFICATES / "ca.pem")
        manager: Any = module.PoolManager(ca_certs=ca)
        if self.proxy:
            manager = module.ProxyManager(self.proxy, ca_certs=ca)
        self.manager = adapter("urllib3_pools").over_httpx_net(manager)
        errors, self.close = module.exceptions, manager.clear
        self.late = (errors.TimeoutError, errors.ProxyError, errors.ProtocolError)

    def request(self, method: str, url: str, body: bytes | None) -> Iterator[bytes]:
        options = {"retries": False, "preload_content": False, **self.options}
        with self.manager.request(method, url, body=body, **options) as response:
            yield from response.stream(PIECE)


class Requests(Client):
    def start(self) -> None:
        module = installed("requests", "2")
        self.session = module.Session()
        self.session.trust_env, self.session.proxies = False, self.by_scheme
        self.session.verify = str(CERTIFICATES / "ca.pem")
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, adapter("requests_adapter").Adapter())
        self.late = (module.Timeout, module.ConnectionError)  # The latter is for the body.
        self.close = self.session.close

    def request(self, method: str, url: str, body: bytes | None) -> Iterator[bytes]:
        with self.session.request(method, url, data=body, stream=True, **self.options) as response:
            yield from response.iter_content(PIECE)


ALL = [HTTPClient, URLLib, HTTPCore, HTTPCore2, HTTPX, HTTPX2, HTTPX1, URLLib3, Requests]


def clients(which: Callable[[type[Client]], object] = lambda kind: True) -> Any:
    """Run the test for each client of which *which* is true."""
    chosen = [kind for kind in ALL if which(kind)]
    return pytest.mark.parametrize("kind", chosen, ids=lambda kind: kind.__name__)
