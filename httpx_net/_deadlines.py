"""A thread's deadlines, the nearest first.

A timeout that a caller can rely on has to be a *point in time*, fixed once. A duration that is
handed to each socket call starts again with each of them, so a peer that sends one byte a second
extends it for ever; and it has to be passed through every function on the way, which is why it
usually gets lost at name resolution, at the handshake, or at the second address.

So ``with timeout(3.0):`` computes its point in time when it is entered, and takes its place in a
list that belongs to the thread, sorted by time. Whatever waits on the network, anywhere below, asks
one question before each wait: ``remaining()``. The first of the list answers, however deep the
nesting, and nothing has to be passed on.

Blocks don't always end in the reverse of the order they began in, nor in the thread they began in:
a generator that is suspended inside a block is closed whenever and wherever its last reference
goes, and ``cancel()`` may come from any thread. Two rules make that safe without a lock:

- Only the thread that owns a list changes it. Whoever leaves or cancels a block from elsewhere
  marks the block as over, and its owner takes it out when it next finds it in front.
- The expiry by which the list is sorted is set once, on entering, and never changes.

The owner's signal handlers and finalizers run in its own thread, between any two lines of this
module, and may enter and leave blocks there. Therefore each change of the list is one call into C
(``insort`` with a key that is C as well, ``remove``), and a block is taken out by name, never by
its place.

This module knows no socket, and reads the clock through one name.
"""

from __future__ import annotations

import math
import sys
import threading
from bisect import insort
from collections.abc import Callable
from operator import attrgetter
from time import monotonic as _clock
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from decimal import Decimal
    from fractions import Fraction

_Result = TypeVar("_Result")

_NEVER = math.inf
_NOT_ENTERED: list[timeout] = []
_LEFT: list[timeout] = []
_BY_EXPIRY = attrgetter("_expiry")

# Wait in slices of at most a day and look at the deadline again: poll(2) takes its milliseconds
# as a C int and goes no further than 24.8 days, and CPython's settimeout() silently wraps there.
_LONGEST_WAIT = 86_400.0  # seconds


class _Thread(threading.local):
    """The deadlines of one thread. A new thread has none."""

    def __init__(self) -> None:
        self.blocks: list[timeout] = []


_this_thread = _Thread()


def remaining() -> float | None:
    """Return the seconds to this thread's nearest deadline, or None without one.

    This is the one question to ask before each wait, in a custom backend or stream too::

        sock.settimeout(httpx_net.remaining())

    The number is above zero and not clamped, but ``settimeout`` goes wrong beyond 24.8 days: code
    that has to live with such deadlines waits in slices.

    Raises:
        TimeoutError: the nearest deadline has passed. The text names its duration, as in
            ``timeout(3.0) expired``; ``errno`` is None.
    """
    blocks = _this_thread.blocks
    if not blocks:
        return None
    # Nearly always this loop is over with its first block.
    for first in blocks:
        nearest = _nearest() if first._over else first
        return None if nearest is None else nearest._left()
    return None


def bounded(wait: Callable[..., _Result], seconds: float, *args: object) -> _Result:
    """Call ``wait(*args, slice)`` until it returns something true, or *seconds* have passed.

    A slice ends at the nearest deadline at the latest. A wait that was to last until some moment
    and brought nothing has reached that moment, whatever the clock says, since tests freeze
    clocks: a false result means that *seconds* have passed, and a deadline that was met this way
    has passed for good.

    Raises:
        TimeoutError: the nearest deadline has passed.
    """
    while True:
        nearest = _nearest()
        left = _NEVER if nearest is None else nearest._left()
        longest = min(left, seconds, _LONGEST_WAIT)
        result = wait(*args, longest)
        if result:
            return result
        seconds -= longest
        if nearest is not None and longest == left:
            # Unless it was left or cancelled meanwhile.
            nearest._passed = not nearest._over
        elif seconds <= 0.0:
            return result


def _nearest() -> timeout | None:
    """The block of this thread whose deadline comes first, None without a deadline."""
    blocks = _this_thread.blocks
    while True:
        # Not blocks[0]: a finalizer may empty the list between a look at it and that.
        for nearest in blocks:
            if not nearest._over:
                return nearest
            _take_out(nearest, blocks)
            break
        else:
            return None


def _take_out(block: timeout, blocks: list[timeout]) -> None:
    try:
        blocks.remove(block)
    except ValueError as exc:
        # It never got in, or a signal handler or finalizer has just been here. An error of theirs
        # has a frame of its own.
        if exc.__traceback__ and exc.__traceback__.tb_next:
            raise


