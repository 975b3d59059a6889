"""Who is compared: the hand-written loop on the socket, httpx_net, and what peers there are.

Each is measured by loops of its own, so that nothing stands around the calls that count. *limit* is
the deadline for the whole loop in seconds, or None. What a peer offers instead of a deadline, a
timeout for each call, is what it is given. For ``reads``, ``writes`` and ``exchanges`` the caller
enters ``block``, which is a deadline where they are set by blocks, and outside of what is measured.

The first few can wrap a connected socket, and so take part in all measurements. The others are
whole HTTP clients. http.client and urllib3 show how they connect as well; gevent, which replaces
modules of the standard library, and libraries in C or Rust only take part where a request is sent.
"""

from __future__ import annotations

import contextlib
import datetime
import http.client
import importlib.metadata
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import monotonic
from typing import Any

import httpx_net

try:
    import httpcore
    from httpcore._backends.sync import SyncStream
except ImportError:
    httpcore = None
try:
    import urllib3
except ImportError:
    urllib3 = None
try:
    import httpx
    from httpx._network import NetworkBackend as HttpxBackend
    from httpx._network import NetworkStream as HttpxStream
except ImportError:  # not installed, or a release before 1.0, which is httpcore underneath
    httpx = None
try:
    import curl_cffi
except ImportError:
    curl_cffi = None
try:
    import pycurl
except ImportError:
    pycurl = None
try:
    import wreq
    import wreq.blocking
except ImportError:
    wreq = None
try:
    import gevent
except ImportError:
    gevent = None

CA = Path(__file__).parent.parent / "certs" / "ca.pem"
READ_SIZE = 65_536
PIECE = 16  # bytes to ask for where a caller reads the body in pieces

Address = tuple[str, int]


class Socket:
    """The hand-written loop: ``settimeout(left)`` before each call where a deadline stands."""

    name = "socket"

    def wrap(self, sock: socket.socket) -> Any:
        return sock

    def block(self, limit: float | None, nested: int = 1) -> AbstractContextManager[Any]:
        return nullcontext()

    def reads(self, sock: Any, size: int, count: int, limit: float | None) -> None:
        if limit is None:
            for _ in range(count):
                sock.recv(size)
            return
        deadline = monotonic() + limit
        for _ in range(count):
            left = deadline - monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            sock.settimeout(left)
            sock.recv(size)

    def writes(self, sock: Any, data: bytes, count: int, limit: float | None) -> None:
        if limit is None:
            for _ in range(count):
                sock.sendall(data)
            return
        deadline = monotonic() + limit
        for _ in range(count):
            left = deadline - monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            sock.settimeout(left)
            sock.sendall(data)

    def exchanges(self, sock: Any, data: bytes, count: int, limit: float | None) -> None:
        size = len(data)
        if limit is None:
            for _ in range(count):
                sock.sendall(data)
                sock.recv(size)
            return
        deadline = monotonic() + limit
        for _ in range(count):
            left = deadline - monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            sock.settimeout(left)
            sock.sendall(data)
            left = deadline - monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            sock.settimeout(left)
            sock.recv(size)

    def download(self, sock: Any, total: int, limit: float | None) -> None:
        deadline = None if limit is None else monotonic() + limit
        if deadline is None:
            sock.settimeout(None)
        while total > 0:
            if deadline is not None:
                left = deadline - monotonic()
                if left <= 0:
                    raise TimeoutError("timed out")
                sock.settimeout(left)
            data = sock.recv(READ_SIZE)
            if not data:
                raise EOFError
            total -= len(data)

    def upload(self, sock: Any, head: bytes, body: bytes, limit: float) -> None:
        sock.settimeout(limit)
        sock.sendall(head)
        sock.sendall(body)
        sock.recv(READ_SIZE)

    def connect_and_close(self, address: Address, limit: float | None) -> None:
        socket.create_connection(address, timeout=limit).close()

    def get(
        self,
        address: Address,
        target: str,
        tls: ssl.SSLContext | None,
        limit: float,
        stream: bool = False,
    ) -> None:
        """A GET whose answer is read to its end, all of it within *limit*, as far as that goes.

        *stream*: the caller reads the body in pieces, as it comes. Whoever has a stream does so
        in any case.
        """
        deadline = monotonic() + limit
        with self._open(address, tls, deadline) as sock:
            sock.sendall(request("GET", target))
            while True:
                self._limit(sock, deadline)
                if not sock.recv(READ_SIZE):
                    return

    def put(
        self,
        address: Address,
        target: str,
        pieces: list[bytes],
        tls: ssl.SSLContext | None,
        limit: float,
    ) -> None:
        """A PUT whose body is sent in *pieces*."""
        deadline = monotonic() + limit
        with self._open(address, tls, deadline) as sock:
            for piece in [request("PUT", target, sum(map(len, pieces))), *pieces]:
                self._limit(sock, deadline)
                sock.sendall(piece)
            self._limit(sock, deadline)
            sock.recv(READ_SIZE)

    @contextlib.contextmanager
    def _open(
        self, address: Address, tls: ssl.SSLContext | None, deadline: float
    ) -> Iterator[socket.socket]:
        with socket.create_connection(address, timeout=deadline - monotonic()) as sock:
            self._limit(sock, deadline)
            if tls is None:
                yield sock
            else:
                with tls.wrap_socket(sock, server_hostname=address[0]) as wrapped:
                    self._limit(wrapped, deadline)
                    yield wrapped

    def _limit(self, sock: socket.socket, deadline: float) -> None:
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        sock.settimeout(left)


