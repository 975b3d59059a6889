"""``python -m httpx_net``: what it shows, when it shows it, and how it ends."""

from __future__ import annotations

import doctest
import hashlib
import inspect
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialing import ROOT
from httpx_net import __main__ as command_line
from httpx_net import __version__
from httpx_net._transcript import RECEIVED, SENT, Transcript
from peers import CERTIFICATES, HANG, drop, send_close_notify, server_context, silent, wrap_server

CA = ("--cafile", str(CERTIFICATES / "ca.pem"))
CLIENT = str(CERTIFICATES / "client.pem")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nContent-Length: 20000000\r\n\r\n" + bytes(20_000_000)
SIZE = len(UPLOAD)

# As users have it. With PYTHONUNBUFFERED, what goes wrong in the last flush doesn't show.
ENVIRONMENT = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}

Run = Callable[..., Any]

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX descriptors and signals")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process, and expect one line that says why it failed, if it did."""

    def run(*arguments: str) -> Any:
        with suppress(SystemExit):
            status = 2
            status = command_line.main(list(arguments))
        out, error = capfd.readouterr()
        assert re.fullmatch("(usage: .+\n)?httpx_net: .+\n" if status else "", error)
        return SimpleNamespace(status=status, out=out, error=error)

    return run


def start(*arguments: str) -> Any:
    """A process that runs the command, its standard streams connected to pipes."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", "httpx_net", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, **pipes)


def bash(command: str, cwd: Path, **more: str) -> Any:
    """What *command* prints, errors included, with *more* in its environment."""
    command, env = f"exec 2>&1\n{command}", ENVIRONMENT | more
    return subprocess.run(["bash", "-c", command], cwd=cwd, env=env, capture_output=True, text=True)


def url(address: tuple[str, int], scheme: str = "http", host: str | None = None) -> str:
    return f"{scheme}://{host or address[0]}:{address[1]}/"


def request_from(conn: Any) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += conn.recv(65536)
    return received


class Memory:
    """What a transcript writes to, in place of an ``Output``."""

    is_terminal = True
    text = ""

    def write(self, data: bytes) -> None:
        self.text += data.decode("utf-8")


def shown(*pieces: bytes, encoding: str = "utf-8") -> str:
    """What a transcript shows of *pieces* that come one after another."""
    memory: Any = Memory()
    transcript = Transcript(memory, encoding)
    for piece in pieces:
        transcript.show(RECEIVED, piece)
    transcript.finish()
    return str(memory.text)


def without_times(text: str) -> str:
    return re.sub(r"(?m)^\*\*\* \d+\.\d{3} s: ", "*** ", text)


# ---- What is shown


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([b"CR\rx\r", b"\r\n"], "<<< CR\\rx\\r\n"),
        ([b"in ", b"pie", b"ces\r", b"\nand\n\r\n"], "<<< in pieces\n<<< and\\n\n<<< \n"),
        ([b"caf\xc3", b"\xa9 \xe2", b"\x82", b"\xac\r\n"], "<<< caf\u00e9 \u20ac\n"),
        ([b"a\\n tab\t\r\n"], "<<< a\\\\n tab\\t\n"),
        ([b"\x1b]0;title\x07\r\n"], "<<< \\x1b]0;title\\x07\n"),
        ([b"\xff\xc3\xa9\n"], "<<< \\xff\\xc3\\xa9\\n\n"),
        ([b"\xff\n\xc3\xa9\\\xc2\x9b"], "<<< \\xff\\n\n<<< \u00e9\\\\\\xc2\\x9b\\\n"),
        ([b"\0\\n\n\r\n\xe2\x82"], "<<< \\x00\\\\n\\n\n<<< \n<<< \\xe2\\x82\\\n"),
    ],
)
def test_every_byte_can_be_told_and_none_is_obeyed(pieces: list[bytes], text: str) -> None:
    assert shown(*pieces) == text


@given(st.lists(st.one_of(st.binary(), st.text().map(str.encode), st.sampled_from([b"\r", b"\n"]))))
def test_what_is_shown_can_be_turned_back_into_the_bytes(pieces: list[bytes]) -> None:
    text = shown(*pieces)
    assert all(line.isprintable() and line[:4] == RECEIVED for line in text.split("\n")[:-1])
    tokens = {"\\\\": b"\\", "\\n\n": b"\n", "\\r": b"\r", "\\t": b"\t", "\\\n": b"", "\n": b"\r\n"}
    back = b""
    for token in re.findall(r"(?s)\\\\|\\n\n|\\x..|\\.|.", text.replace("\n" + RECEIVED, "\n")[4:]):
        back += tokens.get(token) or (
            bytes.fromhex(token[2:]) if token[:2] == "\\x" else token.strip("\\\n").encode()
        )
    assert back == b"".join(pieces)


def test_a_note_waits_for_the_end_of_a_line_and_the_other_direction_does_not() -> None:
    memory: Any = Memory()
    transcript = Transcript(memory, "utf-8")
    transcript.show(RECEIVED, b"half ")
    transcript.note("a note, of \x1b[31m too")
    transcript.show(RECEIVED, b"a line\r\nmore")
    transcript.show(SENT, b"meanwhile\r\n")
    text = "<<< half a line\n*** a note, of \\x1b[31m too\n<<< more\\\n>>> meanwhile\n"
    assert without_times(memory.text) == text


def test_what_is_no_text_is_not_looked_at_byte_by_byte() -> None:
    start = time.process_time()
    for piece in (bytes(50_000), bytes(range(256)) * 200, b"Some plain text.\r\n" * 3_000):
        shown(*[piece] * 40)
    assert time.process_time() - start < 1.5  # for 6 MB: 0.1 where it is fast, 3 byte by byte


def test_a_long_transfer_shows_its_progress_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory: Any = Memory()
    begin = time.monotonic()
    clock = iter([begin, begin + 0.9, begin + 2.0, begin + 2.1, begin + 2.1])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    transcript = Transcript(memory, "utf-8", progress=True)
    for _ in range(3):
        transcript.update(1_000, 2_000_000)
    transcript.note("and it is gone")
    line = "1,000 bytes sent, 2,000,000 received, 1.00 MB/s"
    assert capsys.readouterr().err == f"\r{line}\r{' ' * len(line)}\r"


@posix
def test_bytes_are_shown_when_they_come_until_ctrl_c_ends_it_as_a_signal_does(serve: Any) -> None:
    def drip(conn: socket.socket) -> None:
        request_from(conn)
        for piece in (b"half", b" a", b" line\r\n", b"more"):
            conn.sendall(piece)
            assert may_go_on.wait(HANG)
            may_go_on.clear()

    may_go_on, text = threading.Event(), b""
    with start(url(serve(drip))) as process:
        for end in (b"<<< half", b"<<< half a", b"<<< half a line\n", b"\n<<< more"):
            while not text.endswith(end):
                text += process.stdout.read(1)
            if end == b"\n<<< more":
                process.send_signal(signal.SIGINT)
                assert process.communicate(timeout=HANG) == (b"\\\n", b"")
            may_go_on.set()
    assert process.returncode == -signal.SIGINT


# ---- What is sent


@pytest.mark.parametrize(
    ("url", "to", "head"),
    [
        ("http://www.Example.com", ("www.example.com", 80), "/ HTTP/1.1\r\nHost: www.example.com"),
        ("https://x.com:443?q=\u00e9&[]", ("x.com", 443), "/?q=%C3%A9&[] HTTP/1.1\r\nHost: x.com"),
        ("https://x.com:80/a b#gone", ("x.com", 80), "/a%20b HTTP/1.1\r\nHost: x.com:80"),
        ("http://[::1]:443/\udcff", ("[::1]", 443), "/%FF HTTP/1.1\r\nHost: [::1]:443"),
        ("http://[fe80::1%25lo]/", ("[fe80::1%lo]", 80), "/ HTTP/1.1\r\nHost: [fe80::1]"),
        ("http://\u00e9.com/", ("\u00e9.com", 80), "/ HTTP/1.1\r\nHost: xn--9ca.com"),
    ],
)
def test_a_url_says_where_to_connect_and_what_to_ask(url: str, to: Any, head: str) -> None:
    target = command_line.Target.of(url)
    assert (target.host, target.port) == to
    assert target.request().startswith(f"GET {head}\r\n".encode())


def test_standard_input_is_sent_as_it_comes_and_not_waited_for(serve: Any) -> None:
    def peer(conn: socket.socket) -> None:
        for _ in range(2):
            conn.sendall(conn.recv(5))

    with start("-s", "-", url(serve(peer))) as process:
        for line in (b"one\r\n", b"two\r\n"):
            process.stdin.write(line)
            process.stdin.flush()
            while process.stdout.readline() != b"<<< " + line[:3] + b"\n":
                pass
        assert process.wait(HANG) == 0


# ---- Both at once


def refusing(conn: Any) -> None:
    """Answer when the upload has begun, and take no more of it."""
    request_from(conn)
    conn.sendall(HEAD + b"sorry")
    if isinstance(conn, ssl.SSLSocket):
        send_close_notify(conn)
    socket.socket.shutdown(conn, socket.SHUT_WR)
    time.sleep(0.5)


def echoing(conn: Any) -> None:
    left = SIZE
    while left:
        data = conn.recv(65536)
        left -= len(data)
        conn.sendall(data)
    if isinstance(conn, ssl.SSLSocket):
        send_close_notify(conn)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("peer", [refusing, echoing])
def test_it_listens_while_it_sends(
    peers: Any, run: Run, tmp_path: Path, scheme: str, peer: Any
) -> None:
    address = {"http": peers.serve, "https": peers.serve_tls}[scheme](peer)
    upload, answer = tmp_path / "upload", tmp_path / "answer"
    upload.write_bytes(UPLOAD)
    done = run(*CA, "-o", str(answer), "-s", str(upload), url(address, scheme, "localhost"))
    if peer is echoing:
        assert answer.read_bytes() == UPLOAD
        assert f"*** sent {SIZE} bytes\n" in without_times(done.out)
        assert done.status == 0
    else:
        assert answer.read_bytes() == HEAD + b"sorry"
        assert "<<< HTTP/1.1 200 OK\n" in done.out
        assert re.search(r"before all was sent, 43 bytes so far, .*; \d+ bytes sent", done.error)
        assert done.status == 55


# ---- Where it goes


def test_a_file_gets_all_that_is_received_and_the_head_is_shown(
    serve: Any, run: Run, tmp_path: Path
) -> None:
    def peer(conn: socket.socket) -> None:
        request_from(conn)
        for piece in (early[:30], early[30:] + HEAD[:5], HEAD[5:] + body):
            conn.sendall(piece)

    early, body = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", b"x" * 3_000_000
    out = run("--output", str(tmp_path / "answer"), url(serve(peer))).out
    assert (tmp_path / "answer").read_bytes() == early + HEAD + body
    assert re.findall(r"(?m)^<<< (.*)$", out) == (early + HEAD).decode().split("\r\n")[:-1]


# ---- How it ends


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        ([""], 3, "bad URL '': it must begin with http:// or https://"),
        (["http://example.com:99999/"], 3, "port must be in 1..65535, not 99999"),
        (["http://fa\u00df.de/"], 3, "IDNA 2003"),
        (["http://\udcff/"], 3, "bad URL 'http://\\udcff/': "),
        (["http://user:secret@example.com/"], 3, ": user and password in it are not supported"),
        (["--server-name", "a..b", "https://127.0.0.1:1/"], 7, "refused"),
        (["-t", "0", "http://127.0.0.1:1/"], 28, "timeout(0.0) expired"),
        (["-s", "no/such/file"], 26, "can't read no/such/file: "),
        (["--cafile", "no/such/file", "https://localhost:1/"], 77, "--cafile no/such/file: "),
        (["--cert", "no/such/file", "https://localhost:1/"], 58, "--cert no/such/file: "),
        (["--timeout=-1"], 2, "argument -t/--timeout: invalid seconds value: '-1'"),
        (["--demo", "drip", "http://127.0.0.1/"], 2, "--demo is what the own server does"),
    ],
)
def test_the_status_says_what_went_wrong(run: Run, arguments: Any, status: int, why: str) -> None:
    done = run(*arguments)
    assert why in done.error
    assert done.status == status


def test_a_lost_upload(serve: Any, run: Run, tmp_path: Path) -> None:
    def lose(conn: socket.socket) -> None:
        request_from(conn)
        drop(conn)

    (tmp_path / "upload").write_bytes(UPLOAD)
    done = run("-s", str(tmp_path / "upload"), url(serve(lose)))
    assert re.search(r"write to \S+ failed: \D+, 0 bytes so far; \d+ bytes sent\n", done.error)
    assert done.status == 55


@pytest.mark.parametrize("head", ["204 x", "304 x", "200 x\r\nTransfer-Encoding: x"])
def test_an_answer_without_a_length_has_no_early_end(serve: Any, run: Run, head: str) -> None:
    def peer(conn: socket.socket) -> None:
        request_from(conn)
        conn.sendall(f"HTTP/1.1 {head}\r\nContent-Length: 5\r\n\r\n".encode())

    assert run(url(serve(peer))).status == 0


def test_a_server_that_ends_the_stream_at_once(serve: Any, run: Run) -> None:
    assert run(url(serve(request_from))).status == 52


def test_a_server_without_tls(serve: Any, run: Run) -> None:
    assert run(url(serve(lambda conn: conn.sendall(b"hello\r\n")), "https")).status == 35


def test_the_handshake_has_a_deadline_of_its_own(serve: Any, run: Run) -> None:
    done = run("--connect-timeout", "0.2", "--insecure", url(serve(silent), "https"))
    assert "TLS handshake for '127.0.0.1' with" in done.error
    assert done.status == 28


def web(conn: Any) -> None:
    """Answer all requests when the last has come, but none that a bare LF ends."""
    received = b""
    while not received.endswith((b"close\r\n\r\n", b"\n\n")):
        if not (data := conn.recv(65536)):
            return
        received += data
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nHello, world!\n"
    refusal = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
    conn.sendall(answer * received.count(b"\r\n\r\n") or refusal)


def secured(certificate: str) -> Any:
    """What does the same over TLS, if the client accepts *certificate*."""
    context = server_context(certificate)
    context.set_alpn_protocols(["http/1.1"])

    def peer(conn: socket.socket) -> None:
        with suppress(ssl.SSLError, ConnectionError), wrap_server(context, conn) as tls:
            web(tls)
            send_close_notify(tls)

    return peer


@pytest.mark.parametrize("certificate", ["server", "self-signed", "expired", "wrong-name"])
def test_a_refused_certificate_is_shown(peers: Any, run: Run, certificate: str) -> None:
    trusted = CA if certificate in ("expired", "wrong-name") else ()
    address = peers.serve_in_turn(secured(certificate))
    done = run(*trusted, url(address, "https", "localhost"))
    assert done.status == 60
    assert "certificate verify failed" in done.error
    assert f"certificate subject: commonName=httpx_net tests: {certificate}\n" in done.out
    pem = (CERTIFICATES / f"{certificate}.pem").read_text()
    der = ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERTIFICATE") :])
    assert f"certificate SHA-256: {hashlib.sha256(der).hexdigest()}\n" in done.out


@pytest.mark.parametrize(
    ("options", "body", "status"),
    [([], b"hello", 0), ([], b"hell", 56), (["--suppress-ragged-eofs"], b"hell", 18)],
)
def test_a_ragged_end_after_all_of_content_length_is_a_note(
    serve_tls: Any, run: Run, options: Any, body: bytes, status: int
) -> None:
    def cut(conn: ssl.SSLSocket) -> None:
        request_from(conn)
        conn.sendall(HEAD + body)

    done = run(*CA, *options, url(serve_tls(cut, tickets=0), "https", "localhost"))
    assert done.status == status
    assert ("no close_notify came, but all of Content-Length has" in done.out) == (status == 0)
    assert ("(--suppress-ragged-eofs takes this for its end)" in done.error) == (status == 56)


@posix
@pytest.mark.parametrize(
    ("command", "status", "why"),
    [
        ("-s - <&-", 26, "can't read standard input: Bad file descriptor"),
        ("--help >&-", 23, "standard output is closed"),
        (">/dev/full", 23, "write to standard output failed: No space left on device"),
        ("--help >/dev/full", 23, "write to standard output failed: No space left on device"),
    ],
)
def test_a_full_or_closed_standard_stream_is_one_line(command: str, status: int, why: str) -> None:
    done = bash(f"{sys.executable} -m httpx_net {command}", cwd=ROOT)
    assert (done.returncode, done.stdout) == (status, f"httpx_net: {why}\n")


# ---- Options


@pytest.mark.parametrize(
    ("server", "options"),
    [
        ({"certificate": "self-signed"}, ["--insecure"]),
        ({"certificate": "wrong-name"}, [*CA, "--server-name", "elsewhere.test"]),
        ({"client_ca": "ca"}, [*CA, "--cert", CLIENT, "--key", CLIENT]),
    ],
)
def test_the_options_of_tls(serve_tls: Any, run: Run, server: Any, options: list[str]) -> None:
    address = serve_tls(web, **server)
    assert "certificate SHA-256: " in run(*options, url(address, "https")).out


@pytest.mark.parametrize(("ours", "other"), [("-4", "-6"), ("-6", "-4")])
def test_a_family_can_be_asked_for(serve: Any, run: Run, ours: str, other: str) -> None:
    family, host = (socket.AF_INET6, "[::1]") if ours == "-6" else (socket.AF_INET, None)
    address = url(serve(web, family=family), host=host)
    assert run(other, address).status == 7
    assert run(ours, address).status == 0


def test_keys_are_logged_with_truststore_and_without(
    peers: Any, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    for _ in range(2):
        (tmp_path / "keys").write_text("")
        assert run(*CA, url(peers.serve_tls(web), "https")).status == 0
        assert "TRAFFIC_SECRET" in (tmp_path / "keys").read_text()
        monkeypatch.setitem(sys.modules, "truststore", None)


def test_the_help_is_one_screen_and_has_every_option(run: Run) -> None:
    lines = run("--help").out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    options = re.findall(r'["\s](--[a-z-]+)', inspect.getsource(command_line._options))
    assert [option for option in options if option not in "\n".join(lines)] == []
    assert run("--version").out == f"httpx_net {__version__}\n"


# ---- The page

WWW = "93.184.216.34"
NAMES = {"127.0.0.1": "127.0.0.1", "expired.example.com": "203.0.113.17"}
NAMES |= {"www.example.com": WWW, "proxy.example.com": WWW}

# Every Python imports this first: names lead to the page's addresses, and those to peers.
INTERNET = """
import _socket, socket
socket.getaddrinfo = lambda host, port, *args, real=socket.getaddrinfo: real(
    {names}.get(host, "no such name"), port, *args)
