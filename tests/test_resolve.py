"""Look-ups: in time, of both families, in few threads, and wherever Python still runs."""

from __future__ import annotations

import ctypes
import errno
import functools
import gc
import os
import socket
import sys
import sysconfig
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

import httpx_net
from dialing import alarm, info, run_python
from peers import HANG, SLACK, frozen_clock, in_thread, times_out, wait_until

NAME = "www.example.com"
BOTH, FOUR, SIX = socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6
IPV4, IPV6 = info(("192.0.2.1", 80)), info(("2001:db8::1", 80, 0, 0))
UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
LATER = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
NO_DATA = socket.gaierror(getattr(socket, "EAI_NODATA", UNKNOWN.errno), "No address of this family")

USUAL = socket.getaddrinfo

net = httpx_net.NetworkBackend()


class Names:
    """Stands in for ``socket.getaddrinfo``: a call waits for its result, list or error.

    The results of families that are *known* are there at once.
    """

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.known: dict[int, Any] = {}
        self.over = False

    def __call__(self, *question: Any) -> Any:
        call: Any = Future()
        call.question, call.thread = question[:3], threading.current_thread()
        self.calls.append(call)
        if self.over:
            call.cancel()
        result = self.known.get(question[2]) or call.result()
        if isinstance(result, BaseException):
            raise result
        return result

    def of(self, family: int) -> list[Any]:
        return [call for call in self.calls if call.question[2] == family]

    def call(self, family: int, number: int = 1) -> Any:
        """The call of that *family* and number; waits until it has come."""
        wait_until(lambda: len(self.of(family)) >= number)
        return self.of(family)[number - 1]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    monkeypatch.setattr(socket, "getaddrinfo", names := Names())
    yield names
    # A thread may only now begin to ask.
    names.over = True
    for call in names.calls:
        call.cancel()


def ask(seconds: float | None = HANG, name: str = NAME) -> list[Any]:
    with httpx_net.timeout(seconds):
        return net.getaddrinfo(name, 80)


# ---- Addresses in numbers


LITERALS = {"127.0.0.1": "127.0.0.1", "127.1": "127.0.0.1", "0x7f.0x1": "127.0.0.1", "::0": "::"}


@pytest.mark.parametrize("literal", LITERALS)
def test_a_literal_needs_no_look_up(names: Names, literal: str) -> None:
    expected = info((LITERALS[literal], 80, 0, 0) if ":" in literal else (LITERALS[literal], 80))
    assert ask(name=literal) == ask(None, literal) == [expected]
    assert not names.calls


def test_a_zone_is_part_of_a_literal() -> None:
    index, interface = socket.if_nameindex()[0]
    assert ask(name=f"fe80::1%{interface}") == [info(("fe80::1", 80, 0, index))]
    with pytest.raises(socket.gaierror, match="look-up of 'fe80::1%nowhere' failed: "):
        ask(name="fe80::1%nowhere")


@pytest.mark.parametrize("name", ["host.5g", "1and1.example.com", "1.2.3.256"])
def test_a_name_may_have_labels_that_begin_with_a_digit(names: Names, name: str) -> None:
    names.known[BOTH] = [IPV4]
    assert ask(name=name) == ask(None, name) == [IPV4]


# ---- Whose thread, and what is called in it


@pytest.mark.parametrize("seconds", [None, HANG])
@pytest.mark.parametrize(
    ("local", "family"),
    [(None, BOTH), ("127.0.0.1", FOUR), ("0.0.0.0", FOUR), ("::", SIX), (("::1", 0), SIX)],
)
def test_getaddrinfo_is_called_as_everybody_calls_it_for_the_family_of_the_local_address(
    names: Names, local: Any, family: int, seconds: float | None
) -> None:
    names.known[family] = [IPV4]
    with httpx_net.timeout(seconds):
        found = httpx_net.NetworkBackend(local_address=local).getaddrinfo(NAME, 80)
    assert found == [IPV4]
    assert [call.question for call in names.calls] == [(NAME, 80, family)]
    assert (names.calls[0].thread is threading.current_thread()) == (seconds is None)


def test_under_a_deadline_a_daemon_thread_asks_and_ends(names: Names) -> None:
    names.known[BOTH] = [IPV4, IPV6]
    assert ask() == ask() == [IPV4, IPV6]
    one, two = [call.thread for call in names.calls]
    assert one is not two
    assert (one.daemon, one.name) == (True, f"httpx_net look-up of {NAME}")
    wait_until(lambda: not one.is_alive() and not two.is_alive())


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are a thing of Linux")
def test_a_look_up_happens_in_the_callers_network_namespace(monkeypatch) -> None:
    def scene() -> None:
        if ctypes.CDLL(None).unshare(0x40000000):  # CLONE_NEWNET, for this thread
            pytest.skip("only root makes network namespaces")
        assert ask() == namespace()

    def namespace(*question: object) -> object:
        return [os.readlink("/proc/thread-self/ns/net")]

    monkeypatch.setattr(socket, "getaddrinfo", namespace)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(scene).result()


