"""The deadlines of a thread: what ``timeout`` and ``remaining`` promise.

The clock of these tests stands still until a test moves it: nothing here sleeps.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from httpx_net import _deadlines, remaining, timeout
from peers import HANG

DAY = 86_400.0
EXPIRED = r"^timeout\(3\.0\) expired$"


class Clock:
    """A clock that only moves when a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    # The one private name here: it is how this module reads the clock.
    clock = Clock()
    monkeypatch.setattr(_deadlines, "_clock", clock)
    return clock


def elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """What *function* returns or raises in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


def has_passed() -> bool:
    try:
        remaining()
    except TimeoutError:
        return True
    return False


# ---- One block


def test_the_deadline_starts_when_the_block_is_entered(clock: Clock) -> None:
    t = timeout(3.0)
    clock.advance(60.0)
    assert remaining() is None
    with t as given:
        assert given is t
        assert remaining() == 3.0
        clock.advance(2.0)
        assert remaining() == 1.0
    assert remaining() is None


def test_a_passed_deadline_raises_until_its_block_is_left(clock: Clock) -> None:
    with timeout(3.0):
        clock.advance(3.0)
        with pytest.raises(TimeoutError, match=EXPIRED) as caught:
            remaining()
        assert has_passed()
    assert type(caught.value) is TimeoutError
    assert caught.value.errno is None
    assert remaining() is None


def test_a_deadline_is_not_a_moment_early(clock: Clock) -> None:
    with timeout(3.0):
        clock.now = math.nextafter(clock.now + 3.0, 0.0)
        left = remaining()
        assert left is not None
        assert 0.0 < left < 1e-9
        clock.now = math.nextafter(clock.now, math.inf)
        assert has_passed()


def test_the_clock_is_the_monotonic_one() -> None:
    before = time.monotonic()
    with timeout(60.0):
        left = remaining()
    assert left is not None
    assert 60.0 - (time.monotonic() - before) <= left <= 60.0


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


def test_an_object_serves_one_block(clock: Clock) -> None:
    t = timeout(3.0)
    with t:
        with pytest.raises(RuntimeError, match=r"timeout\(3\.0\) has been entered before"), t:
            pass
        with pytest.raises(RuntimeError, match="entered before"):
            elsewhere(t.__enter__)
        assert remaining() == 3.0
    with pytest.raises(RuntimeError, match="entered before"), t:
        pass
    assert remaining() is None


@pytest.mark.parametrize("entered", [False, True])
def test_only_a_block_that_was_entered_can_be_left_and_only_once(
    clock: Clock, entered: bool
) -> None:
    t = timeout(3.0)
    with timeout(5.0):
        if entered:
            with t:
                clock.advance(3.0)
        with pytest.raises(
            RuntimeError, match=r"^timeout\(3\.0\) was never entered, or has been left already$"
        ):
            t.__exit__(None, None, None)
        assert remaining() == (2.0 if entered else 5.0)
        clock.now = 0.0
        assert t.expired() is entered


# ---- Durations


@pytest.mark.parametrize("duration", [None, math.inf, Decimal("Infinity")])
def test_none_and_infinity_set_no_deadline(clock: Clock, duration: float | None) -> None:
    with timeout(duration) as t:
        assert remaining() is None
        with timeout(3.0), timeout(duration):
            assert remaining() == 3.0
        clock.advance(1e300)
        assert not t.expired()
    assert not t.expired()


@pytest.mark.parametrize("duration", [0, 0.0, -0.0, Fraction(0), Decimal(0), 5e-324])
def test_nothing_or_next_to_nothing_has_passed_already(duration: float) -> None:
    with timeout(duration) as t:
        assert t.expired()
        with pytest.raises(TimeoutError):
            remaining()


@pytest.mark.parametrize(
    "duration", [2, Fraction(1, 4), Decimal("1.5"), 30 * DAY, 50 * DAY, 1e300, sys.float_info.max]
)
def test_any_real_number_will_do_and_is_not_clamped(clock: Clock, duration: float) -> None:
    clock.now = 0.0
    with timeout(duration=duration):
        left = remaining()
    assert left == duration
    assert type(left) is float


@pytest.mark.parametrize("duration", [10**400, Fraction(10**400, 3)])
def test_a_duration_beyond_all_floats_is_a_long_one(clock: Clock, duration: float) -> None:
    with timeout(duration):
        clock.advance(1e9 * DAY)
        assert (remaining() or 0.0) > 1e300


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


@pytest.mark.parametrize("duration", [3, 3.0, 0.1, Fraction(1, 3), Decimal("1.5"), None, 10**400])
def test_the_repr_has_the_duration_as_it_was_given(duration: float | None) -> None:
    assert repr(timeout(duration)) == f"timeout({duration!r})"


# ---- Nesting


def test_an_inner_block_can_only_bring_the_deadline_nearer(clock: Clock) -> None:
    with timeout(3.0):
        with timeout(1.0):
            assert remaining() == 1.0
        with timeout(10.0):
            assert remaining() == 3.0
            clock.advance(3.0)
            with pytest.raises(TimeoutError, match=EXPIRED):
                remaining()


def test_asking_costs_the_same_at_any_depth_and_in_any_order_of_leaving() -> None:
    def asked_at(depth: int) -> int:
        outer = [suspended(HANG + number) for number in range(depth)]
        inner = [suspended(HANG + depth + number) for number in range(depth)]
        for generator in outer + inner:
            next(generator)
        for generator in outer:
            generator.close()
        steps = lines_run(remaining)
        for generator in inner:
            generator.close()
        return steps

    assert asked_at(2) == asked_at(200)


def lines_run(function: Callable[[], object]) -> int:
    """How many lines, a loop's each time, *function* and what it calls go through."""
    seen = 0

    def count(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal seen
        seen += 1
        return count

    traced(function, count)
    return seen


def traced(function: Callable[[], object], trace: Any) -> None:
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)


