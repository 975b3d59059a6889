"""Hosts and addresses: to look up, to verify, and to connect to.

A bad name is refused here, before anything is sent, because below here it would be taken for
another: ``getaddrinfo`` cuts a name at NUL (``"localhost\\0.evil"`` resolves localhost), ports are
taken modulo 65,536, and ``"*"`` reaches this machine; the codec that turns ``"straße.de"`` into
ASCII is that of IDNA 2003, whose ``"strasse.de"`` belongs to somebody else; and OpenSSL looks for
``"[::1]"`` and ``"example.com."`` among a certificate's DNS names, where they never are.

Addresses are kept as the kernel has them, in canonical text and numbers, so that nothing below
here needs another look-up. The zone of a link-local IPv6 address, without which nobody can connect
to it, is a number there, and part of the text for people: ``"fe80::1%eth0"``.
"""

from __future__ import annotations

import functools
import re
import socket
from typing import Any, NamedTuple

from ._errors import from_network, printed

# RFC 1035, section 2.3.4: 63 octets a label, and 255 for a name on the wire, which is 253 as text.
_LONGEST_LABEL = 63
_LONGEST_NAME = 253

# White space, control characters, and what separates a host from the rest of a URL (the forbidden
# domain code points of the WHATWG's URL standard); and "*", which stands for many names.
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f#%*/<>?@[\\\]^|]")

# Plain numbers, whose hash costs a tenth of that of an enumeration's.
_INET, _INET6 = int(socket.AF_INET), int(socket.AF_INET6)

# 262 is the number that Linux has for it. Where the peer has none, the kernel falls back to TCP.
_MPTCP = getattr(socket, "IPPROTO_MPTCP", 262)
_PROTOCOLS = {0: 0, socket.IPPROTO_TCP: 0, _MPTCP: _MPTCP}

_WILDCARDS = ("0.0.0.0", "::", "::ffff:0.0.0.0")

# fe80::/10. Other addresses mean the same on every link.
_LINK_LOCAL = ("fe8", "fe9", "fea", "feb")


def lookup_name(host: object, what: str = "host") -> str:
    """*host* as it is looked up: ASCII, an IPv6 address without its brackets.

    Raises:
        ValueError, TypeError: it can't be the name or the address of a host.
    """
    if not isinstance(host, str):
        raise TypeError(f"{what} must be a str, not {host!r}")
    return _checked(host, what)


def server_name(hostname: object) -> str:
    """*hostname* as a certificate has it: as above, without trailing dot and IPv6 zone.

    Raises:
        ValueError, TypeError: no certificate can be for it.
    """
    name = lookup_name(hostname, "hostname")
    return name.partition("%")[0].removesuffix(".")


def check_port(port: object, lowest: int = 1) -> int:
    """*port*, if it is the number of a TCP port from *lowest* up."""
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"port must be an int, not {port!r}")
    if not lowest <= port <= 65535:
        raise ValueError(f"port must be in {lowest}..65535, not {port!r}")
    return int(port)


# Programs connect to the same few hosts again and again.
@functools.lru_cache
def _checked(host: str, what: str) -> str:
    name = host[1:-1] if host.startswith("[") and host.endswith("]") and ":" in host else host
    if ":" in name:
        ip, percent, zone = name.partition("%")
        address = canonical(socket.AF_INET6, ip)
        if address is None or bool(percent) != bool(zone) or not zone.isascii():
            raise ValueError(f"{what} has a colon but is no IPv6 address: {host!r}")
        _check_characters(zone, host, what)
    else:
        _check_characters(name, host, what)
        if not name.isascii():
            name = _a_labels(name, what)
    labels = name.removesuffix(".").split(".")
    if not all(labels):
        raise ValueError(f"{what} must not be empty or have an empty label: {host!r}")
    if len(max(labels, key=len)) > _LONGEST_LABEL:
        raise ValueError(f"{what} has a label of more than {_LONGEST_LABEL} octets: {host!r}")
    if len(name.removesuffix(".")) > _LONGEST_NAME:
        raise ValueError(f"{what} is longer than {_LONGEST_NAME} octets: {host!r}")
    return name


def _check_characters(name: str, host: str, what: str) -> None:
    if found := _FORBIDDEN.search(name):
        raise ValueError(f"{what} must not contain {found[0]!r}: {host!r}")


