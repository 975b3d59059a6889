"""``NetworkStream``: one connected socket, under the deadlines of whichever thread uses it.

**How it waits.** There are two ways to bound a wait on a socket, and the one that comes to mind,
``settimeout(left)`` before each call, is the wrong one. It is three system calls where one will do;
it is state of the socket, so two threads on one stream overwrite each other's; and beyond 24.8 days
it goes wrong. So a stream begins blocking, which is what costs least without a deadline. The first
operation under one makes the socket non-blocking, once and for good. From then on an operation
tries its call, and where that would block it waits for the socket and tries again. The same loop
drives TLS, whose layers never wait by themselves.

**Who is inside.** The number of a descriptor that is closed belongs to whoever opens the next one.
A thread that has asked for the number and not used it yet, or that sleeps in poll(2), which looks
its numbers up again when it wakes, would then go on with a stranger's connection. So ``close()``
only marks the stream and shuts the socket down, which wakes everybody, and the last thread to leave
gives the number back (Go's ``fdMutex`` does the same). The list ``_inside`` counts: it begins with
one True, each operation appends a False and pops whatever is on top when it leaves, and ``close()``
pops once without having appended. So the True comes out last, and to one thread only. A ``list``,
because its methods are atomic, with or without the GIL, and because ``close()`` may run in a signal
handler of a thread that is inside, where it could wait for no lock.

**What has been heard.** The kernel reports that a connection is lost once, to whichever call comes
first, and calls it an end afterwards. So whatever call that was, its error is kept (``_loss``), and
a read that comes to an end reports it in place of that end. EPIPE is no loss: Linux reports that to
a write where the peer's own end had come in order. The peer's last word, close_notify or an alert,
is believed whatever a write reported. What a read has reported (``_end``) stands for good.
"""

from __future__ import annotations

import errno
import math
import socket
import ssl
import sys
import time
import warnings
from collections.abc import Callable
from threading import get_ident
from typing import Any, TypeVar

