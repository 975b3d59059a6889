"""The deadlines of a thread: what ``timeout`` and ``remaining`` promise.

The clock of these tests stands still until a test moves it: nothing here sleeps. What becomes of
blocks that are nested, cancelled, and left in any order and any thread, a model says, at the end.
"""

from __future__ import annotations

import gc
import math
import select
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from httpx_net import NetworkStream, _deadlines, remaining, timeout
from peers import frozen_clock, wait_until

DAY = 86_400.0


class Clock:
    """A clock that only moves when a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    # The one private name here: it is how this module reads the clock.
    clock = Clock()
    monkeypatch.setattr(_deadlines, "_clock", clock)
    return clock


# ---- One block


def test_a_deadline_is_not_a_moment_early(clock: Clock) -> None:
    with timeout(3.0):
        clock.now = math.nextafter(clock.now + 3.0, 0.0)
        assert 0.0 < (remaining() or 0.0) < 1e-9
        clock.now = math.nextafter(clock.now, math.inf)
        with pytest.raises(TimeoutError):
            remaining()


def test_the_clock_is_the_monotonic_one() -> None:
    with frozen_clock(), timeout(0.01) as t:
        end = time.perf_counter() + 0.02
        wait_until(lambda: time.perf_counter() > end)
        assert not t.expired()


@pytest.mark.parametrize("exception", [TimeoutError, ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_exception_passes_as_it_is_and_restores_what_was_there(
    clock: Clock, exception: type[BaseException]
) -> None:
    raised = exception("as it is")
    with timeout(10.0):
        with pytest.raises(exception) as caught, timeout(3.0):
            raise raised
        assert caught.value is raised
        assert remaining() == 10.0


# ---- Durations


@pytest.mark.parametrize(
    ("duration", "left"),
    [
        *[(nothing, None) for nothing in (None, math.inf, Decimal("Infinity"))],
        *[(number, float(number)) for number in (2, 0.1, Fraction(1, 4), Decimal("1.5"))],
        *[(number, number) for number in (30 * DAY, 50 * DAY, 1e300, sys.float_info.max)],
        *[(beyond, sys.float_info.max) for beyond in (10**400, Fraction(10**400, 3))],
    ],
)
def test_a_duration_is_any_real_number_and_is_not_clamped(
    clock: Clock, duration: Any, left: float | None
) -> None:
    clock.now = 0.0
    with timeout(duration=duration) as t:
        assert remaining() == left
        assert type(remaining()) is type(left)
    assert repr(t) == f"timeout({duration!r})"


@pytest.mark.parametrize("duration", [0, 0.0, -0.0, Fraction(0), Decimal(0), 5e-324])
def test_nothing_or_next_to_nothing_has_passed_already(duration: float) -> None:
    with timeout(duration) as t:
        assert t.expired()
        with pytest.raises(TimeoutError):
            remaining()


@pytest.mark.parametrize(
    "duration",
    [-1, -0.001, -math.inf, -(10**400), Fraction(-1, 3), math.nan, *map(Decimal, ["NaN", "sNaN"])],
)
def test_a_duration_below_zero_or_nan_is_a_value_error(duration: float) -> None:
    with pytest.raises(ValueError) as caught:
        timeout(duration)
    assert str(caught.value) == f"a timeout is zero seconds or more, not {duration!r}"


@pytest.mark.parametrize("duration", [True, False, "3", b"3", 3 + 0j, (), [3.0], object])
def test_what_is_no_real_number_is_a_type_error(duration: Any) -> None:
    with pytest.raises(TypeError) as caught:
        timeout(duration)
    assert str(caught.value) == f"a timeout is a real number of seconds or None, not {duration!r}"


# ---- Waits, which take no time here


class Poll:
    """In place of ``select.poll``: *wait* is called with the seconds; nothing ever comes."""

    def __init__(self, wait: Callable[[float], object]) -> None:
        self._wait = wait

    def register(self, fd: int, event: int) -> None:
        pass

    def poll(self, milliseconds: float) -> list[Any]:
        if milliseconds >= 2**31:
            raise OverflowError("a C int has no room for that")
        self._wait(milliseconds / 1000)
        return []


def read_with(monkeypatch: pytest.MonkeyPatch, pair: Any, wait: Callable[[float], object]) -> bytes:
    """Read from one end of *pair*, which waits by *wait*."""
    monkeypatch.setattr(select, "poll", lambda: Poll(wait), raising=False)
    with NetworkStream(pair[0]) as stream:
        return stream.read()


@pytest.mark.parametrize("days", [1, 1.5, 50])
def test_a_deadline_of_days_is_met_in_days(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, pair: Any, days: float
) -> None:
    def sleep(seconds: float) -> None:
        clock.now += seconds

    with pytest.raises(TimeoutError, match=r" expired$"), timeout(days * DAY) as t:
        read_with(monkeypatch, pair, sleep)
    assert clock.now == 1000.0 + days * DAY
    assert t.expired()


def test_a_wait_until_the_deadline_has_met_it_unless_it_was_cancelled_meanwhile(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, pair: Any
) -> None:
    # The clock stands still, and both waits are over.
    with timeout(5.0) as outer, timeout(3.0) as t:
        with pytest.raises(TimeoutError, match=r"timeout\(5\.0\) expired$"):
            read_with(monkeypatch, pair, lambda seconds: t.cancel())
        assert (outer.expired(), t.expired()) == (True, False)
        with pytest.raises(TimeoutError, match=r"^timeout\(5\.0\) expired$"):
            remaining()
    assert outer.expired()


# ---- What comes in between: each scene is played once for every line it can happen at


@contextmanager
def before_line(number: int, meanwhile: Callable[[], object]) -> Iterator[list[int]]:
    """Call *meanwhile* just before that line of ``_deadlines``; gives the lines that were run."""
    lines: list[int] = []

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if event == "line" and frame.f_code.co_filename == _deadlines.__file__:
            lines.append(frame.f_lineno)
            if len(lines) == number:
                meanwhile()
        return trace

    tracing = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(tracing)


# As a finalizer leaves its block, and as other threads and signal handlers cancel one.
MEANWHILE: dict[str, Callable[[timeout, timeout], object]] = {
    "another is left": lambda t, another: another.__exit__(None, None, None),
    "another is cancelled": lambda t, another: another.cancel(),
    "it is cancelled": lambda t, another: t.cancel(),
}
ACTS: dict[str, Callable[[timeout], object]] = {
    "enter": lambda t: t.__enter__(),
    "ask": lambda t: remaining(),
    "leave": lambda t: t.__exit__(None, None, None),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_what_comes_between_two_lines_takes_no_other_deadline_along(
    clock: Clock, act: str, meanwhile: str
) -> None:
    number, over = 0, False
    while not over:
        number += 1
        t, another = timeout(3.0), timeout(1.0)
        with timeout(10.0), timeout(2.0) as cancelled:
            cancelled.cancel()
            another.__enter__()
            if act != "enter":
                t.__enter__()
            with before_line(number, lambda: MEANWHILE[meanwhile](t, another)) as lines:  # noqa: B023
                answer = ACTS[act](t)
            assert act != "ask" or answer in (1.0, 3.0)
            over = len(lines) < number
            if over:
                MEANWHILE[meanwhile](t, another)
            if meanwhile != "another is left":
                another.__exit__(None, None, None)
            stands = act != "leave" and meanwhile != "it is cancelled"
            assert remaining() == (3.0 if stands else 10.0)
            if act != "leave":
                t.__exit__(None, None, None)
        assert remaining() is None
    assert 1 < number < 100


# ---- All of it together, against a model


class Model:
    """What the deadlines of the threads amount to, in as few words as possible."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.standing: dict[str, dict[timeout, float]] = {"ours": {}, "theirs": {}}
        self.cancelled: set[timeout] = set()
        self.frozen: dict[timeout, bool] = {}

    def enter(self, thread: str, t: timeout, duration: float | None) -> None:
        self.standing[thread][t] = self.now + (math.inf if duration is None else duration)

    def leave(self, t: timeout) -> None:
        self.frozen[t] = self.expired(t)
        for standing in self.standing.values():
            standing.pop(t, None)

    def expired(self, t: timeout) -> bool:
        expiry = {**self.standing["ours"], **self.standing["theirs"]}.get(t, math.inf)
        return t not in self.cancelled and self.frozen.get(t, self.now >= expiry)

    def nearest(self, thread: str) -> float:
        standing = self.standing[thread].items()
        return min((expiry for t, expiry in standing if t not in self.cancelled), default=math.inf)