class timeout:
    """Bound everything in the block that waits on the network: ``with timeout(3.0) as t:``.

    The deadline is *duration* seconds after the block is entered. It holds for name resolution,
    for all connection attempts together, the TLS handshake, each read and each write of this
    thread, and nothing that a peer does extends it. An operation that meets it raises
    ``TimeoutError``; one that is begun under a passed deadline raises before it touches the
    network.

    *duration* is a real number (``int``, ``float``, ``Fraction`` or ``Decimal``), zero or more.
    ``None`` and ``inf`` set no deadline; zero is a deadline that has passed already. Blocks nest,
    and the nearest deadline rules: an inner block can only bring it nearer. One object serves one
    block.

    The deadline belongs to the thread that enters the block: threads started in it have none, and
    while a generator is suspended inside a block, its caller has that deadline too.

    The clock is ``time.monotonic()``, which stands still while a Linux machine sleeps.

    Raises:
        ValueError: *duration* is negative or NaN.
        TypeError: *duration* is not a real number (``bool`` included).
        RuntimeError: the object has been entered before.
    """

    __slots__ = (
        "_blocks",
        "_cancelled",
        "_duration",
        "_expiry",
        "_over",
        "_passed",
        "_seconds",
    )

    def __init__(self, duration: float | Fraction | Decimal | None) -> None:
        # As it was given, for the text of errors.
        self._duration = duration
        self._seconds = (
            duration if type(duration) is float and duration >= 0.0 else _seconds(duration)
        )
        self._expiry = _NEVER
        # The deadlines of the thread that has entered the block.
        self._blocks = _NOT_ENTERED
        self._cancelled = False
        # Left or cancelled: of no account any more, wherever it still stands in a list.
        self._over = False
        # For good: met by a wait, or true when the block was left.
        self._passed = False

    def __enter__(self) -> timeout:
        if self._blocks is not _NOT_ENTERED:
            raise RuntimeError(f"{self!r} has been entered before: make one for each block")
        blocks = self._blocks = _this_thread.blocks
        try:
            self._expiry = _clock() + self._seconds
            if self._expiry < _NEVER:
                insort(blocks, self, key=_BY_EXPIRY)
            return self
        except BaseException:
            # An interrupt, after which nobody would leave the block.
            _take_out(self, blocks)
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The block is over first of all, for an interrupt may keep it from being taken out.
        try:
            self._passed = self._passed or (not self._over and _clock() >= self._expiry)
        finally:
            self._over = True
            blocks, self._blocks = self._blocks, _LEFT
            if blocks is _this_thread.blocks:
                _take_out(self, blocks)
            elif blocks is _NOT_ENTERED or blocks is _LEFT:
                self._over, self._blocks = self._cancelled or blocks is _LEFT, blocks
                raise RuntimeError(f"{self!r} was never entered, or has been left already")

    def cancel(self) -> None:
        """Cancel this deadline; those of other blocks stay.

        Before, in or after the block, any number of times, from any thread. It takes effect at
        the next operation, or where a running one next waits.
        """
        self._cancelled = self._over = True

    def expired(self) -> bool:
        """Return whether this deadline has passed, frozen when the block is left.

        False before the block is entered, and for good once it is cancelled.
        """
        if self._cancelled:
            return False
        return self._passed or (not self._over and _clock() >= self._expiry)

    def _left(self) -> float:
        """The seconds until this deadline. Raises TimeoutError once it has passed."""
        left = self._expiry - _clock()
        if left <= 0.0 or self._passed:
            raise TimeoutError(f"{self!r} expired")
        return left

    def __repr__(self) -> str:
        return f"timeout({self._duration!r})"


def _seconds(duration: object) -> float:
    """*duration* as a float; infinite if it sets no deadline."""
    if duration is None:
        return _NEVER
    seconds = real(duration, "a timeout is a real number of seconds or None")
    if not seconds >= 0.0:
        raise ValueError(f"a timeout is zero seconds or more, not {duration!r}")
    return seconds


def real(number: Any, wanted: str) -> float:
    """*number* as a float, if it is a real number; *wanted* says so in the error's text.

    What lies beyond all floats is the largest of them: finite, however long.
    """
    if not _is_real(number):
        raise TypeError(f"{wanted}, not {number!r}")
    try:
        return float(number)
    except OverflowError:
        return sys.float_info.max if number > 0 else -sys.float_info.max
    except ValueError:
        # A signalling NaN of decimal.
        return math.nan


def _is_real(number: object) -> bool:
    if isinstance(number, (int, float)):
        return not isinstance(number, bool)
    # Only callers who pass something rarer need these.
    import decimal
    import numbers

    return isinstance(number, (numbers.Real, decimal.Decimal))
