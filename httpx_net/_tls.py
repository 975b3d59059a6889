"""TLS as a layer that never waits: over a socket, or over another such layer.

A layer offers what a non-blocking socket offers. ``recv`` and ``send`` do what they can at once,
and where they can't they raise ``ssl.SSLWantReadError`` or ``ssl.SSLWantWriteError`` to say what to
wait for; whoever called waits, under its deadline, and calls again. So one loop serves plain
sockets, TLS, the handshake, and TLS inside TLS, and no handshake ever waits while it holds a lock
of the context (truststore's holds one for all of a blocking handshake).

Over a socket, ``wrap_socket`` does the work. TLS inside TLS has no socket to wrap: there an
``ssl.SSLObject`` exchanges records with two memory BIOs, and the layer carries these to and from
the layer below.

An end is not always an end. TLS closes each direction with an alert, close_notify (RFC 8446,
section 6.1), and a connection that ends without it may have been cut by anybody on the way. OpenSSL
knows the difference, but some releases of CPython (3.10.0 to 3.10.10, 3.11.0 to 3.11.2) ask it not
to tell, by an option that is on in every context; so the option is off while a connection is made,
which is when OpenSSL copies it, and truncation is an ``ssl.SSLEOFError`` everywhere.

One wait is out of reach: records that OpenSSL passes over by itself (session tickets, say) it
passes over within one call, for as long as the kernel has more of them at once.
"""

from __future__ import annotations

import abc
import errno
import os
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from ._deadlines import remaining

# RFC 8446, section 5.1: no record carries more. OpenSSL takes any buffer at once, and when that
# fails in the middle nobody knows how much of it went out; a record is either out or not.
RECORD_SIZE = 16_384

WANTS = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class TLSLayer(abc.ABC):
    """One TLS connection, as a client. It is *broken* from the start of a write to its success.

    One thread at a time may use it, but any thread may close it.
    """

    __slots__ = ("_ahead", "_decrypt", "_in_use", "_read", "_write", "broken", "ssl_object")

    def __init__(
        self,
        ssl_object: ssl.SSLSocket | ssl.SSLObject,
        read: Callable[[int], bytes],
        write: Callable[[bytes | bytearray | memoryview], int],
    ) -> None:
        self.ssl_object = ssl_object
        self.broken = False
        self._decrypt = read
        self._read = read  # or what stands in for it for now
        self._write = write
        self._ahead: bytes | OSError | None = None  # what is_readable() has read to find out
        self._in_use = False

    def recv(self, size: int) -> bytes:
        """Return up to *size* bytes that are there; b"" after the peer's close_notify."""
        self._in_use = True
        try:
            return self._read(size)
        except ssl.SSLError:
            raise
        except (ValueError, AttributeError):  # an SSLSocket that another thread has just closed
            _closed()
        finally:
            self._in_use = False

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Send *data*, a record's worth at most; after a WANT only the same bytes will do."""
        self._in_use = True
        try:
            return self._write(data)
        except ssl.SSLError:
            raise
        except (ValueError, AttributeError):
            _closed()
        finally:
            self._in_use = False

    def handshake(self) -> None:
        """Take the handshake as far as it goes at once; to return means that it is complete."""
        self._in_use = True
        try:
            if self._read is _closed:
                _closed()
            self._do_handshake()
        finally:
            self._in_use = False

    @abc.abstractmethod
    def _do_handshake(self) -> None: ...

    @abc.abstractmethod
    def close_notify(self) -> None:
        """Tell the peer that no more will come, if that can be done at once. Never raises."""

    def end(self) -> None:
        """Receive nothing more: from now on ``recv`` says b"" at once.

        OpenSSL may speak of something else after the first time, and the socket not at all.
        """
        self._ahead = b""
        self._read = _nothing

    def close(self) -> None:
        """Send close_notify, and let nothing through from now on, least of all in clear.

        OpenSSL lets one thread into a connection, and CPython before 3.13.1 doesn't see to that.
        Where a thread is in there at this moment the peer gets no close_notify. We look for it
        after barring the way, and it says that it is there before it goes: one of us sees it.
        """
        self._read = self._write = self._decrypt = _closed
        if not self._in_use:
            self.close_notify()

    def pending(self) -> bool:
        """Whether ``recv`` may have something that the socket will not announce."""
        return self._ahead is not None or self.ssl_object.pending() > 0

    def is_readable(self) -> bool:
        """Whether ``recv`` would return at once.

        Only trying tells: a session ticket (TLS 1.3 sends some after the handshake) makes the
        socket readable as well. What the attempt brings is kept for the next ``recv``.
        """
        if self._ahead is None and not self.ssl_object.pending():
            try:
                self._ahead = self.recv(RECORD_SIZE)
            except WANTS:
                return False
            except OSError as exc:
                self._ahead = exc.with_traceback(None)
            self._read = self._recv_ahead
        return True

    def _recv_ahead(self, size: int) -> bytes:
        ahead = self._ahead
        if isinstance(ahead, bytes) and len(ahead) > size:
            self._ahead = ahead[size:]
            return ahead[:size]
        self._ahead = None
        self._read = self._decrypt
        if isinstance(ahead, OSError):
            raise ahead
        return ahead or b""


