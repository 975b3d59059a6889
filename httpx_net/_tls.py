"""TLS as a layer that never waits: over a socket, or over another such layer.

A layer offers what a non-blocking socket offers. ``recv`` and ``send`` do what they can at once,
and where they can't they raise ``ssl.SSLWantReadError`` or ``ssl.SSLWantWriteError``; whoever
called asks ``event()`` what to wait for, waits under its deadline, and calls again. So one loop
serves plain sockets, TLS, the handshake, and TLS inside TLS, and no handshake ever waits while it
holds a lock of the context (truststore's holds one for all of a blocking handshake).

OpenSSL lets one thread at a time into a connection, and CPython before 3.13.1 doesn't see to that.
So each layer has a lock around each call. Since no call waits, one thread may read while another
writes, and ``close()`` finds the lock free unless somebody is in there at that very moment.

Over a socket, ``wrap_socket`` does the work. TLS inside TLS has no socket to wrap: there an
``ssl.SSLObject`` exchanges records with two memory BIOs, and the layer carries these to and from
the layer below. Records that the layer below does not take at once are kept, and go out with
whatever call comes next.

An end is not always an end. TLS closes each direction with an alert, close_notify (RFC 8446,
section 6.1), and a connection that ends without it may have been cut by anybody on the way. OpenSSL
knows the difference, and ``recv`` reports it: b"" is the peer's close_notify, ``ssl.SSLEOFError``
an end without it, and a reset is a ConnectionResetError. Two faults of CPython are mended for that:

- 3.10.0 to 3.10.10 and 3.11.0 to 3.11.2 ask OpenSSL to hide truncation, by an option that is on in
  every context. So it is off while a connection is made, which is when OpenSSL copies it.
- 3.10, and 3.11 and 3.12 before 3.11.9 and 3.12.3, hide the error of a socket and say SSLEOFError
  for it. There the kernel is asked before OpenSSL asks it; where the error comes in between, a
  socket that is not connected any more counts as reset.

One wait is out of reach: records that OpenSSL passes over by itself (session tickets, say) it
passes over within one call, for as long as the kernel has more of them at once.
"""

from __future__ import annotations

import _ssl
import contextlib
import errno
import functools
import socket
import ssl
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from ._errors import bare, from_network, is_connected, is_loss, os_error
from ._names import server_name
from ._wait import READ, WRITE

_Error = TypeVar("_Error", bound=BaseException)

# RFC 8446, section 5.1: no record carries more. OpenSSL takes any buffer at once, and when that
# fails in the middle nobody knows how much of it went out; a record is either out or not.
RECORD_SIZE = 16_384

WANTS = (ssl.SSLWantReadError, ssl.SSLWantWriteError)

# Records of the layer below that one call takes at most without a result of its own. A peer that
# always has one more must not outlast the deadline, which is for the caller to ask for.
_MOST_RECORDS = 16

# How often one call reads ahead of recv() at most: for as much as any socket buffers.
_MOST_AHEAD = 1_024

_HIDES_ERRNO = sys.version_info < (3, 11, 9) or (3, 12) <= sys.version_info < (3, 12, 3)
_HIDES_TRUNCATION = (
    getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    if sys.version_info < (3, 10, 11) or (3, 11) <= sys.version_info < (3, 11, 3)
    else 0
)

# OpenSSL's name for an end without close_notify, since 3.0.
_TRUNCATION = "UNEXPECTED_EOF_WHILE_READING"

# And for what is no record of TLS, such as an answer of HTTP or the banner of a mail server.
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST")

_TRUNCATED = (
    "the stream ended without close_notify, so it may have been truncated "
    "(suppress_ragged_eofs=True takes this for its end)"
)


class _MoreToRead(ssl.SSLWantReadError):
    """Nothing has to be waited for."""


