"""The stack of deadlines: what ``timeout`` and ``remaining`` promise.

The clock of these tests stands still until a test moves it: nothing here sleeps.
"""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from decimal import Decimal
from fractions import Fraction
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

import httpx_net
from httpx_net import _deadlines, remaining, timeout
from peers import HANG

DAY = 86_400.0


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
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


def test_outside_every_block_there_is_no_deadline() -> None:
    assert remaining() is None


def test_the_deadline_comes_nearer_as_time_passes(clock: Clock) -> None:
    with timeout(3.0):
        assert remaining() == 3.0
        clock.advance(2.0)
        assert remaining() == 1.0


def test_it_starts_when_the_block_is_entered(clock: Clock) -> None:
    t = timeout(3.0)
    clock.advance(60.0)
    with t:
        assert remaining() == 3.0


def test_a_timeout_that_nobody_enters_bounds_nothing(clock: Clock) -> None:
    timeout(0.0)
    assert remaining() is None


def test_the_block_is_given_its_timeout() -> None:
    t = timeout(3.0)
    with t as given:
        assert given is t


def test_once_it_has_passed_the_question_raises(clock: Clock) -> None:
    with timeout(3.0):
        clock.advance(3.0)
        with pytest.raises(TimeoutError, match=r"^timeout\(3\.0\) expired$") as caught:
            remaining()
    assert type(caught.value) is TimeoutError
    assert caught.value.errno is None


def test_it_goes_on_raising_until_the_block_is_left(clock: Clock) -> None:
    with timeout(3.0):
        clock.advance(5.0)
        assert has_passed()
        assert has_passed()
    assert remaining() is None


def test_it_is_not_a_moment_early(clock: Clock) -> None:
    with timeout(3.0):
        clock.now = math.nextafter(clock.now + 3.0, 0.0)
        left = remaining()
        assert left is not None
        assert 0.0 < left < 1e-9
        clock.now = math.nextafter(clock.now, math.inf)
        assert has_passed()


def test_leaving_the_block_lifts_the_deadline(clock: Clock) -> None:
    with timeout(3.0):
        pass
    clock.advance(5.0)
    assert remaining() is None


def test_it_runs_on_the_monotonic_clock() -> None:
    assert _deadlines._clock is time.monotonic


