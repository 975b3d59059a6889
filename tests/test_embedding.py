"""The adapters of docs/adapters put whole clients under a deadline, and keep what the clients had.

Clients that are not installed are skipped; two environments have them all::

    pip install pytest hypothesis "httpx==0.28.*" "httpcore==1.*" "urllib3==2.*" requests
    pip install pytest hypothesis --pre "httpx==1.0.dev6"
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import re
import shutil
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest

import httpx_net
from internet import Internet
from peers import (
    CERTIFICATES,
    HANG,
    Address,
    Handler,
    Peers,
    client_context,
    client_may_leave,
    dripping,
    send_close_notify,
    server_context,
    silent,
    wrap_server,
)
from test_docs import blocks, run_session

ROOT = Path(__file__).parent.parent
ADAPTERS = ROOT / "docs" / "adapters"
PAGE = ROOT / "docs" / "embedding.rst"

TIGHT = 0.1  # seconds: the deadline of a scene that has to meet it


def adapter(name: str) -> Any:
    """The recipe *name*, imported as its readers do: from a folder with its neighbours."""
    if str(ADAPTERS) not in sys.path:
        sys.path.append(str(ADAPTERS))
    return importlib.import_module(name)


def installed(name: str, version: str) -> ModuleType:
    """The package *name*, if it is there in *version*, such as ``0.28``; skips the test if not."""
    module = pytest.importorskip(name, reason=f"{name} {version} is not installed")
    if not module.__version__.startswith(f"{version}."):
        pytest.skip(f"{name} {version} is not installed, but {module.__version__}")
    return module


# ---- The clients, each with and without its adapter, behind one face


class Client:
    """One client. *timeout* is its own, *proxy* the URL of its proxy for ``https``."""

    proxies: tuple[str, ...] = ()  # the schemes of proxies that it can tunnel through
    keeps_connections = True
    checks_idle_connections = True  # before it uses one again
    counts_each_call = True  # its own timeout, that is
    reads_until_close = True  # where an answer does not say how long it is

    def __init__(
        self,
        *,
        adapted: bool = True,
        timeout: float | None = None,
        proxy: str | None = None,
        net: httpx_net.NetworkBackend | None = None,
    ) -> None:
        self.timeout = timeout
        self.proxy = proxy
        self.net = net
        self.start(adapted)

    def start(self, adapted: bool) -> None:
        raise NotImplementedError

    def get(self, url: str) -> tuple[int, bytes]:
        """Status and body."""
        raise NotImplementedError

    def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        raise NotImplementedError

    def late(self) -> tuple[type[Exception], ...]:
        """What it raises when a timeout is over."""
        return (TimeoutError,)

    def close(self) -> None:
        pass


class HTTPClient(Client):
    proxies = ("http",)
    checks_idle_connections = False

    def start(self, adapted: bool) -> None:
        self.module: Any = adapter("stdlib_client") if adapted else http.client
        self.connection: Any = None

    def get(self, url: str) -> tuple[int, bytes]:
        return self.request("GET", url)

    def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        return self.request("POST", url, body)

    def request(self, method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
        if self.connection is None:
            self.connection = self.connect(url)
        self.connection.request(method, urlsplit(url).path, body)
        with self.connection.getresponse() as response:
            return response.status, response.read()

    def connect(self, url: str) -> Any:
        origin = urlsplit(url)
        where = urlsplit(self.proxy or url)
        if origin.scheme == "http":
            return self.module.HTTPConnection(where.hostname, where.port, timeout=self.timeout)
        connection = self.module.HTTPSConnection(
            where.hostname, where.port, timeout=self.timeout, context=client_context()
        )
        if self.proxy:
            connection.set_tunnel(origin.hostname, origin.port)
        return connection

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()


class URLLib(Client):
    proxies = ("http",)
    keeps_connections = False

    def start(self, adapted: bool) -> None:
        proxies = urllib.request.ProxyHandler({"https": self.proxy} if self.proxy else {})
        context = client_context()
        if adapted:
            self.opener = adapter("stdlib_client").build_opener(context, proxies)
        else:
            https = urllib.request.HTTPSHandler(context=context)
            self.opener = urllib.request.build_opener(https, proxies)

    def get(self, url: str) -> tuple[int, bytes]:
        return self.request(url)

    def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        return self.request(url, body)

    def request(self, url: str, body: bytes | None = None) -> tuple[int, bytes]:
        with self.opener.open(url, body, timeout=self.timeout) as response:
            return response.status, response.read()

    def late(self) -> tuple[type[Exception], ...]:
        return (TimeoutError, urllib.error.URLError)

    def close(self) -> None:
        self.opener.close()


class HTTPCore(Client):
    proxies = ("http", "https")

    def start(self, adapted: bool) -> None:
        self.module = installed("httpcore", "1")
        self.pool = self.make_pool(adapted)

    def make_pool(self, adapted: bool) -> Any:
        backend = adapter("httpcore_backend").Backend(self.net) if adapted else None
        module, context = installed("httpcore", "1"), client_context()
        if not self.proxy:
            return module.ConnectionPool(ssl_context=context, network_backend=backend)
        return module.HTTPProxy(
            self.proxy,
            ssl_context=context,
            proxy_ssl_context=client_context() if self.proxy.startswith("https") else None,
            network_backend=backend,
        )

    def get(self, url: str) -> tuple[int, bytes]:
        return self.request("GET", url)

    def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        return self.request("POST", url, body)

    def request(self, method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self.timeout)
        response = self.pool.request(method, url, content=body, extensions={"timeout": timeouts})
        return response.status, response.content

    def late(self) -> tuple[type[Exception], ...]:
        return (self.module.TimeoutException,)

    def close(self) -> None:
        self.pool.close()


class HTTPX(HTTPCore):
    def start(self, adapted: bool) -> None:
        self.module = module = installed("httpx", "0.28")
        if adapted:
            transport = adapter("httpx_transport").Transport(self.make_pool(adapted))
        else:
            transport = module.HTTPTransport(verify=client_context(), proxy=self.proxy)
        self.pool = module.Client(transport=transport, timeout=self.timeout)

    def request(self, method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
        response = self.pool.request(method, url, content=body)
        return response.status_code, response.content


class HTTPX1(Client):
    checks_idle_connections = False
    counts_each_call = False
    reads_until_close = False

    def start(self, adapted: bool) -> None:
        self.module = module = installed("httpx", "1.0")
        if adapted:
            backend = adapter("httpx1_backend").Backend(client_context(), self.net)
        else:
            backend = module.NetworkBackend(client_context())
        self.client = module.Client(transport=module.ConnectionPool(backend=backend))

    def get(self, url: str) -> tuple[int, bytes]:
        return self.request(self.client.get, url)

    def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        return self.request(self.client.post, url, content=body)

    def request(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[int, bytes]:
        with contextlib.ExitStack() as stack:
            if self.timeout is not None:
                stack.enter_context(self.module.timeout(self.timeout))
            response = call(*args, **kwargs)
            return response.status_code, bytes(response.content)

    def close(self) -> None:
        self.client.close()


class URLLib3(Client):
    proxies = ("http", "https")

    def start(self, adapted: bool) -> None:
        self.module = module = installed("urllib3", "2")
        options: Any = {"ca_certs": str(CERTIFICATES / "ca.pem")}
        if self.proxy:
            self.manager: Any = module.ProxyManager(self.proxy, **options)
        else:
            self.manager = module.PoolManager(**options)
        if adapted:
            adapter("urllib3_pools").over_httpx_net(self.manager)

    def get(self, url: str) -> tuple[int, bytes]:
        return self.request("GET", url)

    def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        return self.request("POST", url, body)

    def request(self, method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
        response = self.manager.request(method, url, body=body, timeout=self.timeout, retries=False)
        return response.status, response.data

    def late(self) -> tuple[type[Exception], ...]:
        errors = self.module.exceptions
        return (errors.TimeoutError, errors.ProtocolError)  # the latter while it sends

    def close(self) -> None:
        self.manager.clear()


class Requests(Client):
    proxies = ("http", "https")

    def start(self, adapted: bool) -> None:
        self.module = module = installed("requests", "2")
        self.session = module.Session()
        self.session.trust_env = False
        self.session.verify = str(CERTIFICATES / "ca.pem")
        if self.proxy:
            self.session.proxies = {"https": self.proxy}
        if adapted:
            for scheme in ("http://", "https://"):
                self.session.mount(scheme, adapter("requests_adapter").Adapter())

    def get(self, url: str) -> tuple[int, bytes]:
        response = self.session.get(url, timeout=self.timeout)
        return response.status_code, response.content

    def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        response = self.session.post(url, data=body, timeout=self.timeout)
        return response.status_code, response.content

    def late(self) -> tuple[type[Exception], ...]:
        return (self.module.Timeout, self.module.ConnectionError)  # the latter for the body

    def close(self) -> None:
        self.session.close()


CLIENTS = {
    "http.client": HTTPClient,
    "urllib.request": URLLib,
    "httpcore": HTTPCore,
    "httpx 0.28": HTTPX,
    "httpx 1.0": HTTPX1,
    "urllib3": URLLib3,
    "requests": Requests,
}


Using = Callable[..., Client]


def clients(which: Callable[[type[Client]], bool] = lambda kind: True) -> Any:
    """Run the test for each client of *which* is true."""
    chosen = {name: kind for name, kind in CLIENTS.items() if which(kind)}
    return pytest.mark.parametrize("kind", chosen.values(), ids=chosen.keys())


@pytest.fixture
def using(kind: type[Client], peers: Peers) -> Iterator[Using]:
    """``using(...)``: a client of the kind in question, closed before the peers are waited for."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(contextlib.closing(kind(**options)))


