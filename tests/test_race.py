"""The race between addresses: first on paper, where time is a number, then on loopback."""

from __future__ import annotations

import errno
import heapq
import itertools
import math
import os
import re
import select
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import httpx_net
from conftest import open_descriptors
from dialing import Listed, interrupted_when, main_thread_is_in
from httpx_net import _race, _wait
from httpx_net._race import MOST_AT_ONCE, Schedule, interleaved
from interrupts import interrupted_at
from peers import HANG, Address, Peers, silent, wait_until

# ---- On paper. Times are whole milliseconds, so that sums are exact.

WINS, FAILS, SILENT = True, False, math.inf


class Played(NamedTuple):
    """What came of a race: who started when, who won, and when it was over."""

    starts: dict[str, float]
    winner: str | None
    end: float


def play(
    rows: list[tuple[str, float, bool]], delay: float = 250, most_at_once: int = MOST_AT_ONCE
) -> Played:
    """Race *rows* of (name, how long its attempt takes, how that ends)."""
    schedule = Schedule(rows, delay, most_at_once)
    starts: dict[str, float] = {}
    ends: list[tuple[float, str, bool]] = []
    now = 0.0
    while not schedule.lost():
        while (row := schedule.start(now)) is not None:
            name, duration, wins = row
            starts[name] = now
            heapq.heappush(ends, (now + duration, name, wins))
        wait = schedule.wait(now)
        assert wait >= 0
        then = now + wait
        assert ends or then < math.inf, "the race is not lost, but there is nothing to wait for"
        if ends and ends[0][0] <= then:
            now, name, wins = heapq.heappop(ends)
            if now == SILENT:
                return Played(starts, None, now)
            if wins:
                return Played(starts, name, now)
            schedule.failed()
        else:
            now = then
    return Played(starts, None, now)


RACES = {
    "nobody else starts if the first is quick": (
        [("a", 30, WINS), ("b", 30, WINS)],
        Played({"a": 0}, "a", 30),
    ),
    "the first to connect wins, not the first to start": (
        [("a", SILENT, FAILS), ("b", 30, WINS), ("c", 30, WINS)],
        Played({"a": 0, "b": 250}, "b", 280),
    ),
    "none is given up because the next has started": (
        [("a", 270, WINS), ("b", 30, WINS)],
        Played({"a": 0, "b": 250}, "a", 270),
    ),
    "they start at the pace of the delay": (
        [("a", SILENT, FAILS), ("b", SILENT, FAILS), ("c", SILENT, FAILS), ("d", 1, WINS)],
        Played({"a": 0, "b": 250, "c": 500, "d": 750}, "d", 751),
    ),
    "a refusal starts the next at once": (
        [("a", 100, FAILS), ("b", 30, WINS)],
        Played({"a": 0, "b": 100}, "b", 130),
    ),
    "so does a socket that can't be opened": (
        [("a", 0, FAILS), ("b", 0, FAILS), ("c", 30, WINS)],
        Played({"a": 0, "b": 0, "c": 0}, "c", 30),
    ),
    "a late refusal starts the next before its turn": (
        [("a", 300, FAILS), ("b", SILENT, FAILS), ("c", SILENT, FAILS), ("d", 30, WINS)],
        Played({"a": 0, "b": 250, "c": 300, "d": 550}, "d", 580),
    ),
    "the delay counts from the last start, whatever caused it": (
        [("a", 100, FAILS), ("b", SILENT, FAILS), ("c", 10, WINS)],
        Played({"a": 0, "b": 100, "c": 350}, "c", 360),
    ),
    "a lost race is over with its last attempt": (
        [("a", 600, FAILS), ("b", 10, FAILS), ("c", 20, FAILS)],
        Played({"a": 0, "b": 250, "c": 260}, None, 600),
    ),
    "a race of nobody is lost": ([], Played({}, None, 0)),
    "silence is for the deadline to end": (
        [("a", SILENT, FAILS), ("b", 10, FAILS)],
        Played({"a": 0, "b": 250}, None, SILENT),
    ),
}


@pytest.mark.parametrize(("rows", "played"), RACES.values(), ids=RACES)
def test_on_paper(rows, played) -> None:
    assert play(rows) == played


