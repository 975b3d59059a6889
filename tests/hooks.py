"""Three backends that override name resolution, as the manual shows them."""

from __future__ import annotations

import ipaddress
import time
from typing import Any

import httpx_net


class CachingBackend(httpx_net.NetworkBackend):
    """Remembers the addresses of a name for *ttl* seconds. Failures are not remembered."""

    def __init__(self, ttl: float = 60.0, **options: Any) -> None:
        super().__init__(**options)
        self._ttl = ttl
        self._cache: dict[tuple[str, int], tuple[float, list[Any]]] = {}

    def getaddrinfo(self, host: str, port: int) -> list[Any]:
        key = (host.lower(), port)
        best_before, found = self._cache.get(key, (0.0, []))
        if time.monotonic() >= best_before:
            # Under a deadline, and any will do, threads that ask for a name while it is looked up
            # share that look-up. Each waits no longer than its own deadline.
            with httpx_net.timeout(60.0):
                found = super().getaddrinfo(host, port)
            self._cache[key] = (time.monotonic() + self._ttl, found)
        return list(found)


class PinnedBackend(httpx_net.NetworkBackend):
    """Connects to the addresses it is given, like ``curl --resolve``; asks DNS for other names.

    The name stays the name: ``start_tls(context, hostname="www.example.com")`` still verifies it.
    """

    def __init__(self, addresses: dict[tuple[str, int], str], **options: Any) -> None:
        super().__init__(**options)
        self._addresses = addresses

    def getaddrinfo(self, host: str, port: int) -> list[Any]:
        return super().getaddrinfo(self._addresses.get((host.lower(), port), host), port)


class PublicBackend(httpx_net.NetworkBackend):
    """Connects to public addresses only, for URLs that strangers may choose.

    What is checked is what is connected to: there is no second look-up that could answer otherwise.
    """

    def getaddrinfo(self, host: str, port: int) -> list[Any]:
        found = super().getaddrinfo(host, port)
        public = [info for info in found if is_public(info[4][0])]
        if not public:
            raise PermissionError(f"{host!r} has no public address")
        return public


def is_public(address: str) -> bool:
    """Whether *address* belongs to somebody on the internet, and leads there directly."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # Unicast begins with 2 or 3. Outside of that, IPv4 addresses appear in several disguises
        # (::ffff:127.0.0.1, 64:ff9b::7f00:1); inside, 6to4 (2002:7f00:1::) is one.
        return ip in ipaddress.IPv6Network("2000::/3") and not ip.sixtofour and ip.is_global
    return ip.is_global and not ip.is_multicast
