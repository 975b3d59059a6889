"""The table that matters: a client is given a limit, and the peer is trouble. When does it return?

Everybody is given the limit in the way it offers: httpx_net and httpx 1.0 by a block around the
whole, http.client, httpcore and urllib3 (which has a total) by a timeout, and the socket by the
careful loop that sets what is left before each call.

A resolver that hangs and a name with four addresses can't be had without being root, so
``socket.getaddrinfo`` is replaced for two names. All the others come from the system, and the
addresses that don't answer are a listener whose queue is full.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import contenders
from measure import FULL, Extent, Row
from servers import Server, client_context

PATIENCE = 3.0  # limits until trouble ends by itself
HANGING, FOUR_HOLES = "hanging.test", "holes.test"

Act = Callable[[Any], None]


def limits(extent: Extent, server: Server) -> Iterator[Row]:
    limit = extent.limit
    with black_hole() as hole, resolver(limit * PATIENCE):
        for what, act in scenes(server, hole, limit):
            values = measured(act, extent)
            yield {
                "what": what,
                "unit": "s",
                "baseline": None,
                "goal": None,
                "most": limit + 0.01,
                "limit": limit,
                "values": values,
            }


def scenes(server: Server, hole: int, limit: float) -> Iterator[tuple[str, Act]]:
    """Each trouble, and what a client does to meet it."""

    def get(host: str, port: int, target: str = "/", tls: ssl.SSLContext | None = None) -> Act:
        return lambda client: client.get((host, port), target, tls, limit)

    def put(port: int, tls: ssl.SSLContext | None = None) -> Act:
        # Loopback takes 2.5 MB without a reader. After that each piece has to wait, none for
        # nearly as long as the limit, all of them together for far longer.
        size = 12 << 20
        pieces = [bytes(64 << 10)] * (size >> 16)
        target = f"/slow/{int(size / limit / PATIENCE)}"
        return lambda client: client.put((loopback, port), target, pieces, tls, limit)

    loopback, tls = "127.0.0.1", client_context()
    patience = limit * PATIENCE
    yield "the resolver hangs", get(HANGING, server.plain, f"/drip/{limit / 10}")
    if hole:
        yield "the address doesn't answer", get(loopback, hole)
        yield "four addresses don't answer", get(FOUR_HOLES, hole)
    yield "the handshake isn't answered", get(loopback, server.mute, tls=tls)
    for kind, port, context in (("", server.plain, None), (", TLS", server.tls, tls)):
        yield f"no answer{kind}", get(loopback, port, f"/silent/{patience}", context)
        yield f"the answer drips{kind}", get(loopback, port, f"/drip/{patience}", context)
    for kind, port, context in (("", server.narrow, None), (", TLS", server.narrow_tls, tls)):
        yield f"an upload that the server reads slowly{kind}", put(port, context)


def measured(act: Act, extent: Extent) -> dict[str, dict[str, Any]]:
    """httpx_net several times, the others once; unless there is time, all of them together."""
    everybody = contenders.everybody()
    (ours,) = (each for each in everybody if each.name == "httpx_net")
    others = [each for each in everybody if each is not ours]
    runs = [returned_after(act, ours) for _ in range(extent.rounds(5))]
    values = {
        "httpx_net": {
            "value": median(seconds for seconds, _ in runs),
            "most": max(seconds for seconds, _ in runs),
            "outcome": runs[0][1],
        }
    }
    with ThreadPoolExecutor(1 if extent is FULL else len(others)) as pool:
        runs = list(pool.map(lambda each: returned_after(act, each), others))
    for each, (seconds, outcome) in zip(others, runs, strict=True):
        values[each.name] = {"value": seconds, "most": seconds, "outcome": outcome}
    return values


def returned_after(act: Act, contender: Any) -> tuple[float, str]:
    start = time.monotonic()
    try:
        act(contender)
        outcome = "success"
    except Exception as exc:
        outcome = type(exc).__name__
    return time.monotonic() - start, outcome


@contextlib.contextmanager
def resolver(patience: float) -> Iterator[None]:
    """``socket.getaddrinfo``, which hangs for *patience* at one name and has holes for another."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in (HANGING, FOUR_HOLES):
            return real(host, port, *args, **kwargs)
        if kwargs.get("flags"):  # numeric or nothing
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        if name == HANGING:
            time.sleep(patience)
            return real("127.0.0.1", port, type=socket.SOCK_STREAM)
        return [
            info
            for number in range(1, 5)
            for info in real(f"127.0.0.{number}", port, type=socket.SOCK_STREAM)
        ]

    socket.getaddrinfo = getaddrinfo
    try:
        yield
    finally:
        socket.getaddrinfo = real


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port that neither accepts nor refuses, on all of 127/8; 0 where there is no such thing."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("0.0.0.0", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.2)
            try:
                filler.connect(("127.0.0.4", port))
            except TimeoutError:
                yield port
                return
            except OSError:
                break
        yield 0