# ---- The servers


def head(conn: socket.socket) -> bytes:
    """What a client says up to the first empty line; b"" if it leaves before."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        byte = conn.recv(1)
        if not byte:
            return b""
        data += byte
    return data


def drip(conn: socket.socket) -> None:
    """Answer a request in half a second, a byte every tenth of it."""
    with client_may_leave():
        head(conn)
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        dripping(conn, b"drip, drip", pause=0.05)


def drip_head(conn: socket.socket) -> None:
    """Begin to answer a request, and never come to the end of its head."""
    with client_may_leave():
        head(conn)
        conn.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
        dripping(conn, b"." * int(HANG / 0.05), pause=0.05)


def answers(count: int) -> Handler:
    """Answer *count* requests, each with its number, then wait until the client is gone."""

    def answer(conn: socket.socket) -> None:
        with client_may_leave():
            for number in range(1, count + 1):
                assert head(conn).startswith(b"GET / HTTP/1.1\r\n")
                conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nanswer" + b"%d" % number)
            silent(conn)

    return answer


def url(address: Address, scheme: str = "http", host: str = "127.0.0.1") -> str:
    return f"{scheme}://{host}:{address[1]}/"


def first_cause(exc: BaseException) -> BaseException:
    while before := exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__):
        exc = before
    return exc


def tunnel_to(handler: Handler, requests: list[bytes]) -> Handler:
    """A proxy, and in the same place the TLS server that CONNECT asks for."""

    def proxy(conn: socket.socket) -> None:
        requests.append(head(conn))
        with client_may_leave():
            conn.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with wrap_server(server_context("server"), conn) as tls:
                handler(tls)

    return proxy


# ---- Deadlines: what each adapter is for


@clients()
def test_without_the_adapter_a_drip_outlasts_the_timeouts(
    kind: type[Client], using: Using, serve: Any
) -> None:
    client = using(adapted=False, timeout=0.3 if kind.counts_each_call else None)
    started = time.monotonic()
    with httpx_net.timeout(0.3):
        assert client.get(url(serve(drip))) == (200, b"drip, drip")
    assert time.monotonic() - started > 0.45


def ends_at_the_deadline(client: Client, get: Callable[[], object]) -> None:
    started = time.monotonic()
    with pytest.raises(client.late()) as caught, httpx_net.timeout(TIGHT):
        get()
    assert TIGHT <= time.monotonic() - started < TIGHT + 2.0
    assert f"timeout({TIGHT}) expired" in str(first_cause(caught.value))


@clients()
@pytest.mark.parametrize("handler", [drip, drip_head, silent])
def test_a_slow_answer_ends_at_the_deadline(using: Using, serve: Any, handler: Handler) -> None:
    client = using()
    ends_at_the_deadline(client, lambda: client.get(url(serve(handler))))


@clients()
def test_a_slow_answer_over_tls_ends_at_the_deadline(using: Using, serve_tls: Any) -> None:
    client = using()
    ends_at_the_deadline(client, lambda: client.get(url(serve_tls(drip), "https")))


@clients()
def test_a_handshake_that_stalls_ends_at_the_deadline(using: Using, serve: Any) -> None:
    client = using()
    ends_at_the_deadline(client, lambda: client.get(url(serve(silent), "https")))


@clients()
def test_an_upload_that_nobody_reads_ends_at_the_deadline(using: Using, serve: Any) -> None:
    client, over = using(), threading.Event()
    address = serve(lambda conn: over.wait(HANG))
    try:
        ends_at_the_deadline(client, lambda: client.post(url(address), bytes(50_000_000)))
    finally:
        over.set()


@clients()
def test_a_connect_without_an_answer_ends_at_the_deadline(using: Using, peers: Peers) -> None:
    client, address = using(), peers.black_hole()
    ends_at_the_deadline(client, lambda: client.get(url(address)))


@clients()
def test_a_lookup_without_an_answer_ends_at_the_deadline(
    kind: type[Client], using: Using, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, over, lookup = using(), threading.Event(), socket.getaddrinfo
    host = f"{kind.__name__.lower()}.slow.test"  # who asks for the same name shares the look-up

    def getaddrinfo(name: Any, *args: Any, **kwargs: Any) -> Any:
        if name != host.encode() or kwargs["flags"]:
            return lookup(name, *args, **kwargs)
        over.wait(HANG)
        raise socket.gaierror(socket.EAI_NONAME, "nobody knows")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        ends_at_the_deadline(client, lambda: client.get(f"http://{host}/"))
    finally:
        over.set()


@clients(lambda kind: "http" in kind.proxies)
def test_a_proxy_that_does_not_answer_ends_at_the_deadline(using: Using, serve: Any) -> None:
    client = using(proxy=url(serve(silent)))
    ends_at_the_deadline(client, lambda: client.get("https://localhost:443/"))


@clients()
def test_the_timeout_of_the_client_still_counts(using: Using, serve: Any) -> None:
    client = using(timeout=TIGHT)
    started = time.monotonic()
    with pytest.raises(client.late()), httpx_net.timeout(HANG):
        client.get(url(serve(silent)))
    assert TIGHT <= time.monotonic() - started < TIGHT + 2.0


@clients()
def test_the_timeout_of_the_client_counts_for_the_handshake(using: Using, serve: Any) -> None:
    client = using(timeout=TIGHT)
    with pytest.raises(client.late()), httpx_net.timeout(HANG):
        client.get(url(serve(silent), "https"))


@clients()
def test_the_timeout_of_the_client_counts_for_connecting(using: Using, peers: Peers) -> None:
    client, address = using(timeout=TIGHT), peers.black_hole()
    with pytest.raises(client.late()), httpx_net.timeout(HANG):
        client.get(url(address))


# ---- Everything else: what the clients could do without an adapter, they still can


@clients()
def test_a_request_is_answered(using: Using, serve: Any) -> None:
    assert using().get(url(serve(answers(1)))) == (200, b"answer1")


@clients()
def test_a_request_over_tls_is_answered(using: Using, serve_tls: Any) -> None:
    address = serve_tls(answers(1))
    assert using().get(url(address, "https", "localhost")) == (200, b"answer1")


@clients()
def test_a_body_arrives_in_one_piece(using: Using, serve: Any) -> None:
    body = bytes(range(256)) * 4096

    def server(conn: socket.socket) -> None:
        with conn.makefile("rb") as file:
            for line in file:
                if line == b"\r\n":
                    break
            assert file.read(len(body)) == body
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        silent(conn)

    assert using().post(url(serve(server)), body) == (200, body)


@clients(lambda kind: kind.reads_until_close)
def test_an_answer_without_length_goes_on_to_the_end(using: Using, serve_tls: Any) -> None:
    def server(conn: ssl.SSLSocket) -> None:
        with client_may_leave():
            head(conn)
            conn.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(100_000))
            send_close_notify(conn)
            silent(conn)

    assert using().get(url(serve_tls(server), "https")) == (200, bytes(100_000))


@clients()
@pytest.mark.parametrize("certificate", ["wrong-name", "untrusted"])
def test_a_certificate_that_the_client_does_not_trust_is_refused(
    using: Using, serve_tls: Any, monkeypatch: pytest.MonkeyPatch, certificate: str
) -> None:
    # The system would trust it, but what the client was told counts.
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "other-ca.pem"))
    address = serve_tls(certificate=certificate, refused=True)
    with pytest.raises(Exception, match="certificate verify failed"):
        using().get(url(address, "https"))


@clients()
def test_a_refused_connection_is_the_clients_error(using: Using, peers: Peers) -> None:
    with pytest.raises(Exception, match="refused"):
        using().get(url(peers.closed_port()))


@clients()
def test_a_backend_of_ones_own_is_used(
    kind: type[Client], using: Using, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fixed(httpx_net.NetworkBackend):
        def getaddrinfo(self, host: str, port: int) -> Any:
            return super().getaddrinfo("127.0.0.1" if host == "fixed.test" else host, port)

    client = using(net=Fixed())
    if kind in (HTTPClient, URLLib):
        monkeypatch.setattr(adapter("stdlib_client").Connecting, "net", client.net)
    elif kind in (URLLib3, Requests):
        monkeypatch.setattr(adapter("urllib3_pools").Connection, "net", client.net)
    assert client.get(url(serve(answers(1)), host="fixed.test")) == (200, b"answer1")


@clients(lambda kind: kind.keeps_connections)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_is_used_again(using: Using, peers: Peers, scheme: str) -> None:
    client, serve = using(), peers.serve_tls if scheme == "https" else peers.serve
    where = url(serve(answers(2)), scheme)  # a second connection would be refused
    assert client.get(where) == (200, b"answer1")
    assert client.get(where) == (200, b"answer2")


@clients(lambda kind: kind.keeps_connections and kind.checks_idle_connections)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_that_the_server_ended_is_not_used_again(
    using: Using, peers: Peers, scheme: str
) -> None:
    client, listener, gone = using(), peers.listen(), threading.Event()

    def server(conn: socket.socket) -> None:
        for _ in range(2):
            conn, _ = listener.accept()
            conn.settimeout(HANG)
            with conn if scheme == "http" else wrap_server(server_context("server"), conn) as conn:
                head(conn)
                conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            gone.set()

    peers.run(server, peers.bound())
    where = url(listener.getsockname(), scheme)
    assert client.get(where) == (200, b"hi")
    assert gone.wait(HANG)
    assert client.get(where) == (200, b"hi")


@clients(lambda kind: "http" in kind.proxies)
def test_a_proxy_is_asked_for_a_tunnel(using: Using, serve: Any) -> None:
    requests: list[bytes] = []
    client = using(proxy=url(serve(tunnel_to(answers(1), requests))))
    assert client.get("https://server.test:8443/") == (200, b"answer1")
    assert requests[0].startswith(b"CONNECT server.test:8443 HTTP/1.")


@clients(lambda kind: "https" in kind.proxies)
def test_a_proxy_over_tls_is_asked_for_a_tunnel(using: Using, peers: Peers) -> None:
    target = peers.serve_tls(answers(1))
    client = using(proxy=url(peers.serve_proxy(target), "https", "localhost"))
    assert client.get(url(target, "https", "localhost")) == (200, b"answer1")


@clients(lambda kind: "https" in kind.proxies)
def test_a_tunnel_through_a_proxy_over_tls_ends_at_the_deadline(using: Using, peers: Peers) -> None:
    target = peers.serve(silent)
    client = using(proxy=url(peers.serve_proxy(target), "https", "localhost"))
    ends_at_the_deadline(client, lambda: client.get(url(target, "https", "localhost")))


# ---- What single adapters do


def test_what_a_time_out_has_cost_is_not_read_over(serve: Any) -> None:
    connection = adapter("stdlib_client").HTTPConnection(*serve(drip))
    with contextlib.closing(connection):
        connection.request("GET", "/")
        response = connection.getresponse()
        with pytest.raises(TimeoutError), httpx_net.timeout(TIGHT):
            response.read()
        with response, pytest.raises(OSError, match="timed out object"):
            response.read()


def test_http_client_refuses_a_source_address() -> None:
    connection = adapter("stdlib_client").HTTPConnection("localhost", source_address=("::1", 0))
    with pytest.raises(ValueError, match="local_address"):
        connection.connect()


def test_urllib3_refuses_a_source_address() -> None:
    urllib3 = installed("urllib3", "2")
    manager = urllib3.PoolManager(source_address=("::1", 0))
    with pytest.raises(ValueError, match="local_address"):
        adapter("urllib3_pools").over_httpx_net(manager).request("GET", "http://localhost/")


@pytest.fixture
def trusting_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the system's authorities, those of a default context, the tests' own."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "ca.pem"))


@pytest.mark.usefixtures("trusting_system")
def test_urllib3_trusts_whom_the_system_trusts(serve_tls: Any) -> None:
    with installed("urllib3", "2").PoolManager() as manager:
        adapter("urllib3_pools").over_httpx_net(manager)
        answer = manager.request("GET", url(serve_tls(answers(1)), "https"), retries=False)
        assert answer.data == b"answer1"


@pytest.mark.usefixtures("trusting_system")
def test_httpx_trusts_whom_the_system_trusts(serve_tls: Any) -> None:
    httpx = installed("httpx", "0.28")
    with httpx.Client(transport=adapter("httpx_transport").Transport()) as client:
        assert client.get(url(serve_tls(answers(1)), "https")).content == b"answer1"


def test_httpcore_does_not_sleep_past_the_deadline(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpcore, backend = installed("httpcore", "1"), adapter("httpcore_backend").Backend()
    slept, sleep = [], time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: slept.append(seconds) or sleep(seconds))
    pool = httpcore.ConnectionPool(network_backend=backend, retries=9)
    with pool, pytest.raises(httpcore.ConnectTimeout), httpx_net.timeout(TIGHT):
        pool.request("GET", url(peers.closed_port()))
    assert 0 < max(slept) <= TIGHT  # the second retry would wait for half a second


# ---- The recipes and their page


def test_no_recipe_is_longer_than_promised() -> None:
    for path in ADAPTERS.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 80, path.name


def test_the_page_names_every_recipe() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [path.name for path in ADAPTERS.glob("*.py") if path.name not in page] == []


NEEDS = {
    "What the timeouts of clients do": [("requests", "2")],
    "Vendoring": [],
    "http.client and urllib.request": [],
    "httpcore and httpx 0.28": [("httpcore", "1"), ("httpx", "0.28")],
    "httpx 1.0": [("httpx", "1.0")],
    "urllib3 and requests": [("urllib3", "2")],
}


def sections() -> dict[str, range]:
    """The sections of the page, and their lines."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    titles = [n for n in range(1, len(lines)) if re.fullmatch("-{4,}", lines[n])]
    ends = [*titles[1:], len(lines)]
    return {lines[n - 1]: range(n, end) for n, end in zip(titles, ends, strict=True)}


def test_every_section_with_a_sample_is_replayed() -> None:
    where = [block.line for block in blocks(PAGE) if block.language in ("pycon", "python")]
    found = {title for title, lines in sections().items() if any(n in lines for n in where)}
    assert found == set(NEEDS)


@pytest.mark.parametrize("title", NEEDS)
def test_the_samples_run_as_printed(
    title: str, peers: Peers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package, version in NEEDS[title]:
        installed(package, version)
    shutil.copytree(Path(httpx_net.__file__).parent, tmp_path / "yourclient" / "_net")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(adapter("stdlib_client").Connecting, "net", httpx_net.NetworkBackend())
    namespace: dict[str, Any] = {"__name__": title}
    internet = Internet(peers, monkeypatch)
    for block in blocks(PAGE):
        if block.language == "pycon" and block.line in sections()[title]:
            run_session(PAGE, block, namespace)
    internet.close()
