"""Name resolution: in time, in few threads, and wherever Python still runs."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

import httpx_net
from dialing import (
    Resolver,
    all_wait_for_one_look_up,
    interrupted_when,
    main_thread_is_in,
    run_python,
    waits_for_a_look_up,
)
from httpx_net import _resolve
from httpx_net._resolve import getaddrinfo
from peers import HANG, wait_until

SLOW = "slow.example.com"
LIVE = ("127.0.0.1", 0)


def resolve_in_time(name: str = SLOW) -> list[tuple[object, ...]]:
    with httpx_net.timeout(HANG):
        return getaddrinfo(name, 80)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> _resolve._Process:
    """As in a new process: no thread of an earlier test is parked."""
    monkeypatch.setattr(_resolve, "_process", process := _resolve._Process())
    return process


# ---- Addresses in numbers


@pytest.mark.parametrize(
    ("literal", "sockaddr"),
    [
        ("127.0.0.1", ("127.0.0.1", 80)),
        ("127.1", ("127.0.0.1", 80)),
        ("0x7f.1", ("127.0.0.1", 80)),
        ("::1", ("::1", 80, 0, 0)),
        ("FE80:0::1", ("fe80::1", 80, 0, 0)),  # one text for each address, for who compares them
        ("::ffff:1.2.3.4", ("::ffff:1.2.3.4", 80, 0, 0)),
    ],
)
def test_a_literal_needs_no_look_up_and_no_thread(resolver, literal, sockaddr) -> None:
    threads = threading.active_count()
    with httpx_net.timeout(HANG):
        infos = getaddrinfo(literal, 80)
    assert [info[4] for info in infos] == [sockaddr]
    numeric = {"type": socket.SOCK_STREAM, "flags": socket.AI_NUMERICHOST}
    assert infos == socket.getaddrinfo(literal.encode(), 80, **numeric)
    assert threading.active_count() <= threads
    assert not resolver.asked


def test_a_zone_is_part_of_a_literal(resolver: Resolver) -> None:
    index, interface = socket.if_nameindex()[0]
    with httpx_net.timeout(HANG):
        [(family, *_, sockaddr)] = getaddrinfo(f"fe80::1%{interface}", 80)
    assert (family, sockaddr[1:]) == (socket.AF_INET6, (80, 0, index))
    assert not resolver.asked


def test_an_unknown_zone_is_not_looked_up(resolver: Resolver) -> None:
    with pytest.raises(socket.gaierror, match="fe80::1%nowhere"), httpx_net.timeout(HANG):
        getaddrinfo("fe80::1%nowhere", 80)
    assert not resolver.asked


# ---- Whose thread


def test_without_a_deadline_the_callers_thread_asks(resolver: Resolver) -> None:
    resolver.answers[SLOW] = LIVE
    assert [info[4] for info in getaddrinfo(SLOW, 80)] == [("127.0.0.1", 80)]
    assert resolver.threads == [threading.current_thread()]


def test_under_a_deadline_a_named_daemon_thread_asks(resolver: Resolver) -> None:
    resolver.hang()
    with pytest.raises(TimeoutError), httpx_net.timeout(0.02):
        getaddrinfo(SLOW, 80)
    wait_until(lambda: resolver.asked)
    [thread] = resolver.threads
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert thread.name == f"httpx_net look-up of {SLOW}"


def test_flow_and_scope_of_an_answer_are_kept(resolver: Resolver) -> None:
    resolver.answers[SLOW] = ("fe80::1", 0, 7, 9)
    assert resolve_in_time()[0][4] == ("fe80::1", 80, 7, 9)


def test_a_thread_that_has_an_answer_serves_the_next_look_up(resolver: Resolver) -> None:
    resolver.answers |= {"one.example.com": LIVE, "two.example.com": LIVE}
    resolve_in_time("one.example.com")
    resolve_in_time("two.example.com")
    one, two = resolver.threads
    assert one is two


def test_a_parked_thread_ends_after_an_idle_second(resolver: Resolver) -> None:
    resolver.answers[SLOW] = LIVE
    start = time.monotonic()
    resolve_in_time()
    resolver.threads[0].join(HANG)
    assert not resolver.threads[0].is_alive()
    assert time.monotonic() - start >= 1.0


class Taken(list[Any]):
    """The list of the idle; *lookup* is given to a thread just as it leaves."""

    def __init__(self, lookup: _resolve._Lookup) -> None:
        self._lookup = lookup

    def remove(self, place: _resolve._Place) -> None:
        if place in self and self._lookup is not None:
            assert self.pop().give(self._lookup)  # what another thread does to look up a name
            self._lookup = None
        super().remove(place)


def test_a_thread_that_is_given_something_just_as_it_leaves_stays(
    resolver, alone, monkeypatch
) -> None:
    another = _resolve._Lookup(SLOW)
    monkeypatch.setattr(_resolve, "_IDLE", 0.001)
    alone.idle = Taken(another)
    resolver.answers[SLOW] = LIVE
    resolve_in_time()
    with httpx_net.timeout(HANG):
        another.wait()
    wait_until(lambda: not resolver.threads[0].is_alive())  # after an idle moment, again
    assert resolver.threads[0] is resolver.threads[1]


def test_what_a_thread_is_given_just_as_it_dies_is_over(resolver, alone, monkeypatch) -> None:
    another = _resolve._Lookup(SLOW)
    dead: list[type] = []
    monkeypatch.setattr(threading, "excepthook", lambda hook: dead.append(hook.exc_type))
    monkeypatch.setattr(_resolve, "_IDLE", "a second")  # which no lock understands
    alone.idle = Taken(another)
    resolver.answers[SLOW] = LIVE
    resolve_in_time()
    with httpx_net.timeout(HANG):
        another.wait()
    assert not another.begun  # so that who waits looks up himself
    wait_until(lambda: dead)


def test_a_thread_that_has_left_is_replaced(resolver, alone, monkeypatch) -> None:
    resolver.answers[SLOW] = LIVE
    place = _resolve._Place(alone.idle)
    assert place.leave() is None
    assert alone.idle == []
    alone.idle.append(place)
    assert resolve_in_time()


class Raced:
    """A lock that one of two reaches for, and *meanwhile* the other."""

    def __init__(self, lock: Any, **meanwhile: Callable[[], object]) -> None:
        self._lock = lock
        self._meanwhile = meanwhile

    def __call__(self, call: str, *args: Any, **options: Any) -> Any:
        result = getattr(self._lock, call)(*args, **options)
        self._meanwhile.pop(call, lambda: None)()
        return result

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        assert not blocking, "here nobody waits"
        return bool(self("acquire", blocking))

    def release(self) -> None:
        self("release")


@pytest.mark.parametrize("moment", ["before", "as it is given", "as the thread leaves", "after"])
def test_a_thread_that_leaves_has_either_the_look_up_or_left(
    alone: _resolve._Process, moment: str
) -> None:
    def give() -> None:
        given.append(place.give(lookup))

    def leave() -> None:
        found.append(place.leave())

    given: list[bool] = []
    found: list[_resolve._Lookup | None] = []
    lookup = _resolve._Lookup(SLOW)
    place = _resolve._Place(alone.idle)
    if moment == "as it is given":
        place._given = Raced(place._given, release=leave)  # type: ignore[assignment]
    if moment == "as the thread leaves":
        place._given = Raced(place._given, acquire=give)  # type: ignore[assignment]
    if moment in ("before", "as it is given"):
        give()
    if moment != "as it is given":
        leave()
    if moment == "after":
        give()
    assert (given, found) in (([True], [lookup]), ([False], [None]))


def test_who_gives_leaves_the_thread_what_it_has_reached_for(alone: Any) -> None:
    place = _resolve._Place(alone.idle)
    place._left = True  # as far as the thread got, when
    place._given = Raced(place._given, release=place._given.acquire)  # type: ignore[assignment]
    assert place.give(_resolve._Lookup(SLOW))


def test_no_look_up_is_lost_where_threads_come_and_go(resolver, monkeypatch) -> None:
    monkeypatch.setattr(_resolve, "_IDLE", 0.0001)
    names = [f"{i}.example.com" for i in range(500)]
    resolver.answers |= dict.fromkeys(names, LIVE)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(resolve_in_time, names))) == 500


# ---- Names that hang


def test_the_deadline_bounds_a_look_up(resolver: Resolver) -> None:
    resolver.hang()
    start = time.monotonic()
    with pytest.raises(TimeoutError), httpx_net.timeout(0.1):
        getaddrinfo(SLOW, 80)
    assert 0.1 <= time.monotonic() - start < 2.0


@pytest.mark.parametrize("name", [SLOW, "127.0.0.1"])
def test_under_a_passed_deadline_nobody_asks(resolver: Resolver, name: str) -> None:
    with pytest.raises(TimeoutError), httpx_net.timeout(0):
        getaddrinfo(name, 80)
    assert not resolver.asked


def test_a_resolver_that_hangs_holds_a_thread_per_name_not_per_attempt(resolver, alone) -> None:
    resolver.hang()
    before = set(threading.enumerate())
    for name in ["one.example.com", "two.example.com"] * 3:
        with pytest.raises(TimeoutError), httpx_net.timeout(0.02):
            getaddrinfo(name, 80)
    assert len(set(threading.enumerate()) - before) == 2
    wait_until(lambda: sorted(resolver.asked) == ["one.example.com", "two.example.com"])


def test_a_resolver_that_hangs_gathers_nothing_from_those_who_gave_up(resolver, alone) -> None:
    resolver.hang()
    for _ in range(3):
        with pytest.raises(TimeoutError), httpx_net.timeout(0.01):
            getaddrinfo(SLOW, 80)
    assert not alone.running[SLOW]._waiting


def test_an_answer_is_for_those_who_ask_meanwhile_and_kept_for_nobody(resolver) -> None:
    resolver.answers[SLOW] = LIVE
    resolve_in_time()
    resolve_in_time()
    assert resolver.asked == [SLOW, SLOW]


def test_simultaneous_look_ups_of_a_name_share_one_thread(resolver: Resolver) -> None:
    resolver.answers[SLOW] = LIVE
    lists = [answer.result() for answer in all_wait_for_one_look_up(8, resolve_in_time, resolver)]
    assert resolver.asked == [SLOW]
    assert all(found == lists[0] for found in lists)
    assert len({id(found) for found in lists}) == 8


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_AGAIN, "later"), MemoryError()])
def test_each_of_them_has_its_own_error(resolver: Resolver, error: Exception) -> None:
    resolver.answers[SLOW] = error
    answers = all_wait_for_one_look_up(8, resolve_in_time, resolver)
    errors = [answer.exception() for answer in answers]
    assert resolver.asked == [SLOW]
    assert {type(each) for each in errors} == {type(error)}
    assert len({id(each) for each in errors}) == 8


def test_each_of_them_waits_to_its_own_deadline(resolver: Resolver) -> None:
    resolver.hang()
    resolver.answers[SLOW] = LIVE
    with ThreadPoolExecutor() as pool:
        patient = pool.submit(resolve_in_time)
        wait_until(lambda: resolver.asked)
        with pytest.raises(TimeoutError), httpx_net.timeout(0.05):
            getaddrinfo(SLOW, 80)
        assert not patient.done()
        resolver.answer()
        assert patient.result()
    assert resolver.asked == [SLOW]


# ---- Errors


@pytest.fixture(params=[None, HANG], ids=["no deadline", "deadline"])
def bound(request: pytest.FixtureRequest):
    with httpx_net.timeout(request.param):
        yield


@pytest.mark.usefixtures("bound")
def test_a_name_that_does_not_resolve_is_in_the_text(resolver: Resolver) -> None:
    with pytest.raises(socket.gaierror) as caught:
        getaddrinfo("missing.example.com", 80)
    assert caught.value.args == (
        socket.EAI_NONAME,
        "look-up of 'missing.example.com' failed: Name or service not known",
    )


def test_TimeoutError_has_the_name_and_the_duration(resolver: Resolver) -> None:
    resolver.hang()
    with pytest.raises(TimeoutError) as caught, httpx_net.timeout(0.02):
        getaddrinfo(SLOW, 80)
    assert str(caught.value) == "look-up of 'slow.example.com' timed out: timeout(0.02) expired"


@pytest.mark.usefixtures("bound")
def test_other_errors_of_the_resolver_reach_the_caller(resolver: Resolver) -> None:
    resolver.answers[SLOW] = MemoryError("no room")
    with pytest.raises(MemoryError, match="no room"):
        getaddrinfo(SLOW, 80)


@pytest.mark.usefixtures("bound")
def test_the_kernels_own_ETIMEDOUT_keeps_its_errno(resolver: Resolver) -> None:
    resolver.answers[SLOW] = OSError(errno.ETIMEDOUT, "Connection timed out")
    with pytest.raises(TimeoutError, match="failed: Connection timed out") as caught:
        getaddrinfo(SLOW, 80)
    assert caught.value.errno == errno.ETIMEDOUT


@pytest.mark.usefixtures("bound")
def test_an_error_without_a_number_keeps_its_text(resolver: Resolver) -> None:
    resolver.answers[SLOW] = OSError("no resolver here")
    with pytest.raises(OSError, match=r"^look-up of 'slow.*' failed: no resolver here$"):
        getaddrinfo(SLOW, 80)


# ---- Wherever Python still runs


def test_ctrl_c_interrupts_the_wait(resolver: Resolver) -> None:
    resolver.hang()
    with interrupted_when(lambda: resolver.asked and main_thread_is_in(_resolve._Lookup.wait)):
        resolve_in_time()


def test_who_begins_to_wait_when_the_answer_is_there_waits_for_nothing(resolver) -> None:
    resolver.answers[SLOW] = LIVE
    lookup = _resolve._Lookup(SLOW)
    lookup.run()
    lookup.end()
    with httpx_net.timeout(HANG):
        lookup.wait()


def test_an_interrupted_beginning_is_waited_for_by_nobody(resolver, alone, monkeypatch) -> None:
    resolver.answers[SLOW] = LIVE
    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr(threading.Thread, "start", raising(KeyboardInterrupt))
        resolve_in_time()
    assert resolve_in_time()


def test_without_a_thread_to_be_had_the_callers_asks(resolver, alone, monkeypatch) -> None:
    resolver.answers[SLOW] = LIVE
    monkeypatch.setattr(threading.Thread, "start", raising(RuntimeError("can't start new thread")))
    assert resolve_in_time()
    assert resolver.threads == [threading.current_thread()]


def raising(exc: BaseException | type[BaseException]) -> Callable[..., None]:
    def raise_it(*args: object) -> None:
        raise exc

    return raise_it


AT_EXIT = """
import atexit, sys
import httpx_net