class DeadlineMachine(RuleBasedStateMachine):
    """Two threads that enter, leave and cancel blocks, their own and each other's."""

    timeouts = Bundle("timeouts")
    threads = st.sampled_from(["ours", "theirs"])

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.made: list[timeout] = []
        self.pools = {"ours": ThreadPoolExecutor(1), "theirs": ThreadPoolExecutor(1)}
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(_deadlines, "_clock", lambda: self.model.now)

    def teardown(self) -> None:
        for pool in self.pools.values():
            pool.shutdown()
        self.patch.undo()

    def run(self, thread: str, function: Callable[..., Any], *args: Any) -> Any:
        return self.pools[thread].submit(function, *args).result()

    # Quarters of a second, which floats add and subtract exactly.
    @rule(target=timeouts, quarters=st.integers(0, 40) | st.just(math.inf) | st.none())
    def make(self, quarters: float | None) -> tuple[timeout, float | None]:
        duration = None if quarters is None else quarters / 4
        self.made.append(timeout(duration))
        return self.made[-1], duration

    @rule(thread=threads, made=timeouts)
    def enter(self, thread: str, made: tuple[timeout, float | None]) -> None:
        t, duration = made
        entered = any(t in standing for standing in self.model.standing.values())
        if entered or t in self.model.frozen:
            with pytest.raises(RuntimeError, match="has been entered before"):
                self.run(thread, t.__enter__)
        else:
            assert self.run(thread, t.__enter__) is t
            self.model.enter(thread, t, duration)

    @rule(thread=threads, made=timeouts)
    def leave(self, thread: str, made: tuple[timeout, float | None]) -> None:
        t, _ = made
        if any(t in standing for standing in self.model.standing.values()):
            self.run(thread, t.__exit__, None, None, None)
            self.model.leave(t)
        else:
            with pytest.raises(RuntimeError, match="was never entered, or has been left already"):
                self.run(thread, t.__exit__, None, None, None)

    @rule(thread=threads, made=timeouts)
    def cancel(self, thread: str, made: tuple[timeout, float | None]) -> None:
        self.run(thread, made[0].cancel)
        self.model.cancelled.add(made[0])

    @rule(quarters=st.integers(1, 20))
    def time_passes(self, quarters: int) -> None:
        self.model.now += quarters / 4

    @invariant()
    def each_says_whether_it_has_expired(self) -> None:
        for t in self.made:
            assert t.expired() == self.model.expired(t)

    @invariant()
    def each_thread_has_the_nearest_of_its_own(self) -> None:
        for thread, standing in self.model.standing.items():
            nearest = self.model.nearest(thread)
            if nearest <= self.model.now:
                with pytest.raises(TimeoutError) as caught:
                    self.run(thread, remaining)
                assert type(caught.value) is TimeoutError
                assert caught.value.errno is None
                assert str(caught.value) in {
                    f"{t!r} expired" for t, expiry in standing.items() if expiry == nearest
                }
            else:
                left = None if nearest == math.inf else nearest - self.model.now
                assert self.run(thread, remaining) == left


def test_a_deadline_that_is_cancelled_after_all_has_never_expired() -> None:
    with timeout(0) as t:
        pass
    assert t.expired()
    t.cancel()
    assert not t.expired()


def test_a_block_that_is_over_leaves_nothing_in_the_list_around_it() -> None:
    with timeout(10):
        with timeout(20) as inner:
            pass
        assert not any(inner in each for each in gc.get_referrers(inner) if type(each) is list)


DeadlineMachine.TestCase.settings = settings(stateful_step_count=30, deadline=None, database=None)
TestDeadlines = DeadlineMachine.TestCase
