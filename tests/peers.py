"""The other ends: what the tests connect to, all of it on loopback, on ports the kernel chose.

A peer is a function of one connected socket, run in a thread of its own::

    def greeter(conn):
        conn.sendall(b"hello")

    address = peers.serve(greeter)  # `peers` is a fixture, see conftest.py

When the function returns, its socket is closed. What it raises is the test's failure, so a peer
may assert what it sees. Each socket handed to a peer times out after ``HANG``: a scene that has
gone wrong ends.
"""

from __future__ import annotations

import functools
import math
import os
import select
import selectors
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import httpx_net
from httpx_net import NetworkStreamInterface

CERTIFICATES = Path(__file__).parent / "certs"
PACKAGE = os.path.dirname(httpx_net.__file__) + os.sep
MIB = 1024 * 1024

# Seconds until a peer that still waits is taken for stuck. No test comes near it when all is well;
# it is long because four runs at once on a small machine are slow.
HANG = 10.0

# Seconds that a deadline may be late; for slow machines, since a quiet one needs a millisecond.
SLACK = 2.0

# Seconds between two looks of a listener at whether the test is over.
POLL = 0.01

Address = tuple[str, int]
# It gets a socket.socket, or the ssl.SSLSocket of serve_tls.
Handler = Callable[[Any], object]
# Something that a stream is put to.
Use = Callable[[NetworkStreamInterface], object]

# Nearly all that is promised holds at any depth.
everywhere = pytest.mark.parametrize("layers", [0, 1, 2], ids=["plain", "TLS", "TLS in TLS"])
on_tls = pytest.mark.parametrize("layers", [1, 2], ids=["TLS", "TLS in TLS"])
# Without a deadline it is the kernel that waits for a plain stream.
ways = pytest.mark.parametrize(
    ("layers", "seconds"),
    [(0, None), (0, HANG), (1, None), (2, HANG)],
    ids=["plain", "plain under a deadline", "TLS", "TLS in TLS under a deadline"],
)


# ---- What peers do


def is_truncation(error: ssl.SSLError) -> bool:
    """Did the TLS stream end without a close_notify? Early 3.10 and 3.11 have no class for that."""
    return isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING"


@contextmanager
def client_may_leave() -> Iterator[None]:
    """``with client_may_leave(): ...``: the client may leave here, however rudely."""
    try:
        yield
    except (BrokenPipeError, ConnectionResetError, ConnectionAbortedError):
        pass
    except ssl.SSLZeroReturnError:
        # What b"" becomes once our own close_notify is out.
        pass
    except ssl.SSLError as error:
        if not is_truncation(error):
            raise


def silent(conn: socket.socket) -> None:
    """Say nothing; take whatever comes, until the client is gone."""
    with client_may_leave():
        while conn.recv(65536):
            pass


def echo(conn: socket.socket) -> None:
    """Send everything back, until the client is gone."""
    with client_may_leave():
        while data := conn.recv(65536):
            conn.sendall(data)


def dripping(conn: socket.socket, data: bytes, pause: float) -> None:
    """Send *data* a byte at a time, each after a *pause*, unless the client leaves in one.

    A client that says something meanwhile is a failure: it would cut the pause short.
    """
    for byte in data:
        conn.settimeout(pause)
        with suppress(TimeoutError):
            said = conn.recv(1)
            assert not said
            return
        conn.settimeout(HANG)
        conn.sendall(bytes([byte]))


def reset(conn: socket.socket) -> None:
    """Once the client has said something, drop the connection with a RST.

    Any earlier, and it may be the client's connect that fails.
    """
    conn.recv(1)
    drop(conn)


def drop(conn: socket.socket) -> None:
    """Close the connection with a RST."""
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


def send_close_notify(conn: ssl.SSLSocket) -> None:
    """End our half of the TLS stream, without waiting for the client to end its own.

    A peer that returns without it truncates the stream: ``SSLSocket.close`` says no goodbye. A
    client that has heard the goodbye of a layer inside of this one need not wait for this.
    """
    timeout = conn.gettimeout()
    conn.setblocking(False)
    # What fails is that unwrap goes on to read the client's answer.
    with suppress(ssl.SSLError), client_may_leave():
        conn.unwrap()
    conn.settimeout(timeout)


# ---- TLS on both sides