# ---- cancel() and expired()


def test_cancelling_lifts_one_deadline_and_no_other(clock: Clock) -> None:
    with timeout(5.0), timeout(2.0) as a, timeout(3.0) as b, timeout(9.0):
        a.cancel()
        assert remaining() == 3.0
        b.cancel()
        assert remaining() == 5.0
        clock.advance(5.0)
        with pytest.raises(TimeoutError, match=r"^timeout\(5\.0\) expired$"):
            remaining()


def test_cancelled_before_its_block_a_timeout_sets_no_deadline(clock: Clock) -> None:
    t = timeout(0.0)
    t.cancel()
    t.cancel()
    with timeout(10.0), t:
        assert remaining() == 10.0
    assert not t.expired()


def test_cancelled_after_its_block_a_timeout_has_not_expired(clock: Clock) -> None:
    with timeout(10.0):
        with timeout(3.0) as t:
            clock.advance(5.0)
        assert t.expired()
        t.cancel()
        assert not t.expired()
        assert remaining() == 5.0


def test_a_deadline_that_is_cancelled_in_the_middle_hides_none_behind_it(clock: Clock) -> None:
    with timeout(4.0):
        three = suspended(3.0)
        next(three).cancel()
        with timeout(5.0):
            one, two = suspended(1.0), suspended(2.0)
            for generator in (one, two):
                next(generator)
            one.close()
            two.close()
            assert remaining() == 4.0
        three.close()


def test_whether_it_expired_is_frozen_when_the_block_is_left(clock: Clock) -> None:
    t = timeout(1.0)
    clock.advance(60.0)
    assert not t.expired()
    with timeout(3.0) as outer, t:
        clock.advance(2.0)
        assert (outer.expired(), t.expired()) == (False, True)
    clock.advance(60.0)
    assert (outer.expired(), t.expired()) == (False, True)
    clock.now = 0.0
    assert t.expired()


# ---- Generators: blocks that are left in another order, or in another thread


def suspended(duration: float) -> Generator[timeout, None, None]:
    with timeout(duration) as t:
        yield t


def test_a_suspended_generator_leaves_its_deadline_over_its_caller(clock: Clock) -> None:
    generators = [suspended(3.0)]
    next(generators[0])
    assert remaining() == 3.0
    generators.clear()
    gc.collect()
    assert remaining() is None


def test_a_generator_may_be_closed_by_another_thread(clock: Clock) -> None:
    generator = suspended(3.0)
    next(generator)
    with timeout(10.0):
        elsewhere(generator.close)
        assert remaining() == 10.0
        theirs = suspended(1.0)
        elsewhere(next, theirs)
        theirs.close()
        assert remaining() == 10.0


# ---- What comes in between: each scene is played once for every line it can happen at


def moments() -> Iterator[Callable[..., bool]]:
    """Yield ``moment(function, meanwhile)`` for the first, second, ... line that *function* runs.

    A moment calls *function*, and *meanwhile* just before its line of ``_deadlines``; it returns
    whether there was such a line. The last one finds none.
    """
    number, came = 0, True

    def moment(function: Callable[[], object], meanwhile: Callable[[], object]) -> bool:
        nonlocal came
        left = number

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal left
            if event == "line" and frame.f_code.co_filename == _deadlines.__file__:
                left -= 1
                if left == 0:
                    meanwhile()
            return trace

        try:
            traced(function, trace)
        finally:
            came = left <= 0
        return came

    while came:
        number += 1
        assert number < 100, "that many lines?"
        yield moment


def test_a_cancel_at_any_moment_of_entering_wins(clock: Clock) -> None:
    for moment in moments():
        t = timeout(3.0)
        with timeout(10.0):
            came = moment(t.__enter__, t.cancel)
            assert remaining() == (10.0 if came else 3.0)
            t.__exit__(None, None, None)


def test_a_cancel_at_any_moment_of_asking_gives_one_answer_or_the_other(clock: Clock) -> None:
    answers: list[float | None] = []
    for moment in moments():
        with timeout(3.0), timeout(2.0) as t:
            moment(lambda: answers.append(remaining()), t.cancel)
    assert set(answers) == {2.0, 3.0}


def test_an_interrupt_at_any_moment_of_entering_leaves_no_deadline(clock: Clock) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    for moment in moments():
        t = timeout(3.0)
        with suppress(KeyboardInterrupt):
            moment(t.__enter__, interrupt)
            t.__exit__(None, None, None)
        assert remaining() is None


