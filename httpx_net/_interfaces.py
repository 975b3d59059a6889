"""What a stream and a backend promise, for people who bring their own.

A client that is written against these two classes runs on a socket, on a recording of one, or on
something that has never seen a network. The methods say what a caller may rely on; an
implementation that keeps to them can stand in anywhere.

Deadlines need no argument: an implementation that waits asks ``httpx_net.remaining()`` before
each wait, and lets the ``TimeoutError`` it raises pass through.
"""

from __future__ import annotations

import abc
import ssl
from types import TracebackType
from typing import Any, TypeVar

_Stream = TypeVar("_Stream", bound="NetworkStreamInterface")


class NetworkStreamInterface(abc.ABC):
    """A stream of bytes in both directions, over TCP, TLS, or anything that is as reliable.

    Nothing in it waits past the deadline of ``with httpx_net.timeout(...)``: an operation that
    meets it raises ``TimeoutError``, as does one that is begun when it has passed. Using a stream
    after ``close()`` is an ``OSError`` with ``errno.EBADF``.

    One thread may read while another writes, each under its own deadline; two readers, or two
    writers, may not.

    As a context manager a stream closes itself on the way out.
    """

    __slots__ = ()

    @abc.abstractmethod
    def read(self, max_bytes: int | None = None) -> bytes:
        """Return the next bytes, as soon as there are any: at least one, at most *max_bytes*.

        None leaves the number to the stream. ``b""`` means that the peer has ended the stream in
        an orderly way, and says so again each time; an end that may be a truncation is an error.
        Once a call on this stream has reported that the connection is lost, reads raise that error
        in place of an end.

        A read that fails by ``TimeoutError`` has consumed nothing, and may be repeated.

        Raises:
            TimeoutError: the nearest deadline has passed.
            OSError: the connection failed, or the stream is closed.
            ValueError, TypeError: *max_bytes* is below 1, or no integer.
        """

    @abc.abstractmethod
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of *data*, or raise.

        To return means that the bytes are on their way, not that the peer has them. An exception
        that left part of *data* sent carries ``characters_written``, the number of bytes of *data*
        that went out.

        Raises:
            TimeoutError: the nearest deadline has passed.
            OSError: the connection failed, or the stream is closed.
            TypeError: *data* is not a bytes-like object of the three types.
        """

    @abc.abstractmethod
    def start_tls(self, ctx: ssl.SSLContext, hostname: str | None = None) -> None:
        """Run the TLS handshake as a client, in place: reads and writes are encrypted from then on.

        *ctx* is an ``ssl.SSLContext`` or an object that behaves like one; *hostname* is the
        name that the peer has to prove. On a stream that is TLS already, TLS runs inside TLS.

        To return means that a handshake has happened. One that failed leaves the stream closed, so
        that nothing can be sent in clear by mistake; bad arguments leave it as it was.

        Raises:
            TimeoutError: the nearest deadline has passed.
            ssl.SSLError: the handshake failed; ``ssl.SSLCertVerificationError`` where the
                certificate was to blame.
            OSError: the connection failed, or the stream is closed.
            ValueError, TypeError: *hostname* can't be a name that a peer proves.
        """

    @abc.abstractmethod
    def get_extra_info(self, key: str) -> Any:
        """Return what the stream knows under *key*, None for a key that it does not know.

        ``"client_addr"``, ``"server_addr"``
            ``(ip, port)``, or the path of a Unix socket. Still there after ``close()``.
        ``"socket"``
            the socket below.
        ``"ssl_object"``
            the ``ssl.SSLSocket`` or ``ssl.SSLObject`` of the innermost TLS, None without TLS.
        ``"is_readable"``
            whether a read would return at once, with data or the end of the stream. An idle
            connection of which this is true is not fit to be used again.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """End the stream and give back what it holds. Never raises, never waits; idempotent.

        It may come from another thread: a read or a write that waits there ends with the error of
        a closed stream.
        """

    def __enter__(self: _Stream) -> _Stream:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class NetworkBackendInterface(abc.ABC):
    """What opens streams. Any number of threads may call it at once."""

    __slots__ = ()

    @abc.abstractmethod
    def connect(self, host: str, port: int) -> NetworkStreamInterface:
        """Connect to *host*, a name or a numeric address, and return the stream.

        Raises:
            TimeoutError: the nearest deadline has passed.
            socket.gaierror: *host* does not resolve.
            OSError: no connection could be made; a subclass such as ConnectionRefusedError where
                every address failed for the same reason.
            ValueError, TypeError: *host* or *port* is unusable. Nothing was sent.
        """