def server_context(
    certificate: str = "server", *, client_ca: str | None = None, tickets: int = 2
) -> ssl.SSLContext:
    """A server's context: it shows ``certs/{certificate}.pem``, and asks for one of *client_ca*.

    A client that closes before it has read the *tickets* of TLS 1.3 sends a reset behind its
    goodbye; a peer that asserts how the stream ends does better with none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = tickets
    context.load_cert_chain(CERTIFICATES / f"{certificate}.pem")
    # On by default in early 3.10 and 3.11: peers would take a truncated stream for an ended one.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    if client_ca is not None:
        context.load_verify_locations(CERTIFICATES / f"{client_ca}.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca: str = "ca", *, certificate: str | None = None) -> ssl.SSLContext:
    """What a careful client has, except that it trusts ``certs/{ca}.pem`` and nobody else."""
    context = ssl.create_default_context(cafile=CERTIFICATES / f"{ca}.pem")
    if certificate is not None:
        context.load_cert_chain(CERTIFICATES / f"{certificate}.pem")
    return context


def wrap_server(context: ssl.SSLContext, conn: socket.socket) -> ssl.SSLSocket:
    """Do the server's side of the handshake. The result tells truncation from an end."""
    return context.wrap_socket(conn, server_side=True, suppress_ragged_eofs=False)


class TLSInside:
    """The server's side of TLS over anything with ``recv`` and ``sendall``: TLS inside TLS, say.

    What it holds back or cuts short is for the test to say: *incoming*, *outgoing* and *tls* are
    there to be driven by hand.
    """

    def __init__(self, context: ssl.SSLContext, outer: Any, *, handshake: bool = True) -> None:
        self.outer = outer
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        if handshake:
            self._run(self.tls.do_handshake)

    def recv(self, size: int) -> bytes:
        """The next bytes; b"" for a close_notify only, as with ``wrap_server``."""
        try:
            return self._run(self.tls.read, size)
        except ssl.SSLZeroReturnError:
            return b""

    def sendall(self, data: bytes) -> None:
        self._run(self.tls.write, data)

    def send_close_notify(self) -> None:
        """End this layer, and none below."""
        with suppress(ssl.SSLError):
            self.tls.unwrap()
        with client_may_leave():
            self.flush()

    def close(self) -> None:
        """End every layer in an orderly way, and close the socket below."""
        with suppress(OSError):
            say_goodbye(self)
        bottom(self).close()

    def flush(self) -> None:
        if data := self.outgoing.read():
            self.outer.sendall(data)

    def _run(self, call: Callable[..., Any], *args: Any) -> Any:
        while True:
            try:
                return call(*args)
            except ssl.SSLWantReadError:
                self.flush()
                data = self.outer.recv(65536)
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
            finally:
                self.flush()


def inside_tls(conn: Any, layers: int, context: ssl.SSLContext | None = None) -> Any:
    """*conn* in so many layers of TLS, or none; returns the innermost, which has *context*.

    Each layer is a ``TLSInside``, whose ``outer`` is the next one out, down to the socket. Those
    around the innermost have a context without tickets, and so has it without one.
    """
    for layer in range(layers):
        innermost = layer == layers - 1
        conn = TLSInside(context if context and innermost else _without_tickets(), conn)
    return conn


@functools.cache
def _without_tickets() -> ssl.SSLContext:
    return server_context(tickets=0)


def bottom(conn: Any) -> socket.socket:
    """The socket below all the layers of *conn*."""
    while isinstance(conn, TLSInside):
        conn = conn.outer
    return conn  # type: ignore[no-any-return]


def say_goodbye(conn: Any) -> None:
    """End every layer of *conn* in an orderly way, the innermost first."""
    while isinstance(conn, TLSInside):
        conn.send_close_notify()
        conn = conn.outer


# ---- Our end


def connect_tls(
    address: Address,
    context: Any = None,
    *,
    hostname: str | None = "localhost",
    layers: int = 1,
    **options: Any,
) -> httpx_net.NetworkStream:
    """A stream to *address*, TLS in as many *layers*; *options* are those of the backend.

    *context* and *hostname* are the innermost layer's. The layers around it have plain ones.
    """
    stream = httpx_net.NetworkBackend(**options).connect(*address)
    for _ in range(layers - 1):
        stream.start_tls(client_context(), "localhost")
    if layers:
        stream.start_tls(client_context() if context is None else context, hostname)
    return stream


