"""``NetworkBackend``: check the arguments, resolve, race, hand over a stream."""

from __future__ import annotations

import errno
import math
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from . import _names, _race, _resolve
from ._deadlines import real, remaining
from ._errors import failure, from_network
from ._interfaces import NetworkBackendInterface
from ._names import Address, check_port, lookup_name
from ._resolve import AddressInfo
from ._stream import NetworkStream

# Seconds. RFC 8305, section 5, recommends 250 ms and forbids less than 10. Beyond a day, None is
# meant.
_DELAY, _DELAY_LIMITS = 0.25, (0.01, 86_400.0)

# Seconds. The longest is what Linux takes for TCP_KEEPIDLE.
_KEEPALIVE, _KEEPALIVE_LIMITS = 60.0, (1, 32_767)

_SOCKET, _TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP

# macOS has another name for it, and older versions of ``socket`` have none for the next two.
_KEEPIDLE = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24 if sys.platform == "linux" else None)
_FASTOPEN = getattr(socket, "TCP_FASTOPEN_CONNECT", 30 if sys.platform == "linux" else None)

# How the kernel says that it lacks an option, or that its Multipath TCP does.
_LACKING = (errno.ENOPROTOOPT, errno.EOPNOTSUPP)

# Options that contradict how a stream waits, and how the race learns who has answered.
_REFUSED = [
    (_SOCKET, getattr(socket, "SO_RCVTIMEO", None), "SO_RCVTIMEO: timeout() bounds reads"),
    (_SOCKET, getattr(socket, "SO_SNDTIMEO", None), "SO_SNDTIMEO: timeout() bounds writes"),
    (_TCP, _FASTOPEN, "TCP_FASTOPEN_CONNECT: connecting would never fail"),
]


def _seconds(name: str, number: float | None, least: float, most: float) -> float | None:
    """*number* as a float, if it is None or a real number from *least* to *most*."""
    if number is None:
        return None
    seconds = real(number, f"{name} must be a real number or None")
    if not least <= seconds <= most:
        raise ValueError(f"{name} must be {least} to {most} seconds or None, not {number!r}")
    return seconds


def _options_for(keepalive: float | None, local: Address | None) -> list[tuple[Any, ...]]:
    """What is set on each socket before the options that the caller wants."""
    options: list[tuple[Any, ...]] = [(_TCP, socket.TCP_NODELAY, 1)]
    if keepalive is not None:
        options += [
            (_SOCKET, socket.SO_KEEPALIVE, 1),
            (_TCP, _KEEPIDLE, math.ceil(keepalive)),
            (_TCP, getattr(socket, "TCP_KEEPINTVL", None), 15),
            (_TCP, getattr(socket, "TCP_KEEPCNT", None), 4),
        ]
    if local is not None and not local.sockaddr[1]:
        # Without this, bind() takes a port for itself at once, for all destinations together.
        options.append((socket.IPPROTO_IP, _NO_PORT, 1))
    elif local is not None and os.name == "posix":
        # The next connection may use the port again, and so may the next attempt. On Windows this
        # would let other programs take it, too.
        options.append((_SOCKET, socket.SO_REUSEADDR, 1))
    return [option for option in options if option[1] is not None]


