"""Waiting for sockets: poll where there is one, select where there is not.

``poll`` rather than ``select``, which can't watch descriptors from 1,024 up; and rather than
``epoll`` or ``kqueue``, which cost a descriptor and two system calls to watch a socket once.
Windows has no ``poll``, and gevent and eventlet take it away, so its presence is looked up each
time. ``select`` does well there: Windows limits the number of sockets, not their descriptors,
and the two libraries bring a ``select`` of their own.
"""

from __future__ import annotations

import select
import selectors
from collections.abc import Collection

from ._deadlines import remaining, this_thread, time_left

# What to wait for, as poll has it.
READ, WRITE = getattr(select, "POLLIN", 1), getattr(select, "POLLOUT", 4)

# Wait in slices of at most a day and look at the deadline again: poll(2) takes its milliseconds
# as a C int and goes no further than 24.8 days, and CPython's settimeout() silently wraps there.
_LONGEST_WAIT = 86_400.0  # seconds


def next_wait() -> float:
    """Return the seconds to wait before asking again: to the deadline, a day at most.

    Raises:
        TimeoutError: the nearest deadline has passed.
    """
    left = remaining()
    return _LONGEST_WAIT if left is None or left > _LONGEST_WAIT else left


def wait(fds: Collection[int], event: int, seconds: float) -> list[int]:
    """Wait for *seconds* until one of *fds* is ready for *event*; return those that are.

    A connection that failed or ended is ready for both events: the call that follows tells. The
    wait may end up to a millisecond late, since poll counts in those, and never early.
    """
    if not hasattr(select, "poll"):
        return _select(fds, event, seconds)
    poller = select.poll()
    for fd in fds:
        poller.register(fd, event)
    return [fd for fd, _ in poller.poll(seconds * 1000.0)]  # rounds up


def _select(fds: Collection[int], event: int, seconds: float) -> list[int]:
    selected = selectors.EVENT_READ if event == READ else selectors.EVENT_WRITE
    with selectors.SelectSelector() as selector:  # on Windows it reports failed connects, too
        for fd in fds:
            selector.register(fd, selected)
        return [key.fd for key, _ in selector.select(seconds)]


def wait_in_time(fd: int, event: int) -> None:
    """Wait until *fd* is ready for *event*: until the nearest deadline, or for ever without one.

    Raises:
        TimeoutError: the deadline has passed.
    """
    try:
        poller = select.poll()  # as wait() does it, but for one, which most reads come to
    except AttributeError:
        while not _select((fd,), event, next_wait()):
            pass
        return
    poller.register(fd, event)
    while True:
        left = time_left(this_thread.blocks)
        if poller.poll(None if left is None else min(left, _LONGEST_WAIT) * 1000.0):
            return