@contextmanager
def times_out(seconds: float) -> Iterator[pytest.ExceptionInfo[TimeoutError]]:
    """What is in the block ends with the TimeoutError of a deadline, on time and never before.

    It measures by a clock that ``frozen_clock`` does not freeze.
    """
    start = time.perf_counter()
    with pytest.raises(TimeoutError) as caught, httpx_net.timeout(seconds) as deadline:
        try:
            yield caught
        except TimeoutError:
            assert deadline.expired()
            with pytest.raises(TimeoutError):
                httpx_net.remaining()
            raise
    assert seconds <= time.perf_counter() - start < seconds + SLACK
    assert f"timeout({seconds!r}) expired" in str(caught.value)


def start(function: Callable[..., Any], *args: Any) -> tuple[threading.Thread, Future[Any]]:
    """Run *function* in a thread; what it returns or raises will be the future's."""
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(function(*args))
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=run, name=repr(function), daemon=True)
    thread.start()
    return thread, result


@contextmanager
def in_thread(function: Callable[..., Any], *args: Any) -> Iterator[Future[Any]]:
    """Run *function* in a thread, which waits in the library by the time that the block begins."""
    thread, result = start(function, *args)
    _until_it_waits(thread)
    yield result
    result.exception(HANG)
    thread.join(HANG)


def _until_it_waits(thread: threading.Thread) -> None:
    """Return when *thread* has been at one place inside ``httpx_net`` for 20 ms."""
    seen, since = None, 0.0
    deadline = time.monotonic() + HANG
    while time.monotonic() < deadline:
        place = place_in_package(sys._current_frames().get(thread.ident or 0))
        if place is None or place != seen:
            seen, since = place, time.monotonic()
        elif time.monotonic() - since > 0.02:
            return
        time.sleep(0.001)
    raise AssertionError("the thread does not wait")


def place_in_package(frame: FrameType | None) -> object:
    """Where in ``httpx_net`` the innermost call of *frame* is; None outside it."""
    while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return frame and (frame.f_code, frame.f_lasti)


def wait_until(condition: Callable[[], object]) -> None:
    """Return once *condition* holds; fail if it does not in the time any peer gets."""
    deadline = time.perf_counter() + HANG
    while not condition():
        assert time.perf_counter() < deadline, "it never came to that"
        time.sleep(0.001)


@contextmanager
def frozen_clock() -> Iterator[None]:
    """Let time stand still for the package, as tests do that use freezegun.

    Like freezegun this replaces ``time.monotonic`` in every module that holds it. The helpers here
    measure by ``time.perf_counter``, which goes on.
    """
    clock, now = time.monotonic, time.monotonic()
    modules = [module for name, module in sys.modules.items() if name.startswith("httpx_net")]
    with pytest.MonkeyPatch.context() as patch:
        for module in (time, *modules):
            for name, value in list(vars(module).items()):
                if value is clock:
                    patch.setattr(module, name, lambda: now)
        yield


def take(source: Any, size: int = -1) -> bytes:
    """*size* bytes from a socket or a stream; without *size* all there is, up to the end."""
    receive = source.read if isinstance(source, NetworkStreamInterface) else source.recv
    received = bytearray()
    while len(received) != size and (
        data := receive(min(MIB, size - len(received)) if size > 0 else MIB)
    ):
        received += data
    assert size in (-1, len(received)), f"it ended after {len(received)} bytes"
    return bytes(received)


def fill(sock: socket.socket) -> int:
    """Send to *sock* until no more goes without waiting; returns how much went."""
    seconds, sent = sock.gettimeout(), 0
    sock.settimeout(0.0)
    with suppress(BlockingIOError):
        while True:
            sent += sock.send(bytes(65536))
    sock.settimeout(seconds)
    return sent


@contextmanager
def descriptors(count: int) -> Iterator[None]:
    """Let this process open as many as *count*."""
    resource = pytest.importorskip("resource", reason="no limit of descriptors on this system")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    except ValueError:
        pytest.skip(f"this system allows {before[1]} descriptors, and {count} are needed")
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# ---- What our end is put to


def read(stream: NetworkStreamInterface) -> object:
    return stream.read(1)


def write(stream: NetworkStreamInterface) -> object:
    return stream.write(b"x")


def write_much(stream: NetworkStreamInterface) -> object:
    return stream.write(bytes(32 * MIB))