@pytest.mark.parametrize("operation", ["ask", "enter", "leave"])
def test_a_finalizer_that_leaves_blocks_at_any_moment_takes_no_other_along(
    clock: Clock, operation: str
) -> None:
    for moment in moments():
        with timeout(10.0):
            collected, cancelled = suspended(1.0), suspended(2.0)
            next(collected)
            next(cancelled).cancel()
            t = timeout(3.0)
            if operation == "leave":
                t.__enter__()
            function = {"ask": remaining, "enter": t.__enter__, "leave": leave(t)}[operation]
            moment(function, collected.close)
            collected.close()
            assert remaining() == (3.0 if operation == "enter" else 10.0)
            if operation == "enter":
                t.__exit__(None, None, None)
            cancelled.close()


def leave(t: timeout) -> Callable[[], None]:
    return lambda: t.__exit__(None, None, None)


# ---- Waiting, for look-ups and sockets alike. A wait here takes no time: it only records.


class Wait:
    """Something to wait for that does not come."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.slices: list[float] = []
        self.clock = clock

    def __call__(self, seconds: float) -> bool:
        self.slices.append(seconds)
        if self.clock is not None:
            self.clock.advance(seconds)
        return False


def test_a_wait_that_lasted_until_the_deadline_has_met_it_whatever_the_clock_says(
    clock: Clock,
) -> None:
    with timeout(10.0), timeout(3.0) as t:
        with pytest.raises(TimeoutError, match=EXPIRED):
            _deadlines.bounded(Wait(), math.inf)
        assert t.expired()
        assert has_passed()
    assert t.expired()


def test_a_deadline_that_is_cancelled_during_the_wait_has_not_passed(clock: Clock) -> None:
    def cancelled_meanwhile(seconds: float) -> bool:
        t.cancel()
        return len(waits.slices) > 0 or waits(seconds)

    waits = Wait()
    with timeout(3.0) as t:
        assert _deadlines.bounded(cancelled_meanwhile, math.inf)
        assert not t.expired()
        assert remaining() is None


def test_a_wait_of_some_seconds_ends_there_whatever_the_clock_says(clock: Clock) -> None:
    with timeout(3.0) as t:
        assert not _deadlines.bounded(Wait(), 1.0)
        assert not t.expired()
        assert remaining() == 3.0


@pytest.mark.parametrize("frozen", [False, True])
def test_a_long_wait_is_made_of_days(clock: Clock, frozen: bool) -> None:
    wait = Wait(None if frozen else clock)
    assert not _deadlines.bounded(wait, 2.5 * DAY)
    assert wait.slices == [DAY, DAY, 0.5 * DAY]


def test_a_day_is_a_slice_and_no_deadline(clock: Clock) -> None:
    wait = Wait(clock)
    with timeout(1.5 * DAY) as t:
        with pytest.raises(TimeoutError):
            _deadlines.bounded(wait, math.inf)
        assert wait.slices == [DAY, 0.5 * DAY]
        assert t.expired()


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
        return timeout(duration), duration

    @rule(thread=threads, made=timeouts)
    def enter(self, thread: str, made: tuple[timeout, float | None]) -> None:
        t, duration = made
        entered = any(t in standing for standing in self.model.standing.values())
        if entered or t in self.model.frozen:
            with pytest.raises(RuntimeError):
                self.run(thread, t.__enter__)
        else:
            self.run(thread, t.__enter__)
            self.model.enter(thread, t, duration)

    @rule(thread=threads, made=timeouts)
    def leave(self, thread: str, made: tuple[timeout, float | None]) -> None:
        t, _ = made
        if any(t in standing for standing in self.model.standing.values()):
            self.run(thread, t.__exit__, None, None, None)
            self.model.leave(t)
        else:
            with pytest.raises(RuntimeError):
                self.run(thread, t.__exit__, None, None, None)

    @rule(thread=threads, made=timeouts)
    def cancel(self, thread: str, made: tuple[timeout, float | None]) -> None:
        self.run(thread, made[0].cancel)
        self.model.cancelled.add(made[0])

    @rule(quarters=st.integers(1, 20))
    def time_passes(self, quarters: int) -> None:
        self.model.now += quarters / 4

    @rule(made=timeouts)
    def expired(self, made: tuple[timeout, float | None]) -> None:
        assert made[0].expired() == self.model.expired(made[0])

    @invariant()
    def each_thread_has_the_nearest_of_its_own(self) -> None:
        for thread, standing in self.model.standing.items():
            nearest = self.model.nearest(thread)
            if nearest <= self.model.now:
                with pytest.raises(TimeoutError) as caught:
                    self.run(thread, remaining)
                assert str(caught.value) in {
                    f"{t!r} expired" for t, expiry in standing.items() if expiry == nearest
                }
            else:
                left = None if nearest == math.inf else nearest - self.model.now
                assert self.run(thread, remaining) == left


DeadlineMachine.TestCase.settings = settings(stateful_step_count=30, deadline=None, database=None)
TestDeadlines = DeadlineMachine.TestCase
