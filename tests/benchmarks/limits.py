"""The table that matters: a client is given a limit, and the peer is trouble. When does it return?

Everybody is given the limit in the way it offers: httpx_net and httpx 1.0 by a block around the
whole, gevent by its own, the others by the timeout that bounds most (a total where there is one),
and the socket by the careful loop that sets what is left before each call.

Each client has a process of its own, which meets one scene after the other. Addresses that don't
answer are listeners whose queue is full, and names are asked of a real name server; see ``names``.
Where that is not to be had, the scenes with names are left out.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and "gevent" in sys.argv:
    from gevent import monkey

    monkey.patch_all()

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # this checkout, whatever is installed

import contenders
import names
from measure import FULL, QUICK, SMOKE, Extent, Row
from servers import Server, client_context

PATIENCE = 3.0  # limits until trouble ends by itself
EXTENTS = {extent.name: extent for extent in (FULL, QUICK, SMOKE)}
INTERRUPTED = "Ctrl-C is pressed during a look-up"

Act = Callable[[Any], object]
Measured = dict[str, dict[str, Any]]


def limits(extent: Extent) -> Iterator[Row]:
    """A row for each scene, measured in a network of our own if there can be one."""
    # What everybody waits for if nobody ends it: ten seconds, by default.
    options = "" if extent is FULL else "options timeout:1 attempts:1"
    with tempfile.NamedTemporaryFile() as resolv_conf:
        network = names.network(resolv_conf.name, options)
        command = [*network, sys.executable, __file__, extent.name, "names" if network else ""]
        rows = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    for row in rows:
        yield {"unit": "s", "baseline": None, "goal": None, **row}


# ---- In that network


def measured(extent: Extent, with_names: bool) -> list[Row]:
    if with_names:
        names.serve(extent.patience)
    with Server(None) as server, black_hole() as hole, dead_first(with_names) as first:
        place = {**vars(server), "hole": hole, "first": first}
        place = {name: port for name, port in place.items() if isinstance(port, int)}

        def run(name: str) -> Measured:
            command = [sys.executable, __file__, extent.name, json.dumps(place), name]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            return json.loads(done.stdout)  # type: ignore[no-any-return]

        everybody = [each.name for each in contenders.everybody()]
        others = [name for name in everybody if name != "httpx_net"]
        # Ours is held to the millisecond, and so is alone, unless it is only to be seen to run.
        turns = [everybody] if extent is SMOKE else [["httpx_net"], others]
        found: dict[str, Measured] = {}
        for together in turns:
            with ThreadPoolExecutor(3 if extent is FULL else len(together)) as pool:
                found |= zip(together, pool.map(run, together), strict=True)
    rows: list[Row] = []
    for what in found["httpx_net"]:
        values = {name: found[name][what] for name in everybody if what in found[name]}
        rows.append({"what": what, "limit": extent.limit, "most": extent.limit + 0.01})
        rows[-1]["values"] = values
    return rows


def scenes(place: dict[str, int], limit: float) -> Iterator[tuple[str, Act]]:
    """Each trouble, and what a client does to meet it."""
    loopback, patience, tls = "127.0.0.1", limit * PATIENCE, client_context()

    def get(host: str, port: int, target: str = "/drip/0", **options: Any) -> Act:
        tls = options.pop("tls", None)
        return lambda client: client.get((host, port), target, tls, limit, **options)

    def put(port: int) -> Act:
        # Loopback takes 2.5 MB without a reader. After that each piece has to wait, none for
        # nearly as long as the limit, all of them together for far longer.
        size = 12 << 20
        pieces = [bytes(64 << 10)] * (size >> 16)
        target = f"/slow/{int(size / limit / PATIENCE)}"
        return lambda client: client.put((loopback, port), target, pieces, None, limit)

    if place["first"]:
        yield "the name server is dead", get("hanging.test", place["plain"])
        yield "AAAA is never answered", get("half.test", place["plain"])
        yield "the first of two addresses is dead", get("first.test", place["first"])
        if place["hole"]:
            yield "four addresses don't answer", get("holes.test", place["hole"])
    if place["hole"]:
        yield "the address doesn't answer", get(loopback, place["hole"])
    yield "the handshake isn't answered", get(loopback, place["mute"], tls=tls)
    yield "no answer", get(loopback, place["plain"], f"/silent/{patience}")
    yield "the head of the answer drips", get(loopback, place["plain"], f"/head/{patience}")
    yield "the body drips", get(loopback, place["plain"], f"/drip/{patience}")
    streamed = get(loopback, place["plain"], f"/drip/{patience}", stream=True)
    yield "the body drips, read in pieces", streamed
    yield "an upload that the server reads slowly", put(place["narrow"])
    if place["first"]:
        yield INTERRUPTED, interrupted(place["plain"], limit)


def interrupted(port: int, after: float) -> Act:
    """A look-up that hangs, under a limit far away, and Ctrl-C *after* so many seconds."""

    def act(client: Any) -> None:
        # Another process, for threads of ours may be greenlets.
        press = f"sleep {after}; kill -INT {os.getpid()}"
        with subprocess.Popen(["sh", "-c", press]):
            client.get(("hanging.test", port), "/drip/0", None, 60.0)

    return act


def met(name: str, place: dict[str, int], extent: Extent) -> Measured:
    """What happens to the client *name*, scene by scene; httpx_net meets each several times."""
    (client,) = (each for each in contenders.everybody() if each.name == name)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rounds = extent.rounds(5) if name == "httpx_net" else 1

    def meet(scene: tuple[str, Act]) -> dict[str, Any]:
        runs = [returned_after(scene[1], client) for _ in range(rounds)]
        seconds = [each for each, _ in runs]
        return {"value": median(seconds), "most": max(seconds), "outcome": runs[0][1]}

    *others, last = all_of_them = list(scenes(place, extent.limit))
    with ThreadPoolExecutor(len(others)) as pool:
        # All at once, if they are only to be seen to run. Ctrl-C is for the main thread.
        every = pool.map if extent is SMOKE else map
        found = [*every(meet, others), meet(last)]
    return {what: each for (what, _), each in zip(all_of_them, found, strict=True)}


def returned_after(act: Act, client: Any) -> tuple[float, str]:
    start = time.monotonic()
    try:
        act(client)
        outcome = "success"
    except BaseException as exc:
        outcome = type(exc).__name__
    return time.monotonic() - start, outcome


@contextlib.contextmanager
def black_hole(host: str = "0.0.0.0") -> Iterator[int]:
    """A port that neither accepts nor refuses, on all of 127/8; 0 where there is no such thing."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((host, 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.05)
            try:
                filler.connect(("127.0.0.1", port))
            except TimeoutError:
                yield port
                return
            except OSError:
                break
        yield 0


@contextlib.contextmanager
def dead_first(wanted: bool) -> Iterator[int]:
    """A port on which 127.0.0.1 doesn't answer, and 127.0.0.2 does; 0 if it is not *wanted*."""
    if not wanted:
        yield 0
        return
    with black_hole("127.0.0.1") as port:
        child = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("servers.py"), "127.0.0.2", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            yield port
            child.kill()


def main() -> None:
    extent = EXTENTS[sys.argv[1]]
    if len(sys.argv) == 3:
        found: object = measured(extent, with_names=sys.argv[2] == "names")
    else:
        found = met(sys.argv[3], json.loads(sys.argv[2]), extent)
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # look-ups that hang may keep a process


if __name__ == "__main__":
    main()
