"""How long connecting takes where addresses or the name server are dead: ours beside others.

    python tests/benchmarks/connecting.py        a minute

Each is asked for the same: a connection within a number of seconds. A peer takes part where it is
installed. The dead addresses are listeners on loopback whose queue is full, which drop what comes;
the dead name server is a ``socket.getaddrinfo`` that takes five seconds, which is kinder than a
real one. Needs a system that has all of 127/8 as addresses, as Linux does.
"""

from __future__ import annotations

import contextlib
import importlib
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # this checkout, whatever is installed

import httpx_net

Connect = Callable[[str, int, float], Any]  # returns what has a close()

DEAD_DNS = 5.0  # seconds; Linux gives up on a dead name server after ten, or twenty
LIVE, DEAD = "127.0.0.1", [f"127.0.0.{number}" for number in range(2, 6)]
NAMES = {"first-dead.test": [DEAD[0], LIVE], "all-dead.test": DEAD}

SCENES = {  # a name, the seconds it may take, and our promise
    "first of two addresses dead": ("first-dead.test", 5.0, 0.35),
    "four of four addresses dead": ("all-dead.test", 1.0, 1.05),
    "name server dead": ("dead-dns.test", 1.0, 1.05),
}


def connect_ours(host: str, port: int, seconds: float) -> Any:
    with httpx_net.timeout(seconds):
        return httpx_net.NetworkBackend().connect(host, port)


def connect_socket(host: str, port: int, seconds: float) -> Any:
    return socket.create_connection((host, port), timeout=seconds)


def connect_httpcore(host: str, port: int, seconds: float) -> Any:
    return importlib.import_module("httpcore").SyncBackend().connect_tcp(host, port, seconds)


def connect_urllib3(host: str, port: int, seconds: float) -> Any:
    connection = importlib.import_module("urllib3.util.connection")
    return connection.create_connection((host, port), timeout=seconds)


def contenders() -> dict[str, Connect]:
    found: dict[str, Connect] = {
        f"httpx_net {httpx_net.__version__}": connect_ours,
        "socket.create_connection": connect_socket,
    }
    for name, connect in [("httpcore", connect_httpcore), ("urllib3", connect_urllib3)]:
        with contextlib.suppress(ImportError):
            found[f"{name} {importlib.import_module(name).__version__}"] = connect
    return found


@contextlib.contextmanager
def addresses() -> Iterator[int]:
    """A port on which ``LIVE`` answers and the ``DEAD`` don't."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((LIVE, 0), backlog=64))
        port = listener.getsockname()[1]
        for ip in DEAD:
            stack.enter_context(socket.create_server((ip, port), backlog=0))
            for _ in range(4):  # whoever comes after that gets no answer
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex((ip, port))
        yield port


@contextlib.contextmanager
def names() -> Iterator[None]:
    """``socket.getaddrinfo``, which knows the ``NAMES`` and takes its time for others."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, flags: int = 0, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if flags & socket.AI_NUMERICHOST or not name.endswith(".test"):
            return real(host, port, *args, flags=flags, **options)
        if name not in NAMES:
            time.sleep(DEAD_DNS)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        stream = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*stream, (ip, port)) for ip in NAMES[name]]

    socket.getaddrinfo = getaddrinfo
    try:
        yield
    finally:
        socket.getaddrinfo = real


def measured(connect: Connect, host: str, port: int, seconds: float) -> tuple[float, str]:
    start = time.monotonic()
    try:
        stream = connect(host, port, seconds)
    except Exception as exc:
        return time.monotonic() - start, type(exc).__name__
    took = time.monotonic() - start
    stream.close()
    return took, "connected"


def main() -> int:
    say(f"Python {platform.python_version()}, {platform.system()}; seconds until the call is over")
    kept = True
    with addresses() as port, names():
        for scene, (host, seconds, promise) in SCENES.items():
            say(f"\n{scene}, within {seconds:g} s (ours: at most {promise:g} s)")
            for name, connect in contenders().items():
                took, outcome = measured(connect, host, port, seconds)
                say(f"    {name:26} {took:6.3f}  {outcome}")
                kept = kept and (connect is not connect_ours or took <= promise)
    say("\nAll of ours are kept." if kept else "\nNot all of ours are kept.")
    return 0 if kept else 1


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
