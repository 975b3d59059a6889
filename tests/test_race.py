"""The race between addresses: first on paper, where time is a number, then on loopback."""

from __future__ import annotations

import errno
import heapq
import itertools
import math
import os
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import httpx_net
from conftest import open_descriptors
from dialing import Listed, alarm
from httpx_net._race import MOST_AT_ONCE, Schedule
from interrupts import interrupted_at
from peers import HANG, Address, Peers, silent, times_out, wait_until

# ---- On paper. Times are whole milliseconds, so that sums are exact.

WINS, FAILS, SILENT = True, False, math.inf

# How long an attempt takes, and how it ends.
Rows = list[tuple[float, bool]]


class Played(NamedTuple):
    """What came of a race: when each attempt started, which one won, and when it was over."""

    starts: list[float]
    winner: int | None
    end: float


def play(rows: Rows, delay: float = 250, most_at_once: int = MOST_AT_ONCE) -> Played:
    schedule = Schedule(enumerate(rows), delay, most_at_once)
    starts: list[float] = []
    ends: list[tuple[float, int]] = []
    now = 0.0
    while not schedule.is_over():
        while not schedule.wait(now):
            number, (took, _) = schedule.start(now)
            assert number == len(starts), "out of turn"
            starts.append(now)
            heapq.heappush(ends, (now + took, number))
        wait = schedule.wait(now)
        assert wait >= 0
        assert ends or wait < math.inf, "the race is not over, but there is nothing to wait for"
        if not ends or ends[0][0] > now + wait:
            now += wait
            continue
        now, number = heapq.heappop(ends)
        if now == SILENT:
            return Played(starts, None, now)
        if rows[number][1] is WINS:
            return Played(starts, number, now)
        schedule.failed()
    return Played(starts, None, now)


DEAD = (SILENT, FAILS)
# Who takes part, under which rules; who started when, who won, and when it was over.
RACES: list[tuple[Rows, dict[str, Any], Any]] = [
    # Nobody else starts if the first is quick.
    ([(30, WINS), (30, WINS)], {}, ([0], 0, 30)),
    # The first to connect wins, not the first to start.
    ([DEAD, (30, WINS), (30, WINS)], {}, ([0, 250], 1, 280)),
    # None is given up because the next has started.
    ([(270, WINS), (30, WINS)], {}, ([0, 250], 0, 270)),
    # A refusal starts the next at once, and the delay counts from there.
    ([(100, FAILS), DEAD, (10, WINS)], {}, ([0, 100, 350], 2, 360)),
    # A late refusal starts the next before its turn.
    ([(300, FAILS), DEAD, DEAD, (30, WINS)], {}, ([0, 250, 300, 550], 3, 580)),
    # A lost race is over with its last attempt.
    ([(600, FAILS), (10, FAILS), (20, FAILS)], {}, ([0, 250, 260], None, 600)),
    # Silence is for the deadline to end.
    ([DEAD, (10, FAILS)], {}, ([0, 250], None, SILENT)),
    # An endless delay tries one at a time.
    ([(5000, FAILS), (30, WINS)], {"delay": math.inf}, ([0, 5000], 1, 5030)),
    # Beyond the limit only a failure makes room.
    ([(900, FAILS), DEAD, (30, WINS)], {"most_at_once": 2}, ([0, 250, 900], 2, 930)),
]


@pytest.mark.parametrize(("rows", "rules", "played"), RACES)
def test_on_paper(rows: Rows, rules: dict[str, Any], played: Any) -> None:
    assert play(rows, **rules) == played


def test_a_name_with_thousands_of_addresses_opens_no_thousands_of_sockets() -> None:
    assert len(play([DEAD] * 4095).starts) == MOST_AT_ONCE < 100


durations = st.integers(0, 2000) | st.just(SILENT)
delays = st.integers(10, 2000) | st.just(math.inf)
races = st.lists(st.tuples(durations, st.booleans()), max_size=12)


def attempts(rows: Rows, played: Played) -> list[tuple[float, float, bool]]:
    """(start, end, how) of each attempt that was made."""
    made = zip(played.starts, rows, strict=False)
    return [(start, start + took, how) for start, (took, how) in made]


