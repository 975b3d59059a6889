"""``NetworkStream``: one connected socket, under the deadlines of whichever thread uses it.

There are two ways to bound a wait on a socket, and the one that comes to mind, ``settimeout(left)``
before each call, is the wrong one. It is three system calls where one will do; it is state of the
socket, so two threads on one stream overwrite each other's; and beyond 24.8 days it goes wrong.

So a stream begins blocking, which is what costs least where no deadline stands. The first operation
under one makes the socket non-blocking, once and for good. From then on an operation tries its
call, and where that would block it waits for the socket, for as long as ``remaining()`` says or for
ever, and tries again. The same loop drives TLS, whose layers never wait by themselves.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from ._deadlines import remaining
from ._interfaces import NetworkStreamInterface
from ._names import is_expiry, printed, server_name
from ._tls import (
    RECORD_SIZE,
    WANTS,
    TLSLayer,
    TLSOverSocket,
    TLSOverTLS,
    is_surely_truncation,
    is_truncation,
    truncation,
    wrap_socket,
)
from ._wait import READ, WRITE, ready, wait

_Result = TypeVar("_Result")

# What recv() has to allocate before it knows how much has come. Larger is no faster, and from
# 256 KiB up each small read pays for it.
_READ_SIZE = 65_536
_LONGEST_READ = 1_048_576

# A send() of more than fits the processor's cache is slower than the same bytes in slices of this
# (256 MiB over loopback: two thirds of the time of one sendall).
_WRITE_SIZE = 1_048_576

# A buffer that is full with this much, and a full record, are the middle of something: the next
# bytes are likely there.
_BULK = RECORD_SIZE

_WOULD_BLOCK = (BlockingIOError, *WANTS)

# What a failed write says where the connection was cut. EPIPE is not among them: Linux says that
# where the peer had ended the stream in order, and where the cut has been told before.
_LOST = (errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT)

# How a read begins: the kernel waits; it tries, and waits where that would block; it waits, since
# the last one had to. Blocking is the socket's mode as well, and is left once and for good.
_BLOCKING, _TRY, _POLL = range(3)


class NetworkStream(NetworkStreamInterface):
    """A stream of bytes over a connected socket, which it owns from then on.

    *sock* is any connected stream socket: TCP, a Unix socket, one end of a ``socketpair()``, an
    ``ssl.SSLSocket`` (of which 3.10.0 to 3.10.10 and 3.11.0 to 3.11.2 hide truncation for good).
    Its timeout is lifted; from now on the stream decides how the socket waits.

    With *suppress_ragged_eofs*, ``read`` on TLS takes an end without the peer's close_notify for
    the end of the stream. Ask for it where the messages say how long they are.

    A stream has no lock. One thread may read while another writes, each under its own deadline; on
    TLS, one thread at a time. ``close()`` may come from any thread.

    Raises:
        TypeError: *sock* is not a socket.
        ValueError: it is not a stream socket, or not connected (any more).
    """

    __slots__ = (
        "_client_addr",
        "_closed",
        "_end",
        "_mode",
        "_server_addr",
        "_sock",
        "_suppress_ragged_eofs",
        "_tls",
    )

    def __init__(self, sock: socket.socket, *, suppress_ragged_eofs: bool = False) -> None:
        self._server_addr = _connected_to(sock)
        self._client_addr: Any = None  # looked up when asked for, and kept by close()
        self._sock = sock
        self._tls: TLSLayer | None = None  # the innermost one; without it the socket serves
        self._suppress_ragged_eofs = suppress_ragged_eofs
        self._end: bytes | OSError | None = None  # what reads say, once they have come to it
        self._mode = _BLOCKING
        if isinstance(sock, ssl.SSLSocket):
            self._make_nonblocking()
            self._tls = TLSOverSocket(sock)
        elif (limit := sock.gettimeout()) is not None:
            if limit:
                sock.settimeout(None)
            else:
                self._mode = _TRY
        self._closed = False  # for the finalizer, too: from here on there is something to close

    def read(self, max_bytes: int | None = None) -> bytes:
        """Return the next bytes as soon as there are any: at least one, at most *max_bytes*.

        *max_bytes* is 64 KiB if None, and no more than 1 MiB comes at once. ``b""`` is the end of
        the stream; on TLS only if the peer said so by close_notify (RFC 8446, section 6.1).

        Raises:
            TimeoutError: the nearest deadline has passed. Nothing is lost: a later read goes on.
            ssl.SSLEOFError: the stream ended without close_notify, and may have been truncated.
            ConnectionError, ssl.SSLError, OSError: the connection failed.
            OSError: with ``errno.EBADF``, the stream is closed.
            ValueError, TypeError: *max_bytes* is below 1, or no int.
        """
        if max_bytes is None:
            size = _READ_SIZE
        elif type(max_bytes) is int and 0 < max_bytes <= _LONGEST_READ:
            size = max_bytes  # as nearly always, and then the call would cost a tenth of the read
        else:
            size = _check_max_bytes(max_bytes)
        tls = self._tls
        source = self._sock if tls is None else tls
        try:
            if self._mode == _POLL and (tls is None or not tls.pending()):
                self._wait(READ)
            elif remaining() is not None and self._mode == _BLOCKING:
                self._make_nonblocking()
            try:
                data = source.recv(size)
            except _WOULD_BLOCK as want:
                if self._mode == _TRY:  # SO_RCVTIMEO can bring a blocking one here
                    self._mode = _POLL
                self._wait(_wanted(want, READ))
                data = self._retry(source.recv, READ, size)
            if self._mode == _POLL and len(data) >= _BULK and (tls or len(data) == size):
                self._mode = _TRY
        except OSError as exc:
            if not self._may_be_end(exc):
                raise self._read_error(exc) from None
            data = b""
        if not data or self._closed:
            return self._at_end()
        return data

    def _may_be_end(self, exc: OSError) -> bool:
        """Whether *exc* is a truncation, and the caller has asked to take that for an end."""
        return self._suppress_ragged_eofs and is_truncation(exc) and not self._was_reset(exc)

    def _was_reset(self, exc: OSError) -> bool:
        """Whether *exc* looks like a truncation and is a reset, which ``ssl`` mixes up at times."""
        return not is_surely_truncation(exc) and _is_gone(self._sock)

    # The errors are made by methods that return them: one that raised its own would be in the
    # traceback with the error among its variables, a cycle that keeps all the caller has alive.

    def _read_error(self, exc: OSError) -> OSError:
        if self._closed or is_expiry(exc):
            return self._explained(exc, "read from")
        if is_truncation(exc):
            exc = _reset() if self._was_reset(exc) else _truncated()
        error = self._explained(exc.with_traceback(None), "read from")
        self._remember(error)
        return _copied(error)

    def _write_error(self, exc: OSError, sent: int, size: int) -> OSError:
        if self._tls is None and self._end is None and exc.errno in _LOST:
            # Reads that come to where the connection was lost must not take it for an end.
            self._end = self._explained(_copied(exc), "read from")
        error = self._explained(exc, "write to", f" after {sent} of {size} bytes")
        error.characters_written = sent  # type: ignore[attr-defined]
        return error

    def _handshake_error(self, exc: OSError, name: str | None) -> OSError:
        doing = "TLS handshake with" if name is None else f"TLS handshake for {name!r} with"
        error = self._explained(exc, doing)
        self.close()
        return error

    def _at_end(self) -> bytes:
        """Say what the first read at the end of the stream said: ``b""``, or why it is no end.

        The kernel, and OpenSSL, tell of a failure once, and then speak of an end.
        """
        if self._closed:  # by another thread; data, if any, may come from whom its number went to
            raise self._explained(_closed(), "read from")
        if self._end is None:
            self._remember(b"")
        if isinstance(self._end, OSError):
            raise _copied(self._end) from None
        return b""

    def _remember(self, end: bytes | OSError) -> None:
        self._end = end
        if self._tls is not None:
            self._tls.end()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of *data*, or raise an error that says how far it got.

        Takes time linear in the size of *data*, and copies none of it.

        An ``OSError`` has the number of bytes that went out as ``characters_written``. On a plain
        stream that is exact, and the caller may go on from there. On TLS the record in flight may
        have gone out or not, so nothing can follow it: later writes raise, reads still work.

        Raises:
            TimeoutError: the nearest deadline has passed.
            ConnectionError, ssl.SSLError, OSError: the connection failed; BrokenPipeError also
                where an earlier write on TLS did.
            OSError: with ``errno.EBADF``, the stream is closed.
            TypeError: *data* is not bytes, a bytearray or a memoryview.
            ValueError: *data* is a memoryview that is not contiguous.
        """
        size = len(data) if type(data) is bytes else _check_data(data)  # no call for bytes
        tls = self._tls
        send: Callable[[Any], int]
        sent = 0
        try:
            if remaining() is not None and self._mode == _BLOCKING:
                self._make_nonblocking()
            if not size:
                self._check_open()
                self._check_intact()
                return
            if tls is None:
                send, limit = self._sock.send, _WRITE_SIZE
            else:
                self._check_intact()
                tls.broken = True  # until all of it has gone: whatever comes in between
                send, limit = tls.send, RECORD_SIZE
            if size <= limit:  # nearly always; and nearly always it goes at once
                try:
                    sent = send(data)
                except _WOULD_BLOCK as want:
                    self._wait(_wanted(want, WRITE))
            if sent < size:
                view = memoryview(data).cast("B")
                while sent < size:
                    remaining()  # a peer that takes a byte at a time may always have room for it
                    sent += self._retry(send, WRITE, view[sent : sent + limit])
            if self._closed:  # by another thread; who knows to whom the number of the socket went
                raise _closed()
        except OSError as exc:
            raise self._write_error(exc, sent, size) from None
        if tls is not None:
            tls.broken = False

    def start_tls(self, ctx: ssl.SSLContext, hostname: str | None = None) -> None:
        """Run the TLS handshake as a client, in place; on a stream that is TLS, inside of that.

        *ctx* is an ``ssl.SSLContext``, or an object that behaves like one. It may be shared by
        threads: a handshake that waits holds none of its locks. *hostname* is what the server's
        certificate has to be for, a name or an address; a trailing dot, brackets and an IPv6 zone
        are not part of it. None means what it means to ``wrap_socket``: no name is sent and none
        is verified, which the context has to allow.

        To return means that a handshake has happened. A failed one closes the stream, so that
        nothing meant for TLS can be sent in clear; bad arguments leave it as it was.

        Raises:
            TimeoutError: the nearest deadline has passed.
            ssl.SSLCertVerificationError: the certificate is not for *hostname*, or not trusted.
            ConnectionError, ssl.SSLError, OSError: the handshake or the connection failed.
            OSError: with ``errno.EBADF``, the stream is closed.
            ValueError, TypeError: *hostname* or *ctx* is unusable. Nothing was sent.
        """
        name = _check_tls_arguments(ctx, hostname)
        try:
            remaining()
            self._check_open()
            self._check_intact()
            self._client_addr = self.get_extra_info("client_addr")  # wrap_socket takes the socket
            self._make_nonblocking()
            if self._tls is None:
                self._sock = wrap_socket(self._sock, ctx, name)
                self._tls = TLSOverSocket(self._sock)
            else:
                self._tls = TLSOverTLS(self._tls, ctx, name)
            self._retry(self._tls.handshake, READ)
            self._check_open()  # or another thread has closed what wrap_socket detached from it
        except OSError as exc:
            raise self._handshake_error(exc, name) from None
        except BaseException:
            self.close()
            raise

    def get_extra_info(self, key: str) -> Any:
        """Return what the stream knows under *key*, None for a key that it does not know.

        ``"client_addr"``, ``"server_addr"``
            ``(ip, port)``, or the path of a Unix socket. Still there after ``close()``.
        ``"socket"``
            the socket as it stands; after ``start_tls`` an ``ssl.SSLSocket``, for TLS in TLS the
            outer one.
        ``"ssl_object"``
            the ``ssl.SSLSocket`` that ``wrap_socket`` made, which has the interface of an
            ``ssl.SSLObject``; such an object where TLS runs inside TLS; None on a plain stream.
        ``"is_readable"``
            whether a read would return at once, with data or the end of the stream (or raise).
            Neither waits nor asks for the deadline. It is right for TLS too, where a socket that
            is readable may hold nothing but session tickets.
        """
        if key == "server_addr":
            return self._server_addr
        if key == "client_addr":
            return _own_address(self._sock) if self._client_addr is None else self._client_addr
        if key == "socket":
            return self._sock
        if key == "ssl_object":
            return self._tls and self._tls.ssl_object
        if key == "is_readable":
            return self._is_readable()
        return None

    def _is_readable(self) -> bool:
        tls = self._tls
        try:
            has_come = (tls is not None and tls.pending()) or ready((self._fileno(),), READ, 0.0)
            return bool(has_come) and (tls is None or tls.is_readable())
        except OSError:
            return True  # closed: a read would raise at once

    def close(self) -> None:
        """End the stream and close its socket. Never raises; closing twice is closing once.

        It does not wait, whatever the deadline and however the peer behaves, unless the caller has
        set SO_LINGER. On TLS the peer is sent close_notify if that can be done at once; its own is
        not awaited. A thread that is blocked in ``read`` or ``write`` wakes with the error of a
        closed stream.

        In a forked child it ends the connection for the parent, too. To let it go on there, do not
        close the stream, but forget it.

        The kernel goes on delivering what was written, unless the peer has sent something that was
        not read: then TCP resets the connection (RFC 1122, section 4.2.2.13).
        """
        try:
            if not self._closed:
                if self._client_addr is None:
                    self._client_addr = _own_address(self._sock)
                self._closed = True
                if self._tls is not None:
                    self._tls.close()
                # Wakes the threads that are blocked in the kernel, which close() would not. Not
                # the method of an SSLSocket, which would take off the TLS.
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        except OSError:
            pass  # the connection is gone already
        finally:
            self._closed = True
            self._close_socket()  # the second time, what another thread's start_tls made of it

    def _close_socket(self) -> None:
        try:
            self._sock.close()
        except OSError:
            pass  # such as a reset that nobody has heard of; the descriptor is free all the same

    def __del__(self) -> None:
        # Nothing is sent and nothing shut down: in a forked child this is a copy, and the
        # connection is its parent's.
        if not getattr(self, "_closed", True):
            try:
                if self._sock.fileno() >= 0:  # else collected before us, and warned of by itself
                    warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            finally:
                self._close_socket()

    def __repr__(self) -> str:
        address = printed(self._server_addr)
        tls = "" if self._tls is None else " TLS"
        closed = " CLOSED" if self._closed else ""
        return f'<{type(self).__name__} ["{address}"{tls}{closed}]>'

    def _make_nonblocking(self) -> None:
        self._sock.settimeout(0.0)
        self._mode = _TRY

    def _retry(self, call: Callable[..., _Result], event: int, *args: Any) -> _Result:
        """Make *call* as often as it takes, and wait in between; for *event* if it is plain."""
        while True:
            try:
                return call(*args)
            except _WOULD_BLOCK as want:
                event = _wanted(want, event)
            self._wait(event)

    def _wait(self, event: int) -> None:
        wait((self._fileno(),), event)
        if self._closed:
            raise _closed()

    def _fileno(self) -> int:
        """The descriptor, of a stream that is open: close() tells before it takes it away."""
        fd = self._sock.fileno()
        if self._closed:
            raise _closed()
        if fd < 0:
            raise OSError(errno.EBADF, "the socket was closed behind the stream's back")
        return fd

    def _check_intact(self) -> None:
        if self._tls is not None and self._tls.broken:
            raise BrokenPipeError(errno.EPIPE, "an earlier write stopped inside a record")

    def _check_open(self) -> None:
        if self._closed:
            raise _closed()

    def _explained(self, exc: OSError, doing: str, progress: str = "") -> OSError:
        """*exc*, its text saying what was being done, to whom, how far it got, and the cause."""
        if self._closed:
            exc = _closed()
        verb = "timed out" if is_expiry(exc) else "failed"
        peer = printed(self._server_addr) or "an unnamed peer"
        cause = exc.strerror or (exc.args[0] if len(exc.args) == 1 else exc)
        text = f"{doing} {peer} {verb}{progress}: {cause}"
        exc.args = (text,) if exc.errno is None else (exc.errno, text)
        exc.strerror = text  # which is what str() of an SSLError shows
        return exc