def start_tls(stream: NetworkStreamInterface) -> object:
    return stream.start_tls(client_context(), hostname="localhost")


def in_time(use: Use, stream: NetworkStreamInterface) -> object:
    with httpx_net.timeout(HANG):
        return use(stream)


@contextmanager
def asleep(
    use: Use, stream: NetworkStreamInterface
) -> Iterator[tuple[Future[Any], threading.Event]]:
    """*stream* is in use by a thread that sleeps: ``(its result, it may go on)``.

    Once it has been woken it is held, between the wake of poll(2) and its next look at the number.
    """
    may_go_on, poll = threading.Event(), select.poll

    class Poll:
        def __init__(self) -> None:
            self._poll = poll()
            self.register = self._poll.register

        def poll(self, *args: Any) -> Any:
            self._poll.poll(*args)
            assert may_go_on.wait(HANG)
            return self._poll.poll(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "poll", Poll)
        with in_thread(in_time, use, stream) as using:
            # The others wait as always.
            patch.undo()
            try:
                yield using, may_go_on
            finally:
                may_go_on.set()


# ---- Who runs them


class Peers:
    """The peers of one test. ``close`` waits for them and raises what they raised."""

    def __init__(self) -> None:
        # An ExitStack unwinds all of it even if one peer has failed.
        self._stack = ExitStack()

    def close(self) -> None:
        self._stack.close()

    def run(self, handler: Handler, conn: socket.socket) -> None:
        """Run ``handler(conn)`` in a thread, which owns *conn* from now on."""

        def scene() -> None:
            with conn:
                conn.settimeout(HANG)
                handler(conn)

        self._stack.callback(start(scene)[1].result, HANG)

    def serve(self, handler: Handler, *, family: int = socket.AF_INET) -> Address:
        """Run ``handler(conn)`` for one connection; returns the ``(ip, port)`` to connect to.

        A second connection is refused. No connection at all is fine: the handler never runs.
        """
        return self._accept(handler, self.listen(family))

    def serve_in_turn(self, handler: Handler) -> Address:
        """Like ``serve``, for any number of connections, one after another."""
        return self._accept(handler, self.listen(), math.inf)

    def serve_at_once(self, handler: Handler, count: int) -> Address:
        """Like ``serve``, for so many connections, each in a thread of its own."""
        return self._accept(
            lambda conn: self.run(handler, conn.dup()), self.listen(backlog=count), count
        )

    def serve_unix(self, handler: Handler) -> str:
        """Like ``serve``, on a Unix socket; returns its path."""
        # Not pytest's tmp_path: a path of more than about 100 bytes is too long for a socket.
        directory = self._stack.enter_context(tempfile.TemporaryDirectory())
        path = os.path.join(directory, "peer")
        listener = self._own(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen()
        self._accept(handler, listener)
        return path

    def serve_pair(self, handler: Handler) -> socket.socket:
        """Run ``handler(conn)`` on one end of a ``socketpair`` and return the other."""
        ours, theirs = socket.socketpair()
        self.run(handler, theirs)
        return self._own(ours)

    def serve_tls(
        self,
        handler: Handler = silent,
        *,
        certificate: str = "server",
        client_ca: str | None = None,
        tickets: int = 2,
        refused: bool = False,
    ) -> Address:
        """Like ``serve``, with TLS: *handler* gets the ``ssl.SSLSocket`` after the handshake.

        Its ``recv`` says b"" only for a close_notify of the client's; a bare end of stream is an
        ``ssl.SSLError`` (see ``is_truncation``).
        With *refused* it is the handshake's failing that is the promise, and *handler* never runs.
        """
        context = server_context(certificate, client_ca=client_ca, tickets=tickets)

        def secured(conn: socket.socket) -> None:
            if refused:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    wrap_server(context, conn).close()
                return
            with wrap_server(context, conn) as tls:
                handler(tls)

        return self.serve(secured)

    def serve_layers(
        self, handler: Handler, layers: int, context: ssl.SSLContext | None = None
    ) -> Address:
        """Like ``serve``, with TLS as of ``inside_tls``: *handler* gets the innermost layer."""
        return self.serve(lambda conn: handler(inside_tls(conn, layers, context)))

    def serve_proxy(self, target: Address, *, certificate: str = "proxy") -> Address:
        """An HTTPS proxy: TLS to the client, and whatever CONNECT asks for leads to *target*.

        When *target* ends, the proxy says so to the client by its close_notify. That is an orderly
        end of the outer stream only: a TLS stream inside may still have been cut off.
        """
        context = server_context(certificate)

        def proxy(conn: socket.socket) -> None:
            with (
                wrap_server(context, conn) as client,
                socket.create_connection(target, timeout=HANG) as server,
                client_may_leave(),
            ):
                head = b""
                # A client says no more until it has the answer.
                while not head.endswith(b"\r\n\r\n"):
                    head += client.recv(1)
                assert head.startswith(b"CONNECT "), head
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                _splice(client, server)

        return self.serve(proxy)

    def listen(self, family: int = socket.AF_INET, backlog: int = 128) -> socket.socket:
        """A listening socket, for a test that does its own accepting, or none at all."""
        listener = self.bound(family)
        # Accepted sockets inherit it: a small answer need not wait until the last is acknowledged.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.listen(backlog)
        listener.settimeout(HANG)
        return listener

    def closed_port(self, family: int = socket.AF_INET) -> Address:
        """An address that refuses connections: bound, so that nobody else can listen there."""
        return self.bound(family).getsockname()[:2]

    def black_hole(self, family: int = socket.AF_INET) -> Address:
        """An address that neither accepts nor refuses: a listener with a full queue drops SYNs."""
        listener = self.listen(family, backlog=0)
        address: Address = listener.getsockname()[:2]
        with selectors.DefaultSelector() as arrivals:
            arrivals.register(listener, selectors.EVENT_READ)
            # On Linux the queue for a backlog of 0 holds one connection.
            for number in range(32):
                filler = self._own(socket.socket(family))
                # On loopback a handshake is over before connect returns; this is time to spare.
                # Where one fills the queue, as on Linux, the second needs none.
                filler.settimeout(0.01 if sys.platform == "linux" and number else 0.1)
                try:
                    filler.connect(address)
                except TimeoutError:
                    return address
                # It counts once the listener has heard of it.
                arrivals.select(HANG)
        pytest.skip("a full listener doesn't drop SYNs on this system")

    def tcp_pair(self, family: int = socket.AF_INET) -> tuple[socket.socket, socket.socket]:
        """Two ends of a TCP connection, for scenes that need no thread: ours, theirs."""
        with self.listen(family) as listener:
            ours = socket.socket(family)
            ours.connect(listener.getsockname())
            theirs, _ = listener.accept()
        theirs.settimeout(HANG)
        return ours, self._own(theirs)

    def bound(self, family: int = socket.AF_INET) -> socket.socket:
        """A socket bound to a loopback port, not listening yet. Skips the test without IPv6."""
        try:
            sock = self._own(socket.socket(family))
            sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        except OSError as error:
            if family == socket.AF_INET6:
                pytest.skip(f"this machine has no IPv6 loopback: {error}")
            raise
        return sock

    def _own(self, sock: socket.socket) -> socket.socket:
        return self._stack.enter_context(sock)

    def _accept(self, handler: Handler, listener: socket.socket, times: float = 1) -> Any:
        over = threading.Event()

        def scene() -> None:
            left = times
            # Short waits: neither closing nor shutting down a listener wakes accept everywhere.
            listener.settimeout(POLL)
            while left and not over.is_set():
                try:
                    conn, _ = listener.accept()
                except TimeoutError:
                    continue
                left -= 1
                if not left:
                    # The next connection is refused, and does not hang.
                    listener.close()
                with conn:
                    conn.settimeout(HANG)
                    handler(conn)

        address = listener.getsockname()[:2]
        self._stack.callback(start(scene)[1].result, HANG)
        self._stack.callback(over.set)
        return address


def _splice(client: ssl.SSLSocket, server: socket.socket) -> None:
    """Carry bytes both ways until one side ends."""
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ)
        selector.register(server, selectors.EVENT_READ)
        while True:
            # Bytes that are decrypted already wait in the SSLSocket, where no selector sees them.
            ready = {key.fileobj for key, _ in selector.select(0 if client.pending() else HANG)}
            if client in ready or client.pending():
                data = client.recv(65536)
                if not data:
                    return
                server.sendall(data)
            if server in ready:
                data = server.recv(65536)
                if not data:
                    break
                client.sendall(data)
    send_close_notify(client)
    # To close with bytes unread would be a reset, and destroy what is on its way.
    silent(client)