class TLSLayer:
    """One TLS connection, as a client. One thread may receive while another sends."""

    def __init__(
        self,
        ssl_object: ssl.SSLSocket | ssl.SSLObject,
        read: Callable[[int], bytes],
        write: Callable[[bytes | bytearray | memoryview], int],
        shake_hands: Callable[[], None],
    ) -> None:
        self.ssl_object = ssl_object
        self._read = read
        self._write = write
        self._shake_hands = shake_hands
        self._lock = threading.Lock()
        # What brings the calls, for from_network().
        self._through: tuple[object, ...] = (ssl_object,)
        # Whether a read has left OpenSSL in the middle of something that it has to send.
        self._owes = False
        # What was received before recv() asked for it, and the b"" or error that ended it.
        self._ahead: deque[bytes | OSError] = deque()

    def recv(self, size: int) -> bytes:
        """Return up to *size* bytes that are there; b"" after the peer's close_notify.

        An end without it is reported again each time. Any other error is reported once; what
        comes after it means nothing.
        """
        with self._lock:
            return self.take(size)

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Send *data*, a record's worth at most; after a WANT only the same bytes will do."""
        with self._lock:
            return self.put(data)

    def handshake(self) -> None:
        """Take the handshake as far as it goes at once; to return means that it is complete."""
        with self._lock:
            self._settle()

    # The same for a layer inside of this one, whose lock is held.

    def take(self, size: int) -> bytes:
        return self._from_ahead(size) if self._ahead else self._receive(size)

    def put(self, data: bytes | bytearray | memoryview) -> int:
        if self._owes:
            self._settle()
        try:
            return self._write(data)
        except self._from_network(OSError, ValueError) as exc:
            raise self._meant(exc) from None

    def is_readable(self) -> bool:
        """Whether ``recv`` would return at once, or raise.

        Only trying tells: a session ticket (TLS 1.3 sends some after the handshake) makes the
        socket readable as well. What the attempt brings is kept for the next ``recv``.
        """
        with self._lock:
            self._read_ahead(lambda: not self._ahead)
            return bool(self._ahead)

    def collect(self, is_alone: Callable[[], bool]) -> OSError | None:
        """Keep for ``recv`` what has come, and return the alert in it, if there is one.

        The connection has failed a write, and a server that refuses a client says why before it
        closes. Nothing is read if *is_alone* says that another thread may be reading: it would
        wait for what has come already.
        """
        with self._lock:
            self._read_ahead(is_alone)
            last = self._ahead[-1] if self._ahead else None
        return last if isinstance(last, ssl.SSLError) and not is_truncation(last) else None

    def close(self) -> None:
        """Send close_notify if nobody is inside at this moment. Never waits.

        It may run in a signal handler or finalizer of the thread that is inside, and so it must
        not wait for the lock either.
        """
        if self._lock.acquire(False):
            try:
                self.close_notify()
            finally:
                self._lock.release()

    def event(self, want: ssl.SSLError) -> int:
        """What to wait for before the call that raised *want* is repeated; 0 for nothing.

        After SSLWantWriteError OpenSSL reads nothing until its flight is out: to wait for reading
        as well would spin. Only records that a layer has sealed, and the one below has not taken
        yet, add something to a wait for reading.
        """
        if isinstance(want, _MoreToRead):
            return 0
        return WRITE if isinstance(want, ssl.SSLWantWriteError) else READ | self.stalled()

    def stalled(self) -> int:
        """What to wait for before records that a read left behind can go out."""
        return 0

    def close_notify(self) -> None:
        """Send the alert, if that can be done at once."""
        try:
            self.ssl_object.unwrap()
        except self._from_network(OSError, ValueError) as exc:
            # Nearly always: it has sent the alert, and wants that of the peer.
            self._meant(exc)

    def _receive(self, size: int) -> bytes:
        try:
            return self._read(size)
        except self._from_network(*WANTS) as want:
            self._owes = isinstance(want, ssl.SSLWantWriteError)
            raise
        except self._from_network(OSError, ValueError) as exc:
            meant = self._meant(exc)
            # OpenSSL 3.6 answers an end by an alert of its own, and reports what became of that.
            if not is_truncation(meant) and not isinstance(meant, BrokenPipeError):
                raise meant from None
            self._ahead.append(truncation())
            raise truncation() from None

    def _settle(self) -> None:
        """Let OpenSSL finish a handshake, or what it had to send in a read.

        A write in the middle of that is an error (BAD_LENGTH) that ends the connection.
        """
        try:
            self._shake_hands()
        except self._from_network(OSError, ValueError) as exc:
            raise self._meant(exc) from None
        self._owes = False

    def _meant(self, exc: Exception) -> Exception:
        """What *exc*, as ``ssl`` raised it, says of the connection."""
        if isinstance(exc, WANTS):
            return exc
        _forget_errors()
        if not isinstance(exc, OSError):
            # The ValueError of an SSLSocket that has been closed.
            return os_error(errno.EBADF)
        return self._end_meant(exc) if is_truncation(exc) else exc

    def _end_meant(self, exc: OSError) -> OSError:
        return exc

    def _from_network(self, *classes: type[_Error]) -> tuple[type[_Error], ...]:
        return from_network(*classes, through=self._through)

    def _from_ahead(self, size: int) -> bytes:
        first = self._ahead[0]
        if is_truncation(first):
            raise truncation()
        if isinstance(first, OSError):
            self._ahead.popleft()
            raise first
        if len(first) > size:
            self._ahead[0] = first[size:]
        else:
            self._ahead.popleft()
        return first[:size]

    def _read_ahead(self, is_wanted: Callable[[], bool]) -> None:
        """Receive what is there ahead of ``recv``, up to its end, while *is_wanted* says so."""
        for _ in range(_MOST_AHEAD - len(self._ahead)):
            last = self._ahead[-1] if self._ahead else None
            if last == b"" or isinstance(last, OSError) or not is_wanted():
                return
            try:
                self._ahead.append(self._receive(RECORD_SIZE))
            except _MoreToRead:
                pass
            except self._from_network(*WANTS):
                return
            except self._from_network(OSError) as exc:
                # An end stands there already.
                if not is_truncation(exc):
                    self._ahead.append(bare(exc))