@given(races, delays, st.integers(1, 5))
def test_attempts_start_neither_early_nor_late_nor_too_many(rows, delay, most) -> None:
    made = attempts(rows, played := play(rows, delay, most))
    failures = [end for _, end, wins in made if not wins]
    for (before, _, _), (start, _, _) in itertools.pairwise(made):
        due = before + delay
        assert start >= due or any(before <= end <= start for end in failures)
        assert start <= due or sum(begun <= due < end for begun, end, _ in made) >= most
    for now, _, _ in made:
        assert sum(start <= now < end for start, end, _ in made) <= most
    if played.winner is None and len(made) < len(rows):
        # Those in flight will never end.
        assert delay == math.inf or sum(end == SILENT for _, end, _ in made) == most


@given(races, delays)
def test_the_race_is_won_if_any_would_connect_and_by_the_first(rows, delay) -> None:
    if delay == math.inf:
        # One that is silent keeps others from their turn only where they wait for its end.
        rows = [row for row in rows if row[0] != SILENT]
    made = attempts(rows, played := play(rows, delay))
    won = [end for _, end, wins in made if wins and end != SILENT]
    assert (played.winner is not None) == any(wins and took != SILENT for took, wins in rows)
    assert played.winner is None or played.end == min(won)


# ---- On loopback

# No TCP to a broadcast address: the kernel refuses by itself.
NOWHERE = ("255.255.255.255", 9)
REFUSED = os.strerror(errno.ECONNREFUSED)


@pytest.fixture(params=[None, HANG], ids=["no deadline", "deadline"])
def bound(request: pytest.FixtureRequest) -> Iterator[float | None]:
    """Inside and outside of a deadline."""
    with httpx_net.timeout(request.param):
        yield request.param


@pytest.fixture(params=[0.25, None], ids=["staggered", "one by one"])
def delay(request: pytest.FixtureRequest) -> float | None:
    return request.param


@pytest.fixture
def default_timeout() -> Iterator[None]:
    """The program has set one, which is no deadline of ours."""
    socket.setdefaulttimeout(0.001)
    yield
    socket.setdefaulttimeout(None)


def race(*addresses: Address, **options: Any) -> httpx_net.NetworkStream:
    return Listed(addresses, **options).connect("www.example.com", 80)


def lost(*addresses: Address, **options: Any) -> OSError:
    """The error of a race that nobody wins. While it is there, with its traceback, none is open."""
    before = open_descriptors()
    with pytest.raises(OSError) as caught:
        race(*addresses, **options)
    assert open_descriptors() == before
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return caught.value


@pytest.mark.usefixtures("bound")
def test_a_refused_first_address_costs_nothing(peers: Peers) -> None:
    live = peers.serve(silent)
    start = time.monotonic()
    with race(peers.closed_port(), live, happy_eyeballs_delay=2 * HANG) as stream:
        assert stream.get_extra_info("server_addr") == live
    assert time.monotonic() - start < HANG


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_dead_addresses_and_a_dead_family_cost_the_delay(peers: Peers, family: int) -> None:
    dead = [peers.black_hole(family) for _ in range(2)]
    live = peers.serve(silent)
    start = time.monotonic()
    with race(*dead, live, happy_eyeballs_delay=0.1) as stream:
        turns = 2 if family == socket.AF_INET else 1
        assert turns * 0.1 <= time.monotonic() - start < 2.0
        assert stream.get_extra_info("server_addr") == live


@pytest.mark.parametrize(
    ("families", "order"),
    [("66", "66"), ("6644", "6464"), ("4466", "4646"), ("64444", "64444"), ("446", "464")],
)
def test_families_take_turns(peers: Peers, bound, delay, families: str, order: str) -> None:
    kinds = {"4": socket.AF_INET, "6": socket.AF_INET6}
    addresses = [peers.closed_port(kinds[family]) for family in families]
    error = lost(*addresses, happy_eyeballs_delay=delay)
    tried = re.findall(r"(::1|127.0.0.1)\]?:(\d+): ", str(error))
    assert "".join("6" if ":" in ip else "4" for ip, _ in tried) == order
    for ip in ("::1", "127.0.0.1"):
        asked = [str(address[1]) for address in addresses if address[0] == ip]
        assert [port for each, port in tried if each == ip] == asked