def test_an_endless_delay_tries_one_at_a_time() -> None:
    rows = [("a", 5000, FAILS), ("b", 5000, FAILS), ("c", 30, WINS)]
    assert play(rows, delay=math.inf) == ({"a": 0, "b": 5000, "c": 10000}, "c", 10030)


def test_beyond_the_limit_only_a_failure_makes_room() -> None:
    rows = [("a", 900, FAILS), ("b", SILENT, FAILS), ("c", 30, WINS)]
    assert play(rows, most_at_once=2) == ({"a": 0, "b": 250, "c": 900}, "c", 930)


def test_a_name_with_thousands_of_addresses_opens_no_thousands_of_sockets() -> None:
    schedule = Schedule(range(4095), delay=0)
    assert [schedule.start(0) for _ in range(4095)].count(None) == 4095 - MOST_AT_ONCE
    assert schedule.wait(10**9) == math.inf


durations = st.integers(0, 2000) | st.just(SILENT)
delays = st.integers(10, 2000) | st.just(math.inf)


@st.composite
def races(draw, durations=durations):
    outcomes = draw(st.lists(st.tuples(durations, st.booleans()), max_size=12))
    return [(f"{i:02}", duration, wins) for i, (duration, wins) in enumerate(outcomes)]


def attempts(rows, played) -> list[tuple[float, float, bool]]:
    """(start, end, how) of each attempt that was made."""
    made = rows[: len(played.starts)]
    return [(played.starts[name], played.starts[name] + took, how) for name, took, how in made]


@given(races(), delays, st.integers(1, 5))
def test_each_starts_at_most_once_and_in_order(rows, delay, most) -> None:
    starts = play(rows, delay, most).starts
    assert list(starts) == [name for name, _, _ in rows][: len(starts)]
    assert list(starts.values()) == sorted(starts.values())


@given(races(), delays, st.integers(1, 5))
def test_no_two_start_within_the_delay_unless_one_failed_between(rows, delay, most) -> None:
    made = attempts(rows, play(rows, delay, most))
    failures = [end for _, end, wins in made if not wins]
    for (before, _, _), (start, _, _) in itertools.pairwise(made):
        assert start - before >= delay or any(before <= end <= start for end in failures)


@given(races(), delays, st.integers(1, 5))
def test_none_waits_longer_than_the_delay_unless_there_is_no_room(rows, delay, most) -> None:
    made = attempts(rows, played := play(rows, delay, most))
    for (before, _, _), (start, _, _) in itertools.pairwise(made):
        due = before + delay
        assert start <= due or sum(begun <= due < end for begun, end, _ in made) >= most
    if played.winner is None and len(made) < len(rows):  # those in flight will never end
        assert delay == math.inf or sum(end == SILENT for _, end, _ in made) == most


@given(races(), delays, st.integers(1, 5))
def test_attempts_in_flight_are_bounded(rows, delay, most) -> None:
    made = attempts(rows, play(rows, delay, most))
    for now, _, _ in made:
        assert sum(start <= now < end for start, end, _ in made) <= most


@given(races(durations=st.integers(0, 2000)), delays, st.integers(1, 5))
def test_the_race_is_won_if_any_would_connect_and_by_the_first(rows, delay, most) -> None:
    played = play(rows, delay, most)
    made = attempts(rows, played)
    assert (played.winner is not None) == any(wins for _, _, wins in rows)
    if played.winner is not None:
        assert played.end == min(end for _, end, wins in made if wins)
    else:
        assert len(made) == len(rows)


@given(races(), st.integers(10, 2000))
def test_a_silent_address_never_keeps_others_from_their_turn(rows, delay) -> None:
    played = play(rows, delay)
    could = [name for name, took, wins in rows if wins and took != SILENT]
    assert (played.winner is not None) == bool(could)


@pytest.mark.parametrize(
    ("families", "order"),
    [
        ("", ""),
        ("66", "66"),
        ("6644", "6464"),
        ("4466", "4646"),
        ("64444", "64444"),
        ("446", "464"),
    ],
)
def test_families_take_turns_beginning_with_the_first(families, order) -> None:
    numbered = [_race.Address(int(family), (i,)) for i, family in enumerate(families)]
    arranged = interleaved(numbered)
    assert "".join(str(address.family) for address in arranged) == order
    for family in (4, 6):  # and within a family the order stays
        assert [a for a in arranged if a.family == family] == [
            a for a in numbered if a.family == family
        ]