class _Blocks:
    """What has ``with timeout(...):`` and a stream: httpx_net, and httpx from 1.0."""

    name: str
    timeout: Callable[[Any], AbstractContextManager[Any]]
    wrap: Callable[[socket.socket], Any]

    def open(self, address: Address, tls: ssl.SSLContext | None) -> Any:
        raise NotImplementedError

    def block(self, limit: float | None, nested: int = 1) -> AbstractContextManager[Any]:
        if limit is None:
            return nullcontext()
        blocks = contextlib.ExitStack()
        for _ in range(nested):
            blocks.enter_context(self.timeout(limit))
        return blocks

    def reads(self, stream: Any, size: int, count: int, limit: float | None) -> None:
        for _ in range(count):
            stream.read(size)

    def writes(self, stream: Any, data: bytes, count: int, limit: float | None) -> None:
        for _ in range(count):
            stream.write(data)

    def exchanges(self, stream: Any, data: bytes, count: int, limit: float | None) -> None:
        size = len(data)
        for _ in range(count):
            stream.write(data)
            stream.read(size)

    def download(self, stream: Any, total: int, limit: float | None) -> None:
        with self.block(limit):
            while total > 0:
                data = stream.read(READ_SIZE)
                if not data:
                    raise EOFError
                total -= len(data)

    def upload(self, stream: Any, head: bytes, body: bytes, limit: float) -> None:
        with self.timeout(limit):
            stream.write(head)
            stream.write(body)
            stream.read(READ_SIZE)

    def connect_and_close(self, address: Address, limit: float | None) -> None:
        if limit is None:
            self.open(address, None).close()
        else:
            with self.timeout(limit):
                self.open(address, None).close()

    def get(
        self,
        address: Address,
        target: str,
        tls: ssl.SSLContext | None,
        limit: float,
        stream: bool = False,
    ) -> None:
        with self.timeout(limit), self.open(address, tls) as stream:
            stream.write(request("GET", target))
            while stream.read():
                pass

    def put(
        self,
        address: Address,
        target: str,
        pieces: list[bytes],
        tls: ssl.SSLContext | None,
        limit: float,
    ) -> None:
        with self.timeout(limit), self.open(address, tls) as stream:
            for piece in [request("PUT", target, sum(map(len, pieces))), *pieces]:
                stream.write(piece)
            stream.read()


class HttpxNet(_Blocks):
    name = "httpx_net"
    timeout = staticmethod(httpx_net.timeout)
    wrap = staticmethod(httpx_net.NetworkStream)

    def __init__(self, **options: Any) -> None:
        self._net = httpx_net.NetworkBackend(**options)

    def open(self, address: Address, tls: ssl.SSLContext | None) -> Any:
        stream = self._net.connect(*address)
        if tls is not None:
            stream.start_tls(tls, hostname=address[0])
        return stream


class Httpx(_Blocks):
    """The pre-releases of httpx 1.0: the network layer alone."""

    name = "httpx 1.0"

    def __init__(self) -> None:
        self.timeout = httpx.timeout
        self._net = HttpxBackend(ssl.create_default_context())

    def wrap(self, sock: socket.socket) -> Any:
        return HttpxStream(sock, sock.getpeername())

    def open(self, address: Address, tls: ssl.SSLContext | None) -> Any:
        if tls is None:
            return self._net.connect(*address)
        return HttpxBackend(tls).connect_tls(*address)