# ---- Both families


@pytest.mark.parametrize(
    ("known", "seconds"), [({SIX: LATER, FOUR: [IPV4]}, 0.25), ({FOUR: [IPV4]}, 0.3)]
)
def test_after_250_ms_of_silence_each_family_is_asked_by_itself(
    names: Names, known: dict[int, Any], seconds: float
) -> None:
    names.known = known
    start = time.perf_counter()
    # These waits end on time even where the clock stands still.
    with frozen_clock():
        assert ask() == [IPV4]
    assert seconds <= time.perf_counter() - start < seconds + SLACK
    assert {call.question for call in names.calls[1:]} == {(NAME, 80, SIX), (NAME, 80, FOUR)}


def test_the_other_family_may_be_a_moment_late(names: Names) -> None:
    with in_thread(ask) as found:
        six, four = names.call(SIX), names.call(FOUR)
        four.set_result([IPV4])
        six.set_result([IPV6])
    assert found.result() == [IPV6, IPV4]


def test_an_answer_to_the_first_call_is_used_however_late_it_comes(names: Names) -> None:
    with in_thread(ask) as found:
        names.call(FOUR)
        names.call(BOTH).set_result([IPV4, IPV6])
    assert found.result() == [IPV4, IPV6]


@pytest.mark.parametrize("other", [BOTH, FOUR])
def test_while_anybody_may_answer_errors_have_to_wait_and_are_in_the_text(
    names: Names, other: int
) -> None:
    with in_thread(ask, 0.6) as found:
        names.call(SIX).set_result(LATER)
        names.call(other).set_result(UNKNOWN)
    with pytest.raises(TimeoutError) as caught:
        found.result()
    assert str(caught.value) == (
        f"look-up of '{NAME}' timed out (one call failed: {LATER.strerror}): timeout(0.6) expired"
    )


@pytest.mark.parametrize("errors", [(UNKNOWN, LATER, UNKNOWN), (NO_DATA, NO_DATA, UNKNOWN)])
def test_when_all_fail_the_error_that_says_most_is_raised(names: Names, errors: Any) -> None:
    with in_thread(ask) as found:
        for family, error in zip((SIX, FOUR, BOTH), errors, strict=True):
            names.call(family).set_result(error)
    telling = LATER if LATER in errors else UNKNOWN
    with pytest.raises(socket.gaierror, match=f"look-up of '{NAME}' failed: {telling.strerror}"):
        found.result()


def test_after_silence_too_the_family_of_the_local_address_alone_is_asked_for(names: Names) -> None:
    with times_out(0.3):
        httpx_net.NetworkBackend(local_address="::1").getaddrinfo(NAME, 80)
    assert [call.question[2] for call in names.calls] == [SIX]


# ---- Look-ups that hang


@pytest.mark.parametrize("name", [NAME, "127.0.0.1"])
@pytest.mark.parametrize("ask", [net.getaddrinfo, net.connect])
def test_under_a_passed_deadline_nobody_asks(names: Names, ask: Any, name: str) -> None:
    with times_out(0.0) as passed:
        ask(name, 80)
    assert str(passed.value).startswith("connect to " if ask == net.connect else "look-up of ")
    assert not names.calls


def test_a_dead_resolver_holds_twelve_threads_of_a_name(names: Names) -> None:
    before = threading.active_count()
    with ThreadPoolExecutor(64) as pool:
        attempts = [pool.submit(ask, 0.5) for _ in range(64)]
    assert all(isinstance(attempt.exception(), TimeoutError) for attempt in attempts)
    wait_until(lambda: threading.active_count() <= before + 12)
    wait_until(lambda: [len(names.of(family)) for family in (BOTH, SIX, FOUR)] == [4, 4, 4])


def test_only_the_fifth_waits_for_a_call_of_others_and_it_is_the_youngest(names: Names) -> None:
    for number in (1, 2, 3, 4):
        with times_out(0.02):
            net.getaddrinfo(NAME, 80)
        names.call(BOTH, number)
    with in_thread(ask) as fifth, in_thread(ask) as sixth:
        names.call(BOTH, 4).set_result([IPV4])
    assert fifth.result() == sixth.result() == [IPV4]
    assert len(names.of(BOTH)) == 4


# ---- Errors


class ServerFailed(OSError):
    """As libraries have them: an OSError with arguments of its own."""

    def __init__(self, server: str, *, code: int) -> None:
        super().__init__(code, f"{server} has failed")


@pytest.mark.parametrize("seconds", [None, HANG])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (LATER, (LATER.errno, f"look-up of '{NAME}' failed: {LATER.strerror}")),
        (OSError(errno.ETIMEDOUT, "slow"), (errno.ETIMEDOUT, f"look-up of '{NAME}' failed: slow")),
        (OSError("no resolver"), (f"look-up of '{NAME}' failed: no resolver",)),
        (ServerFailed("ns1", code=7), (7, f"look-up of '{NAME}' failed: ns1 has failed")),
        (MemoryError("no room"), ("no room",)),
    ],
)
def test_an_error_keeps_its_class_and_number_and_has_the_name_in_its_text(
    names: Names, error: Exception, expected: tuple[Any, ...], seconds: float | None
) -> None:
    names.known[BOTH] = error
    with pytest.raises(type(error)) as caught:
        ask(seconds)
    assert caught.value.args == expected
    assert getattr(caught.value, "errno", None) == getattr(error, "errno", None)