from ._deadlines import bounded, remaining
from ._errors import (
    NO_MEMORY,
    bare,
    failure,
    from_network,
    is_connected,
    is_expiry,
    is_loss,
    printed,
)
from ._interfaces import NetworkStreamInterface
from ._names import endpoint
from ._tls import (
    RECORD_SIZE,
    WANTS,
    TLSLayer,
    TLSOverSocket,
    TLSOverTLS,
    check_tls_arguments,
    handshake_meant,
    is_truncation,
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

# Seconds after which a write that waits for the peer looks whether what came went elsewhere, and a
# read that waits for a write whether that has left.
_A_LOOK, _A_MOMENT = 0.05, 0.001

_WOULD_BLOCK = (BlockingIOError, *WANTS)


class NetworkStream(NetworkStreamInterface):
    """A stream of bytes over a connected socket, which it owns from then on.

    *sock* is any connected stream socket: TCP, a Unix socket, one end of a ``socketpair()``, an
    ``ssl.SSLSocket`` (of which 3.10.0 to 3.10.10 and 3.11.0 to 3.11.2 hide truncation for good).
    Its timeout is lifted; from now on the stream decides how the socket waits.

    With *suppress_ragged_eofs*, ``read`` on TLS takes an end without the peer's close_notify for
    the end of the stream. Ask for it where the messages say how long they are.

    One thread may read while another writes, each under its own deadline, on TLS as well.
    ``close()`` may come from any thread.

    Raises:
        TypeError: *sock* is not a socket.
        ValueError: it is not a stream socket, or not connected (any more).
    """

    _ending = staticmethod(sys.is_finalizing)

    __slots__ = (
        "_blocking",
        "_broken",
        "_client_addr",
        "_end",
        "_inside",
        "_loss",
        "_open",
        "_sent",
        "_server_addr",
        "_sock",
        "_suppress_ragged_eofs",
        "_tls",
        "_writer",
    )

    def __init__(self, sock: socket.socket, *, suppress_ragged_eofs: bool = False) -> None:
        self._begin(sock, *_addresses(sock), suppress_ragged_eofs)

    @classmethod
    def _connected(
        cls, sock: socket.socket, server_addr: Any, client_addr: Any, suppress_ragged_eofs: bool
    ) -> NetworkStream:
        """A stream over a socket of which all is known, so that the kernel need not be asked."""
        stream = cls.__new__(cls)
        stream._begin(sock, server_addr, client_addr, suppress_ragged_eofs)
        return stream

    def _begin(
        self, sock: socket.socket, server_addr: Any, client_addr: Any, suppress_ragged_eofs: bool
    ) -> None:
        self._server_addr = server_addr
        self._client_addr = client_addr
        self._suppress_ragged_eofs = suppress_ragged_eofs
        self._sock = sock
        # The innermost layer. Without one the socket serves.
        self._tls: TLSLayer | None = None
        # The loss that some call has reported, and what reads have come to.
        self._loss: OSError | None = None
        self._end: bytes | OSError | None = None
        # The thread that writes, how far it is, and whether TLS can go on from there.
        self._writer = 0
        self._sent = 0
        self._broken = False
        self._blocking = sock.gettimeout() != 0.0
        if isinstance(sock, ssl.SSLSocket):
            self._make_nonblocking()
            self._tls = TLSOverSocket(sock)
        elif self._blocking and sock.gettimeout() is not None:
            sock.settimeout(None)
        self._inside = [True]
        # close() takes it out, and one thread only succeeds in that. Set last: from here on there
        # is something to close for the finalizer, too.
        self._open = [True]

    def read(self, max_bytes: int | None = None) -> bytes:
        """Return the next bytes as soon as there are any: at least one, at most *max_bytes*.

        *max_bytes* is 64 KiB if None, and no more than 1 MiB comes at once. ``b""`` is the end of
        the stream; on TLS only if the peer said so by close_notify (RFC 8446, section 6.1). Once
        a call on this stream has reported that the connection is lost, reads raise that error, too,
        in place of an end, after the bytes that had come before.

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
            # As nearly always, and then the call below would cost a tenth of the read.
            size = max_bytes
        else:
            size = _check_max_bytes(max_bytes)
        inside, data = self._inside, b""
        try:
            inside.append(False)
            try:
                if remaining() is not None and self._blocking:
                    self._make_nonblocking()
                if self._open and self._end is None:
                    source = self._tls or self._sock
                    try:
                        data = source.recv(size)
                    except self._would_block() as want:
                        self._wait(self._event(want, READ))
                        data = self._retry(source.recv, size)
            except from_network(OSError, through=(self._sock,)) as exc:
                self._come_to(exc)
            return data or self._at_end()
        finally:
            if inside.pop():
                self._give_back()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of *data*, or raise an error that says how far it got.

        Takes time linear in the size of *data*, and copies none of it.

        An ``OSError`` has the number of bytes that went out as ``characters_written``. On a plain
        stream that is exact, and the caller may go on from there. On TLS the record in flight may
        have gone out or not, so nothing can follow it: later writes raise, reads still work. Where
        the peer had sent an alert before it closed, that is the error.

        Raises:
            TimeoutError: the nearest deadline has passed.
            ConnectionError, ssl.SSLError, OSError: the connection failed; BrokenPipeError also
                where an earlier write on TLS did.
            OSError: with ``errno.EBADF``, the stream is closed.
            TypeError: *data* is not bytes, a bytearray or a memoryview.
            ValueError: *data* is a memoryview that is not contiguous.
        """
        # No call for bytes, as nearly always.
        size = len(data) if type(data) is bytes else _check_data(data)
        inside = self._inside
        try:
            inside.append(False)
            self._sent = 0
            if remaining() is not None and self._blocking:
                self._make_nonblocking()
            if not self._open or self._broken:
                raise self._unusable()
            self._writer = get_ident()
            sink: Any = self._sock
            limit = _WRITE_SIZE
            if self._tls is not None:
                sink, limit = self._tls, RECORD_SIZE
                # Until all of it has gone: whatever comes in between.
                self._broken = True
            # Nearly always it goes at once, and then a view would cost a fifth of the write.
            if 0 < size <= limit:
                try:
                    self._sent = sink.send(data)
                except self._would_block() as want:
                    self._wait_to_write(want)
            if self._sent < size:
                self._send_rest(sink.send, memoryview(data).cast("B"), limit)
            self._broken = False
        except from_network(OSError, through=(self._sock,)) as exc:
            raise self._write_error(exc, size) from None
        finally:
            self._writer = 0
            if inside.pop():
                self._give_back()

    def _send_rest(self, send: Callable[[Any], int], view: memoryview, limit: int) -> None:
        sent, size = self._sent, len(view)
        while sent < size:
            # A peer that takes a byte at a time may always have room for it.
            remaining()
            try:
                sent = self._sent = sent + send(view[sent : sent + limit])
            except self._would_block() as want:
                self._wait_to_write(want)

    def _wait_to_write(self, want: OSError) -> None:
        event = self._event(want, WRITE)
        # A handshake may need what the peer sends, and another thread that reads may take it.
        self._wait(event, math.inf if event & WRITE else _A_LOOK)

    def start_tls(self, ctx: ssl.SSLContext, hostname: str | None = None) -> None:
        """Run the TLS handshake as a client, in place; on a stream that is TLS already, inside it.

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
        name = check_tls_arguments(ctx, hostname)
        try:
            self._inside.append(False)
            remaining()
            if not self._open or self._broken:
                raise self._unusable()
            self._make_nonblocking()
            if self._tls is None:
                self._sock = wrap_socket(self._sock, ctx, name)
                self._tls = TLSOverSocket(self._sock)
            else:
                self._tls = TLSOverTLS(self._tls, ctx, name)
            self._retry(self._tls.handshake)
        except from_network(OSError, through=(self._sock, ctx)) as exc:
            raise self._handshake_error(exc, name) from None
        except BaseException:
            self.close()
            raise
        finally:
            if self._inside.pop():
                self._give_back()

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
            return self._client_addr
        if key == "socket":
            return self._sock
        if key == "ssl_object":
            return self._tls and self._tls.ssl_object
        if key == "is_readable":
            return self._is_readable()
        return None

    def _is_readable(self) -> bool:
        try:
            self._inside.append(False)
            if not self._open or self._end is not None:
                return True
            if self._tls is None:
                return bool(ready((self._fileno(),), READ, 0.0))
            return self._tls.is_readable()
        except from_network(OSError, through=(self._sock,)):
            # A read would raise at once, too.
            return True
        finally:
            if self._inside.pop():
                self._give_back()

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
            try:
                self._open.pop()
            except from_network(IndexError):
                return
            self._finish()
        except (AttributeError, TypeError):
            # Late in the interpreter's teardown our globals are gone. The socket closes without.
            if not self._ending():
                raise

    def _finish(self) -> None:
        try:
            if self._tls is not None:
                self._tls.close()
        finally:
            try:
                sock: Any = self._sock
                if isinstance(sock, ssl.SSLSocket):
                    # Its own method would take off the TLS.
                    sock = super(ssl.SSLSocket, sock)
                sock.shutdown(socket.SHUT_RDWR)
            except from_network(OSError, through=(self._sock,)):
                pass
            finally:
                if self._inside.pop():
                    self._give_back()

    def _give_back(self) -> None:
        try:
            self._sock.close()
        except from_network(OSError, through=(self._sock,)):
            # A reset that nobody has heard of. The descriptor is free all the same.
            pass

    def __del__(self) -> None:
        # Nothing is sent and nothing shut down: in a forked child this is a copy, and the
        # connection is its parent's. After close() there is something left to do where an
        # interrupt has kept a thread from leaving. A socket that was collected before us has no
        # descriptor any more, and has given a warning by itself.
        if hasattr(self, "_open") and self._sock.fileno() >= 0:
            try:
                if self._open:
                    warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            except (AttributeError, TypeError):
                # As above. Nobody but the interpreter would hear of it.
                pass
            finally:
                try:
                    self._sock.close()
                except OSError:
                    pass

    def __repr__(self) -> str:
        address = printed(self._server_addr)
        tls = "" if self._tls is None else " TLS"
        closed = "" if self._open else " CLOSED"
        return f'<{type(self).__name__} ["{address}"{tls}{closed}]>'

    # ---- How it waits

    def _make_nonblocking(self) -> None:
        self._sock.settimeout(0.0)
        self._blocking = False

    def _retry(self, call: Callable[..., _Result], *args: Any) -> _Result:
        """Make *call*, which reads, and wait where it would block, as often as it takes."""
        while True:
            try:
                return call(*args)
            except self._would_block() as want:
                self._wait(self._event(want, READ))

    def _would_block(self) -> tuple[type[OSError], ...]:
        return from_network(*_WOULD_BLOCK, through=(self._sock,))

    def _event(self, want: Any, event: int) -> int:
        """What to wait for after *want*: on TLS what OpenSSL asked for, else *event*."""
        return event if self._tls is None else self._tls.event(want)

    def _wait(self, event: int, seconds: float = math.inf) -> None:
        if event:
            wait((self._fileno(),), event, seconds)
        else:
            remaining()

    def _fileno(self) -> int:
        """The descriptor of the socket, unless the stream is closed."""
        # close() may have missed the socket that start_tls had yet to make, and so it is asked for
        # first, and whether the stream is open only then.
        fd = self._sock.fileno()
        if not self._open:
            raise _closed()
        if fd < 0:
            raise OSError(errno.EBADF, "the socket was closed behind the stream's back")
        return fd

    # ---- What has been heard

    # The errors are made by methods that return them: one that raised its own would be in the
    # traceback with the error among its variables, a cycle that keeps all the caller has alive.

    def _come_to(self, end: bytes | OSError) -> None:
        """Keep the *end* that a read has come to. Raises an error after which reads may go on."""
        if isinstance(end, OSError):
            if not self._open or is_expiry(end) or end.errno in NO_MEMORY:
                raise self._explained("read from", end) from None
            bare(end)
        # Not the peer's own words: close_notify, an alert, or something that is no TLS.
        if (not end and self._tls is None) or is_truncation(end) or is_loss(end):
            self._await_write()
            end = self._loss or end
        self._end = b"" if self._suppress_ragged_eofs and is_truncation(end) else end

    def _at_end(self) -> bytes:
        """Report what this read, or one before, has come to."""
        if not self._open:
            raise self._explained("read from", _closed())
        if self._end is None:
            self._come_to(b"")
        if isinstance(self._end, OSError):
            raise self._explained("read from", self._end)
        return b""

    def _hear(self, exc: OSError) -> None:
        """Keep *exc* for the reads to come, if the first of its kind."""
        bare(exc)
        if self._loss is None and is_loss(exc):
            self._loss = exc

    def _await_write(self) -> None:
        """Let a write of another thread that is under way report first what it comes to.

        It leaves at once, for a connection that is gone takes no more bytes. So to look for that
        is enough, and nothing has to be kept for it by writes.
        """
        try:
            while self._writer not in (0, get_ident()) and not is_connected(self._sock):
                bounded(time.sleep, _A_MOMENT)
        except from_network(TimeoutError) as exc:
            raise self._explained("read from", exc) from None

    def _write_error(self, exc: OSError, size: int) -> OSError:
        if is_truncation(exc):
            exc = BrokenPipeError(errno.EPIPE, "the peer has ended the stream")
        if self._open and not is_expiry(exc):
            self._hear(exc)
            # A server that refuses a client says why before it closes. A write that was refused
            # here has asked nobody.
            if self._tls and self._writer and self._end is None and exc.errno not in NO_MEMORY:
                exc = self._tls.collect(lambda: len(self._inside) == 2) or exc
        error = self._explained("write to", exc, f" after {self._sent} of {size} bytes")
        error.characters_written = self._sent  # type: ignore[attr-defined]
        return error

    def _handshake_error(self, exc: OSError, name: str | None) -> OSError:
        doing = "TLS handshake with" if name is None else f"TLS handshake for {name!r} with"
        error = self._explained(doing, handshake_meant(exc))
        self.close()
        return error

    def _unusable(self) -> OSError:
        # Or the stream is closed, which _explained() says in its place.
        return BrokenPipeError(errno.EPIPE, "an earlier write stopped inside a record")

    def _explained(self, doing: str, exc: OSError, progress: str = "") -> OSError:
        return failure(doing, self._server_addr, exc if self._open else _closed(), progress)


def _closed() -> OSError:
    return OSError(errno.EBADF, "the stream is closed")


def _addresses(sock: object) -> tuple[Any, Any]:
    """The addresses of the server and the client, between which *sock* is connected."""
    if not isinstance(sock, socket.socket):
        raise TypeError(f"sock must be a socket, not {sock!r}")
    if sock.type != socket.SOCK_STREAM:
        raise ValueError(f"sock must be a stream socket, not {sock!r}")
    try:
        return endpoint(sock.getpeername()), endpoint(sock.getsockname())
    except from_network(OSError, through=(sock,)) as exc:
        raise ValueError(f"sock must be connected, not {sock!r}: {exc.strerror}") from None


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
