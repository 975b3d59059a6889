"""Look-ups that can be abandoned, and that one lost answer can't stall.

``socket.getaddrinfo`` waits for as long as the resolver pleases (a dead DNS server costs Linux some
20 seconds), and nothing can interrupt it, not even Ctrl-C. So under a deadline each call of it runs
in a thread of its own, which makes that one call, says so, and ends. The caller waits for the news,
and can stop waiting. The thread is a daemon, so it keeps no program from ending.

Libc asks for both families and waits for both. If one answer is lost that takes 5 to 15 seconds,
though the other one would do. So when the first call has been silent for a moment, each family is
asked for by itself, and the first useful answer is used: RFC 8305, section 3, as far as
``getaddrinfo`` lets us. While names are well there is only the first call, and the order of its
answer is the system's (RFC 6724).

Whoever asks again gets new calls, since the old ones may be stuck. But a dead resolver must not
gather threads for ever. So each call takes one of four places, of its name, port and family; where
all are taken, it follows the youngest of those four. This is the business of the calls' threads,
where no signal handler runs: wherever a caller is interrupted, there is nothing to put in order.

No lock guards anything here. Places are taken by ``dict.setdefault``, and a thread that follows
first adds itself and then looks whether it came too late, while the other one ends in the reverse
order: so at least one of the two tells.
"""

from __future__ import annotations

import _socket
import itertools
import math
import os
import socket
import sys
import threading
import weakref
from typing import Any, TypeAlias

from ._deadlines import bounded, remaining
from ._errors import failure, from_network, is_expiry, origin

# socket.getaddrinfo() needs this codec for a str. Later it may not be found, since the program has
# dropped its rights or is ending.
"".encode("idna")

# What socket.getaddrinfo() returns.
AddressInfo: TypeAlias = list[tuple[Any, ...]]

# Seconds. A resolver that is well has nearly always answered by then; and it is what an address
# that doesn't answer costs, too.
_SILENCE = 0.25

# Seconds: the Resolution Delay that RFC 8305 recommends in section 8.
_RESOLUTION_DELAY = 0.05

_MOST_ALIKE = 4

# How systems say that a name has no address of a family, or none at all.
_NO_ADDRESS = {getattr(socket, f"EAI_{name}", None) for name in ("NONAME", "NODATA", "ADDRFAMILY")}


def getaddrinfo(name: str, port: int, family: int = socket.AF_UNSPEC) -> AddressInfo:
    """Look up *name*, within the nearest deadline; ask for the addresses of *family* alone.

    Numeric addresses, of either family, need no look-up and get no thread. Without a deadline the
    look-up runs in the caller's thread, and so it does while the interpreter shuts down, when
    daemon threads no longer run.

    Raises:
        TimeoutError: the deadline has passed.
        socket.gaierror: the name does not resolve; the text has the name.
    """
    calls: list[_Call] = []
    try:
        unbounded = remaining() is None or sys.is_finalizing()
        if found := _numeric(name, port):
            return found
        return _ask(name, port, family) if unbounded else _look_up(name, port, family, calls)
    # A function in the place of socket.getaddrinfo raises from its own module.
    except from_network(OSError, through=() if calls else (socket.getaddrinfo,)) as exc:
        error = _decisive(calls) if is_expiry(exc) else None
        progress = f" (one call failed: {getattr(error, 'strerror', error)})"
        raise failure("look-up of", repr(name), exc, progress if error else "") from None


