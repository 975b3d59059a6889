"""What the tests of connecting share: names that lead where they are told to, and interruptions."""

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
from peers import HANG, Address, wait_until

ROOT = Path(__file__).parent.parent

_real_getaddrinfo = socket.getaddrinfo


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
    """A backend whose hook returns *infos*, or the infos of addresses, for every name."""

    def __init__(self, found: Iterable[Any], **options: Any) -> None:
        super().__init__(**options)
        self._found = [info(each) if len(each) in (2, 4) else each for each in found]

    def getaddrinfo(self, host: str, port: int) -> list[tuple[Any, ...]]:
        return self._found


class Resolver:
    """Stands in for ``socket.getaddrinfo``: it notes who asks, and hangs until told otherwise.

    Numeric addresses go to the real one, and are not counted.
    """

    def __init__(self) -> None:
        # Names that are not in here do not exist.
        self.answers: dict[str, Address | Exception] = {}
        self.asked: list[str] = []
        # The threads that asked.
        self.threads: list[threading.Thread] = []
        self._may_answer = threading.Event()
        self._may_answer.set()

    def hang(self) -> None:
        self._may_answer.clear()

    def answer(self) -> None:
        self._may_answer.set()

    def __call__(
        self,
        host: str | bytes,
        port: int,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[tuple[Any, ...]]:
        if flags & socket.AI_NUMERICHOST:
            return _real_getaddrinfo(host, port, family, type, proto, flags)
        name = host if isinstance(host, str) else host.decode("ascii")
        self.threads.append(threading.current_thread())
        self.asked.append(name)
        self._may_answer.wait(HANG)
        answer = self.answers.get(name)
        if answer is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if isinstance(answer, Exception):
            raise answer
        return [info((answer[0], port, *answer[2:]))]


@contextmanager
def interrupted_when(condition: Callable[[], object]) -> Iterator[None]:
    """Press Ctrl-C once *condition* holds: the block is left by KeyboardInterrupt, or fails."""
    if not hasattr(signal, "pthread_kill"):
        pytest.skip("this system can't send a signal to a thread")

    over = threading.Event()

    def press() -> None:
        wait_until(lambda: over.is_set() or condition())
        if not over.is_set():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    finger = threading.Thread(target=press)
    finger.start()
    try:
        yield
        raise AssertionError("the block ended before it was interrupted")
    except KeyboardInterrupt:
        pass
    finally:
        over.set()
        finger.join()


def run_command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run ``python -m httpx_net`` to its end; its output is bytes, since it may show any."""
    return subprocess.run(
        [sys.executable, "-m", "httpx_net", *arguments],
        cwd=ROOT,
        capture_output=True,
        timeout=3 * HANG,
        check=False,
        **options,
    )


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
