"""Measure httpx_net against a hand-written loop on the socket, and against its peers.

    python tests/benchmarks/run.py                    all of it, some minutes
    python tests/benchmarks/run.py --quick            less of everything, under half a minute
    python tests/benchmarks/run.py --only calls limits
    python tests/benchmarks/run.py --json out.json    keep the results
    python tests/benchmarks/run.py --from out.json --rst docs/performance.rst
                                                      put kept results into the tables of a page
    python tests/benchmarks/chart.py out.json docs/performance.svg

Nothing here fails for being slow: it prints. A peer takes part where it is installed (httpcore,
httpx 1.0, urllib3, curl_cffi, pycurl, wreq, gevent), strace counts where it is (``--only calls``).
Names take a name server of our own, and so Linux and root.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import platform
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # this checkout, whatever is installed

import contenders
import httpx_net
import limits
import report
import streams
import system_calls
from measure import FULL, QUICK, SMOKE, Extent, Row, pin, processors
from servers import Server

LONGEST = 1800.0  # seconds after which a run has hung: it says where, and ends

Part = Callable[[Extent, Server, Server], Iterator[Row]]  # of: the near server, the far one

# In the order of the page. The near server shares our processor, so that a message costs the same
# each time (waking another processor takes ten times as long, sometimes); the far one has its own.
PARTS: dict[str, tuple[str, Part]] = {
    "limits": ("A limit, and trouble", lambda extent, *_: limits.limits(extent)),
    "calls": ("System calls", lambda extent, *_: system_calls.system_calls(extent)),
    "small": ("Small reads and writes", lambda extent, *_: streams.small_operations(extent)),
    "blocks": ("Blocks", lambda extent, *_: streams.blocks(extent)),
    "ping-pong": ("There and back", lambda extent, near, _: streams.ping_pong(extent, near)),
    "threads": ("Many threads", lambda extent, near, _: streams.many_threads(extent, near)),
    "downloads": ("Downloads", lambda extent, _, far: streams.downloads(extent, far)),
    "uploads": ("Uploads", lambda extent, _, far: streams.uploads(extent, far)),
    "connecting": ("Connecting", lambda extent, *_: streams.connecting(extent)),
    "keepalive": ("Keepalive", lambda extent, *_: streams.keepalive(extent)),
    "memory": ("Memory", lambda extent, *_: streams.memory(extent)),
    "imports": ("Importing", lambda extent, *_: streams.imports(extent)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="measure httpx_net")
    extents = parser.add_mutually_exclusive_group()
    extents.add_argument(
        "--quick",
        dest="extent",
        action="store_const",
        const=QUICK,
        default=FULL,
        help="less of everything",
    )
    extents.add_argument(
        "--smoke",
        dest="extent",
        action="store_const",
        const=SMOKE,
        help="one round of everything: does it run?",
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", default=[*PARTS])
    parser.add_argument("--json", type=Path, help="where to keep the results")
    parser.add_argument("--from", type=Path, dest="kept", help="take kept results, measure nothing")
    parser.add_argument("--rst", type=Path, help="the page whose tables to replace")
    options = parser.parse_args()
    if options.kept is None:
        results = measured(options.only, options.extent)
    else:
        results = json.loads(options.kept.read_text())
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.rst is not None:
        options.rst.write_text(report.replaced(options.rst.read_text(), results))


def measured(parts: list[str], extent: Extent) -> dict[str, Any]:
    faulthandler.dump_traceback_later(LONGEST, exit=True)
    ours, other = processors() or (None, None)
    results: dict[str, Any] = {"about": about(extent), "parts": {}}
    say("\n".join(f"{key}: {value}" for key, value in results["about"].items()))
    started = time.monotonic()
    with Server(ours) as near, Server(other) as far:
        pin(ours)
        for name in parts:
            title, part = PARTS[name]
            say(f"\n{title}\n{'-' * len(title)}")
            rows = []
            for row in part(extent, near, far):
                rows.append(row)
                say(report.line(row))
            if not rows:
                say("(not to be had here)")
            results["parts"][name] = {"title": title, "rows": rows}
    say(f"\n{time.monotonic() - started:.0f} s")
    faulthandler.cancel_dump_traceback_later()
    return results


def about(extent: Extent) -> dict[str, str]:
    peers = ", ".join(f"{name} {version}" for name, version in contenders.versions().items())
    return {
        "httpx_net": httpx_net.__version__,
        "peers": peers or "none installed",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "OpenSSL": ssl.OPENSSL_VERSION,
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "machine": f"{os.cpu_count()} processors, {platform.machine()}",
        "extent": extent.name,
    }


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