# ---- On loopback

NOWHERE = ("255.255.255.255", 9)  # no TCP to a broadcast address: the kernel refuses by itself


@pytest.fixture(params=[None, HANG], ids=["no deadline", "deadline"])
def bound(request: pytest.FixtureRequest) -> Iterator[float | None]:
    """Inside and outside of a deadline."""
    with httpx_net.timeout(request.param):
        yield request.param


@pytest.fixture(params=[0.25, None], ids=["staggered", "one by one"])
def delay(request: pytest.FixtureRequest) -> float | None:
    return request.param


def race(*addresses: Address, **options: object) -> httpx_net.NetworkStream:
    return Listed(addresses, **options).connect("www.example.com", 80)


@pytest.mark.usefixtures("bound")
def test_a_refused_first_address_costs_nothing(peers: Peers) -> None:
    live = peers.serve(silent)
    start = time.monotonic()
    with race(peers.closed_port(), live, happy_eyeballs_delay=2 * HANG) as stream:
        assert stream.get_extra_info("server_addr") == live
    assert time.monotonic() - start < HANG


@pytest.mark.usefixtures("bound")
def test_a_silent_first_address_costs_the_delay_not_the_timeout(peers: Peers) -> None:
    dead, live = peers.black_hole(), peers.serve(silent)
    start = time.monotonic()
    with race(dead, live, happy_eyeballs_delay=0.1) as stream:
        assert 0.1 <= time.monotonic() - start < 2.0
        assert stream.get_extra_info("server_addr") == live


@pytest.mark.usefixtures("bound")
def test_a_dead_family_costs_the_delay(peers: Peers) -> None:
    dead = [peers.black_hole(socket.AF_INET6) for _ in range(2)]
    live = peers.serve(silent)
    start = time.monotonic()
    with race(*dead, live) as stream:
        assert 0.25 <= time.monotonic() - start < 2.0
        assert stream.get_extra_info("server_addr") == live


def test_families_take_turns(peers: Peers, bound, delay) -> None:
    six, four = peers.closed_port(socket.AF_INET6), peers.closed_port()
    others = [peers.closed_port(socket.AF_INET6) for _ in range(2)]
    with pytest.raises(ConnectionRefusedError) as caught:
        race(six, *others, four, happy_eyeballs_delay=delay)
    order = re.findall(r":(\d+): ", str(caught.value).partition("failed: ")[2])
    assert [int(port) for port in order] == [address[1] for address in [six, four, *others]]


@pytest.mark.usefixtures("bound")
def test_a_slow_address_still_wins_when_the_next_has_started(peers: Peers) -> None:
    slow = peers.listen(backlog=0)
    dead = peers.black_hole()
    with (
        socket.create_connection(slow.getsockname(), HANG),  # until it is let in, nobody else is
        ThreadPoolExecutor() as pool,
    ):
        before = len(open_descriptors())

        def let_in() -> None:
            try:
                wait_until(lambda: len(open_descriptors()) >= before + 2)  # both are under way
            finally:
                slow.accept()[0].close()

        letting_in = pool.submit(let_in)
        with race(slow.getsockname(), dead, happy_eyeballs_delay=0.01) as stream:
            assert stream.get_extra_info("server_addr") == slow.getsockname()
        letting_in.result()


@pytest.mark.usefixtures("bound")
def test_losers_are_closed(peers: Peers) -> None:
    dead = [peers.black_hole() for _ in range(2)]
    live = peers.listen().getsockname()
    before = len(open_descriptors())
    with race(*dead, live, happy_eyeballs_delay=0.01):
        assert len(open_descriptors()) == before + 1


@pytest.mark.usefixtures("bound")
def test_of_two_that_connect_at_once_one_is_closed(peers: Peers) -> None:
    ends: list[bytes] = []
    both = [peers.serve(lambda conn: ends.append(conn.recv(1))) for _ in range(2)]
    addresses = [_race.Address(socket.AF_INET, address) for address in both]
    with _race.connect("both", addresses, opener(), delay=0.0) as winner:
        wait_until(lambda: ends == [b""])  # the loser's peer sees it go
        winner.sendall(b"!")
        wait_until(lambda: ends == [b"", b"!"])


