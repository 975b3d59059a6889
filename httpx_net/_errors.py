"""Whose an error is, what it says of the connection, and the sentence that users read.

Three kinds of error come up on the same way, often of one class and with one number: what the
network reports, a deadline's TimeoutError, and whatever a signal handler raises, which strikes
anywhere and is nobody's business here. They are told apart by where they were made, which an
error's traceback knows.

Of the network's errors, some say that the connection is lost, and some do not. Whatever a caller
sees of them is one sentence of one grammar.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import sys
from typing import TypeGuard, TypeVar

_Error = TypeVar("_Error", bound=BaseException)

# This machine's trouble, after which the connection may go on.
NO_MEMORY = (errno.ENOBUFS, errno.ENOMEM)

# What calls of ours go through. The last two are on the way of an error from select(), and out of
# a `with` of ours.
_OURS = tuple([f"{each}." for each in (__package__, "socket", "ssl", "selectors", "contextlib")])


def is_expiry(exc: BaseException) -> TypeGuard[TimeoutError]:
    """Whether *exc* is the TimeoutError of a deadline: only ``_deadlines`` makes those.

    Its class and errno don't tell: the kernel's ETIMEDOUT and a signal handler's error may look
    the same.
    """
    return isinstance(exc, TimeoutError) and origin(exc) == f"{__package__}._deadlines."


def origin(exc: BaseException, through: tuple[object, ...] = ()) -> str:
    """The module in which *exc* was raised, with a dot; nothing if it is a signal handler's.

    A number doesn't tell whether it is the network's, for the ``open()`` of a handler fails with
    one too, and a handler may use the network itself. The traceback does: from here on down it has
    no code but that of this package, of the standard library below it, and of the packages that
    bring what the call went *through* (gevent's sockets, say), while a handler always leaves a
    frame of its own.
    """
    traceback, module = exc.__traceback__, _OURS[0]
    # Nearly always it comes right out of C code that our own has called, and nothing else counts.
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
        module = f"{traceback.tb_frame.f_globals.get('__name__')}."
        if not module.startswith(_OURS) and not module.startswith(tuple(map(_home, through))):
            return ""
    return module


def from_network(
    *classes: type[_Error], through: tuple[object, ...] = ()
) -> tuple[type[_Error], ...]:
    """*classes*, if the error on its way is the network's, and none of them else.

    It stands in an ``except`` clause, which Python evaluates when an error arrives, and lets that
    of a signal handler pass: ``except from_network(OSError) as exc:``.
    """
    exc = sys.exc_info()[1]
    return classes if isinstance(exc, classes) and origin(exc, through) else ()


def _home(thing: object) -> str:
    # A function in the place of another may bear its name and module, but not its globals.
    if (names := getattr(thing, "__globals__", None)) is not None:
        return f"{names.get('__name__')}."
    package = str(getattr(thing, "__module__", "")).partition(".")[0]
    # A script's own classes stand beside its signal handlers. No module begins with a dot.
    return "." if package == "__main__" else f"{package}."


def is_loss(exc: object) -> bool:
    """Whether *exc* is the kernel's word that the connection is gone.

    EPIPE is not: Linux says that to a write where the peer's own end had come in order.
    """
    if not isinstance(exc, OSError) or isinstance(exc, ssl.SSLError):
        return False
    return exc.errno != errno.EPIPE and exc.errno not in NO_MEMORY


def is_connected(sock: socket.socket) -> bool:
    """Whether *sock* is connected still, and not reset or given up by the kernel."""
    try:
        sock.getpeername()
    except from_network(OSError, through=(sock,)):
        return False
    return True


def bare(exc: OSError) -> OSError:
    """*exc* without what it has met on its way, whose frames would keep the stream alive."""
    exc.__context__ = exc.__cause__ = None
    return exc.with_traceback(None)


def printed(address: object) -> str:
    """An address as people write it: ``1.2.3.4:80``, ``[::1]:80``, or the path of a Unix socket."""
    if isinstance(address, tuple):
        ip, port = address[:2]
        return f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}"
    return address.decode("utf-8", "replace") if isinstance(address, bytes) else str(address)


def failure(doing: str, whom: object, exc: OSError, progress: str = "") -> OSError:
    """*exc* as users see it: operation, peer, outcome, progress and cause, always in that order.

    It is an error of the same class and errno, with whatever *exc* carries, to be raised ``from
    None``. *whom* is an address or a text.
    """
    verb = "timed out" if is_expiry(exc) else "failed"
    cause = exc.strerror or (exc.args[0] if len(exc.args) == 1 else exc)
    text = f"{doing} {printed(whom) or 'an unnamed peer'} {verb}{progress}: {cause}"
    # Not by calling the class: a look-up's may take arguments of its own.
    error = type(exc).__new__(type(exc))
    vars(error).update(vars(exc))
    error.args = (text,) if exc.errno is None else (exc.errno, text)
    if exc.errno is not None:
        error.errno = exc.errno
    # This is what str() of an SSLError shows.
    error.strerror = text
    # Or its frames would live as long as the new one, whose context it is.
    bare(exc)
    return error


def os_error(number: int) -> OSError:
    """The error of the system with that *number*."""
    # Windows keeps the texts of its socket errors in a table of the socket module.
    return OSError(number, getattr(socket, "errorTab", {}).get(number) or os.strerror(number))