def _a_labels(name: str, what: str) -> str:
    """An international *name* in ASCII, if every version of IDNA agrees about it."""
    # The codec takes quadratic time.
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"{what} is longer than {_LONGEST_NAME} octets: {name!r}")
    try:
        ascii_name = name.encode("idna").decode("ascii")
        agreed = ascii_name.encode("ascii").decode("idna").lower() == name.lower()
    except UnicodeError as exc:
        raise ValueError(f"{what} is no internationalized domain name: {name!r}: {exc}") from None
    # IDNA 2008 reads some letters otherwise (RFC 5894, section 7.2), and leaves it to programs
    # whether they compose accents, narrow full-width letters, or take ideographic full stops for
    # dots.
    if not agreed:
        raise ValueError(
            f"{what} {name!r} is {ascii_name!r} in IDNA 2003, but not in every version of IDNA; "
            f"pass that if it is meant, else the A-labels (xn--...) that the package idna makes"
        )
    return ascii_name


class Address(NamedTuple):
    """Where to connect to, or from, in what the kernel understands without a look-up."""

    family: int
    # The protocol: 0 for TCP, or the number of Multipath TCP.
    proto: int
    sockaddr: tuple[Any, ...]

    def is_wildcard(self) -> bool:
        """Whether the kernel is to choose the address: 0.0.0.0, or :: or what stands for it."""
        return self.sockaddr[0] in _WILDCARDS

    def __str__(self) -> str:
        return printed(endpoint(self.sockaddr))


def remote_address(info: Any) -> Address | None:
    """The address in one entry of what ``getaddrinfo`` returned; None if TCP has no use for it.

    Raises:
        ValueError, TypeError: ``socket.getaddrinfo`` returns nothing like that.
    """
    family, kind, proto, _, sockaddr = info
    if kind == socket.SOCK_STREAM and proto in _PROTOCOLS and family in (_INET, _INET6):
        ip, port, *rest = sockaddr
        address_of = _ipv4 if family == _INET else _ipv6
        return address_of(_PROTOCOLS[proto], ip, check_port(port), *rest)
    if not (isinstance(family, int) and isinstance(kind, int) and isinstance(proto, int)):
        raise TypeError("family, type and protocol must be ints")
    return None


# Programs connect to the same few addresses, too.
@functools.lru_cache
def numeric_address(name: str, port: int) -> Address | None:
    """The address that *name* is, written out and without a zone; None for everything else."""
    return None if "%" in name else _ipv4(0, name, port) or _ipv6(0, name, port)


def local_address(given: object) -> Address:
    """*given*, a numeric address or a pair of one and a port, as an address to bind to.

    Raises:
        ValueError, TypeError: it is nothing like that.
    """
    ip, port = given if isinstance(given, tuple) and len(given) == 2 else (given, 0)
    if not isinstance(ip, str):
        raise TypeError(f"local_address must be a str or (str, int), not {given!r}")
    port = check_port(port, lowest=0)
    address = _ipv4(0, ip, port) or _ipv6(0, ip, port)
    if address is None:
        raise ValueError(
            f"local_address must be a numeric address, its zone an interface, not {given!r}"
        )
    return address


def _ipv4(proto: int, ip: object, port: int) -> Address | None:
    text = canonical(socket.AF_INET, ip)
    return None if text is None else Address(_INET, proto, (text, port))


def _ipv6(proto: int, ip: object, port: int, flow: int = 0, scope: int = 0) -> Address | None:
    ip, _, zone = ip.partition("%") if isinstance(ip, str) else ("", "", "")
    text = canonical(socket.AF_INET6, ip)
    number = _scope(zone) if zone and not scope else scope
    if text is None or number is None:
        return None
    if not 0 <= flow < 2**20 or not 0 <= number < 2**32:
        raise ValueError("flow or scope is out of range")
    return Address(_INET6, proto, (text, port, int(flow), int(number)))


def _scope(zone: str) -> int | None:
    try:
        return int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    except from_network(OSError):
        # No interface has that name (any more).
        return None


def canonical(family: int, ip: object) -> str | None:
    """*ip* as the kernel writes it, None if it is no numeric address of *family* (without zone)."""
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, ip))  # type: ignore[arg-type]
    except from_network(OSError, ValueError, TypeError):
        return None


def endpoint(sockaddr: Any) -> Any:
    """What the kernel calls one end of a connection, as users have it.

    ``(ip, port)``, the zone in the text of a link-local address, or the path of a Unix socket.
    """
    if not isinstance(sockaddr, tuple):
        return sockaddr
    ip, port = sockaddr[:2]
    if len(sockaddr) == 4 and sockaddr[3] and ip.startswith(_LINK_LOCAL):
        ip, _ = socket.getnameinfo(sockaddr, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    return ip, port