def opener(opened: list[socket.socket] | None = None) -> Callable[..., socket.socket]:
    """What opens plain sockets, and notes them in *opened*."""

    def open_socket(address: _race.Address) -> socket.socket:
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        if opened is not None:
            opened.append(sock)
        return sock

    return open_socket


# ---- Errors


def test_all_refused_is_ConnectionRefusedError_and_names_each(peers: Peers, bound, delay) -> None:
    one, two = peers.closed_port(), peers.closed_port()
    with pytest.raises(ConnectionRefusedError) as caught:
        race(one, two, happy_eyeballs_delay=delay)
    reason = os.strerror(errno.ECONNREFUSED)
    assert caught.value.errno == errno.ECONNREFUSED
    assert caught.value.strerror == (
        f"connect to www.example.com:80 failed: "
        f"127.0.0.1:{one[1]}: {reason}; 127.0.0.1:{two[1]}: {reason}"
    )


def test_errors_that_disagree_are_OSError_and_each_is_told(peers: Peers, bound, delay) -> None:
    refused = peers.closed_port()
    with pytest.raises(OSError) as caught:
        race(refused, NOWHERE, happy_eyeballs_delay=delay)
    assert type(caught.value) is OSError
    assert f"127.0.0.1:{refused[1]}: {os.strerror(errno.ECONNREFUSED)}; " in str(caught.value)
    assert "255.255.255.255:9: " in str(caught.value)


def test_the_deadline_bounds_all_attempts_together(peers: Peers, delay) -> None:
    dead = [peers.black_hole() for _ in range(4)]
    start = time.monotonic()
    with pytest.raises(TimeoutError) as caught, httpx_net.timeout(0.1):
        race(*dead, happy_eyeballs_delay=delay and 0.05)
    assert 0.1 <= time.monotonic() - start < 2.0
    assert delay or str(caught.value).endswith(": no answer; 3 not tried)")


def test_TimeoutError_tells_what_came_of_each_address(peers: Peers) -> None:
    refused, dead, later = peers.closed_port(), peers.black_hole(), peers.black_hole()
    with pytest.raises(TimeoutError) as caught, httpx_net.timeout(0.1):
        race(refused, dead, later, happy_eyeballs_delay=HANG)
    assert caught.value.errno is None
    assert str(caught.value) == (
        f"connect to www.example.com:80 timed out: timeout(0.1) expired "
        f"(127.0.0.1:{refused[1]}: {os.strerror(errno.ECONNREFUSED)}; "
        f"127.0.0.1:{dead[1]}: no answer; 1 not tried)"
    )


def test_a_connection_that_was_made_in_time_stands(peers: Peers, monkeypatch) -> None:
    def looked_at_late(sock: socket.socket, address: object) -> socket.socket:
        wait_until(block.expired)
        return sock

    monkeypatch.setattr(_race, "_checked", looked_at_late)
    live = peers.serve(silent)
    with httpx_net.timeout(0.2) as block, race(live) as stream:
        assert repr(stream).startswith('<NetworkStream ["127.0.0.1:')


def test_an_interrupt_leaves_nothing_open(peers: Peers, bound, delay) -> None:
    dead = [peers.black_hole() for _ in range(2)]
    before = len(open_descriptors())

    def waits() -> bool:
        attempting = len(open_descriptors()) > before
        waiting = (_wait.wait, _wait.wait_in_time, _race._Attempts._connect_blocking)
        return attempting and main_thread_is_in(*waiting)

    with interrupted_when(waits):
        race(*dead, happy_eyeballs_delay=delay)
    assert len(open_descriptors()) == before


@pytest.mark.usefixtures("bound")
def test_an_interrupt_at_any_line_leaves_nothing_open(peers: Peers, delay) -> None:
    refused, live = peers.closed_port(), peers.listen().getsockname()
    before = open_descriptors()
    for line in range(1000):
        try:
            with interrupted_at(line):
                stream = race(refused, live, refused, happy_eyeballs_delay=delay)
        except KeyboardInterrupt:
            assert open_descriptors() == before, f"line {line}"
        else:
            stream.close()
            break
    assert 50 < line < 1000