def resolve():
    with httpx_net.timeout(60):
        print(bool(httpx_net.NetworkBackend().getaddrinfo("localhost", 80)))

atexit.register(resolve)
if "earlier, too" in sys.argv:
    resolve()
"""


@pytest.mark.parametrize("when", ["at exit", "earlier, too"])
def test_names_resolve_at_exit(when: str) -> None:
    assert set(run_python(AT_EXIT, when).split()) == {"True"}


IN_THE_TEARDOWN = """
import os, sys
import httpx_net

class Last:
    backend, deadline, write = httpx_net.NetworkBackend(), httpx_net.timeout, os.write

    def __del__(self):
        with self.deadline(60.0):
            self.write(1, b"%r " % bool(self.backend.getaddrinfo("localhost", 80)))

last = Last()
if "earlier, too" in sys.argv:
    with httpx_net.timeout(60):
        print(bool(httpx_net.NetworkBackend().getaddrinfo("localhost", 80)), flush=True)
"""


@pytest.mark.parametrize("when", ["at exit", "earlier, too"])
def test_names_resolve_in_the_teardown_of_the_interpreter(when: str) -> None:
    start = time.monotonic()
    assert set(run_python(IN_THE_TEARDOWN, when).split()) == {"True"}
    assert time.monotonic() - start < 30


HANGING = """
import os, socket, threading, warnings
import httpx_net