def _numeric(name: str, port: int) -> AddressInfo:
    """The address that *name* is in numbers, a zone included; nothing if it is a name."""
    # The last number may be in octal or hexadecimal, but begins with a digit.
    if ":" not in name and not name.rpartition(".")[2][:1].isdigit():
        return []
    try:
        # Not that of the socket module, in whose place a program may have put one that waits.
        found = _socket.getaddrinfo(name, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    except from_network(OSError):
        return []
    return [(socket.AddressFamily(info[0]), socket.SOCK_STREAM, *info[2:]) for info in found]


def _ask(name: str, port: int, family: int) -> AddressInfo:
    # By position, as http.client does it: some of the functions that programs put in the place of
    # this one know no keywords.
    return socket.getaddrinfo(name, port, family, socket.SOCK_STREAM)


def _look_up(name: str, port: int, family: int, calls: list[_Call]) -> AddressInfo:
    """Look up in threads. Their calls are put into *calls*: the first, then IPv6, then IPv4."""
    news = threading.Event()
    calls.append(_Call((name, port, family), news).start())
    if not bounded(news.wait, _SILENCE if family == socket.AF_UNSPEC else math.inf):
        for each in (socket.AF_INET6, socket.AF_INET):
            calls.append(_Call((name, port, each), news).start())
        useful: list[_Call] = []
        while bounded(news.wait, _RESOLUTION_DELAY if useful else math.inf):
            news.clear()
            useful = [call for call in calls if call.found]
            # Once a family has answered, nobody waits for the first call any more.
            awaited = calls[1:] if useful else calls
            if calls[0].found or all(call.over for call in awaited):
                break
    found = [info for call in calls for info in call.found]
    error = _decisive(calls)
    if error is not None and not found:
        raise error.with_traceback(None)
    return found


def _decisive(calls: list[_Call]) -> BaseException | None:
    """The error to report if all *calls* are in vain, None if none has failed yet."""
    errors = [call.error for call in calls if call.error is not None]
    # False sorts first, and of equals the first is taken.
    return min(errors, key=lambda error: getattr(error, "errno", 0) in _NO_ADDRESS, default=None)


# The calls under way, each in a place of its own.
_places: dict[tuple[Any, ...], _Call] = {}


class _Call:
    """One call of ``socket.getaddrinfo``, in a thread that does nothing else.

    It sets *news* when it is over.
    """

    _numbers = itertools.count()

    def __init__(self, question: tuple[str, int, int], news: threading.Event) -> None:
        self.question = question
        self.found: AddressInfo = []
        self.error: BaseException | None = None
        self.over = False
        self._news = news
        self._number = next(self._numbers)
        # Calls for which no place was left. Weak, because many may come and give up.
        self._followers: set[weakref.ref[_Call]] = set()

    def start(self, daemon: bool = True) -> _Call:
        """Start the thread, or end for want of one."""
        name = f"httpx_net look-up of {self.question[0]}"
        try:
            threading.Thread(target=self._run, name=name, daemon=daemon).start()
        except RuntimeError as exc:
            if "daemon thread" in str(exc):
                # It is a sub-interpreter.
                self.start(daemon=False)
            elif "at interpreter shutdown" in str(exc):
                self._end(_ask(*self.question), None)
            elif "can't start new thread" in str(exc) or origin(exc, (threading.Thread,)):
                self._end([], socket.gaierror(socket.EAI_AGAIN, "no thread could be started"))
            else:
                raise
        return self

    def _run(self) -> None:
        """What the thread does: take a place and ask, or follow the youngest of the others."""
        self._thread = threading.current_thread()
        alike = []
        for place in [(os.getpid(), self.question, number) for number in range(_MOST_ALIKE)]:
            call = _places.setdefault(place, self)
            # A thread that is gone without having ended its call was the parent's of this process,
            # which may have the same number, in another namespace.
            if call is self or not (call._thread.is_alive() or call.over):
                _places[place] = self
                try:
                    found, error = _ask(*self.question), None
                except BaseException as exc:
                    # Without the frames, which would keep much alive. When the caller's thread
                    # raises it again it is an error of this module, and so the network's.
                    found, error = [], exc.with_traceback(None)
                _places.pop(place, None)
                self._end(found, error)
                return
            alike.append(call)
        youngest = max(alike, key=lambda call: call._number)
        youngest._followers.add(weakref.ref(self, youngest._followers.discard))
        if youngest.over:
            self._end(youngest.found, youngest.error)

    def _end(self, found: AddressInfo, error: BaseException | None) -> None:
        self.found, self.error, self.over = found, error, True
        for call in filter(None, [follower() for follower in self._followers.copy()]):
            call._end(found, error)
        # This comes last, because a fork that follows the look-up should find no thread.
        self._news.set()
