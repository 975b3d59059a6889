"""Name resolution that can be abandoned.

``getaddrinfo`` waits for as long as the resolver pleases (a dead DNS server costs Linux some 20
seconds), and nothing can interrupt it, not even Ctrl-C. So under a deadline it runs in a thread of
its own, and the caller waits for the thread, which it can stop doing. The thread is a daemon: it
ends when the resolver answers, and keeps no program from ending.

Two things keep the threads few. Callers that ask for a name while it is being looked up wait for
the same thread, so that a resolver that hangs holds one per name, not one per attempt. And a thread
that has an answer stays for a second to look up the next name, because starting one costs more than
most look-ups do.

No lock guards anything here: dict, list and set are only changed by single, atomic operations. The
locks that there are wake who waits for them.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
from typing import Any

from ._deadlines import bounded, remaining
from ._names import is_expiry

AddressInfo = list[tuple[Any, ...]]  # what socket.getaddrinfo returns

_IDLE = 1.0  # seconds that a thread without work waits for more


def getaddrinfo(name: str, port: int) -> AddressInfo:
    """Look up *name*, within the nearest deadline.

    Numeric addresses need no look-up, and get no thread. Without a deadline the look-up runs in
    the caller's thread.

    Raises:
        TimeoutError: the deadline has passed.
        socket.gaierror: the name does not resolve; the text has the name.
    """
    try:
        bounded = remaining() is not None
        found = _numeric(name, port)
        if not found:
            # In the teardown of the interpreter daemon threads stand still for good.
            in_time = bounded and not sys.is_finalizing()
            found = _ask_in_time(name, port) if in_time else _ask(name, port)
        return found
    except OSError as exc:  # a gaierror, nearly always
        if _is_a_handlers(exc):
            raise
        if is_expiry(exc):
            raise TimeoutError(f"look-up of {name!r} timed out: {exc}") from None
        text = f"look-up of {name!r} failed: {exc.strerror or exc}"
        raise type(exc)(*([text] if exc.errno is None else [exc.errno, text])) from None


def _is_a_handlers(exc: Exception) -> bool:
    """Whether *exc* is of the caller's own making, and so from a signal handler of his."""
    return type(exc).__module__ not in ("builtins", "socket")


def _numeric(name: str, port: int) -> AddressInfo:
    """What *name* comes to if it is an address in numbers, a zone of IPv6 included."""
    last = name.rpartition(".")[2]
    if not last[:1].isdigit() and ":" not in name:
        return []
    family, *numbers = (socket.AF_INET6, 0, 0) if ":" in name else (socket.AF_INET,)
    try:  # as getaddrinfo() would do it, which takes its time
        ip = socket.inet_ntop(family, socket.inet_pton(family, name))
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (ip, port, *numbers))]
    except OSError:
        pass  # "127.1" and "0x7f.1" are addresses, too, and so are those with a zone
    try:
        return _ask(name, port, socket.AI_NUMERICHOST)
    except socket.gaierror:
        if ":" in name:  # an address of which the zone, say, does not exist: nothing to look up
            raise
        return []


def _ask(name: str, port: int, flags: int = 0) -> AddressInfo:
    # As bytes, so that the socket module does not put it through the codec of IDNA 2003.
    return socket.getaddrinfo(name.encode("ascii"), port, type=socket.SOCK_STREAM, flags=flags)


def _ask_in_time(name: str, port: int) -> AddressInfo:
    while (lookup := _Process.current().look_up(name)).error is _INTERRUPTED and not lookup.begun:
        pass  # somebody else was to begin it, and was interrupted
    error = lookup.error
    if error is not None:  # one for each caller: raising writes into an exception
        raise type(error)(*error.args)
    # Other callers may have asked for other ports.
    return [(*info, (address[0], port, *address[2:])) for *info, address in lookup.found]


_INTERRUPTED = socket.gaierror(socket.EAI_AGAIN, "the look-up was interrupted")