real, may_answer = socket.getaddrinfo, threading.Event()

def hang(host, *args, flags=0, **options):
    if not flags:  # literals need no resolver
        may_answer.wait()
    return real(host, *args, flags=flags, **options)

socket.getaddrinfo = hang

def resolve(seconds):
    with httpx_net.timeout(seconds):
        return httpx_net.NetworkBackend().getaddrinfo("localhost", 80)

try:
    resolve(0.05)
except TimeoutError as exc:
    print(exc)
"""


def test_a_resolver_that_hangs_keeps_no_program_from_ending() -> None:
    assert "look-up of 'localhost' timed out" in run_python(HANGING)


FORK = """
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later: of a fork beside threads
child = os.fork()
if child == 0:
    may_answer.set()  # here the parent's thread would never see it
    os._exit(0 if resolve(60) else 1)
print("child:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_waits_for_none_of_its_parents_threads() -> None:
    assert "child: 0" in run_python(HANGING + FORK)


# ---- Corners


@pytest.mark.parametrize("parent", [1, 2**31])
def test_a_childs_number_may_be_lower_than_its_parents(alone, parent: int) -> None:
    alone._pid = parent  # numbers begin again after the highest
    assert _resolve._Process.current() is not alone


def test_a_name_whose_last_label_begins_with_a_digit_is_looked_up(resolver: Resolver) -> None:
    resolver.answers["host.5g"] = ("127.0.0.1", 0)
    assert _resolve.getaddrinfo("host.5g", 80)[0][4] == ("127.0.0.1", 80)
    assert resolver.asked == ["host.5g"]


def test_numbers_in_hexadecimal_are_an_address(resolver: Resolver) -> None:
    assert _resolve.getaddrinfo("127.0x1", 80)[0][4] == ("127.0.0.1", 80)
    assert resolver.asked == []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The names that ``socket.getaddrinfo`` is asked for, numeric ones too; none is found."""
    names: list[bytes] = []

    def getaddrinfo(host: bytes, *args: object, **options: object) -> object:
        names.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_for_an_address_as_it_is_printed_nobody_is_asked(asked: list[bytes], ip: str) -> None:
    assert _resolve.getaddrinfo(ip, 80)[0][4][:2] == (ip, 80)
    assert asked == []


def test_a_name_that_begins_with_a_digit_is_no_number_to_ask_for(asked: list[bytes]) -> None:
    with pytest.raises(socket.gaierror):
        _resolve.getaddrinfo("1and1.example.com", 80)
    assert asked == [b"1and1.example.com"]


@pytest.fixture
def parked(resolver: Resolver, alone: _resolve._Process) -> _resolve._Place:
    """Where the one thread waits for more, as in a new process after one look-up."""
    resolver.answers[SLOW] = ("127.0.0.1", 0)
    resolve_in_time()
    wait_until(lambda: alone.idle)
    return alone.idle[0]


class Interrupted:
    """A place, with an interrupt before, or after, its thread is given a look-up."""

    def __init__(self, place: _resolve._Place, after: bool) -> None:
        self._place = place
        self._after = after

    def give(self, lookup: _resolve._Lookup) -> bool:
        if self._after:
            self._place.give(lookup)
            wait_until(lambda: lookup.begun)
        raise KeyboardInterrupt


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_interrupt_while_it_is_given_work_strands_no_parked_thread(
    resolver: Resolver, alone: Any, parked: _resolve._Place, after: bool
) -> None:
    alone.idle[:] = [Interrupted(parked, after)]
    with pytest.raises(KeyboardInterrupt):
        resolve_in_time()
    wait_until(lambda: not alone.running)
    assert resolve_in_time()
    resolver.threads[0].join(HANG)
    assert not resolver.threads[0].is_alive()


@pytest.mark.usefixtures("parked")
def test_a_parked_thread_says_that_it_is_idle(resolver: Resolver) -> None:
    assert resolver.threads[0].name == "httpx_net look-up (idle)"


@pytest.mark.usefixtures("parked")
def test_an_interrupt_while_a_thread_is_looked_for_is_waited_for_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupted(list[Any]):
        def pop(self, *args: Any) -> Any:
            raise KeyboardInterrupt

    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr(_resolve._process, "idle", Interrupted())
        resolve_in_time()
    assert _resolve._process.running == {}
    resolve_in_time()


@pytest.mark.parametrize("interrupted", ["before it has a thread", "in its caller's thread"])
def test_who_waits_for_a_look_up_that_is_interrupted_looks_up_himself(
    resolver, alone, monkeypatch, interrupted: str
) -> None:
    def other() -> object:
        waiting.append(threading.get_ident())
        return resolve_in_time()

    def interrupt(*args: object, **options: object) -> None:
        once.undo()
        others.append(pool.submit(other))
        wait_until(lambda: waiting and waits_for_a_look_up(waiting[0]))
        raise KeyboardInterrupt

    resolver.answers[SLOW] = LIVE
    others: list[Future[object]] = []
    waiting: list[int] = []
    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as once:
        if interrupted == "before it has a thread":
            once.setattr(threading.Thread, "start", interrupt)
        else:
            once.setattr(threading.Thread, "start", raising(RuntimeError("no threads")))
            once.setattr(socket, "getaddrinfo", interrupt)
        with pytest.raises(KeyboardInterrupt):
            resolve_in_time()
        assert others[0].result(HANG)
    assert resolver.asked == [SLOW]
    assert alone.running == {}


class Alarm(TimeoutError):
    """What a signal handler of the caller's may raise; with a constructor of its own."""

    def __init__(self) -> None:
        super().__init__("alarm")


def test_what_a_signal_handler_raises_is_what_the_caller_gets(resolver: Resolver) -> None:
    resolver.answers[SLOW] = Alarm()
    with pytest.raises(Alarm, match=r"^alarm$"):
        getaddrinfo(SLOW, 80)


@pytest.mark.parametrize("module", ["__main__", "yourapp"])
def test_and_so_while_a_thread_is_started(resolver, alone, monkeypatch, module: str) -> None:
    class Alarm(RuntimeError):
        __module__ = module

    with monkeypatch.context() as interrupted, pytest.raises(Alarm):
        interrupted.setattr(threading.Thread, "start", raising(Alarm()))
        resolve_in_time()
    assert not resolver.asked
    assert alone.running == {}


def test_a_parked_thread_that_dies_is_given_nothing(resolver, alone, monkeypatch) -> None:
    resolver.answers[SLOW] = LIVE
    dead: list[type] = []
    monkeypatch.setattr(threading, "excepthook", lambda hook: dead.append(hook.exc_type))
    monkeypatch.setattr(_resolve, "_IDLE", "a second")  # which no lock understands
    assert resolve_in_time()
    wait_until(lambda: dead)
    assert alone.idle == []
    assert resolve_in_time()
    wait_until(lambda: len(dead) == 2)
    assert dead == [TypeError, TypeError]


def test_a_thread_that_dies_takes_no_name_with_it(resolver, alone, monkeypatch) -> None:
    resolver.answers[SLOW] = LIVE
    dead: list[type] = []
    with monkeypatch.context() as short, pytest.raises(socket.gaierror, match="interrupted"):
        short.setattr(threading, "excepthook", lambda hook: dead.append(hook.exc_type))
        nameless = property(lambda thread: "", raising(MemoryError()))
        short.setattr(threading.Thread, "name", nameless)
        resolve_in_time()
    wait_until(lambda: dead)
    assert dead == [MemoryError]
    assert resolve_in_time()