@pytest.mark.parametrize("exception", [TimeoutError, ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_exception_passes_as_it_is_and_leaves_nothing(exception: type[BaseException]) -> None:
    raised = exception("as it is")
    with pytest.raises(exception) as caught, timeout(3.0):
        raise raised
    assert caught.value is raised
    assert remaining() is None


def test_an_object_serves_one_block() -> None:
    t = timeout(3.0)
    with t:
        pass
    with pytest.raises(RuntimeError, match=r"timeout\(3\.0\) has been entered before"), t:
        pass
    assert remaining() is None


def test_it_cannot_be_entered_inside_its_own_block(clock: Clock) -> None:
    with timeout(3.0) as t:
        with pytest.raises(RuntimeError, match="entered before"), t:
            pass
        assert remaining() == 3.0  # and the refused one has taken nothing out
    assert remaining() is None


def test_it_cannot_be_entered_by_another_thread(clock: Clock) -> None:
    with timeout(3.0) as t:
        with pytest.raises(RuntimeError, match="entered before"):
            elsewhere(t.__enter__)
        assert remaining() == 3.0


def test_a_block_is_left_once(clock: Clock) -> None:
    with timeout(5.0):
        with timeout(3.0) as t:
            pass
        with pytest.raises(RuntimeError, match=r"^timeout\(3\.0\) is left without standing$"):
            t.__exit__(None, None, None)
        assert remaining() == 5.0


def test_a_block_that_was_not_entered_cannot_be_left(clock: Clock) -> None:
    with timeout(5.0):
        with pytest.raises(RuntimeError, match=r"^timeout\(3\.0\) is left without standing$"):
            timeout(3.0).__exit__(None, None, None)
        assert remaining() == 5.0


# ---- Durations


@pytest.mark.parametrize("seconds", [None, math.inf])
def test_none_and_infinity_set_no_deadline(clock: Clock, seconds: float | None) -> None:
    with timeout(seconds) as t:
        clock.advance(1e300)
        assert remaining() is None
        assert not t.expired()
    assert not t.expired()


@pytest.mark.parametrize("seconds", [None, math.inf])
def test_none_and_infinity_leave_the_outer_deadline_standing(
    clock: Clock, seconds: float | None
) -> None:
    with timeout(3.0), timeout(seconds):
        assert remaining() == 3.0


@pytest.mark.parametrize("seconds", [0, 0.0, -0.0, Fraction(0)])
def test_zero_has_passed_already(seconds: float) -> None:
    with timeout(seconds) as t:
        assert t.expired()
        with pytest.raises(TimeoutError):
            remaining()


def test_the_least_of_durations_passes_and_raises() -> None:
    with timeout(5e-324), pytest.raises(TimeoutError, match=r"^timeout\(5e-324\) expired$"):
        remaining()


@pytest.mark.parametrize("seconds", [2, Fraction(1, 4), 30 * DAY, 50 * DAY, 1e300])
def test_any_real_number_will_do_and_is_not_clamped(clock: Clock, seconds: float) -> None:
    clock.now = 0.0
    with timeout(seconds):
        left = remaining()
    assert left == seconds
    assert type(left) is float


@pytest.mark.parametrize("seconds", [0.0, 0.5, 3.0, math.inf])
def test_a_float_is_checked_without_a_call(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.delattr(_deadlines, "_real")
    with timeout(seconds):
        pass


@pytest.mark.parametrize("seconds", [10**400, Fraction(10**400, 3), sys.float_info.max])
def test_a_duration_beyond_all_floats_is_a_long_one(clock: Clock, seconds: float) -> None:
    with timeout(seconds):
        clock.advance(1e9 * DAY)
        left = remaining()
        assert left is not None
        assert 1e300 < left < math.inf


@pytest.mark.parametrize("seconds", [-1, -0.001, -math.inf, -(10**400), Fraction(-1, 3), math.nan])
def test_a_duration_below_zero_or_nan_is_a_value_error(seconds: float) -> None:
    with pytest.raises(ValueError, match="zero seconds or more") as caught:
        timeout(seconds)
    assert repr(seconds) in str(caught.value)


@pytest.mark.parametrize("seconds", [True, False, "3", b"3", 3 + 0j, Decimal(3), (), [3.0], object])
def test_what_is_no_real_number_is_a_type_error(seconds: Any) -> None:
    with pytest.raises(TypeError, match="real number of seconds or None") as caught:
        timeout(seconds)
    assert repr(seconds) in str(caught.value)


def test_the_duration_has_no_default() -> None:
    with pytest.raises(TypeError):
        timeout()  # type: ignore[call-arg]


@pytest.mark.parametrize("seconds", [3, 3.0, 0.1, Fraction(1, 3), None, math.inf, 10**400])
def test_the_repr_has_the_duration_as_it_was_given(seconds: float | None) -> None:
    assert repr(timeout(seconds)) == f"timeout({seconds!r})"


def test_the_error_has_the_duration_as_it_was_given(clock: Clock) -> None:
    with timeout(Fraction(1, 3)):
        clock.advance(1.0)
        with pytest.raises(TimeoutError, match=r"^timeout\(Fraction\(1, 3\)\) expired$"):
            remaining()


# ---- Nesting


def test_an_inner_block_brings_the_deadline_nearer(clock: Clock) -> None:
    with timeout(10.0):
        with timeout(3.0):
            assert remaining() == 3.0
        assert remaining() == 10.0


def test_an_inner_block_cannot_extend_the_deadline(clock: Clock) -> None:
    with timeout(3.0), timeout(10.0):
        assert remaining() == 3.0
        clock.advance(3.0)
        with pytest.raises(TimeoutError, match=r"^timeout\(3\.0\) expired$"):
            remaining()


def test_the_nearest_is_a_point_in_time_not_the_shortest_duration(clock: Clock) -> None:
    with timeout(10.0):
        clock.advance(8.0)
        with timeout(3.0):
            assert remaining() == 2.0


def test_where_an_inner_block_expired_the_outer_one_goes_on(clock: Clock) -> None:
    with timeout(10.0):
        with pytest.raises(TimeoutError), timeout(3.0):
            clock.advance(4.0)
            remaining()
        assert remaining() == 6.0


@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_restores_what_was_there_before(
    clock: Clock, exception: type[BaseException]
) -> None:
    with timeout(10.0):
        with pytest.raises(exception), timeout(3.0):
            raise exception
        assert remaining() == 10.0


durations = st.floats(min_value=0.0, allow_nan=False) | st.none() | st.integers(0, 10**310)


@given(st.lists(durations, max_size=20))
def test_the_nearest_of_any_nesting_rules(given: list[float | None]) -> None:
    with pytest.MonkeyPatch.context() as patch, ExitStack() as blocks:
        patch.setattr(_deadlines, "_clock", lambda: 0.0)
        for seconds in given:
            blocks.enter_context(timeout(seconds))
        nearest = min(as_float(seconds) for seconds in [*given, None])
        if nearest == 0.0:
            assert has_passed()
        else:
            assert remaining() == (None if nearest == math.inf else nearest)
    assert remaining() is None


def as_float(seconds: float | None) -> float:
    if seconds is None or seconds == math.inf:
        return math.inf
    return float(seconds) if seconds <= sys.float_info.max else min(seconds, sys.float_info.max)


def test_asking_costs_the_same_at_any_depth(clock: Clock) -> None:
    with timeout(3.0):
        shallow = steps(remaining)
        with ExitStack() as blocks:
            for seconds in range(1, 300):
                blocks.enter_context(timeout(seconds))
            assert steps(remaining) == shallow


def test_after_a_cancel_only_the_first_question_looks_at_the_whole_stack(clock: Clock) -> None:
    with ExitStack() as blocks:
        nearest = blocks.enter_context(timeout(10.0))
        for seconds in range(11, 300):
            blocks.enter_context(timeout(seconds))
        usual = steps(remaining)
        nearest.cancel()
        assert steps(remaining) > usual + 250
        assert steps(remaining) == usual
        assert remaining() == 11.0


def steps(function: Callable[[], object]) -> int:
    """How many lines, a loop's each time, *function* and what it calls go through."""
    seen = 0

    def count(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal seen
        seen += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        function()
    finally:
        sys.settrace(before)
    return seen


# ---- cancel()


def test_cancel_lifts_the_deadline(clock: Clock) -> None:
    with timeout(3.0) as t:
        t.cancel()
        clock.advance(5.0)
        assert remaining() is None


def test_cancel_lifts_a_deadline_that_has_passed(clock: Clock) -> None:
    with timeout(3.0) as t:
        clock.advance(5.0)
        assert has_passed()
        t.cancel()
        assert remaining() is None


def test_a_cancelled_inner_block_leaves_the_outer_deadline(clock: Clock) -> None:
    with timeout(10.0), timeout(3.0) as t:
        t.cancel()
        assert remaining() == 10.0


def test_a_cancelled_outer_block_leaves_the_inner_deadline(clock: Clock) -> None:
    with timeout(3.0) as t, timeout(10.0):
        assert remaining() == 3.0
        t.cancel()
        assert remaining() == 10.0


def test_with_the_nearest_cancelled_the_next_nearest_rules(clock: Clock) -> None:
    with timeout(5.0), timeout(2.0) as a, timeout(3.0) as b, timeout(9.0):
        a.cancel()
        assert remaining() == 3.0
        b.cancel()
        assert remaining() == 5.0
        clock.advance(5.0)
        with pytest.raises(TimeoutError, match=r"^timeout\(5\.0\) expired$"):
            remaining()


def test_with_all_of_them_cancelled_there_is_no_deadline(clock: Clock) -> None:
    with timeout(3.0) as a, timeout(2.0) as b:
        a.cancel()
        b.cancel()
        assert remaining() is None
        with timeout(7.0):
            assert remaining() == 7.0
        assert remaining() is None


def test_cancelled_before_the_block_it_sets_no_deadline(clock: Clock) -> None:
    t = timeout(0.0)
    t.cancel()
    with timeout(10.0), t:
        assert remaining() == 10.0
    with pytest.raises(RuntimeError, match="entered before"), t:
        pass


def test_cancelled_after_the_block_it_changes_nothing_else(clock: Clock) -> None:
    with timeout(10.0):
        with timeout(3.0) as t:
            pass
        t.cancel()
        assert remaining() == 10.0


def test_it_can_be_cancelled_any_number_of_times(clock: Clock) -> None:
    t = timeout(3.0)
    t.cancel()
    t.cancel()
    with t:
        t.cancel()
        t.cancel()
        assert remaining() is None
    t.cancel()
    assert not t.expired()


def test_it_can_be_cancelled_from_another_thread(clock: Clock) -> None:
    with timeout(10.0), timeout(3.0) as t:
        elsewhere(t.cancel)
        assert remaining() == 10.0


# ---- expired()


def test_a_deadline_has_expired_once_it_has_passed(clock: Clock) -> None:
    with timeout(3.0) as t:
        assert not t.expired()
        clock.advance(3.0)
        assert t.expired()


def test_a_block_left_in_time_never_expires(clock: Clock) -> None:
    with timeout(3.0) as t:
        clock.advance(2.0)
    clock.advance(60.0)
    assert not t.expired()


def test_a_block_left_too_late_has_expired_for_good(clock: Clock) -> None:
    with timeout(3.0) as t:
        clock.advance(3.0)
    assert t.expired()
    clock.now = 0.0
    assert t.expired()


def test_leaving_a_block_once_too_often_does_not_change_that(clock: Clock) -> None:
    with timeout(3.0) as t:
        clock.advance(3.0)
    with pytest.raises(RuntimeError):
        t.__exit__(None, None, None)
    assert t.expired()


def test_before_its_block_nothing_has_expired(clock: Clock) -> None:
    t = timeout(0.0)
    clock.advance(60.0)
    assert not t.expired()


def test_each_block_expires_for_itself(clock: Clock) -> None:
    with timeout(3.0) as outer, timeout(1.0) as inner:
        clock.advance(2.0)
        assert (outer.expired(), inner.expired()) == (False, True)
    with timeout(1.0) as outer, timeout(3.0) as inner:
        clock.advance(2.0)
        assert (outer.expired(), inner.expired()) == (True, False)


def test_a_cancelled_deadline_has_never_expired(clock: Clock) -> None:
    with timeout(3.0) as t:
        clock.advance(5.0)
        t.cancel()
        assert not t.expired()
    assert not t.expired()


def test_cancelled_after_its_block_it_has_not_expired_either(clock: Clock) -> None:
    with timeout(3.0) as t:
        clock.advance(5.0)
    assert t.expired()
    t.cancel()
    assert not t.expired()


# ---- Generators: blocks that are left in another order, or in another thread


def suspended(seconds: float) -> Generator[timeout, None, None]:
    with timeout(seconds) as t:
        yield t


def test_a_suspended_generator_leaves_its_deadline_over_its_caller(clock: Clock) -> None:
    generator = suspended(3.0)
    next(generator)
    assert remaining() == 3.0
    generator.close()
    assert remaining() is None


def test_an_outer_block_may_be_left_first(clock: Clock) -> None:
    outer, inner = suspended(3.0), suspended(10.0)
    next(outer)
    next(inner)
    outer.close()
    assert remaining() == 10.0
    inner.close()
    assert remaining() is None


def test_a_block_in_the_middle_takes_out_itself_and_nothing_else(clock: Clock) -> None:
    with timeout(5.0):
        generator = suspended(1.0)
        next(generator)
        with timeout(8.0):
            assert remaining() == 1.0
            generator.close()
            assert remaining() == 5.0
        assert remaining() == 5.0
    assert remaining() is None


def test_a_block_left_late_does_not_bring_an_older_deadline_back(clock: Clock) -> None:
    with timeout(2.0):
        generator = suspended(8.0)
        next(generator)
    assert remaining() == 8.0
    generator.close()
    assert remaining() is None


def test_a_generator_may_be_closed_by_another_thread(clock: Clock) -> None:
    generator = suspended(3.0)
    next(generator)
    with timeout(10.0):
        elsewhere(generator.close)
        assert remaining() == 10.0


def test_closing_a_generator_of_another_thread_keeps_ones_own_deadlines(clock: Clock) -> None:
    generator = suspended(3.0)
    elsewhere(next, generator)
    with timeout(10.0):
        assert remaining() == 10.0
        generator.close()
        assert remaining() == 10.0


def test_the_last_reference_to_a_generator_takes_its_deadline_along(clock: Clock) -> None:
    generators = [suspended(3.0)]
    next(generators[0])
    assert remaining() == 3.0
    generators.clear()
    gc.collect()
    assert remaining() is None


# ---- Threads


def test_a_new_thread_has_no_deadline(clock: Clock) -> None:
    with timeout(0.0):
        assert elsewhere(remaining) is None


def test_each_thread_has_its_own(clock: Clock) -> None:
    entered, over = threading.Barrier(2), threading.Barrier(2)

    def another() -> float | None:
        with timeout(3.0):
            entered.wait(10.0)
            over.wait(10.0)
            return remaining()

    with ThreadPoolExecutor(1) as pool, timeout(10.0):
        theirs = pool.submit(another)
        entered.wait(10.0)
        assert remaining() == 10.0
        over.wait(10.0)
        assert theirs.result() == 3.0
    assert remaining() is None


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

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            function()
        finally:
            sys.settrace(before)
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


def test_an_outer_cancel_at_any_moment_of_entering_is_seen(clock: Clock) -> None:
    for moment in moments():
        t = timeout(5.0)
        with timeout(1.0) as outer:
            came = moment(t.__enter__, outer.cancel)
            assert remaining() == (5.0 if came else 1.0)
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


# ---- All of it together, against a model


class Model:
    """What the deadlines of the threads come to, in as few words as possible."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.standing: dict[str, dict[timeout, float]] = {"ours": {}, "theirs": {}}
        self.cancelled: set[timeout] = set()
        self.frozen: dict[timeout, bool] = {}

    def enter(self, thread: str, t: timeout, seconds: float | None) -> None:
        self.standing[thread][t] = self.now + (math.inf if seconds is None else seconds)

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
        seconds = None if quarters is None else quarters / 4
        return timeout(seconds), seconds

    @rule(thread=threads, made=timeouts)
    def enter(self, thread: str, made: tuple[timeout, float | None]) -> None:
        t, seconds = made
        entered = any(t in standing for standing in self.model.standing.values())
        if entered or t in self.model.frozen:
            with pytest.raises(RuntimeError):
                self.run(thread, t.__enter__)
        else:
            self.run(thread, t.__enter__)
            self.model.enter(thread, t, seconds)

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


def test_the_names_are_public() -> None:
    assert httpx_net.timeout is timeout
    assert httpx_net.remaining is remaining


# ---- Corners


def test_a_block_that_another_thread_leaves_while_it_is_asked_for_sets_no_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def left_meanwhile() -> float:
        monkeypatch.undo()
        leaving = threading.Thread(target=block.__exit__, args=(None, None, None))
        leaving.start()
        leaving.join()
        return 0.0

    block = httpx_net.timeout(HANG)
    block.__enter__()
    block.cancel()
    monkeypatch.setattr(_deadlines, "_clock", left_meanwhile)
    assert httpx_net.remaining() is None


@pytest.mark.parametrize("taken_in", [False, True])
def test_an_interrupt_of_entering_leaves_no_block(
    monkeypatch: pytest.MonkeyPatch, taken_in: bool
) -> None:
    class Interrupted(list[Any]):
        def insert(self, *args: Any) -> None:
            if taken_in:
                super().insert(*args)
            raise KeyboardInterrupt

    monkeypatch.setattr(_deadlines.this_thread, "blocks", blocks := Interrupted())
    with pytest.raises(KeyboardInterrupt), httpx_net.timeout(HANG):
        pass
    assert blocks == []


def test_a_block_that_another_thread_takes_off_while_it_is_asked_has_no_answer() -> None:
    class Emptied(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            self.clear()  # what closing a generator does, wherever that happens
            return super().__getitem__(index)

    assert _deadlines.time_left(Emptied([httpx_net.timeout(HANG)])) is None


def test_a_block_that_is_lifted_while_another_is_entered_hides_none_around_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lifted_meanwhile() -> httpx_net.timeout | None:
        monkeypatch.undo()
        nearest = _deadlines._nearest()
        inner.cancel()
        return nearest

    with httpx_net.timeout(200.0), httpx_net.timeout(100.0) as inner:
        monkeypatch.setattr(_deadlines, "_nearest", lifted_meanwhile)
        with httpx_net.timeout(300.0):
            assert 100.0 < (httpx_net.remaining() or 0.0) <= 200.0


def test_what_is_no_number_of_seconds_is_told() -> None:
    with pytest.raises(TypeError) as caught:
        httpx_net.timeout("soon")  # type: ignore[arg-type]
    assert str(caught.value) == "a timeout is a real number of seconds or None, not 'soon'"
    with pytest.raises(ValueError) as caught:
        httpx_net.timeout(-1)
    assert str(caught.value) == "a timeout is zero seconds or more, not -1"