class Httpcore:
    """A timeout given to each call. The network layer alone, except for ``get`` and ``put``."""

    name = "httpcore"

    def __init__(self) -> None:
        self._net = httpcore.SyncBackend()

    def wrap(self, sock: socket.socket) -> Any:
        return SyncStream(sock)

    def block(self, limit: float | None, nested: int = 1) -> AbstractContextManager[Any]:
        return nullcontext()

    def reads(self, stream: Any, size: int, count: int, limit: float | None) -> None:
        for _ in range(count):
            stream.read(size, timeout=limit)

    def writes(self, stream: Any, data: bytes, count: int, limit: float | None) -> None:
        for _ in range(count):
            stream.write(data, timeout=limit)

    def exchanges(self, stream: Any, data: bytes, count: int, limit: float | None) -> None:
        size = len(data)
        for _ in range(count):
            stream.write(data, timeout=limit)
            stream.read(size, timeout=limit)

    def download(self, stream: Any, total: int, limit: float | None) -> None:
        while total > 0:
            data = stream.read(READ_SIZE, timeout=limit)
            if not data:
                raise EOFError
            total -= len(data)

    def upload(self, stream: Any, head: bytes, body: bytes, limit: float) -> None:
        stream.write(head, timeout=limit)
        stream.write(body, timeout=limit)
        stream.read(READ_SIZE, timeout=limit)

    def connect_and_close(self, address: Address, limit: float | None) -> None:
        self._net.connect_tcp(*address, timeout=limit).close()

    def get(
        self,
        address: Address,
        target: str,
        tls: ssl.SSLContext | None,
        limit: float,
        stream: bool = False,
    ) -> None:
        self._request("GET", address, target, tls, limit)

    def put(
        self,
        address: Address,
        target: str,
        pieces: list[bytes],
        tls: ssl.SSLContext | None,
        limit: float,
    ) -> None:
        self._request("PUT", address, target, tls, limit, pieces)

    def _request(
        self,
        method: str,
        address: Address,
        target: str,
        tls: ssl.SSLContext | None,
        limit: float,
        pieces: Iterable[bytes] = (),
    ) -> None:
        pieces = list(pieces)
        with httpcore.ConnectionPool(ssl_context=tls) as pool:
            pool.request(
                method,
                url(address, target, tls),
                headers={"Content-Length": str(sum(map(len, pieces)))} if pieces else {},
                content=iter(pieces) if pieces else None,
                extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), limit)},
            )


class HttpClient:
    """The standard library's client: one timeout, which its socket has for each call."""

    name = "http.client"

    def connect_and_close(self, address: Address, limit: float | None) -> None:
        conn = http.client.HTTPConnection(*address, timeout=limit)
        conn.connect()
        conn.close()

    def get(
        self,
        address: Address,
        target: str,
        tls: ssl.SSLContext | None,
        limit: float,
        stream: bool = False,
    ) -> None:
        with contextlib.closing(self._connection(address, tls, limit)) as conn:
            conn.request("GET", target)
            response = conn.getresponse()
            while response.read(PIECE if stream else None):
                pass

    def put(
        self,
        address: Address,
        target: str,
        pieces: list[bytes],
        tls: ssl.SSLContext | None,
        limit: float,
    ) -> None:
        with contextlib.closing(self._connection(address, tls, limit)) as conn:
            length = str(sum(map(len, pieces)))
            conn.request("PUT", target, body=iter(pieces), headers={"Content-Length": length})
            conn.getresponse().read()

    def _connection(
        self, address: Address, tls: ssl.SSLContext | None, limit: float
    ) -> http.client.HTTPConnection:
        if tls is None:
            return http.client.HTTPConnection(*address, timeout=limit)
        return http.client.HTTPSConnection(*address, timeout=limit, context=tls)


class Urllib3:
    """A pool with a timeout for connecting, one for each read, and a total for both."""

    name = "urllib3"

    def connect_and_close(self, address: Address, limit: float | None) -> None:
        conn = urllib3.connection.HTTPConnection(*address, timeout=limit)
        conn.connect()
        conn.close()

    def get(
        self,
        address: Address,
        target: str,
        tls: ssl.SSLContext | None,
        limit: float,
        stream: bool = False,
    ) -> None:
        with self._pool(tls, limit) as pool:
            response = pool.request("GET", url(address, target, tls), preload_content=not stream)
            if stream:
                for _ in response.stream(PIECE):
                    pass

    def put(
        self,
        address: Address,
        target: str,
        pieces: list[bytes],
        tls: ssl.SSLContext | None,
        limit: float,
    ) -> None:
        with self._pool(tls, limit) as pool:
            headers = {"Content-Length": str(sum(map(len, pieces)))}
            pool.request("PUT", url(address, target, tls), body=iter(pieces), headers=headers)

    def _pool(self, tls: ssl.SSLContext | None, limit: float) -> Any:
        return urllib3.PoolManager(
            timeout=urllib3.Timeout(total=limit), retries=False, ssl_context=tls
        )