class TLSOverSocket(TLSLayer):
    """TLS as ``wrap_socket`` does it."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]
        self._sock = sock
        # The number of an error of the kernel's that OpenSSL would have come to.
        self._error = 0
        calls: list[Any] = [sock.read, sock.write, sock.do_handshake]
        super().__init__(sock, *(map(self._asking, calls) if _HIDES_ERRNO else calls))

    def _asking(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """*call*, before which the kernel is asked for the error that it would hide."""

        def asking(*args: Any) -> Any:
            self._error = self._error or self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            return call(*args)

        return asking

    def _end_meant(self, exc: OSError) -> OSError:
        is_end = getattr(exc, "reason", None) == _TRUNCATION
        if self._error and not (is_end and self._error == errno.EPIPE):
            return os_error(self._error)
        if is_end or not _HIDES_ERRNO:
            return truncation()
        # Before OpenSSL 3.0 an end looks like this, too.
        is_failure = ssl.OPENSSL_VERSION_INFO >= (3,) or not is_connected(self._sock)
        # After a read has come to the end, what fails is a write to a peer that is gone in order.
        if is_failure and not (self._ahead and is_truncation(self._ahead[-1])):
            return OSError(errno.ECONNRESET, "the connection is gone")
        return truncation()


class TLSOverTLS(TLSLayer):
    """TLS over the layer *below*, through memory BIOs."""

    def __init__(self, below: TLSLayer, ctx: ssl.SSLContext, hostname: str | None) -> None:
        self._below = below
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        # Records that *below* has been offered and has not taken, and what it waits for.
        self._unsent = b""
        self._stalled = 0
        # Bytes of a write that have become records, not yet all of them taken.
        self._sealed = 0
        # Whether *below* has refused a record, and what it said if that was in a read.
        self._cut = False
        self._loss: OSError | None = None
        self._object = ctx.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
        super().__init__(self._object, self._unseal, self._seal, self._do_handshake)
        self._through += below._through

    def stalled(self) -> int:
        return self._stalled | self._below.stalled()

    def _do_handshake(self) -> None:
        self._run(self._object.do_handshake)
        self._flush()

    def _unseal(self, size: int) -> bytes:
        self._flush_in_passing()
        data: bytes = self._run(self._object.read, size)
        if self._outgoing.pending:
            # The peer may be waiting for an answer that the call has just made.
            try:
                self._flush_in_passing()
            except BaseException:
                self._ahead.append(data)
                raise
        return data

    def _seal(self, data: bytes | bytearray | memoryview) -> int:
        # Called again for the same data, it must not seal that twice.
        if not self._sealed:
            self._sealed = self._run(self._object.write, data)
        self._flush()
        sent, self._sealed = self._sealed, 0
        return sent

    def close_notify(self) -> None:
        super().close_notify()
        # Or the alert of a failed handshake (RFC 8446, section 6.2).
        self._flush_in_passing()
        self._below.close_notify()

    def _run(self, call: Callable[..., Any], *args: Any) -> Any:
        """Make *call*, feeding it from below for as long as there is something to feed."""
        for _ in range(_MOST_RECORDS):
            try:
                return call(*args)
            except self._from_network(ssl.SSLWantReadError):
                # A peer that takes nothing must not keep us from reading.
                self._flush_in_passing()
                self._feed()
        raise _MoreToRead(ssl.SSL_ERROR_WANT_READ, "the layer below may have more")

    def _feed(self) -> None:
        try:
            data = self._below.take(RECORD_SIZE)
        except self._from_network(ssl.SSLEOFError) as exc:
            raise self._loss or exc from None
        # The end of the layer below is no end of this one.
        if not data:
            raise self._loss or truncation()
        self._incoming.write(data)

    def _flush(self) -> None:
        if self._cut:
            raise BrokenPipeError(errno.EPIPE, "the layer below has refused a record")
        try:
            while self._unsent or self._outgoing.pending:
                if not self._unsent:
                    self._unsent = self._outgoing.read(RECORD_SIZE)
                self._unsent = self._unsent[self._below.put(self._unsent) :]
        except self._from_network(*WANTS):
            raise
        except BaseException:
            # Nobody knows how much of it has gone, and twice would be worse than never.
            self._cut = True
            raise

    def _flush_in_passing(self) -> None:
        """Hand down what goes; a loss is for the call that comes to the end to report."""
        self._stalled = 0
        if self._cut:
            return
        try:
            self._flush()
        except self._from_network(*WANTS) as want:
            self._stalled = self._below.event(want)
        except self._from_network(OSError) as exc:
            self._loss = bare(exc) if is_loss(exc) else None


def _forget_errors() -> None:
    """Clear what OpenSSL keeps of this thread's errors, which happens where a connection is made.

    From OpenSSL 3.6 on, CPython 3.14 and 3.15 leave the error of a failed write there, and take it
    for that of the next call, on whichever connection.
    """
    _spare_context()._wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), False, None)


@functools.cache
def _spare_context() -> Any:
    # Not the ssl module's class, in whose place truststore may have put its own, which loads all
    # the certificates of the system for each connection.
    return _ssl._SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def truncation(text: str = _TRUNCATED) -> ssl.SSLEOFError:
    """The error of a stream that ended without the peer's close_notify."""
    exc = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, text)
    exc.reason = _TRUNCATION
    return exc