@pytest.mark.parametrize("now", [-(10.0**9), 0.0, 10.0**9])
def test_the_first_and_who_follows_a_failure_are_due_at_once(now: float) -> None:
    schedule = Schedule("ab", delay=250)
    for name in "ab":
        assert schedule.wait(now) == 0.0
        assert schedule.start(now) == name
        schedule.failed()
    assert schedule.lost()


def test_of_many_addresses_that_all_failed_none_is_told_as_untried() -> None:
    addresses = [_race.Address(socket.AF_INET, ("127.0.0.1", port)) for port in range(1, 301)]
    attempts = _race._Attempts(addresses, lambda address: socket.socket())
    attempts._failures = dict.fromkeys(addresses, OSError(errno.ECONNREFUSED, "refused"))
    assert str(attempts).endswith("127.0.0.1:300: refused")


@pytest.mark.parametrize("port", [1, 65_535])
def test_a_socket_whose_port_is_another_is_not_asked_who_its_peer_is(port: int) -> None:
    class Silent(socket.socket):
        def getpeername(self) -> Any:
            raise AssertionError

    with Silent() as sock:
        sock.bind(("127.0.0.1", 0))
        assert _race._checked(sock, _race.Address(socket.AF_INET, ("127.0.0.1", port))) is sock


def test_one_address_is_raced_with_nobody(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_race, "interleaved")
    httpx_net.NetworkBackend().connect(*serve(silent)).close()


def test_a_connection_to_itself_is_refused(peers: Peers, bound) -> None:
    sock = peers.bound()  # connecting to its own port needs no luck if it has that port already
    itself = _race.Address(socket.AF_INET, sock.getsockname())
    with pytest.raises(
        ConnectionRefusedError, match=r": nobody listens there: the socket met itself$"
    ):
        _race.connect("itself", [itself], lambda address: sock, delay=None)
    assert sock.fileno() == -1


def test_a_connection_that_is_reset_at_once_has_failed(peers: Peers) -> None:
    listener = peers.listen()
    address = _race.Address(socket.AF_INET, listener.getsockname())
    with socket.create_connection(address.sockaddr, HANG) as sock:
        conn, _ = listener.accept()
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        conn.close()
        select.select([sock], [], [], HANG)
        attempts = _race._Attempts([address], lambda address: sock)
        assert attempts._end(address, sock) is None
        assert str(attempts) == f"{address}: {os.strerror(errno.ECONNRESET)}"


# ---- Descriptors


@contextmanager
def only_so_many_descriptors(count: int) -> Iterator[None]:
    """Leave this process *count* descriptors to open."""
    resource = pytest.importorskip("resource", reason="no limit of descriptors on this system")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    *free, last = [os.dup(0) for _ in range(count + 1)]  # the lowest numbers that are free
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last, hard))
        for fd in free:
            os.close(fd)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(last)


def test_without_descriptors_every_attempt_fails(peers: Peers, bound, delay) -> None:
    live = [peers.listen().getsockname() for _ in range(2)]
    with only_so_many_descriptors(0), pytest.raises(OSError) as caught:
        race(*live, happy_eyeballs_delay=delay)
    assert caught.value.errno == errno.EMFILE
    assert str(caught.value).count(os.strerror(errno.EMFILE)) == 2


def test_a_socket_that_cannot_be_opened_is_a_failed_attempt_of_many(peers: Peers) -> None:
    dead, live = peers.black_hole(), peers.listen().getsockname()
    with (
        only_so_many_descriptors(1),
        pytest.raises(TimeoutError) as caught,
        httpx_net.timeout(0.15),
    ):
        race(dead, live, happy_eyeballs_delay=0.01)
    assert f":{dead[1]}: no answer; " in str(caught.value)
    assert f":{live[1]}: {os.strerror(errno.EMFILE)}" in str(caught.value)


def test_attempts_in_flight_hold_no_thousands_of_sockets(peers: Peers) -> None:
    dead = _race.Address(socket.AF_INET, peers.black_hole())
    opened: list[socket.socket] = []
    with pytest.raises(TimeoutError), httpx_net.timeout(0.1):
        _race.connect("many", [dead] * 1000, opener(opened), delay=0.0)
    assert len(opened) == MOST_AT_ONCE
    for sock in opened:  # after an error they are their opener's
        sock.close()


