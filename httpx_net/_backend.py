"""``NetworkBackend``: check the arguments, resolve, race, hand over a stream."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

from . import _race, _resolve
from ._deadlines import remaining
from ._interfaces import NetworkBackendInterface
from ._names import check_port, is_numeric, lookup_name, printed
from ._race import Address
from ._resolve import AddressInfo
from ._stream import NetworkStream

# RFC 8305, section 5: 250 ms is recommended, and it MUST NOT be less than 10 ms.
_DELAY = 0.25
_LEAST_DELAY = 0.01
_LONGEST_DELAY = 86_400.0  # who wants a day wants None


class NetworkBackend(NetworkBackendInterface):
    """Opens TCP connections. Any number of threads may share one.

    *local_address* is where connections come from: a numeric address, or ``(address, port)``.
    Remote addresses of the other family are passed over, so ``"0.0.0.0"`` makes it IPv4 only.

    *socket_options* are the arguments of ``setsockopt``, ``(level, name, value)`` each. They are
    set before connecting and after TCP_NODELAY, which they can undo.

    *happy_eyeballs_delay* is the number of seconds after which the next address is tried while
    the last one has not answered (RFC 8305, section 5), 0.01 or more; None tries one at a time.

    *suppress_ragged_eofs* is handed to the streams.

    Raises:
        ValueError, TypeError: an argument is unusable. Whether the system knows an option, and
            has the local address, shows only when it connects.
    """

    def __init__(
        self,
        *,
        local_address: str | tuple[str, int] | None = None,
        socket_options: Iterable[tuple[Any, ...]] = (),
        happy_eyeballs_delay: float | None = _DELAY,
        suppress_ragged_eofs: bool = False,
    ) -> None:
        self._local_address = None if local_address is None else _check_local(local_address)
        self._socket_options = _check_options(socket_options)
        self._happy_eyeballs_delay = _check_delay(happy_eyeballs_delay)
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
        name, port = where = lookup_name(host), check_port(port)
        try:
            remaining()
        except TimeoutError as exc:
            raise TimeoutError(f"connect to {printed(where)} timed out: {exc}") from None
        addresses = self._usable(self.getaddrinfo(name, port), where)
        opened: set[socket.socket] = set()
        try:
            delay = self._happy_eyeballs_delay
            return self._stream(_race.connect(where, addresses, self._opener(opened), delay), where)
        except BaseException:  # an interrupt among them: nothing stays open
            for sock in opened:
                sock.close()
            raise

    def getaddrinfo(self, host: str, port: int) -> AddressInfo:
        """Return the addresses of *host*, as ``socket.getaddrinfo`` does.

        This is the hook for caching, overriding and filtering look-ups: override it, and call
        ``super().getaddrinfo(host, port)`` on a miss. It runs in the thread that connects, numeric
        addresses pass through it like names, and it may return too much: ``connect`` takes the TCP
        entries with numeric addresses, each once.

        Under a deadline the look-up itself is bounded by it, and shared with other threads that
        ask for the same name.

        Raises:
            TimeoutError: the nearest deadline has passed.
            socket.gaierror: *host* does not resolve.
            ValueError, TypeError: *host* or *port* is unusable.
        """
        local = self._local_address
        family = socket.AF_UNSPEC if local is None else local.family
        return _resolve.getaddrinfo(lookup_name(host), check_port(port), family)

    def _usable(self, infos: Iterable[Any], where: tuple[str, int]) -> list[Address]:
        """The addresses among *infos* that TCP can connect to without another look-up."""
        usable: dict[Address, None] = {}  # in their order, each once
        local = self._local_address
        try:
            infos = list(infos)
            for info in infos:
                address = _tcp_address(*info)
                if address is not None and (local is None or local.family == address.family):
                    usable[address] = None
        except (TypeError, ValueError) as exc:
            raise TypeError(
                f"{self!r}.getaddrinfo() must return what socket.getaddrinfo() does, "
                f"not {infos!r}: {exc}"
            ) from None
        if not usable:
            raise OSError(
                f"connect to {printed(where)} failed: no usable address among {len(infos)} found"
                + ("" if local is None else f" (from {local})")
            )
        return list(usable)

    def _stream(self, sock: socket.socket, where: tuple[str, int]) -> NetworkStream:
        try:
            return NetworkStream(sock, suppress_ragged_eofs=self._suppress_ragged_eofs)
        except ValueError:  # it was connected, and has been reset since
            text = f"connect to {printed(where)} failed: {os.strerror(errno.ECONNRESET)}"
            raise ConnectionResetError(errno.ECONNRESET, text) from None

    def _opener(self, opened: set[socket.socket]) -> Callable[[Address], socket.socket]:
        """What opens the socket of an attempt, and notes it in *opened* before all else."""

        def open_socket(address: Address) -> socket.socket:
            opened.add(sock := socket.socket(address.family, socket.SOCK_STREAM))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            for option in self._socket_options:
                sock.setsockopt(*option)
            if self._local_address is not None:
                sock.bind(self._local_address.sockaddr)
            return sock

        return open_socket

    def __repr__(self) -> str:
        return f"<{type(self).__name__} [threaded]>"


def _tcp_address(family: int, kind: int, proto: int, _: Any, sockaddr: Any) -> Address | None:
    """The address in one entry of what ``getaddrinfo`` returned; None if TCP has no use for it.

    Raises:
        ValueError, TypeError: ``socket.getaddrinfo`` returns nothing like that.
    """
    if not (isinstance(family, int) and isinstance(kind, int) and isinstance(proto, int)):
        raise TypeError("family, type and protocol must be ints")
    if kind != socket.SOCK_STREAM or proto not in (0, socket.IPPROTO_TCP):  # SCTP has streams, too
        return None
    if family == socket.AF_INET:
        ip, port = sockaddr
        return Address(family, (ip, check_port(port))) if is_numeric(family, ip) else None
    if family == socket.AF_INET6:
        ip, port, flow, scope = sockaddr if len(sockaddr) != 2 else (*sockaddr, 0, 0)
        # The zone in the text is the scope again; connect() would look it up.
        ip = ip.partition("%")[0] if isinstance(ip, str) and scope else ip
        if not 0 <= flow < 2**20 or not 0 <= scope < 2**32:
            raise ValueError("flow or scope is out of range")
        address = Address(family, (ip, check_port(port), int(flow), int(scope)))
        return address if is_numeric(family, ip) else None
    return None


def _check_local(local_address: object) -> Address:
    """*local_address* as an address to bind to."""
    pair = local_address if isinstance(local_address, tuple) else (local_address, 0)
    if len(pair) != 2 or not isinstance(pair[0], str):
        raise TypeError(f"local_address must be a str or (str, int), not {local_address!r}")
    host, port = pair[0], check_port(pair[1], lowest=0)
    ip = host.partition("%")[0]
    if not (is_numeric(socket.AF_INET, host) or is_numeric(socket.AF_INET6, ip)):
        raise ValueError(f"local_address must be a numeric address, not {local_address!r}")
    try:  # the zone of an IPv6 address is a number to the kernel
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror as exc:
        raise ValueError(f"local_address {local_address!r}: {exc.strerror}") from None
    family, _, _, _, (_, *numbers) = found[0]
    return Address(family, (host.partition("%")[0], *numbers))


def _check_options(socket_options: Any) -> list[tuple[Any, ...]]:
    """*socket_options* as lists of arguments that ``setsockopt`` will take."""
    try:
        options = [tuple(option) for option in socket_options]
    except TypeError:
        raise TypeError(
            f"socket_options must be tuples (level, name, value), not {socket_options!r}"
        ) from None
    for option in options:
        kinds = [type(argument) for argument in option]
        if not (len(kinds) == 3 and kinds[2] in (int, bool, bytes, bytearray)) and not (
            kinds[2:] == [type(None), int]  # no value, but a length
        ):
            raise TypeError(f"a socket option must be (level, name, value), not {option!r}")
        if not all(isinstance(number, int) for number in option[:2]):
            raise TypeError(f"level and name of a socket option must be ints: {option!r}")
        if not all(-(2**31) <= number < 2**31 for number in option if isinstance(number, int)):
            raise ValueError(f"a socket option has no number beyond 32 bits: {option!r}")
    return options


def _check_delay(delay: object) -> float | None:
    if delay is None:
        return None
    if isinstance(delay, bool) or not isinstance(delay, (int, float)):
        raise TypeError(f"happy_eyeballs_delay must be a number or None, not {delay!r}")
    if not _LEAST_DELAY <= delay <= _LONGEST_DELAY:
        raise ValueError(
            f"happy_eyeballs_delay must be {_LEAST_DELAY} to {_LONGEST_DELAY} seconds or None, "
            f"not {delay!r}"
        )
    return float(delay)
