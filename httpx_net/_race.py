"""Happy Eyeballs: connecting to whichever of several addresses answers (RFC 8305).

The naive answer is to try one address after another, each for as long as the timeout lasts; it
spends the whole timeout on the first address that is dead, and a dead one answers nothing, while
the live one beside it would have answered within a round trip. To try all at once is rude to
servers, and picks the wrong family where both work.

RFC 8305 staggers them. Attempts start in an order that alternates between the families (section 4),
each 250 ms after the one before (section 5), and none is given up because the next has started. The
first to connect wins, and the others are closed. When an attempt fails, the next starts at once:
the RFC leaves this open, and asyncio, trio, Go and curl do it.

``Schedule`` is the part that decides, on paper: whom to start, and when. It knows neither sockets
nor the clock. The rest drives sockets by it.

Left out: looking up both families at once (section 3), because ``getaddrinfo`` answers with both
together, sorted (RFC 6724); and remembering which address won, which belongs to who keeps a cache.
"""

from __future__ import annotations

import errno
import math
import os
import socket
from collections import deque, namedtuple
from collections.abc import Callable, Iterable
from time import monotonic as _clock
from typing import Any

from ._deadlines import remaining
from ._names import printed
from ._wait import WRITE, wait

# Attempts under way at once. A name may have thousands of addresses (4,095 fit in one answer) and a
# process some thousand descriptors. At the recommended pace this is 16 seconds of silence.
MOST_AT_ONCE = 64


class Address(namedtuple("Address", ("family", "sockaddr"))):
    """Where to connect to, or from; in numbers, which the kernel understands by itself."""

    __slots__ = ()

    family: int
    sockaddr: tuple[Any, ...]

    def __str__(self) -> str:
        return printed(self.sockaddr)


def interleaved(addresses: Iterable[Address]) -> list[Address]:
    """*addresses* with the families taking turns, that of the first one beginning."""
    families: dict[int, deque[Address]] = {}
    for address in addresses:
        families.setdefault(address.family, deque()).append(address)
    order = []
    while families:
        for family, queue in list(families.items()):
            order.append(queue.popleft())
            if not queue:
                del families[family]
    return order


class Schedule:
    """Whom to try and when, as RFC 8305 section 5 has it; the caller tells the time."""

    def __init__(
        self, candidates: Iterable[Any], delay: float, most_at_once: int = MOST_AT_ONCE
    ) -> None:
        self._candidates = deque(candidates)
        self._delay = delay
        self._most_at_once = most_at_once
        self._in_flight = 0
        self._next_start = -math.inf  # when the next one is due

    def start(self, now: float) -> Any:
        """The candidate to start *now*, or None if it is not time for one yet."""
        if self.wait(now) > 0:
            return None
        self._in_flight += 1
        self._next_start = now + self._delay
        return self._candidates.popleft()

    def failed(self) -> None:
        """An attempt has failed: it makes room, and the next one need not wait."""
        self._in_flight -= 1
        self._next_start = -math.inf

    def wait(self, now: float) -> float:
        """The seconds until a candidate is due; infinite where only an attempt's end can help."""
        if not self._candidates or self._in_flight >= self._most_at_once:
            return math.inf
        return max(0.0, self._next_start - now)

    def lost(self) -> bool:
        """Whether there is nobody left to try, and nobody left to hear from."""
        return not self._candidates and not self._in_flight


def connect(
    where: tuple[str, int],
    addresses: list[Address],
    open_socket: Callable[[Address], socket.socket],
    delay: float | None,
) -> socket.socket:
    """Connect a socket made by *open_socket* to one of *addresses*, within the nearest deadline.

    *where* is the host and port that was asked for, for the text of errors. *delay* is RFC 8305's
    Connection Attempt Delay; None tries one address after another.

    What *open_socket* opened stays its caller's: when this raises, some of it may still be open.
    When it returns, the losers are closed.

    Raises:
        TimeoutError: the deadline has passed (errno is None).
        OSError: every attempt failed; of their class and errno, where they agree.
    """
    order = addresses if len(addresses) == 1 else interleaved(addresses)
    attempts = _Attempts(order, open_socket)
    try:
        bounded = remaining() is not None
        if delay is None or len(order) == 1:
            winner = attempts.one_by_one()
        else:
            winner = attempts.staggered(delay)
    except TimeoutError as exc:
        raise TimeoutError(f"connect to {printed(where)} timed out: {exc} ({attempts})") from None
    if winner is None:
        raise attempts.combined_error(f"connect to {printed(where)} failed: {attempts}")
    if not bounded and winner.gettimeout() is not None:
        winner.settimeout(None)
    return winner