def test_what_stands_in_for_getaddrinfo_may_look_like_it(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    names.known[BOTH] = LATER

    @functools.wraps(USUAL)
    def disguised(*question: Any) -> Any:
        return names(*question)

    monkeypatch.setattr(socket, "getaddrinfo", disguised)
    with pytest.raises(socket.gaierror, match=f"look-up of '{NAME}' failed: "):
        ask(None)


@pytest.mark.parametrize("seconds", [None, HANG])
def test_an_error_keeps_nothing_alive_once_it_is_handled(
    names: Names, seconds: float | None
) -> None:
    class Mark:
        pass

    def fail() -> weakref.ref[Mark]:
        mark = Mark()
        with suppress(socket.gaierror):
            ask(seconds)
        return weakref.ref(mark)

    names.known[BOTH] = LATER
    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


def test_where_no_thread_can_be_started_the_look_up_fails_at_once(names: Names) -> None:
    usual = threading.stack_size(1 << 46)  # more than there is
    try:
        with pytest.raises(socket.gaierror, match=f"{socket.EAI_AGAIN}.* no thread could be "):
            ask()
    finally:
        threading.stack_size(usual)


@pytest.mark.parametrize(
    ("family", "error"), [(BOTH, KeyboardInterrupt()), (FOUR, socket.gaierror("alarm"))]
)
def test_what_a_signal_handler_raises_comes_out_as_it_is(
    names: Names, family: int, error: BaseException
) -> None:
    # Once the last call of the first wait, or of the second, has come.
    with alarm(error, lambda: names.of(family)):
        ask()


# ---- Wherever Python still runs

RESOLVE = """
import atexit, os, socket, sys, threading, warnings, httpx_net
def resolve(seconds=60.0, net=httpx_net.NetworkBackend(), timeout=httpx_net.timeout):
    with timeout(seconds):
        return bool(net.getaddrinfo("localhost", 80))
"""
AT_EXIT = "atexit.register(lambda: print(resolve()))\n"
IN_THE_TEARDOWN = """
class Last:
    def __del__(self, resolve=resolve, write=os.write):
        write(1, b"%r " % resolve())
last = Last()
"""
# Without the GIL, the globals of modules are gone by then.
SCENES = [AT_EXIT] if sysconfig.get_config_var("Py_GIL_DISABLED") else [AT_EXIT, IN_THE_TEARDOWN]


@pytest.mark.parametrize("earlier", ["", "print(resolve(), flush=True)"], ids=["first", "again"])
@pytest.mark.parametrize("scene", SCENES)
def test_names_resolve_while_the_interpreter_ends(scene: str, earlier: str) -> None:
    assert set(run_python(RESOLVE + scene + earlier).split()) == {"True"}


HANGING = """
from concurrent.futures import ThreadPoolExecutor
os.getpid = lambda: 1  # a child may have its parent's number, in another namespace
real, may_answer = socket.getaddrinfo, threading.Event()
socket.getaddrinfo = lambda *question: may_answer.wait() and real(*question)
def hang(_):
    try: resolve(0.4)
    except TimeoutError as exc: return str(exc)
# One more than there are places for calls.
print(*ThreadPoolExecutor(5).map(hang, range(5)), sep="\\n")
"""
FORK = """
# 3.12 and later warn of a fork beside threads.
warnings.simplefilter("ignore", DeprecationWarning)
if hasattr(os, "fork") and not (child := os.fork()):
    may_answer.set()  # in this process: its parent's threads don't see it
    os._exit(not resolve())
print("child:", os.waitpid(child, 0)[1] if hasattr(os, "fork") else 0)
"""


def test_a_resolver_that_hangs_keeps_neither_a_program_nor_its_child_from_ending() -> None:
    output = run_python(RESOLVE + HANGING + FORK)
    assert output.count("look-up of 'localhost' timed out") == 5
    assert output.endswith("child: 0\n")


IN_A_SUB_INTERPRETER = """
import _interpreters
code = f"import sys; sys.path[:] = {sys.path}; {sys.argv[1]}"
print(_interpreters.exec(number := _interpreters.create(), code))
_interpreters.destroy(number)
"""


@pytest.mark.skipif(sys.version_info < (3, 13), reason="no threads in sub-interpreters, or crashes")
def test_names_resolve_in_a_sub_interpreter() -> None:
    code = RESOLVE + "os.write(1, b'%r ' % resolve())"
    assert run_python(RESOLVE + IN_A_SUB_INTERPRETER, code).split() == ["True", "None"]
