"""A name server that does what the benchmarks need, on loopback, in a network of our own.

``getaddrinfo`` of the C library, c-ares and what Rust has all ask it, so that everybody meets the
same trouble. That takes Linux and root: a network namespace in which port 53 is free, and a mount
namespace that has its own ``/etc/resolv.conf``. Nothing of it is seen from outside, and it ends
with its last process.
"""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import threading

A, AAAA = 1, 28
SERVFAIL, NXDOMAIN = 2, 3

# Names, and the addresses they have. A type that is not listed has none; None is not answered.
ZONE: dict[str, dict[int, list[str] | None]] = {
    "hanging.test": {A: None, AAAA: None},
    "half.test": {A: ["127.0.0.1"], AAAA: None},
    "holes.test": {A: [f"127.0.0.{number}" for number in range(1, 5)]},
    "first.test": {A: ["127.0.0.1", "127.0.0.2"]},
}

_ENTER = """
ip link set lo up
printf 'nameserver 127.0.0.1\\n%s\\n' "$1" > "$2"
mount --bind "$2" /etc/resolv.conf
shift 2
exec "$@"
"""


def network(resolv_conf: str, options: str) -> list[str]:
    """What to put before a command to run it in a network of its own. Nothing if that can't be had.

    *resolv_conf* is a file to write to; *options* go there, ``timeout:1`` for one.
    """
    enter = ["unshare", "--mount", "--net", "sh", "-ec", _ENTER, "sh", options, resolv_conf]
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return []
    tried = subprocess.run([*enter, "true"], capture_output=True, check=False)
    return [] if tried.returncode else enter


def serve(patience: float | None) -> None:
    """Answer on port 53 until this process ends, in a thread.

    What is not answered is refused after *patience*, if that is not None.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 53))

    def run() -> None:
        while True:
            query, peer = sock.recvfrom(1024)
            response, answered = answer(query)
            if answered:
                sock.sendto(response, peer)
            elif patience is not None:
                threading.Timer(patience, sock.sendto, (response, peer)).start()

    threading.Thread(target=run, daemon=True).start()


def answer(query: bytes) -> tuple[bytes, bool]:
    """The response to *query*, and whether it is to be answered. RFC 1035, section 4."""
    end = query.index(0, 12)
    labels, at = [], 12
    while at < end:
        labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
        at += 1 + query[at]
    kind = int.from_bytes(query[end + 1 : end + 3], "big")
    types = ZONE.get(".".join(labels))
    addresses = [] if types is None else types.get(kind, [])
    answered = addresses is not None
    family = socket.AF_INET if kind == A else socket.AF_INET6
    records = [socket.inet_pton(family, address) for address in addresses or ()]
    code = NXDOMAIN if types is None else 0 if answered else SERVFAIL
    head = query[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(records), 0, 0)
    body = b"".join(
        struct.pack("!HHHIH", 0xC00C, kind, 1, 60, len(record)) + record for record in records
    )
    return head + query[12 : end + 5] + body, answered