class CurlCffi:
    """libcurl by way of cffi: its timeout is a total."""

    name = "curl_cffi"

    def get(
        self,
        address: Address,
        target: str,
        tls: ssl.SSLContext | None,
        limit: float,
        stream: bool = False,
    ) -> None:
        with curl_cffi.Session(timeout=limit, verify=str(CA)) as session:
            response = session.get(url(address, target, tls), stream=stream)
            if stream:
                for _ in response.iter_content():
                    pass
            response.close()

    def put(
        self,
        address: Address,
        target: str,
        pieces: list[bytes],
        tls: ssl.SSLContext | None,
        limit: float,
    ) -> None:
        """In one piece: there is no other way."""
        with curl_cffi.Session(timeout=limit, verify=str(CA)) as session:
            session.put(url(address, target, tls), data=b"".join(pieces))


class Pycurl:
    """libcurl as it is: what comes goes to a function, and what is to be sent comes from one."""

    name = "pycurl"

    def get(
        self,
        address: Address,
        target: str,
        tls: ssl.SSLContext | None,
        limit: float,
        stream: bool = False,
    ) -> None:
        with contextlib.closing(self._curl(url(address, target, tls), limit)) as curl:
            curl.perform()

    def put(
        self,
        address: Address,
        target: str,
        pieces: list[bytes],
        tls: ssl.SSLContext | None,
        limit: float,
    ) -> None:
        with contextlib.closing(self._curl(url(address, target, tls), limit)) as curl:
            left = iter(pieces)
            curl.setopt(pycurl.UPLOAD, True)
            curl.setopt(pycurl.INFILESIZE, sum(map(len, pieces)))
            curl.setopt(pycurl.UPLOAD_BUFFERSIZE, len(pieces[0]))
            curl.setopt(pycurl.READFUNCTION, lambda size: next(left, b""))
            curl.perform()

    def _curl(self, url: str, limit: float) -> Any:
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.TIMEOUT_MS, int(limit * 1000))
        curl.setopt(pycurl.CAINFO, str(CA))
        curl.setopt(pycurl.WRITEFUNCTION, lambda data: None)
        return curl


class Wreq:
    """A client in Rust: its timeout is a total."""

    name = "wreq"

    def get(
        self,
        address: Address,
        target: str,
        tls: ssl.SSLContext | None,
        limit: float,
        stream: bool = False,
    ) -> None:
        response = self._client(limit).get(url(address, target, tls))
        if stream:
            with response.stream() as pieces:
                for _ in pieces:
                    pass
        else:
            response.bytes()

    def put(
        self,
        address: Address,
        target: str,
        pieces: list[bytes],
        tls: ssl.SSLContext | None,
        limit: float,
    ) -> None:
        length = {"Content-Length": str(sum(map(len, pieces)))}
        body = (piece for piece in pieces)
        self._client(limit).put(url(address, target, tls), body=body, headers=length).bytes()

    def _client(self, limit: float) -> Any:
        return wreq.blocking.Client(timeout=datetime.timedelta(seconds=limit), tls_verify=CA)


class Gevent(HttpClient):
    """http.client over gevent's sockets, in a block of gevent's. Needs ``monkey.patch_all()``."""

    name = "gevent"

    def get(self, *args: Any, **options: Any) -> None:
        with gevent.Timeout(args[3]):
            super().get(*args, **options)

    def put(self, *args: Any) -> None:
        with gevent.Timeout(args[4]):
            super().put(*args)


def request(method: str, target: str, length: int = 0) -> bytes:
    """The head of a request, for those who don't write it themselves."""
    return (
        f"{method} {target} HTTP/1.1\r\nHost: server\r\nContent-Length: {length}\r\n\r\n".encode()
    )


def url(address: Address, target: str, tls: ssl.SSLContext | None) -> str:
    return f"{'http' if tls is None else 'https'}://{address[0]}:{address[1]}{target}"


def streams() -> list[Any]:
    """Those that work on a connected socket, the baseline first."""
    found: list[Any] = [Socket(), HttpxNet()]
    if httpcore is not None:
        found.append(Httpcore())
    if httpx is not None:
        found.append(Httpx())
    return found


def connecting() -> list[Any]:
    """Those, and the clients that show how they connect. Nobody asks the kernel to keep alive."""
    ours = HttpxNet(keepalive=None)
    found = [ours if each.name == ours.name else each for each in streams()]
    return [*found, HttpClient(), *([] if urllib3 is None else [Urllib3()])]


def everybody() -> list[Any]:
    """Whoever can send a request."""
    modules = ((curl_cffi, CurlCffi), (pycurl, Pycurl), (wreq, Wreq), (gevent, Gevent))
    return [*connecting(), *(kind() for module, kind in modules if module is not None)]


def versions() -> dict[str, str]:
    """Of those that were installed: what was measured."""
    found = {}
    for name in ("httpcore", "httpx", "urllib3", "curl_cffi", "pycurl", "wreq", "gevent"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
