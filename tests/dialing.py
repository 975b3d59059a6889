"""What the tests of connecting share: names that lead where they are told to, and alarms."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import httpx_net
from peers import HANG, Address

ROOT = Path(__file__).parent.parent


def info(address: tuple[Any, ...], **changes: Any) -> tuple[Any, ...]:
    """*address* as ``socket.getaddrinfo`` returns it, with *changes* to some of the five fields."""
    fields = {
        "family": socket.AF_INET6 if ":" in str(address[0]) else socket.AF_INET,
        "type": socket.SOCK_STREAM,
        "proto": socket.IPPROTO_TCP,
        "canonname": "",
        "sockaddr": address,
    }
    return tuple({**fields, **changes}.values())


class Listed(httpx_net.NetworkBackend):
    """A backend whose hook returns *found*, infos or mere addresses, for every name."""

    def __init__(self, found: Iterable[Any], **options: Any) -> None:
        super().__init__(**options)
        self._found = [info(each) if len(each) in (2, 4) else each for each in found]

    def getaddrinfo(self, host: str, port: int) -> list[tuple[Any, ...]]:
        return self._found


class Resolver:
    """Stands in for ``socket.getaddrinfo``: it notes who asks, and hangs when it is told to."""

    def __init__(self) -> None:
        # Names that are not in here do not exist.
        self.answers: dict[str, Address] = {}
        self.asked: list[str] = []
        self._may_answer = threading.Event()
        self._may_answer.set()

    def hang(self) -> None:
        self._may_answer.clear()

    def answer(self) -> None:
        self._may_answer.set()

    def __call__(self, host: str, port: int, *options: int) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        self._may_answer.wait(HANG)
        answer = self.answers.get(host)
        if answer is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [info((answer[0], port, *answer[2:]))]


@contextmanager
def alarm(error: BaseException, when: Callable[[], object] = lambda: True) -> Iterator[None]:
    """A signal handler raises *error* once it finds *when*, and that is what ends the block."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("no alarms on this system")
    rung: list[int] = []

    def ring(number: int, frame: object) -> None:
        if not rung and when():
            rung.append(number)
            raise error

    before = signal.signal(signal.SIGALRM, ring)
    try:
        # Again and again: one that comes just before a system call does not interrupt it.
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        with pytest.raises(type(error)) as caught:
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught.value is error


def run_python(script: str, *arguments: str) -> str:
    """What *script* prints, run by this Python in a process of its own, which must end well."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=6 * HANG,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout
