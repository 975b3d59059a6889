"""Hosts and addresses as text: to look up, to verify, to print.

A bad name is refused here, before anything is sent, because below here it would be taken for
another: ``getaddrinfo`` cuts a name at NUL (``"localhost\\0.evil"`` resolves localhost) and ports
are taken modulo 65,536; the codec that turns ``"straße.de"`` into ASCII is that of IDNA 2003,
whose ``"strasse.de"`` belongs to somebody else; and OpenSSL looks for ``"[::1]"`` and
``"example.com."`` among a certificate's DNS names, where they never are.
"""

from __future__ import annotations

import functools
import os
import socket
from typing import Any

# RFC 1035, section 2.3.4: 63 octets a label, and 255 for a name on the wire, which is 253 as text.
_LONGEST_LABEL = 63
_LONGEST_NAME = 253

_REFUSED = frozenset(map(chr, (*range(33), 127)))  # white space and control characters


def lookup_name(host: object) -> str:
    """*host* as it is looked up: ASCII, an IPv6 address without its brackets.

    Raises:
        ValueError, TypeError: it can't be the name or the address of a host.
    """
    return _lookup_name(_check_str(host, "host"))


@functools.lru_cache  # programs connect to the same few hosts again and again
def _lookup_name(host: str) -> str:
    name = _unbracketed(host, "host")
    if ":" in name:
        _check_ipv6(name, host, "host")
        return name
    return _ascii(name, host, "host")


def server_name(hostname: object) -> str:
    """*hostname* as a certificate has it: as above, without trailing dot and IPv6 zone.

    Raises:
        ValueError, TypeError: no certificate can be for it.
    """
    name = _unbracketed(_check_str(hostname, "hostname"), "hostname")
    if ":" in name:
        _check_ipv6(name, hostname, "hostname")
        return name.partition("%")[0]
    return _ascii(name, hostname, "hostname").removesuffix(".")


def check_port(port: object, lowest: int = 1) -> int:
    """*port*, if it is the number of a TCP port from *lowest* up."""
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"port must be an int, not {port!r}")
    if not lowest <= port <= 65535:
        raise ValueError(f"port must be in {lowest}..65535, not {port!r}")
    return int(port)


def is_numeric(family: int, address: object) -> bool:
    """Whether *address* can be connected to without a look-up: an IP address without a zone."""
    if not isinstance(address, str):
        return False
    try:
        socket.inet_pton(family, address)
    except (OSError, ValueError):
        return False
    return True


def printed(address: object) -> str:
    """An address as people write it: ``1.2.3.4:80``, ``[::1]:80``, or the path of a Unix socket."""
    if isinstance(address, tuple):
        ip, port = address[:2]
        return f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}"
    return address.decode("utf-8", "replace") if isinstance(address, bytes) else str(address)


def _check_str(host: object, what: str) -> str:
    if not isinstance(host, str):
        raise TypeError(f"{what} must be a str, not {host!r}")
    return host


def _unbracketed(host: str, what: str) -> str:
    if not _REFUSED.isdisjoint(host):
        raise ValueError(f"{what} must not contain white space or control characters: {host!r}")
    return host[1:-1] if host.startswith("[") and host.endswith("]") and ":" in host else host


def _check_ipv6(name: str, host: object, what: str) -> None:
    address, percent, zone = name.partition("%")
    if (
        not is_numeric(socket.AF_INET6, address)
        or bool(percent) != bool(zone)
        or not name.isascii()
    ):
        raise ValueError(f"{what} has a colon but is no IPv6 address: {host!r}")


def _ascii(name: str, host: object, what: str) -> str:
    too_long = f"{what} is longer than {_LONGEST_NAME} octets: {host!r}"
    if not name.isascii():
        if len(name) > _LONGEST_NAME:  # the codec takes quadratic time
            raise ValueError(too_long)
        name = _a_labels(name, what)
    labels = name.removesuffix(".").split(".")
    if not all(labels):
        raise ValueError(f"{what} must not be empty or have an empty label: {host!r}")
    if len(max(labels, key=len)) > _LONGEST_LABEL:
        raise ValueError(f"{what} has a label of more than {_LONGEST_LABEL} octets: {host!r}")
    if len(name.removesuffix(".")) > _LONGEST_NAME:
        raise ValueError(too_long)
    return name


def _a_labels(name: str, what: str) -> str:
    """An international *name* in ASCII, if every version of IDNA agrees about it."""
    try:
        ascii_name = name.encode("idna")
        agreed = ascii_name.decode("idna").lower() == name.lower()
    except UnicodeError as exc:
        raise ValueError(f"{what} is no internationalized domain name: {name!r}: {exc}") from None
    if not agreed:
        raise ValueError(
            f"{what} {name!r} is another name in IDNA 2003 than in IDNA 2008; "
            f"pass it as A-labels (xn--...), as the package idna makes them"
        )
    return ascii_name.decode("ascii")


def failure(doing: str, whom: object, exc: OSError, progress: str = "") -> OSError:
    """*exc* as users see it: operation, peer, outcome, progress and cause, always in that order.

    It is an error of the same class and errno, with whatever *exc* carries, to be raised ``from
    None``. *whom* is an address or a text.
    """
    verb = "timed out" if is_expiry(exc) else "failed"
    cause = exc.strerror or (exc.args[0] if len(exc.args) == 1 else exc)
    text = f"{doing} {printed(whom) or 'an unnamed peer'} {verb}{progress}: {cause}"
    error = type(exc)(*((text,) if exc.errno is None else (exc.errno, text)))
    vars(error).update(vars(exc))
    # This is what str() of an SSLError shows.
    error.strerror = text
    return error


def os_error(number: int) -> OSError:
    """The error of the system with that *number*."""
    # Windows keeps the texts of its socket errors in a table of the socket module.
    return OSError(number, getattr(socket, "errorTab", {}).get(number) or os.strerror(number))


def is_expiry(exc: BaseException) -> bool:
    """Whether *exc* is the TimeoutError of a deadline: only ``_deadlines`` makes those.

    Its class and errno don't tell: the kernel's ETIMEDOUT and a signal handler's error may look
    the same.
    """
    return isinstance(exc, TimeoutError) and _origin(exc) == f"{__package__}._deadlines"


def is_networks(exc: BaseException, *modules: str) -> bool:
    """Whether *exc* is the network's, and not that of a signal handler of the caller's.

    A number doesn't tell, for the ``open()`` of a handler fails with one too. The traceback does:
    it ends in this package, in ``socket`` or ``ssl``, or in one of *modules*, while a handler
    always leaves a frame of its own.
    """
    origin = _origin(exc)
    if origin is None:
        return True
    ours = (__package__, "socket", "ssl", *modules)
    return any(origin == module or origin.startswith(f"{module}.") for module in ours)


def _origin(exc: BaseException) -> Any:
    """The name of the module whose code raised *exc*, None if nobody has raised it yet."""
    traceback = exc.__traceback__
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_globals.get("__name__", "")