class _Lookup:
    """One call of ``getaddrinfo``, and those who wait for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.begun = False  # by a thread of its own, which ends it
        self.found: AddressInfo = []
        self.error: Exception | None = _INTERRUPTED
        self._over = False
        self._waiting: set[threading.Lock] = set()  # one of each who waits, released to wake him

    def run(self) -> None:
        try:
            self.found = _ask(self.name, 0)
            self.error = None
        except Exception as exc:
            self.error = exc.with_traceback(None)

    def wait(self) -> None:
        """Wait until it is over, or for the deadline.

        On a bare lock: what ``threading.Event`` does around one, in both threads, takes as long as
        a look-up of "localhost".
        """
        lock = threading.Lock()
        lock.acquire()
        self._waiting.add(lock)
        try:
            if not self._over:
                bounded(lock.acquire, math.inf, True)
        finally:
            self._waiting.discard(lock)  # a resolver that hangs may see many come and go

    def end(self) -> None:
        self._over = True  # first, for who begins to wait at this moment
        try:
            while True:  # each once, whoever gives up meanwhile
                self._waiting.pop().release()
        except KeyError:  # nobody is left
            return


class _Place:
    """Where a thread that has nothing to do waits for its next look-up, once.

    Whoever takes the place off the list of the idle, and he alone, gives it a look-up. The thread
    leaves when nobody has come for a second, or has come and was interrupted. If it leaves just
    when it is given one, both reach for the lock, which is free from when that is there until one
    of them has it; the other gives way.
    """

    def __init__(self, idle: list[_Place]) -> None:
        self._idle = idle
        self._lookup: _Lookup | None = None
        self._given = threading.Lock()
        self._given.acquire()
        self._left = False
        idle.append(self)

    def give(self, lookup: _Lookup) -> bool:
        """Have the thread look that up next; False if it has left."""
        self._lookup = lookup
        self._given.release()
        return not self._left or not self._given.acquire(blocking=False)

    def wait(self) -> _Lookup | None:
        return self._lookup if self._given.acquire(timeout=_IDLE) else self.leave()

    def leave(self) -> _Lookup | None:
        """What it is given at the last moment, if anything."""
        try:
            self._idle.remove(self)
        except ValueError:
            pass  # somebody has taken it
        self._left = True  # first, for who gives at this moment
        return self._lookup if self._given.acquire(blocking=False) else None


class _Process:
    """The look-ups of this process: those that run, and the threads that wait for more."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.running: dict[str, _Lookup] = {}
        self.idle: list[_Place] = []

    @staticmethod
    def current() -> _Process:
        global _process
        if _process._pid != os.getpid():  # a forked child has none of its parent's threads
            _process = _Process()
        return _process

    def look_up(self, name: str) -> _Lookup:
        """Look up *name*, or wait with those who do already, until that is over."""
        lookup = _Lookup(name)
        try:
            running = self.running.setdefault(name, lookup)
            if running is lookup:
                self._begin(lookup)
        except BaseException:  # an interrupt: let nobody wait for what no thread has begun
            if not lookup.begun:
                self._end(lookup)
            raise
        running.wait()
        return running

    def _begin(self, lookup: _Lookup) -> None:
        try:
            begun = self.idle.pop().give(lookup)
        except IndexError:
            begun = False
        if not begun:
            self._start_thread(lookup)

    def _start_thread(self, lookup: _Lookup) -> None:
        thread = threading.Thread(target=self._work, args=(lookup,), daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:
            if _is_a_handlers(exc):
                raise
            # No thread to be had: the program is ending, or the system is out of them. A look-up
            # that may be late is better than none.
            lookup.run()
            self._end(lookup)

    def _work(self, lookup: _Lookup | None) -> None:
        """What a thread does: the look-up it was started for, and those that follow in time."""
        thread = threading.current_thread()
        place: _Place | None = None
        try:
            while lookup is not None:
                lookup.begun = True
                try:
                    thread.name = f"httpx_net look-up of {lookup.name}"
                    lookup.run()
                    thread.name = "httpx_net look-up (idle)"
                    place = _Place(self.idle)  # before the end, for who looks up the next name then
                finally:
                    self._end(lookup)
                lookup = place.wait()
        except BaseException:  # MemoryError, say: let nobody wait for this thread
            if place is not None and (lookup := place.leave()) is not None:
                self._end(lookup)
            raise

    def _end(self, lookup: _Lookup) -> None:
        if self.running.get(lookup.name) is lookup:
            self.running.pop(lookup.name, None)
        lookup.end()


_process = _Process()