class TLSOverSocket(TLSLayer):
    """TLS as ``wrap_socket`` does it."""

    __slots__ = ("_sock",)

    def __init__(self, sock: ssl.SSLSocket) -> None:
        sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]
        self._sock = sock
        super().__init__(sock, sock.read, sock.write)

    def _do_handshake(self) -> None:
        self._sock.do_handshake()

    def close_notify(self) -> None:
        try:
            self._sock.unwrap()
        except (OSError, ValueError):
            pass  # it has sent the alert and wants to read the peer's, or has nothing to say


class TLSOverTLS(TLSLayer):
    """TLS over the layer *below*, through memory BIOs."""

    __slots__ = ("_below", "_incoming", "_object", "_outgoing", "_sealed", "_unsent")

    def __init__(self, below: TLSLayer, context: Any, hostname: str | None) -> None:
        self._below = below
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._unsent = b""  # records that *below* has been offered and has not taken
        self._sealed = 0  # bytes of a write that have become records, not yet all of them taken
        self._object: ssl.SSLObject = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=hostname
        )
        super().__init__(self._object, self._unseal, self._seal)

    def _do_handshake(self) -> None:
        self._run(self._object.do_handshake)
        self._flush()

    def _unseal(self, size: int) -> bytes:
        self._flush_what_goes()
        data: bytes = self._run(self._object.read, size)
        return data

    def _seal(self, data: bytes | bytearray | memoryview) -> int:
        if not self._sealed:  # else: called again for the same data, which must not go out twice
            self._sealed = self._run(self._object.write, data)
        self._flush()
        sent, self._sealed = self._sealed, 0
        return sent

    def close_notify(self) -> None:
        try:
            self._object.unwrap()
        except (OSError, ValueError):
            pass
        self._flush_what_goes()  # or the alert of a failed handshake (RFC 8446, section 6.2)
        self._below.close_notify()

    def pending(self) -> bool:
        return super().pending() or self._incoming.pending > 0 or self._below.pending()

    def _run(self, call: Callable[..., Any], *args: Any) -> Any:
        """Make *call*, feeding it from below for as long as there is something to feed."""
        while True:
            try:
                return call(*args)
            except ssl.SSLWantReadError:
                # The peer may be waiting for an answer that the call has just made. But a peer
                # that takes nothing must not keep us from reading.
                if call == self._object.read:
                    self._flush_what_goes()
                else:
                    self._flush()
                remaining()  # a peer that always has one more record must not outlast it
                data = self._below.recv(RECORD_SIZE)
                if not data:  # the end of the layer below is no end of this one
                    raise truncation("EOF occurred in violation of protocol") from None
                self._incoming.write(data)

    def _flush(self) -> None:
        while self._unsent or self._outgoing.pending:
            if not self._unsent:
                self._unsent = self._outgoing.read(RECORD_SIZE)
            self._unsent = self._unsent[self._below.send(self._unsent) :]

    def _flush_what_goes(self) -> None:
        try:
            self._flush()
        except OSError:
            pass


def _nothing(size: int) -> bytes:
    return b""


def _closed(*args: object) -> NoReturn:
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))


_TRUNCATION = "UNEXPECTED_EOF_WHILE_READING"  # OpenSSL's name for it, since 3.0


def truncation(text: str) -> ssl.SSLEOFError:
    """The error of a stream that ended without the peer's close_notify."""
    exc = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, text)
    exc.reason = _TRUNCATION
    return exc


def is_truncation(exc: OSError) -> bool:
    """Whether *exc* says that the stream ended without close_notify.

    Before 3.11.9 and 3.12.3, ``ssl`` raises SSLEOFError for a reset as well.
    """
    return isinstance(exc, ssl.SSLEOFError) or is_surely_truncation(exc)


def is_surely_truncation(exc: OSError) -> bool:
    """Whether OpenSSL says so. Where it is told not to hide it, ``ssl`` may call it SSLError."""
    return getattr(exc, "reason", None) == _TRUNCATION


_HIDES_TRUNCATION = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
_hiding: set[int] = set()  # the ids of contexts that were seen to have the option on
_hiding_lock = threading.Lock()


def wrap_socket(sock: socket.socket, context: Any, hostname: str | None) -> ssl.SSLSocket:
    """Put TLS on *sock*, with the handshake still to come. *sock* is detached in any case.

    The option that hides truncation is off meanwhile. The context is the caller's, and may serve
    other threads, so the option is put back afterwards. To look at the option first and at the set
    second, which is filled before the option is cleared, tells a context that never had it from
    one that another thread is busy with here; only the latter take turns.
    """
    sock.getpeername()  # ENOTCONN after a reset, where ssl would leave out the handshake, or leak
    wrapped: ssl.SSLSocket | None = None
    hides = getattr(context, "options", 0) & _HIDES_TRUNCATION
    try:
        if not hides and id(context) not in _hiding:
            wrapped = _wrap_socket(sock, context, hostname)
        else:
            _hiding.add(id(context))  # one day another context's, which costs that a lock
            with _hiding_lock:
                hides = getattr(context, "options", 0) & _HIDES_TRUNCATION
                try:
                    if hides:
                        context.options &= ~hides
                    wrapped = _wrap_socket(sock, context, hostname)
                finally:
                    if hides:
                        context.options |= hides
        return wrapped
    except BaseException:  # an interrupt, now that nobody else knows the descriptor
        if wrapped is not None:
            wrapped.close()
        raise


def _wrap_socket(sock: socket.socket, context: Any, hostname: str | None) -> Any:
    return context.wrap_socket(
        sock,
        server_hostname=hostname,
        # A handshake in here would wait, and under truststore hold the context's lock meanwhile.
        do_handshake_on_connect=False,
    )
