"""Which system calls an operation makes, by strace: exactly, and without a clock.

The program that is traced is this file: ``python system_calls.py 4`` runs each scene four times
between two marks, which are attempts to look at files that do not exist.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import contenders
from measure import Extent, Row
from streams import LIMIT, SMALL, tcp_pair, tls_pair

MARK = "/mark of the benchmark:"


def system_calls(extent: Extent) -> Iterator[Row]:
    """A row for each scene; none where there is no strace, or it may not trace."""
    strace = shutil.which("strace")
    if strace is None:
        return
    with tempfile.TemporaryDirectory() as directory:
        log = os.path.join(directory, "log")
        command = [strace, "-o", log, "-s", "200", sys.executable, __file__]
        command.append(str(extent.rounds(4)))
        path = os.pathsep.join(sys.path)  # the same packages
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": path},
        )
        if done.returncode:
            sys.stderr.write(f"strace: {done.stderr.strip()[-500:]}\n")
            return
        with open(log, errors="replace") as lines:
            found = parsed(lines)
    goals = {
        "read that is ready, plain, a deadline": 1,
        "write that is ready, plain, a deadline": 1,
        "read that must wait, plain, a deadline": 3,
    }
    for what, calls in found.items():
        yield {
            "what": what,
            "unit": "system calls",
            "baseline": "socket",
            "goal": None,
            "most": goals.get(what),
            "values": {
                name: {"value": len(made), "calls": " ".join(made)} for name, made in calls.items()
            },
        }


def parsed(lines: Any) -> dict[str, dict[str, list[str]]]:
    """The names of the calls between the marks: by scene, by contender."""
    found: dict[str, dict[str, list[str]]] = {}
    made: list[str] = []
    for line in lines:
        mark = re.search(MARK + '(begin|end) (.*?)/(.*?)"', line)
        if mark is None:
            # Some C libraries have ppoll where others have poll.
            if call := re.match(r"(?:p(?=poll))?(\w+)\(", line):
                made.append(call.group(1))
        elif mark.group(1) == "begin":
            made = []
        else:
            runs = found.setdefault(mark.group(2), {}).setdefault(mark.group(3), [])
            runs.append(" ".join(made))
    # The allocator may ask the kernel for memory in one run or the other: the usual one counts.
    return {
        what: {name: Counter(runs).most_common(1)[0][0].split() for name, runs in calls.items()}
        for what, calls in found.items()
    }


# ---- What is traced


def trace(repeat: int) -> None:
    for contender in contenders.streams():
        for kind, make, limit, under in (
            ("plain", tcp_pair, None, "no deadline"),
            ("plain", tcp_pair, LIMIT, "a deadline"),
            ("TLS", tls_pair, LIMIT, "a deadline"),
        ):
            ready(contender, make(), limit, f"{kind}, {under}", repeat)
            must_wait(contender, make, limit, f"{kind}, {under}", repeat)

    wanted = {each.name for each in contenders.streams()}
    for contender in contenders.connecting():
        if contender.name in wanted:
            for limit, under in ((None, "no deadline"), (LIMIT, "a deadline")):
                connecting(contender, limit, under, repeat)


def ready(contender: Any, pair: Any, limit: float | None, how: str, repeat: int) -> None:
    ours, theirs = pair
    conn = contender.wrap(ours)

    def read() -> None:
        contender.reads(conn, len(SMALL), 1, limit)

    def write() -> None:
        contender.writes(conn, SMALL, 1, limit)

    with contender.block(limit):
        write()  # the first operation under a deadline makes the socket non-blocking
        theirs.recv(len(SMALL))
        for what, act in (("write", write), ("read", read)):
            for _ in range(repeat):
                theirs.sendall(SMALL)
                marked(contender, f"{what} that is ready, {how}", act)


def must_wait(
    contender: Any, make: Callable[[], Any], limit: float | None, how: str, repeat: int
) -> None:
    """The other end is another process, whose calls are not traced."""
    for _ in range(repeat):
        ours, theirs = make()
        go, gone = socket.socketpair()
        child = os.fork()
        if not child:
            ours.close()
            go.close()
            while gone.recv(1):
                time.sleep(0.05)
                theirs.sendall(SMALL)
            os._exit(0)
        theirs.close()
        gone.close()
        conn = contender.wrap(ours)

        def read(conn: Any = conn) -> None:
            contender.reads(conn, len(SMALL), 1, limit)

        with contender.block(limit):
            contender.writes(conn, SMALL, 1, limit)
            go.send(b".")
            marked(contender, f"read that must wait, {how}", read)
        go.close()
        os.waitpid(child, 0)


def connecting(contender: Any, limit: float | None, under: str, repeat: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        for _ in range(repeat):

            def act() -> None:
                contender.connect_and_close(address, limit)

            marked(contender, f"connect to an address and close, {under}", act)


def marked(contender: Any, what: str, act: Callable[[], None]) -> None:
    os.path.exists(f"{MARK}begin {what}/{contender.name}")
    act()
    os.path.exists(f"{MARK}end {what}/{contender.name}")


if __name__ == "__main__":
    trace(int(sys.argv[1]))
