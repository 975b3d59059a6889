"""The fixtures: peers to talk to, and a guard that lets no test leave anything behind."""

from __future__ import annotations

import gc
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import hypothesis
import pytest

from dialing import Resolver
from peers import HANG, Peers

# A slow machine is no failure: the tests say themselves how long something may take. Without a
# database of examples the suite needs no place that it can write to.
hypothesis.settings.register_profile(
    "here", hypothesis.settings.default, deadline=None, database=None
)
hypothesis.settings.load_profile("here")

# A shell has its background jobs ignore it, and then nobody could press Ctrl-C in a test.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def peers() -> Iterator[Peers]:
    """All the kinds of peers; see ``peers.Peers``. Waits for them and raises what they raised."""
    with closing(Peers()) as peers:
        yield peers


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A ``socketpair``, for scenes that need no thread: ours, theirs."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(HANG)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """In place of ``socket.getaddrinfo``, for this test; see ``dialing.Resolver``."""
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    # Look-ups that hang come to their end, and `nothing_is_left_behind` waits until they have.
    resolver.answer()


@pytest.fixture(autouse=True, scope="module")
def look_at_little() -> None:
    # The guard collects after every test; what is there by now needn't be looked at each time.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """After the test: no new thread, no new open descriptor, no deadline on this thread's stack.

    A socket collected unclosed is a ResourceWarning, and so an error; collecting here makes it the
    error of the right test.
    """
    import httpx_net

    threads, descriptors = set(threading.enumerate()), open_descriptors()
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        # The traceback of a failed test keeps its frames, and so its sockets, alive.
        return
    assert httpx_net.remaining() is None
    left = unfinished(set(threading.enumerate()) - threads)
    assert not left, f"threads still running: {left}"
    gc.collect()
    now = open_descriptors()
    assert len(now) <= len(descriptors), f"left open: {sorted(now - descriptors)}"


def unfinished(threads: set[threading.Thread]) -> list[str]:
    """The names of those that do not end in the time any peer gets."""
    deadline = time.monotonic() + HANG
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [thread.name for thread in threads if thread.is_alive()]


def open_descriptors() -> set[str]:
    """This process's open files; none where the system has no list of them."""
    found = set()
    for name in os.listdir("/dev/fd") if os.path.isdir("/dev/fd") else ():
        # One of them was the list, closed by now.
        with suppress(OSError):
            status = os.fstat(int(name))
            found.add(f"{name} {stat.filemode(status.st_mode)} inode {status.st_ino}")
    return found