def _checked(socket_options: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    options = [tuple(option) for option in socket_options]
    # Not everything can be compared, Decimal("sNaN") for one.
    named = [option[:2] for option in options if all(isinstance(n, int) for n in option[:2])]
    for level, name, reason in _REFUSED:
        if (level, name) in named:
            raise ValueError(f"socket_options must not have {reason}")
    return options


class NetworkBackend(NetworkBackendInterface):
    """Opens TCP connections. Any number of threads may share one.

    *local_address* is where connections come from: a numeric address, or ``(address, port)``.
    Remote addresses of the other family are passed over, so ``"0.0.0.0"`` makes it IPv4 only.

    *socket_options* are the arguments of ``setsockopt``, ``(level, name, value)`` each. They are
    set before connecting, and after TCP_NODELAY and *keepalive*, which they can undo.

    *keepalive* is the number of seconds, 1 to 32,767, after which the kernel asks an idle peer
    whether it is still there: four times, every 15 seconds, and then the connection fails with
    ETIMEDOUT. None never asks. Nor does the kernel ask while written data is unacknowledged: a
    deadline helps there.

    *happy_eyeballs_delay* is the number of seconds after which the next address is tried while
    the last one has not answered (RFC 8305, section 5), 0.01 or more; None tries one at a time.

    *suppress_ragged_eofs* is handed to the streams.

    Raises:
        ValueError, TypeError: an argument is unusable. Whether the system takes an option, and
            has the local address, shows only when it connects.
    """

    # These are the defaults, for a subclass that does not call this __init__.
    _local_address: Address | None = None
    _own_options = _options_for(_KEEPALIVE, None)
    _socket_options: Sequence[tuple[Any, ...]] = ()
    _delay: float | None = _DELAY
    _suppress_ragged_eofs = False

    def __init__(
        self,
        *,
        local_address: str | tuple[str, int] | None = None,
        socket_options: Iterable[tuple[Any, ...]] = (),
        keepalive: float | None = _KEEPALIVE,
        happy_eyeballs_delay: float | None = _DELAY,
        suppress_ragged_eofs: bool = False,
    ) -> None:
        if local_address is not None:
            self._local_address = _names.local_address(local_address)
        idle = _seconds("keepalive", keepalive, *_KEEPALIVE_LIMITS)
        self._own_options = _options_for(idle, self._local_address)
        self._socket_options = _checked(socket_options)
        self._delay = _seconds("happy_eyeballs_delay", happy_eyeballs_delay, *_DELAY_LIMITS)
        self._suppress_ragged_eofs = suppress_ragged_eofs

    def connect(self, host: str, port: int) -> NetworkStream:
        """Connect to *host* over TCP and return the stream.

        *host* is a name or a numeric address; brackets around an IPv6 address don't matter, and a
        name outside ASCII is encoded where all versions of IDNA agree. Every address that
        ``getaddrinfo`` returns is tried as RFC 8305 says: families interleaved, the next attempt
        *happy_eyeballs_delay* after the last or as soon as it failed. The first to connect wins,
        the others are closed. The nearest ``timeout`` block bounds all of it.

        Raises:
            TimeoutError: the deadline passed while resolving or connecting.
            socket.gaierror: *host* does not resolve.
            OSError: every address failed, and the text gives each one's reason; a subclass such
                as ConnectionRefusedError where they agree.
            ValueError, TypeError: *host* or *port* is unusable. Nothing was sent.
        """
        peer = lookup_name(host), check_port(port)
        addresses = self._literal(*peer) or self._looked_up(*peer)
        won = _race.connect(peer, addresses, self._configure, self._delay)
        try:
            return NetworkStream._connected(*won, self._suppress_ragged_eofs)
        except BaseException:
            won[0].close()
            raise

    def getaddrinfo(self, host: str, port: int) -> AddressInfo:
        """Return the addresses of *host*, as ``socket.getaddrinfo`` does.

        This is the hook for caching, overriding and filtering look-ups: override it, and call
        ``super().getaddrinfo(host, port)`` on a miss. It runs in the thread that connects, numeric
        addresses pass through it like names, and it may return too much: ``connect`` takes the TCP
        entries with numeric addresses, each once.

        Under a deadline the look-up itself is bounded by it. Where *local_address* fixes the
        family, that one alone is asked for.

        Raises:
            TimeoutError: the nearest deadline has passed.
            socket.gaierror: *host* does not resolve.
            ValueError, TypeError: *host* or *port* is unusable.
        """
        family = socket.AF_UNSPEC if self._local_address is None else self._local_address.family
        return _resolve.getaddrinfo(lookup_name(host), check_port(port), family)

    def _literal(self, *peer: Any) -> list[Address]:
        """The address that the host is, unless somebody's hook is to be asked even then."""
        own = getattr(self.getaddrinfo, "__func__", None) is _getaddrinfo
        address = _names.numeric_address(*peer) if own else None
        return [address] if address and self._fits(address) else []

    def _fits(self, address: Address) -> bool:
        return self._local_address is None or self._local_address.family == address.family

    def _looked_up(self, *peer: Any) -> list[Address]:
        """The addresses that the hook finds and TCP can connect to by themselves, each once."""
        try:
            remaining()
        except from_network(TimeoutError) as exc:
            raise failure("connect to", peer, exc) from None
        infos: Iterable[Any] = self.getaddrinfo(*peer)
        usable: dict[Address, None] = {}
        try:
            infos = list(infos)
            for info in infos:
                address = _names.remote_address(info)
                if address and self._fits(address):
                    usable[address] = None
        except from_network(TypeError, ValueError) as exc:
            raise TypeError(
                f"{self!r}.getaddrinfo() must return what socket.getaddrinfo() does, "
                f"not {infos!r}: {exc}"
            ) from None
        if not usable:
            source = f" (from {self._local_address})" if self._local_address else ""
            reason = OSError(f"no usable address among {len(infos)} found{source}")
            raise failure("connect to", peer, reason)
        return list(usable)

    def _configure(self, sock: socket.socket) -> None:
        """Prepare *sock* for connecting."""
        for option in self._own_options:
            try:
                sock.setsockopt(*option)
            except from_network(OSError, through=(sock,)) as exc:
                if exc.errno not in _LACKING:
                    raise
        for option in self._socket_options:
            sock.setsockopt(*option)
        local = self._local_address
        # To bind to any address and any port would ask for nothing, and take a port from others.
        if local is not None and (local.sockaddr[1] or not local.is_wildcard()):
            sock.bind(local.sockaddr)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} [threaded]>"


# What the hook is as long as nobody has put another in its place.
_getaddrinfo = NetworkBackend.getaddrinfo
