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
import math
import socket
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic as _clock
from typing import Any, TypeAlias

from ._deadlines import remaining
from ._names import Address, failure, is_expiry, is_networks, os_error, printed
from ._wait import WRITE, wait

# Attempts under way at the same time. A name may have thousands of addresses (4,095 fit in one
# answer) and a process some thousand descriptors. At the recommended pace this is 16 seconds of
# silence.
MOST_AT_ONCE = 64

_Configure: TypeAlias = Callable[[socket.socket], None]

_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK)

# What this machine says of an address that it has no way to, before anything has been sent or
# where nothing could be delivered.
_OUT_OF_REACH = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EHOSTUNREACH, errno.ENETUNREACH)


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
    peer: tuple[str, int],
    addresses: list[Address],
    configure: _Configure,
    delay: float | None,
) -> Attempt:
    """Connect to one of *addresses* within the nearest deadline; return the attempt that has won.

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
        if delay is None or len(attempts) == 1:
            winner = _one_by_one(attempts, configure)
        else:
            winner = _staggered(Schedule(attempts, delay), configure)
        if winner is None:
            raise failure("connect to", peer, _combined(attempts, _told(attempts, peer)))
        for loser in attempts:
            if loser is not winner:
                loser.close()
        return winner
    except BaseException as exc:
        for attempt in attempts:
            attempt.close()
        if isinstance(exc, TimeoutError) and is_expiry(exc):
            told = _told(attempts, peer)
            raise failure("connect to", peer, exc, told and f" ({told})") from None
        raise


def _one_by_one(attempts: list[Attempt], configure: _Configure) -> Attempt | None:
    """The first of *attempts* to connect, None if all have failed.

    The loop below could do this as well, at 2 to 3 us more for the many connects to one address.
    """
    for attempt in attempts:
        blocking = remaining() is None
        try:
            # With neither a deadline nor another attempt to wait for, the kernel may wait: that is
            # one call in place of four.
            if not attempt.begin(configure, blocking=blocking):
                wait((attempt.sock.fileno(),), WRITE)
                attempt.check()
            attempt.win(blocking=blocking)
            return attempt
        except OSError as exc:
            if not attempt.is_lost(exc):
                raise
    return None


def _staggered(schedule: Schedule, configure: _Configure) -> Attempt | None:
    """The first attempt of *schedule* to connect, None if all have failed."""
    in_flight: dict[int, Attempt] = {}
    now = -math.inf
    while not schedule.is_over():
        left = remaining()
        now = max(now, _clock())
        seconds = schedule.wait(now)
        attempt: Attempt | None = None
        try:
            if seconds == 0.0:
                candidate: Attempt = schedule.start(now)
                attempt = candidate
                if not attempt.begin(configure, blocking=False):
                    in_flight[attempt.sock.fileno()] = attempt
                    continue
            elif ready := wait(in_flight, WRITE, seconds):
                attempt = in_flight.pop(ready[0])
                attempt.check()
            else:
                # The next start is due, even where a test has stopped the clock.
                now += seconds
                continue
            attempt.win(blocking=left is None)
            return attempt
        except OSError as exc:
            if attempt is None or not attempt.is_lost(exc):
                raise
            schedule.failed()
    return None


class Attempt:
    """Connecting to one address: its socket, from first to last, and what came of it."""

    __slots__ = ("address", "client", "failure", "outcome", "server", "sock")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.failure: OSError | None = None
        # For the text of errors; nothing before it begins.
        self.outcome = ""
        # A socket from when it begins.
        self.sock: Any = None
        # Both ends as the kernel has them, once they are connected.
        self.server = self.client = address.sockaddr

    def begin(self, configure: _Configure, *, blocking: bool) -> bool:
        """Begin to connect; return whether that is done."""
        family, proto, sockaddr = self.address
        self.outcome = "no answer"
        sock = self.sock = socket.socket(family, socket.SOCK_STREAM, proto)
        # Never left as it comes, since socket.setdefaulttimeout() is no deadline of ours.
        if not blocking:
            sock.settimeout(0.0)
        elif sock.gettimeout() is not None:
            sock.settimeout(None)
        configure(sock)
        if blocking:
            sock.connect(sockaddr)
            return True
        error = sock.connect_ex(sockaddr)
        if error and error not in _UNDER_WAY:
            raise os_error(error)
        return not error

    def check(self) -> None:
        """Raise the error that has ended the attempt, if one has."""
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise os_error(error)

    def win(self, *, blocking: bool) -> None:
        """Learn who is connected to whom."""
        sock = self.sock
        if blocking and sock.gettimeout() is not None:
            sock.settimeout(None)
        self.client = sock.getsockname()
        if self.address.is_wildcard():
            # Connecting there reaches this machine, at an address that the kernel has chosen.
            self.server = sock.getpeername()
        # Connect to an ephemeral port on which nobody listens, and the kernel may pick that very
        # port for this end; TCP then connects the socket to itself (RFC 9293, figure 8).
        if self.client[1] == self.server[1] and self.client[0] == self.server[0]:
            raise OSError(errno.ECONNREFUSED, "nobody listens there: the socket met itself")

    def is_lost(self, exc: OSError) -> bool:
        """Whether *exc* has ended it, and comes neither from a deadline nor from a handler."""
        # Where a library has replaced the sockets, their errors come from its code.
        if is_expiry(exc) or not is_networks(exc, self.sock):
            return False
        # Without its traceback, whose frames would keep sockets alive.
        self.failure = exc.with_traceback(None)
        self.outcome = exc.strerror or str(exc)
        self.close()
        return True

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


def _told(attempts: list[Attempt], peer: tuple[str, int]) -> str:
    """What came of each attempt; of a single one at *peer* itself, without naming it again."""
    told = [f"{attempt.address}: {attempt.outcome}" for attempt in attempts if attempt.outcome]
    if [str(attempt.address) for attempt in attempts] == [printed(peer)]:
        return attempts[0].outcome if attempts[0].failure else ""
    untried = len(attempts) - len(told)
    return "; ".join([*told, f"{untried} not tried"] if untried else told)