def _closed() -> OSError:
    return OSError(errno.EBADF, "the stream is closed")


def _reset() -> OSError:
    return OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


def _truncated() -> ssl.SSLEOFError:
    return truncation(
        "the stream ended without close_notify, so it may have been truncated "
        "(suppress_ragged_eofs=True takes this for its end)",
    )


def _copied(exc: OSError) -> OSError:
    """*exc* to be raised again: raising writes into an exception, and keeps what it meets."""
    copy = type(exc)(*exc.args)
    copy.__dict__.update(exc.__dict__)
    return copy


def _is_gone(sock: socket.socket) -> bool:
    """Whether *sock* is not even connected any more: then it was a reset and no end."""
    try:
        sock.getpeername()
    except OSError:
        return True
    return False


def _wanted(want: OSError, event: int) -> int:
    """What to wait for after *want*: what it names, on TLS, or *event*."""
    if isinstance(want, ssl.SSLWantReadError):
        return READ
    if isinstance(want, ssl.SSLWantWriteError):
        return WRITE
    return event


def _connected_to(sock: object) -> Any:
    """The address that *sock* is connected to."""
    if not isinstance(sock, socket.socket):
        raise TypeError(f"sock must be a socket, not {sock!r}")
    # Not the property, which makes an enum of it and takes a third of a stream's making.
    if super(socket.socket, sock).type != socket.SOCK_STREAM:
        raise ValueError(f"sock must be a stream socket, not {sock!r}")
    try:
        return _address(sock.getpeername())
    except OSError as exc:
        raise ValueError(f"sock must be connected, not {sock!r}: {exc.strerror}") from None


