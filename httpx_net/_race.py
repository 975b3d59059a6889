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
nor the clock. The rest drives sockets by it, and owns them from when they are opened: all but the
winner are closed when ``connect`` ends, whatever ends it.

Left out: remembering which address won, which is the job of whoever keeps a cache. The look-up is
no part of the race, though section 3 lets the first family to be found start; see ``_resolve``.
"""

from __future__ import annotations

import errno
import itertools
import math
import socket
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic as _clock
from typing import Any, TypeAlias

from ._deadlines import remaining
from ._errors import failure, from_network, is_expiry, os_error, printed
from ._names import Address, endpoint
from ._wait import WRITE, wait

# Attempts under way at the same time. A name may have thousands of addresses (4,095 fit in one
# answer) and a process some thousand descriptors. At the recommended pace this is 16 seconds of
# silence.
MOST_AT_ONCE = 64

_Configure: TypeAlias = Callable[[socket.socket], None]

# A socket, and the addresses of the server and the client between which it is connected.
Connected: TypeAlias = tuple[Any, Any, Any]

_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK)

# What this machine says of an address that it has no way to, before anything has been sent or
# where nothing could be delivered.
_OUT_OF_REACH = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EHOSTUNREACH, errno.ENETUNREACH)


def interleaved(addresses: Iterable[Address]) -> list[Address]:
    """*addresses* with the families taking turns, that of the first one beginning."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address.family, []).append(address)
    turns = itertools.zip_longest(*families.values())
    return [address for turn in turns for address in turn if address is not None]


class Schedule:
    """Whom to try and when, as RFC 8305 section 5 has it; the caller brings the clock."""

    def __init__(
        self, candidates: Iterable[Any], delay: float, most_at_once: int = MOST_AT_ONCE
    ) -> None:
        self._candidates = deque(candidates)
        self._delay = delay
        self._most_at_once = most_at_once
        self._in_flight = 0
        self._next_start = -math.inf

    def start(self, now: float) -> Any:
        """The candidate to start *now*, when one is due."""
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

    def is_over(self) -> bool:
        """Whether there is nobody left to try, and nobody left to hear from."""
        return not self._candidates and not self._in_flight


def connect(
    peer: tuple[str, int], addresses: list[Address], configure: _Configure, delay: float | None
) -> Connected:
    """Connect to one of *addresses* within the nearest deadline.

    *peer* is the host and port that was asked for, for the text of errors. *configure* is given
    each socket before it connects. *delay* is RFC 8305's Connection Attempt Delay; None tries one
    address after another.

    Raises:
        TimeoutError: the deadline has passed (errno is None).
        OSError: every attempt failed; of their class and errno, where they agree.
    """
    order = interleaved(addresses) if len(addresses) > 1 else addresses
    attempts = [Attempt(address) for address in order]
    try:
        connected = _race(Schedule(attempts, math.inf if delay is None else delay), configure)
        if connected is None:
            raise failure("connect to", peer, _combined(attempts, _outcomes(attempts, peer)))
        return connected
    except BaseException as exc:
        for attempt in attempts:
            attempt.close()
        if is_expiry(exc):
            outcomes = _outcomes(attempts, peer)
            raise failure("connect to", peer, exc, outcomes and f" ({outcomes})") from None
        raise


def _race(schedule: Schedule, configure: _Configure) -> Connected | None:
    """The connection of the first attempt to succeed, None if all have failed."""
    in_flight: dict[int, Attempt] = {}
    unbounded = blocking = False
    while True:
        seconds = schedule.wait(_clock())
        if seconds and (ready := wait(in_flight, WRITE, seconds)):
            attempt = in_flight.pop(ready[0])
        else:
            # After a wait that brought nothing it is due, even where a test has stopped the clock.
            attempt = schedule.start(now := _clock())
            # With neither a deadline nor another attempt to wait for, the kernel may wait: that is
            # one call in place of four.
            unbounded = remaining() is None
            blocking = unbounded and not in_flight and schedule.wait(now) == math.inf
        try:
            if connected := attempt.connect(configure, blocking):
                if unbounded and not blocking:
                    attempt.sock.settimeout(None)
                for loser in in_flight.values():
                    loser.close()
                return connected
            in_flight[attempt.sock.fileno()] = attempt
        except from_network(OSError, through=(attempt.sock or socket.socket,)) as exc:
            attempt.fail(exc)
            schedule.failed()
            if schedule.is_over():
                return None


class Attempt:
    """Connecting to one address: its socket, from first to last, and what came of it."""

    failure: OSError | None = None
    # For the text of errors; nothing before it begins.
    outcome = ""
    # A socket from when it begins.
    sock: Any = None

    def __init__(self, address: Address) -> None:
        self.address = address

    def connect(self, configure: _Configure, blocking: bool) -> Connected | None:
        """Begin to connect, or look what has become of it; None while it is under way."""
        sock = self.sock
        if sock is None:
            self.outcome = "no answer"
            family, proto, sockaddr = self.address
            sock = self.sock = socket.socket(family, socket.SOCK_STREAM, proto)
            # It may come with socket.setdefaulttimeout(), which is no deadline of ours: where that
            # ends a connect that may wait, the attempt is under way.
            if not blocking:
                sock.settimeout(0.0)
            configure(sock)
            error = sock.connect_ex(sockaddr)
            if error in _UNDER_WAY:
                return None
        else:
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise os_error(error)
        # Connecting to a wildcard reaches this machine, at an address that the kernel has chosen.
        wildcard = self.address.is_wildcard()
        server = endpoint(sock.getpeername() if wildcard else self.address.sockaddr)
        client = endpoint(sock.getsockname())
        # Connect to an ephemeral port on which nobody listens, and the kernel may pick that very
        # port for this end; TCP then connects the socket to itself (RFC 9293, figure 8).
        if client == server:
            raise OSError(errno.ECONNREFUSED, "nobody listens there: the socket met itself")
        return sock, server, client

    def fail(self, exc: OSError) -> None:
        """Keep the error that has ended it, and nothing else."""
        # Without its traceback, whose frames would keep sockets alive.
        self.failure = exc.with_traceback(None)
        self.outcome = exc.strerror or str(exc)
        self.close()

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()


def _combined(attempts: list[Attempt], text: str) -> OSError:
    """One error for all, of the builtin class where they agree, which their errno decides.

    Attempts that could reach nobody have no say where another was answered: "localhost" is
    refused, even on a machine without IPv6, where ::1 is an address that can't be assigned.
    """
    failures = [attempt.failure for attempt in attempts if attempt.failure is not None]
    decisive = [exc for exc in failures if exc.errno not in _OUT_OF_REACH] or failures
    numbers, classes = {exc.errno for exc in decisive}, {type(exc) for exc in decisive}
    if len(numbers) == 1:
        return OSError(numbers.pop(), text)
    return (classes.pop() if len(classes) == 1 else OSError)(text)


def _outcomes(attempts: list[Attempt], peer: tuple[str, int]) -> str:
    """What came of each attempt; of a single one at *peer* itself, without naming it again."""
    outcomes = [f"{attempt.address}: {attempt.outcome}" for attempt in attempts if attempt.outcome]
    if [str(attempt.address) for attempt in attempts] == [printed(peer)]:
        return attempts[0].outcome if attempts[0].failure else ""
    untried = len(attempts) - len(outcomes)
    return "; ".join([*outcomes, f"{untried} not tried"] if untried else outcomes)
