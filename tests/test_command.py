"""``python -m httpx_net``: what it shows, when it shows it, and how it ends."""

from __future__ import annotations

import doctest
import hashlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from internet import head
from peers import CERTIFICATES, HANG, drop, send_close_notify, server_context, silent, wrap_server
from test_docs import Block, Checker, blocks

CA = ("--cafile", str(CERTIFICATES / "ca.pem"))
CLIENT = str(CERTIFICATES / "client.pem")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
PAGE = ROOT / "docs" / "command.rst"

# As users have it. With PYTHONUNBUFFERED, what goes wrong in the last flush doesn't show.
ENVIRONMENT = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}

Run = Callable[..., str]

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX descriptors and signals")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process, to its *status*; gives all that it says.

    On standard error that is one line that says why it has failed, if it has.
    """

    def run(*arguments: str, status: int = 0) -> str:
        with suppress(SystemExit):
            ended = 2
            ended = command_line.main(list(arguments))
        out, error = capfd.readouterr()
        assert ended == status, error
        assert re.fullmatch("(usage: .+\n)?httpx_net: .+\n" if status else "", error)
        return out + error

    return run


def bash(command: str, cwd: Path, **more: str) -> Any:
    """What *command* prints, errors included, with *more* in its environment."""
    command, env = f"exec 2>&1\n{command}", ENVIRONMENT | more
    return subprocess.run(["bash", "-c", command], cwd=cwd, env=env, capture_output=True, text=True)


def url(address: tuple[str, int], scheme: str = "http") -> str:
    host, port = address
    return f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"


def recorded(**options: Any) -> tuple[Transcript, bytearray]:
    """A transcript, and where it writes."""
    text = bytearray()
    output: Any = SimpleNamespace(is_terminal=True, write=text.extend)
    return Transcript(output, "utf-8", **options), text


def shown(*pieces: bytes) -> str:
    """What a transcript shows of *pieces* that come one after another."""
    transcript, text = recorded()
    for piece in pieces:
        transcript.show(RECEIVED, piece)
    transcript.finish()
    return text.decode()


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
    transcript, text = recorded()
    transcript.show(RECEIVED, b"half ")
    transcript.note("a note, of \x1b[31m too")
    transcript.show(RECEIVED, b"a line\r\nmore")
    transcript.show(SENT, b"meanwhile\r\n")
    noted = (
        rb"<<< half a line\n\*\*\* 0\.\d+ s: a note, of \\x1b\[31m too\n<<< more\\\n>>> meanwhile\n"
    )
    assert re.fullmatch(noted, text)


def test_what_is_no_text_is_not_looked_at_byte_by_byte() -> None:
    start = time.process_time()
    for piece in (bytes(50_000), bytes(range(256)) * 200, b"Some plain text.\r\n" * 3_000):
        shown(*[piece] * 40)
    assert time.process_time() - start < 1.5  # for 6 MB: 0.1 where it is fast, 3 byte by byte


def test_a_long_transfer_shows_its_progress_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    transcript, _ = recorded(progress=True)
    for clock.now in (0.9, 2.0, 2.1):
        transcript.update(1_000, 2_000_000)
    transcript.note("and it is gone")
    line = "1,000 bytes sent, 2,000,000 received, 1.00 MB/s"
    assert capsys.readouterr().err == f"\r{line}\r{' ' * len(line)}\r"


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


# ---- Both at once


@posix
@pytest.mark.parametrize("interrupted", [False, True])
def test_what_is_typed_goes_out_and_what_comes_is_shown_until_either_side_ends_it(
    peers: Any, interrupted: bool
) -> None:
    shown, listener = b"", peers.listen()
    command = [sys.executable, "-m", "httpx_net", "-s", "-", url(listener.getsockname())]
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process: Any = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, **pipes)
    with process, listener.accept()[0] as conn:
        process.stdin.write(b"hello\r\n")
        process.stdin.flush()
        assert conn.recv(65536) == b"hello\r\n"
        for piece in (b"half", b" a line", b"\r\n", b"more"):
            conn.sendall(piece)
            while not shown.endswith(piece.replace(b"\r", b"")):
                shown += process.stdout.read(1)
        if interrupted:
            process.send_signal(signal.SIGINT)
        else:
            conn.close()
        # It doesn't wait for the end of what is typed.
        assert process.wait(HANG) == (-signal.SIGINT if interrupted else 0)
        shown += process.stdout.read(2)
        assert shown.endswith(b"\n<<< half a line\n<<< more\\\n")
        assert process.stderr.read() == b""


# More than the system takes unread.
UPLOAD = b"POST / HTTP/1.1\r\n\r\n" + bytes(8_000_000)


def end(conn: Any) -> None:
    """End the stream, and the TLS in it, without a look at what has come."""
    if isinstance(conn, ssl.SSLSocket):
        send_close_notify(conn)
    socket.socket.shutdown(conn, socket.SHUT_WR)


def echoes(conn: Any, over: threading.Event) -> None:
    left = len(UPLOAD)
    while left:
        data = conn.recv(65536)
        left -= len(data)
        conn.sendall(data)
    end(conn)


def refuses(conn: Any, over: threading.Event) -> None:
    """Answer when the upload has begun, and take no more of it."""
    head(conn)
    conn.sendall(HEAD + b"sorry")
    end(conn)
    over.wait(HANG)


def drops(conn: Any, over: threading.Event) -> None:
    head(conn)
    drop(conn)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "scene",  # what the server does, what has come by then, and how the command ends
    [
        (echoes, UPLOAD, 0, f"sent {len(UPLOAD)} bytes\n"),
        (refuses, HEAD + b"sorry", 55, r"before all was sent, 43 bytes so far, .+; \d+ bytes sent"),
        (drops, b"", 55, r"write to \S+ failed: \D+, 0 bytes so far; \d+ bytes sent"),
    ],
)
def test_it_listens_while_it_sends(
    peers: Any, run: Run, tmp_path: Path, scheme: str, scene: Any
) -> None:
    peer, answer, status, said = scene
    over, serve = threading.Event(), peers.serve_tls if scheme == "https" else peers.serve
    address = serve(lambda conn: peer(conn, over))
    upload, received = tmp_path / "upload", tmp_path / "received"
    upload.write_bytes(UPLOAD)
    files = ["-s", str(upload), "-o", str(received)]
    assert re.search(said, run(*CA, *files, url(address, scheme), status=status))
    over.set()
    assert received.read_bytes() == answer


# ---- Where it goes


def test_a_file_gets_all_that_is_received_and_the_head_is_shown(
    peers: Any, run: Run, tmp_path: Path
) -> None:
    def peer(conn: socket.socket) -> None:
        head(conn)
        for piece in (early[:30], early[30:] + HEAD[:5], HEAD[5:] + body):
            conn.sendall(piece)

    early, body = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", b"x" * 3_000_000
    out = run("--output", str(tmp_path / "answer"), url(peers.serve(peer)))
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
    assert why in run(*arguments, status=status)


@pytest.mark.parametrize(
    ("scheme", "options", "answer", "status", "said"),
    [
        ("http", [], b"", 52, "the stream ended without an answer"),
        ("http", [], HEAD + b"hell", 18, "the stream ended 1 bytes short of Content-Length"),
        ("http", [], HEAD.replace(b"200", b"204"), 0, "the end, after 38 bytes"),
        ("http", [], HEAD.replace(b"200", b"304"), 0, "the end, after 38 bytes"),
        ("http", [], HEAD[:-2] + b"Transfer-Encoding: x\r\n\r\n", 0, "the end, after 60 bytes"),
        ("https", [], HEAD + b"hello", 0, "no close_notify came, but all of Content-Length has"),
        ("https", [], HEAD + b"hell", 56, "(--suppress-ragged-eofs takes this for its end)"),
        ("https", ["--suppress-ragged-eofs"], HEAD + b"hell", 18, "1 bytes short"),
    ],
)
def test_an_early_end_is_told_by_content_length_and_close_notify(
    peers: Any, run: Run, scheme: str, options: list[str], answer: bytes, status: int, said: str
) -> None:
    def cut(conn: Any) -> None:
        head(conn)
        conn.sendall(answer)

    address = peers.serve_tls(cut, tickets=0) if scheme == "https" else peers.serve(cut)
    assert said in run(*CA, *options, url(address, scheme), status=status)


def test_a_server_without_tls(peers: Any, run: Run) -> None:
    run(url(peers.serve(lambda conn: conn.sendall(b"hello\r\n")), "https"), status=35)


def test_the_handshake_counts_as_connecting(peers: Any, run: Run) -> None:
    said = run("--connect-timeout", "0.2", url(peers.serve(silent), "https"), status=28)
    assert "TLS handshake for '127.0.0.1' with" in said


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
    text = run(*trusted, url(address, "https"), status=60)
    assert "certificate verify failed" in text
    assert f"certificate subject: commonName=httpx_net tests: {certificate}\n" in text
    pem = (CERTIFICATES / f"{certificate}.pem").read_text()
    der = ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERTIFICATE") :])
    assert f"certificate SHA-256: {hashlib.sha256(der).hexdigest()}\n" in text


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
def test_the_options_of_tls(peers: Any, run: Run, server: Any, options: list[str]) -> None:
    address = peers.serve_tls(web, **server)
    assert "certificate SHA-256: " in run(*options, url(address, "https"))


@pytest.mark.parametrize(("ours", "other"), [("-4", "-6"), ("-6", "-4")])
def test_a_family_can_be_asked_for(peers: Any, run: Run, ours: str, other: str) -> None:
    family = socket.AF_INET6 if ours == "-6" else socket.AF_INET
    address = url(peers.serve(web, family=family))
    run(other, address, status=7)
    run(ours, address)


def test_keys_are_logged_with_truststore_and_without(
    peers: Any, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    for _ in range(2):
        (tmp_path / "keys").write_text("")
        run(*CA, url(peers.serve_tls(web), "https"))
        assert "TRAFFIC_SECRET" in (tmp_path / "keys").read_text()
        monkeypatch.setitem(sys.modules, "truststore", None)


def test_the_help_is_one_screen_and_has_every_option(run: Run) -> None:
    lines = run("--help").splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    options = re.compile("--[a-z][a-z-]+")
    assert {*options.findall("\n".join(lines))} == {
        *options.findall(PAGE.read_text(encoding="utf-8"))
    }
    assert run("--version") == f"httpx_net {__version__}\n"


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

    def replayed(block: Block) -> str:
        """The commands of *block*, each with what it prints."""
        text = ""
        for command in re.findall(r"(?m)^\$ (.*(?:\n> .*)*)", block.text):
            done = bash(command.replace("\n> ", "\n"), cwd=tmp_path, **more)
            text += f"$ {command}\n{done.stdout}"
        text = re.sub(r"(?m)^\*\*\* \d\.\d{3} s", "*** 0.000 s", text)
        return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:80", text).rstrip()

    samples = [block for block in blocks(PAGE) if block.language == "console"]
    # Most of them wait, and none for another.
    with ThreadPoolExecutor() as threads:
        for sample, text in zip(samples, threads.map(replayed, samples), strict=True):
            assert Checker().check_output(sample.text.rstrip(), text, doctest.ELLIPSIS), text