def leading(connect):
    return lambda self, address: connect(self, {routes}.get(address, address))
socket.socket.connect = leading(_socket.socket.connect)
socket.socket.connect_ex = leading(_socket.socket.connect_ex)
"""


@posix
@pytest.mark.skipif(
    not (shutil.which("grep") and shutil.which("sed")), reason="the samples filter what is shown"
)
def test_the_page_shows_what_is_printed(peers: Any, tmp_path: Path) -> None:
    plain = {(WWW, port): peers.serve_in_turn(web) for port in (80, 3128)}
    tls, old = map(peers.serve_in_turn, (secured("server"), secured("expired")))
    routes = plain | {(WWW, 443): tls, ("203.0.113.17", 443): old}
    (tmp_path / "sitecustomize.py").write_text(INTERNET.format(names=NAMES, routes=routes))
    (tmp_path / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    path = f"{tmp_path}:{ROOT}:{os.environ['PATH']}"
    more = {"PATH": path, "PYTHONPATH": path, "SSL_CERT_FILE": CA[1]}
    checker = doctest.OutputChecker()
    page = (ROOT / "docs" / "command.rst").read_text(encoding="utf-8")
    for block in re.findall(r"code-block:: console\n\n((?:    .*\n|\n)+)", page):
        for sample in re.split(r"(?m)^\$ ", textwrap.dedent(block).strip())[1:]:
            command, _, expected = re.sub(r"\n(?!> )", "\0", sample, count=1).partition("\0")
            done = bash(command.replace("\n> ", "\n"), cwd=tmp_path, **more)
            text = re.sub(r"(?m)^\*\*\* \d\.\d{3} s", "*** 0.000 s", done.stdout)
            text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:80", text).replace(" \n", "\n")
            expected, text = expected.rstrip(), text.rstrip()
            assert checker.check_output(expected, text, doctest.ELLIPSIS), command + text