def test_more_than_1024_open_descriptors_are_no_obstacle(peers: Peers, bound) -> None:
    resource = pytest.importorskip("resource", reason="no limit of descriptors on this system")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip(f"this system allows {hard} descriptors")
    dead, live = peers.black_hole(), peers.serve(silent)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            stack.callback(os.close, os.dup(0))
        with race(dead, live, happy_eyeballs_delay=0.01) as stream:
            assert stream.get_extra_info("socket").fileno() > 1024


# ---- How it waits


@pytest.mark.usefixtures("bound")
def test_without_poll_select_serves(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    dead, live = peers.black_hole(), peers.serve(silent)
    monkeypatch.delattr(select, "poll", raising=False)  # Windows has none, gevent takes it away
    with race(peers.closed_port(), dead, live, happy_eyeballs_delay=0.01) as stream:
        assert stream.get_extra_info("server_addr") == live


@pytest.mark.parametrize("options", [{}, {"happy_eyeballs_delay": None}], ids=["one", "one by one"])
def test_the_plain_path_only_connects(peers: Peers, monkeypatch, options) -> None:
    refused, live = peers.closed_port(), peers.serve(silent)
    monkeypatch.delattr(select, "poll", raising=False)
    monkeypatch.delattr(selectors, "SelectSelector")
    with race(*([refused, live] if options else [live]), **options) as stream:
        assert stream.get_extra_info("socket").gettimeout() is None


# ---- Corners


class Prompt(socket.socket):
    """A socket that connects at once, as on some systems those to the same machine do."""

    def connect_ex(self, address: Any) -> int:
        self.settimeout(HANG)
        try:
            return super().connect_ex(address)
        finally:
            self.settimeout(0.0)


@pytest.mark.parametrize("delay", [None, 0.25])
def test_a_connection_that_is_there_at_once_is_a_connection(serve: Any, delay: Any) -> None:
    address = _race.Address(socket.AF_INET, serve(silent))
    opened: list[socket.socket] = []

    def open_socket(address: _race.Address) -> socket.socket:
        opened.append(Prompt(address.family))
        return opened[-1]

    with httpx_net.timeout(HANG):
        sock = _race.connect(("www.example.com", 80), [address] * 2, open_socket, delay)
    assert opened == [sock]
    sock.close()


@pytest.mark.skipif("sys.platform != 'linux'", reason="127.0.0.2 is an address on Linux only")
@pytest.mark.parametrize("seconds", [None, HANG])
def test_the_same_port_of_another_address_is_somebody_else(peers: Peers, seconds: Any) -> None:
    address = peers.serve(silent)
    backend = httpx_net.NetworkBackend(
        local_address=("127.0.0.2", address[1]),
        socket_options=[(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)],
    )
    with httpx_net.timeout(seconds), backend.connect(*address) as stream:
        assert stream.get_extra_info("client_addr") == ("127.0.0.2", address[1])


def test_outside_every_block_the_winner_of_a_race_is_blocking(peers: Peers) -> None:
    refused, live = peers.closed_port(), peers.serve(silent)
    with Listed([refused, live]).connect("www.example.com", 80) as stream:
        assert stream.get_extra_info("socket").gettimeout() is None


@pytest.mark.parametrize(
    ("numbers", "combined"),
    [
        ([errno.EPERM, errno.EACCES], PermissionError),
        ([errno.EPERM, errno.EACCES, errno.EINVAL], OSError),
    ],
)
def test_failures_of_one_class_are_of_that_class_together(
    numbers: list[int], combined: type[OSError]
) -> None:
    def open_socket(address: _race.Address) -> socket.socket:
        raise OSError(address.sockaddr[1], "no")

    addresses = [_race.Address(socket.AF_INET, ("127.0.0.1", number)) for number in numbers]
    with pytest.raises(OSError, match=r"connect to nowhere failed: 127\.0\.0\.1:1: no; ") as caught:
        _race.connect("nowhere", addresses, open_socket, None)
    assert type(caught.value) is combined


def test_the_texts_of_a_system_that_has_its_own_are_used(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "errorTab", {errno.ECONNREFUSED: "not today"}, raising=False)
    refused = peers.closed_port()
    with pytest.raises(ConnectionRefusedError, match="not today"), httpx_net.timeout(HANG):
        httpx_net.NetworkBackend().connect(*refused)