class _Attempts:
    """The attempts of one ``connect``, and what has come of them."""

    def __init__(
        self, order: list[Address], open_socket: Callable[[Address], socket.socket]
    ) -> None:
        self._order = order
        self._open_socket = open_socket
        self._failures: dict[Address, OSError | None] = {}  # None while there is no answer

    def one_by_one(self) -> socket.socket | None:
        for address in self._order:
            if remaining() is None:
                sock = self._connect_blocking(address)
            else:
                sock = self._begin(address)
                if sock is not None:
                    wait((sock.fileno(),), WRITE)
                    sock = self._end(address, sock)
            if sock is not None:
                return sock
        return None

    def staggered(self, delay: float) -> socket.socket | None:
        schedule = Schedule(self._order, delay)
        in_flight: dict[int, tuple[Address, socket.socket]] = {}
        while not schedule.lost():
            remaining()
            now = _clock()
            address = schedule.start(now)
            if address is not None:
                sock = self._begin(address)
                if sock is None:
                    schedule.failed()
                else:
                    in_flight[sock.fileno()] = address, sock
                continue
            for fd in wait(in_flight, WRITE, schedule.wait(now)):
                winner = self._end(*in_flight.pop(fd))
                if winner is not None:
                    for _, loser in in_flight.values():  # one that has connected by now among them
                        loser.close()
                    return winner
                schedule.failed()
        return None

    def _connect_blocking(self, address: Address) -> socket.socket | None:
        """Connect in one call, which is what costs least where no deadline stands."""
        self._failures[address] = sock = None
        try:
            sock = self._open_socket(address)
            if sock.gettimeout() is not None:  # socket.setdefaulttimeout() is no deadline of ours
                sock.settimeout(None)
            sock.connect(address.sockaddr)
            return _checked(sock, address)
        except OSError as exc:
            return self._failed(address, sock, exc)

    def _begin(self, address: Address) -> socket.socket | None:
        """Begin to connect; None if that has failed already."""
        self._failures[address] = sock = None
        try:
            sock = self._open_socket(address)
            sock.settimeout(0.0)
            error = sock.connect_ex(address.sockaddr)
            if error not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
                raise _os_error(error)
            return sock
        except OSError as exc:
            return self._failed(address, sock, exc)

    def _end(self, address: Address, sock: socket.socket) -> socket.socket | None:
        """The socket, connected, once it has become writable; None if it has failed."""
        try:
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise _os_error(error)
            return _checked(sock, address)
        except OSError as exc:
            return self._failed(address, sock, exc)

    def _failed(
        self, address: Address, sock: socket.socket | None, exc: OSError
    ) -> socket.socket | None:
        if sock is not None:
            sock.close()
        # Without its traceback, whose frames would keep sockets alive.
        self._failures[address] = exc.with_traceback(None)
        return None

    def combined_error(self, text: str) -> OSError:
        """One error for all: of the builtin class where they agree, which their errno decides."""
        failures = [exc for exc in self._failures.values() if exc is not None]
        errnos = {exc.errno for exc in failures}
        if len(errnos) == 1 and None not in errnos:
            return OSError(errnos.pop(), text)
        classes = {type(exc) for exc in failures}
        return (classes.pop() if len(classes) == 1 else OSError)(text)

    def __str__(self) -> str:
        told = []
        for address, exc in self._failures.items():
            told.append(f"{address}: {exc.strerror or exc if exc else 'no answer'}")
        if len(told) < len(self._order):
            told.append(f"{len(self._order) - len(told)} not tried")
        return "; ".join(told)


def _checked(sock: socket.socket, address: Address) -> socket.socket:
    """*sock*, which is connected to *address*, if that is not its own.

    Who connects to a port of the ephemeral range where nobody listens may be given that port as
    his own, and TCP then connects the socket to itself (RFC 9293, section 3.5, figure 8).
    """
    own = sock.getsockname()
    if own[1] == address.sockaddr[1] and own == sock.getpeername():
        raise OSError(errno.ECONNREFUSED, "nobody listens there: the socket met itself")
    return sock


def _os_error(number: int) -> OSError:
    # Windows keeps the texts of its socket errors in a table of the socket module.
    return OSError(number, getattr(socket, "errorTab", {}).get(number) or os.strerror(number))
