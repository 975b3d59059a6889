"""One wait for sockets, in slices: poll where there is one, select where there is not.

``poll`` rather than ``select``, which can't watch descriptors from 1,024 up; and rather than
``epoll`` or ``kqueue``, which cost a descriptor and two system calls to watch a socket once.
Windows has no ``poll``, and gevent and eventlet take it away, so its presence is looked up each
time. ``select`` does well there: Windows limits the number of sockets, not their descriptors,
and the two libraries bring a ``select`` of their own.
"""

from __future__ import annotations

import math
import select
import selectors
from collections.abc import Collection

from ._deadlines import bounded

# What to wait for, as poll has it: one of them, or both.
READ, WRITE = getattr(select, "POLLIN", 1), getattr(select, "POLLOUT", 4)


def wait(fds: Collection[int], event: int, seconds: float = math.inf) -> list[int]:
    """Wait until one of *fds* is ready for *event*; return those that are.

    An empty list means that *seconds* have passed.

    Raises:
        TimeoutError: the nearest deadline has passed.
    """
    return bounded(ready, seconds, fds, event)


def ready(fds: Collection[int], event: int, seconds: float) -> list[int]:
    """Return those of *fds* that are ready for *event* within *seconds*, whatever the deadline.

    A connection that failed or ended is ready for both events: the call that follows reports it.
    The wait may end up to a millisecond late, since poll counts in those, and never early.
    """
    if not hasattr(select, "poll"):
        return _select(fds, event, seconds)
    poller = select.poll()
    for fd in fds:
        poller.register(fd, event)
    # poll() rounds up to whole milliseconds by itself.
    return [fd for fd, _ in poller.poll(seconds * 1000.0)]


def _select(fds: Collection[int], event: int, seconds: float) -> list[int]:
    selected = (selectors.EVENT_READ if event & READ else 0) | (
        selectors.EVENT_WRITE if event & WRITE else 0
    )
    # This selector reports failed connects on Windows, too.
    with selectors.SelectSelector() as selector:
        for fd in fds:
            selector.register(fd, selected)
        return [key.fd for key, _ in selector.select(seconds)]