@pytest.mark.usefixtures("bound")
def test_losers_are_closed(peers: Peers) -> None:
    dead = [peers.black_hole() for _ in range(2)]
    live = peers.listen().getsockname()
    before = len(open_descriptors())
    with race(*dead, live, happy_eyeballs_delay=0.01):
        assert len(open_descriptors()) == before + 1


@pytest.mark.usefixtures("default_timeout")
def test_a_stream_outside_every_deadline_is_blocking(peers: Peers, bound, delay) -> None:
    live, refused = peers.listen().getsockname(), peers.closed_port()
    for addresses in ([live], [refused, live], [live, refused]):
        with race(*addresses, happy_eyeballs_delay=delay) as stream:
            mode = stream.get_extra_info("socket").gettimeout()
            assert mode == (None if bound is None else 0.0)


@pytest.mark.usefixtures("bound")
def test_without_poll_select_serves(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    dead, live = peers.black_hole(), peers.serve(silent)
    # Windows has none, and gevent takes it away.
    monkeypatch.delattr(select, "poll", raising=False)
    with race(peers.closed_port(), dead, live, happy_eyeballs_delay=0.01) as stream:
        assert stream.get_extra_info("server_addr") == live


# ---- A connection to itself


@pytest.mark.usefixtures("bound")
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1"])
def test_a_connection_to_itself_is_refused(host: str) -> None:
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        # Connecting to its own port needs no luck where it has that port already.
        local = host if ":" in host else "127.0.0.1"
        backend = httpx_net.NetworkBackend(local_address=(local, port))
        with pytest.raises(ConnectionRefusedError) as caught:
            backend.connect(host, port)
    assert str(caught.value).endswith("failed: nobody listens there: the socket met itself")


@pytest.mark.skipif("sys.platform != 'linux'", reason="127.0.0.2 is an address on Linux only")
def test_the_same_port_of_another_address_is_somebody_else(peers: Peers) -> None:
    address = peers.serve(silent)
    backend = httpx_net.NetworkBackend(local_address=("127.0.0.2", address[1]))
    with backend.connect(*address) as stream:
        assert stream.get_extra_info("client_addr") == ("127.0.0.2", address[1])


# ---- Errors


def test_all_refused_is_ConnectionRefusedError_and_names_each(peers: Peers, bound, delay) -> None:
    one, two = peers.closed_port(), peers.closed_port()
    error = lost(one, two, happy_eyeballs_delay=delay)
    assert (type(error), error.errno) == (ConnectionRefusedError, errno.ECONNREFUSED)
    assert error.strerror == (
        f"connect to www.example.com:80 failed: "
        f"127.0.0.1:{one[1]}: {REFUSED}; 127.0.0.1:{two[1]}: {REFUSED}"
    )


def test_where_host_and_address_are_the_same_it_is_named_once(peers: Peers) -> None:
    host, port = peers.closed_port()
    with pytest.raises(ConnectionRefusedError) as caught:
        httpx_net.NetworkBackend().connect(host, port)
    assert caught.value.strerror == f"connect to {host}:{port} failed: {REFUSED}"
    host, port = peers.black_hole()
    with times_out(0.05) as late:
        httpx_net.NetworkBackend().connect(host, port)
    assert str(late.value) == f"connect to {host}:{port} timed out: timeout(0.05) expired"


def test_attempts_that_could_reach_nobody_have_no_vote(peers: Peers, bound, delay) -> None:
    error = lost(NOWHERE, peers.closed_port(), NOWHERE, happy_eyeballs_delay=delay)
    assert (type(error), error.errno) == (ConnectionRefusedError, errno.ECONNREFUSED)
    assert " failed: 255.255.255.255:9: " in error.strerror
    assert lost(NOWHERE, happy_eyeballs_delay=delay).errno == errno.ENETUNREACH


class Failing(socket.socket):
    """Sockets as a library puts in the place of the system's: their port is how they fail."""

    def connect(self, address: Any) -> None:
        raise OSError(address[1], "no")

    connect_ex = connect


@pytest.mark.parametrize(
    ("numbers", "combined"),
    [
        ([errno.EPERM, errno.EACCES], PermissionError),
        ([errno.EPERM, errno.EACCES, errno.EINVAL], OSError),
        ([errno.EPERM, errno.EPERM, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT], PermissionError),
        ([errno.ECONNRESET, errno.EHOSTUNREACH], ConnectionResetError),
        ([errno.ETIMEDOUT, errno.ENETUNREACH], TimeoutError),
    ],
)
def test_failures_of_one_class_are_of_that_class_together(
    bound, delay, monkeypatch: pytest.MonkeyPatch, numbers: list[int], combined: type[OSError]
) -> None:
    monkeypatch.setattr(socket, "socket", Failing)
    addresses = [(f"127.0.0.{place}", number) for place, number in enumerate(numbers, 1)]
    error = lost(*addresses, happy_eyeballs_delay=delay)
    assert type(error) is combined
    assert " failed: 127.0.0.1:" in str(error)
    assert str(error).count(": no") == len(numbers)


class NoIPv6(socket.socket):
    def __init__(self, family: int = -1, *args: Any, **options: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no such family")
        super().__init__(family, *args, **options)


def test_a_family_of_which_no_socket_can_be_made_is_passed_over(
    peers: Peers, bound, delay, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = peers.serve(silent)
    net = Listed([("2001:db8::1", 80, 0, 0), address], happy_eyeballs_delay=delay)
    monkeypatch.setattr(socket, "socket", NoIPv6)
    with net.connect("www.example.com", 80) as stream:
        assert stream.get_extra_info("server_addr") == address


# ---- The deadline


def test_TimeoutError_says_what_came_of_each_address(peers: Peers) -> None:
    refused, dead, later = peers.closed_port(), peers.black_hole(), peers.black_hole()
    with httpx_net.timeout(0.2):
        error = lost(refused, dead, later, happy_eyeballs_delay=HANG)
    assert (type(error), error.errno) == (TimeoutError, None)
    assert str(error) == (
        f"connect to www.example.com:80 timed out "
        f"(127.0.0.1:{refused[1]}: {REFUSED}; 127.0.0.1:{dead[1]}: no answer; 1 not tried): "
        f"timeout(0.2) expired"
    )


def test_a_deadline_that_passed_before_the_first_attempt_opens_nothing(peers: Peers) -> None:
    class Slow(Listed):
        def getaddrinfo(self, host: str, port: int) -> Any:
            wait_until(block.expired)
            return super().getaddrinfo(host, port)

    live = peers.listen().getsockname()
    expected = r"^connect to localhost:80 timed out \(1 not tried\): timeout\(0.05\) expired$"
    with pytest.raises(TimeoutError, match=expected), httpx_net.timeout(0.05) as block:
        Slow([live]).connect("localhost", 80)


# ---- Interrupts, and what handlers raise


@pytest.mark.usefixtures("bound", "default_timeout")
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), TimeoutError("alarm")], ids=repr)
def test_a_signal_handler_ends_the_wait_for_an_answer(
    peers: Peers, count: int, error: BaseException
) -> None:
    dead = [peers.black_hole() for _ in range(count)]
    before = open_descriptors()
    with alarm(error):
        race(*dead, happy_eyeballs_delay=0.01)
    assert open_descriptors() == before


@pytest.mark.parametrize(
    ("seconds", "error"), [(None, ConnectionRefusedError), (HANG, KeyboardInterrupt)]
)
def test_what_is_raised_at_any_line_comes_out_and_leaves_nothing_open(
    peers: Peers, delay, seconds: float | None, error: type[BaseException]
) -> None:
    def counts(frame: FrameType, event: str) -> bool:
        # What is raised in the finalizer of an earlier stream, CPython only prints.
        return frame.f_code.co_name != "__del__"

    refused, live = peers.closed_port(), peers.listen().getsockname()
    before = open_descriptors()
    for line in range(1000):
        stream = None
        with (
            suppress(error),
            httpx_net.timeout(seconds),
            interrupted_at(line, error("alarm"), counts) as where,
        ):
            stream = race(refused, live, refused, happy_eyeballs_delay=delay)
        if not where:
            break
        assert stream is None, where
        assert open_descriptors() == before, where
    assert stream is not None
    stream.close()
    assert 50 < line < 1000