def _own_address(sock: socket.socket) -> Any:
    """The address of this end of *sock*; None if it is closed, or not a network's."""
    try:
        return _address(sock.getsockname())
    except OSError:
        return None


def _address(address: Any) -> Any:
    """``(ip, port)`` of what the socket module says, without IPv6's flow and scope."""
    return address[:2] if isinstance(address, tuple) else address


def _check_max_bytes(max_bytes: object) -> int:
    if not isinstance(max_bytes, int) or isinstance(max_bytes, bool):
        raise TypeError(f"max_bytes must be an int or None, not {max_bytes!r}")
    if max_bytes < 1:
        raise ValueError(f"max_bytes must be 1 or more, not {max_bytes!r}")
    return min(max_bytes, _LONGEST_READ)


def _check_data(data: object) -> int:
    """The number of bytes in *data*, which for a memoryview is not its len()."""
    if isinstance(data, (bytes, bytearray)):
        return len(data)
    if not isinstance(data, memoryview):
        raise TypeError(f"data must be bytes, a bytearray or a memoryview, not {data!r}")
    if not data.c_contiguous:
        raise ValueError(f"data must be contiguous, which {data!r} is not")
    return data.nbytes


def _check_tls_arguments(ctx: Any, hostname: object) -> str | None:
    for method in ("wrap_socket", "wrap_bio"):
        if not callable(getattr(ctx, method, None)):
            raise TypeError(f"ctx must be an ssl.SSLContext or behave like one, not {ctx!r}")
    if hostname is not None:
        return server_name(hostname)
    if getattr(ctx, "check_hostname", False):
        raise ValueError("hostname must not be None where the context checks it (check_hostname)")
    return None
