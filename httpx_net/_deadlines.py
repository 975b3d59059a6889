"""The stack of deadlines that every operation of a thread answers to.

A timeout that a caller can rely on has to be a *point in time*, fixed once. A duration that is
handed to each socket call starts again with each of them, so a peer that sends one byte a second
extends it for ever; and it has to be passed through every function on the way, which is why it
usually gets lost at name resolution, at the handshake, or at the second address.

So ``with timeout(3.0):`` computes its point in time when it is entered, and puts itself on a
stack that belongs to the thread. Whatever waits on the network, anywhere below, asks one question
before each wait: ``remaining()``. The nearest deadline of the stack answers, inner blocks can
only bring it nearer, and nothing has to be passed on.

Two facts shape the code:

- The question is asked several times for each operation, so it has to be cheap, however deep the
  nesting: each block remembers which deadline was nearest when it was entered, and the innermost
  block answers for all of them.
- Blocks don't always end in the reverse of the order they began in, nor in the thread they began
  in: a generator that is suspended inside a block is closed whenever and wherever its last
  reference goes. And ``cancel()`` may come from any thread. So ending a block only ever marks the
  block itself (its expiry becomes infinite, at once and for everybody) and takes it off its list,
  one atomic operation each. The thread that owns the stack notices that a remembered answer has
  been lifted when it next asks, and only then looks at the whole stack again. No locks.

This module knows no socket, and reads the clock through one name.
"""

from __future__ import annotations

import math
import sys
import threading
from time import monotonic as _clock
from types import TracebackType

TYPE_CHECKING = False  # importing typing would take as long as all of this package
if TYPE_CHECKING:
    from typing import Any

_NEVER = math.inf


class _Thread(threading.local):
    """What one thread is inside of. A new thread is inside of nothing."""

    def __init__(self) -> None:
        self.blocks: list[timeout] = []  # innermost first


this_thread = _Thread()
_NOWHERE: list[timeout] = []


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
    return time_left(this_thread.blocks)


def time_left(blocks: list[timeout]) -> float | None:
    """``remaining()``, for who has looked for the *blocks* of this thread and saves calls by it."""
    if not blocks:
        return None
    try:
        nearest = blocks[0]._nearest
    except IndexError:  # another thread has just closed the generator whose block it was
        return None
    if nearest is None:
        return None
    left = nearest._expiry - _clock()
    if left <= 0.0:
        raise TimeoutError(f"{nearest!r} expired")
    if left < _NEVER:
        return left
    return None if _nearest() is None else time_left(blocks)  # lifted since it was remembered


def _nearest() -> timeout | None:
    """The block of this thread whose deadline comes first, None where none stands."""
    for innermost in this_thread.blocks:
        nearest = innermost._nearest
        if nearest is not None and nearest._expiry == _NEVER:  # lifted since it was remembered
            standing = [block for block in list(this_thread.blocks) if block._expiry < _NEVER]
            nearest = min(standing, key=lambda block: block._expiry, default=None)
            innermost._nearest = nearest
        return nearest
    return None


def is_expiry(exc: BaseException) -> bool:
    """Whether *exc* is the TimeoutError of a deadline, and not the kernel's ETIMEDOUT."""
    return isinstance(exc, TimeoutError) and exc.errno is None


class timeout:
    """Bound everything in the block that waits on the network: ``with timeout(3.0) as t:``.

    The deadline is *seconds* after the block is entered. It holds for name resolution, for all
    connection attempts together, the TLS handshake, each read and each write of this thread, and
    nothing that a peer does extends it. An operation that meets it raises ``TimeoutError``; one
    that is begun under a passed deadline raises before it touches the network.

    *seconds* is a real number, zero or more. ``None`` and ``inf`` set no deadline; zero is a
    deadline that has passed already. Blocks nest, and the nearest deadline rules: an inner block
    can only bring it nearer. One object serves one block.

    The deadline belongs to the thread that enters the block: threads started in it have none, and
    a generator that is suspended inside a block leaves it standing over its caller.

    The clock is ``time.monotonic()``, which stands still while a Linux machine sleeps.

    Raises:
        ValueError: *seconds* is negative or NaN.
        TypeError: *seconds* is not a real number (``bool`` included).
        RuntimeError: the object has been entered before.
    """

    __slots__ = (
        "_blocks",
        "_cancelled",
        "_duration",
        "_expired",
        "_expiry",
        "_nearest",
        "_seconds",
    )

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds  # as given, for the text of errors
        self._duration = seconds if type(seconds) is float and seconds >= 0.0 else _real(seconds)
        self._expiry = _NEVER  # on the clock; infinite wherever no deadline stands
        self._nearest: timeout | None = None  # of this block and those around it
        self._blocks = _NOWHERE  # or the stack of the thread that has entered it
        self._cancelled = False
        self._expired = False  # frozen when the block is left

    def __enter__(self) -> timeout:
        if self._blocks is not _NOWHERE:
            raise RuntimeError(f"{self!r} has been entered before: make one for each block")
        blocks = self._blocks = this_thread.blocks
        try:
            self._expiry = expiry = _clock() + self._duration
            if self._cancelled:
                # Asked after the expiry is set, while cancel() sets them in the other order:
                # wherever a cancel() in another thread falls between these lines, it wins.
                self._expiry = expiry = _NEVER
            around = _nearest() if blocks else None
            if around is None or expiry < around._expiry < _NEVER:
                self._nearest = self
            else:
                self._nearest = around  # or, lifted at this very moment, a reason to look again
            blocks.insert(0, self)
            return self
        except BaseException:  # an interrupt, after which nobody would take it off
            if self in blocks:
                blocks.remove(self)
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._expired = self._expired or _clock() >= self._expiry
        finally:
            self._expiry = _NEVER
            try:
                self._blocks.remove(self)
            except ValueError:
                raise RuntimeError(f"{self!r} is left without standing") from None

    def cancel(self) -> None:
        """Lift this deadline; those of other blocks stay.

        Before, in or after the block, any number of times, from any thread. It takes effect at
        the next operation, or where a running one next waits.
        """
        self._cancelled = True
        self._expiry = _NEVER

    def expired(self) -> bool:
        """Return whether this deadline has passed, frozen when the block is left.

        False before the block is entered, and for good once it is cancelled.
        """
        return not self._cancelled and (self._expired or _clock() >= self._expiry)

    def __repr__(self) -> str:
        return f"timeout({self._seconds!r})"


def _real(seconds: Any) -> float:
    """What *seconds* comes to as a float; infinite where it sets no deadline."""
    import numbers  # not needed by who passes floats

    if seconds is None:
        return _NEVER
    if isinstance(seconds, bool) or not isinstance(seconds, numbers.Real):
        raise TypeError(f"a timeout is a real number of seconds or None, not {seconds!r}")
    if not seconds >= 0:  # type: ignore[operator]
        raise ValueError(f"a timeout is zero seconds or more, not {seconds!r}")
    try:
        return float(seconds)
    except OverflowError:  # an int or a Fraction: finite, however long
        return sys.float_info.max