def handshake_meant(exc: OSError) -> OSError:
    """What *exc*, which ended a handshake, says of the peer."""
    if is_truncation(exc):
        return truncation("EOF occurred in violation of protocol")
    if getattr(exc, "reason", None) in _NO_TLS:
        exc.strerror = f"the peer does not speak TLS: {exc.strerror}"
    return exc


def is_truncation(exc: object) -> bool:
    """Whether *exc* says that the stream ended without close_notify.

    Where OpenSSL is kept from hiding that, ``ssl`` may call it SSLError.
    """
    return isinstance(exc, ssl.SSLEOFError) or getattr(exc, "reason", None) == _TRUNCATION


def check_tls_arguments(ctx: Any, hostname: object) -> str | None:
    """*hostname* as the server's certificate has it, if TLS can begin with these."""
    for method in ("wrap_socket", "wrap_bio"):
        if not callable(getattr(ctx, method, None)):
            raise TypeError(f"ctx must be an ssl.SSLContext or behave like one, not {ctx!r}")
    if getattr(ctx, "protocol", None) == ssl.PROTOCOL_TLS_SERVER:
        raise ValueError(f"ctx must be a client's (Purpose.SERVER_AUTH), not {ctx!r}")
    if hostname is not None:
        return server_name(hostname)
    if getattr(ctx, "check_hostname", False):
        raise ValueError("hostname must not be None where the context checks it (check_hostname)")
    return None


def wrap_socket(sock: socket.socket, ctx: ssl.SSLContext, hostname: str | None) -> ssl.SSLSocket:
    """Put TLS on *sock*, with the handshake still to come. *sock* is detached in any case."""
    # After a reset ssl would leave out the handshake, or leak the descriptor.
    if not is_connected(sock):
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        raise os_error(error or errno.ECONNRESET)
    wrapped: ssl.SSLSocket | None = None
    try:
        with _one_at_a_time:
            hides = _HIDES_TRUNCATION and getattr(ctx, "options", 0) & _HIDES_TRUNCATION
            try:
                if hides:
                    ctx.options &= ~hides
                # A handshake in here would wait, and under truststore hold the context's lock.
                wrapped = ctx.wrap_socket(
                    sock, server_hostname=hostname, do_handshake_on_connect=False
                )
                return wrapped  # noqa: RET504
            finally:
                if hides:
                    ctx.options |= hides
    except BaseException:
        # Interrupted: only we hold the descriptor now.
        if wrapped is not None:
            wrapped.close()
        raise


# Where truncation is hidden, the context, which may serve other threads, is changed for a moment. A
# signal handler or finalizer may start TLS where its own thread has this lock.
_one_at_a_time = threading.RLock() if _HIDES_TRUNCATION else contextlib.nullcontext()
