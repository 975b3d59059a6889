"""``python -m httpx_net``, run as people run it: a process with arguments, output and a status."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import httpx_net
from dialing import ROOT, run_command
from httpx_net import __main__ as command_line
from httpx_net import __version__
from peers import CERTIFICATES, HANG, client_may_leave, reset, send_close_notify, silent

CA = str(CERTIFICATES / "ca.pem")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "httpx_net", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def fails(*arguments: str, saying: str, status: int = 1, **options: Any) -> bytes:
    """Run it, expect one clear line and nothing like a traceback; returns what it showed."""
    done = run_command(*arguments, **options)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == status, done
    assert saying in lines[-1]
    if status == 1:
        assert len(lines) == 1
        assert lines[0].startswith("httpx_net: ")
    return done.stdout


def request_from(conn: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        received += conn.recv(65536)
    return received


def answering(answer: bytes = ANSWER) -> Any:
    """A peer that takes a request, answers, and ends the stream properly."""

    def peer(conn: Any) -> None:
        request_from(conn)
        conn.sendall(answer)
        if isinstance(conn, ssl.SSLSocket):
            send_close_notify(conn)
        conn.close() if not isinstance(conn, ssl.SSLSocket) else silent(conn)

    return peer


def url(address: tuple[str, int], scheme: str = "http", path: str = "/") -> str:
    return f"{scheme}://{address[0]}:{address[1]}{path}"


def test_without_a_url_it_talks_to_a_server_of_its_own() -> None:
    done = run_command()
    assert done.returncode == 0
    assert done.stderr == b""
    shown = re.sub(r"\b\d\.\d{3} s:", "0.000 s:", done.stdout.decode())
    nothing = ""
    port = shown.partition(":")[2].partition('"]')[0].rpartition(":")[2]
    assert (
        shown
        == f"""\
*** 0.000 s: connected: <NetworkStream ["127.0.0.1:{port}"]>
>>> GET / HTTP/1.1
>>> Host: 127.0.0.1:{port}
>>> User-Agent: httpx_net/{__version__}
>>> Accept: */*
>>> Connection: close
>>> {nothing}
<<< HTTP/1.1 200 OK
<<< Content-Type: text/plain
<<< Content-Length: 72
<<< Connection: close
<<< {nothing}
<<< Hello. This answer comes from your own machine: give a URL to leave it.
*** 0.000 s: the end, after 156 bytes
"""
    )


def test_it_shows_both_directions(serve: Any) -> None:
    address = serve(answering())
    shown = run_command(url(address, path="/a b?q=\u00e9")).stdout.decode().splitlines()
    assert ">>> GET /a%20b?q=%C3%A9 HTTP/1.1" in shown
    assert f">>> Host: 127.0.0.1:{address[1]}" in shown
    assert shown.index(">>> Connection: close") < shown.index("<<< HTTP/1.1 200 OK")
    assert "<<< hello" in shown


def test_https_is_verified_and_shown_in_clear(serve_tls: Any) -> None:
    address = serve_tls(answering())
    done = run_command("--cafile", CA, f"https://localhost:{address[1]}/")
    assert done.returncode == 0
    assert b"TLSv1.3" in done.stdout
    assert b"<<< hello\n" in done.stdout


def test_insecure_accepts_any_certificate(serve_tls: Any) -> None:
    address = serve_tls(answering(), certificate="self-signed")
    assert b"<<< hello" in run_command("--insecure", url(address, "https")).stdout


def test_a_bad_certificate_is_one_line(serve_tls: Any) -> None:
    address = serve_tls(refused=True)
    fails(url(address, "https"), saying="certificate verify failed")


def test_the_bytes_of_a_file_are_sent_exactly(serve: Any, tmp_path: Path) -> None:
    sent = bytes(range(256)) * 9
    (tmp_path / "request").write_bytes(sent)
    received = bytearray()

    def peer(conn: socket.socket) -> None:
        while len(received) < len(sent):
            received.extend(conn.recv(65536))
        conn.sendall(b"thanks")

    done = run_command("--send", str(tmp_path / "request"), url(serve(peer)))
    assert b"<<< thanks\n" in done.stdout
    assert received == sent


def test_a_file_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("+", "--"):
        Path(name).write_bytes(name.encode())
        assert command_line._contents(name) == name.encode()


def test_standard_input_is_sent_exactly(serve: Any) -> None:
    address = serve(answering())
    done = run_command("--send", "-", url(address), input=b"PUT / HTTP/1.0\r\n\r\n")
    assert b">>> PUT / HTTP/1.0\n" in done.stdout


def test_the_answer_goes_to_a_file_byte_for_byte(serve: Any, tmp_path: Path) -> None:
    answer = ANSWER + os.urandom(3_000_000)
    done = run_command("--output", str(tmp_path / "answer"), url(serve(answering(answer))))
    assert done.returncode == 0
    assert (tmp_path / "answer").read_bytes() == answer
    assert b"<<<" not in done.stdout


def test_the_answer_goes_to_standard_output_and_the_rest_elsewhere(serve: Any) -> None:
    done = run_command("--output", "-", url(serve(answering())))
    assert done.stdout == ANSWER
    assert b">>> GET / HTTP/1.1\n" in done.stderr


def test_nothing_that_comes_is_obeyed_by_a_terminal(serve: Any) -> None:
    shown = run_command(url(serve(answering(b"\x1b]0;title\x07\xff\xc2\x9b")))).stdout
    assert b"<<< \\x1b]0;title\\x07\\xff\\x9b\n" in shown


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "\u00e9"), ("ascii", "\\xe9")])
def test_text_is_shown_as_the_terminal_can(serve: Any, encoding: str, shown: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = run_command(url(serve(answering("caf\u00e9".encode()))), env=environment)
    assert f"<<< caf{shown}\n" in done.stdout.decode()


def test_a_line_without_end_is_shown_as_it_comes(serve: Any) -> None:
    shown = run_command(url(serve(answering(b"x" * 100_000)))).stdout
    assert sum(line.count(b"x") for line in shown.splitlines() if line[:4] == b"<<< ") == 100_000


def test_what_had_arrived_before_a_failure_is_shown(serve: Any) -> None:
    def peer(conn: socket.socket) -> None:
        request_from(conn)
        conn.sendall(b"HTTP/1.1 200 OK\r\nhalf a li")
        silent(conn)

    saying = "timed out: timeout(0.3) expired"
    shown = fails("--timeout", "0.3", url(serve(peer)), saying=saying)
    assert b"<<< HTTP/1.1 200 OK\n<<< half a li\n" in shown


def test_the_connection_has_a_deadline_of_its_own(peers: Any) -> None:
    address = peers.serve(silent)
    arguments = ("--connect-timeout", "0.2", "--insecure", url(address, "https"))
    fails(*arguments, saying="TLS handshake for '127.0.0.1' with")


def test_a_truncated_answer_is_a_failure_unless_asked_for(serve_tls: Any) -> None:
    def peer(conn: ssl.SSLSocket) -> None:
        request_from(conn)  # type: ignore[arg-type]
        conn.sendall(ANSWER)

    arguments = ("--cafile", CA, url(serve_tls(peer), "https"))
    assert b"<<< hello" in fails(*arguments, saying="without close_notify")
    arguments = ("--suppress-ragged-eofs", "--cafile", CA, url(serve_tls(peer), "https"))
    assert run_command(*arguments).returncode == 0


def test_a_reset_is_one_line(serve: Any) -> None:
    fails(url(serve(reset)), saying="Connection reset by peer")


def test_a_refused_connection_is_one_line(peers: Any) -> None:
    refused = peers.closed_port()
    why = os.strerror(errno.ECONNREFUSED)
    fails(url(refused), saying=f"httpx_net: connect to 127.0.0.1:{refused[1]} failed: {why}")


def test_a_name_that_does_not_resolve_is_one_line() -> None:
    fails("http://nowhere.invalid/", saying="look-up of 'nowhere.invalid' failed")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("www.example.com", ": it must begin with http:// or https://"),
        ("ftp://example.com/", "must begin with"),
        ("http:///path", "host must not be empty"),
        ("http://example.com:99999/", "ort"),
        ("http://example.com:0/", "port must be in 1..65535"),
        ("http://a..b/", "empty label"),
        ("http://user:secret@example.com/", ": user and password in it are not supported"),
        ("http://[::1/", "URL"),
    ],
)
def test_a_bad_url_is_one_line(bad: str, why: str) -> None:
    fails(bad, saying=why)


@pytest.mark.parametrize("option", ["--send", "--output", "--cafile"])
def test_a_file_that_is_not_there_is_one_line(option: str) -> None:
    fails(option, "no/such/file", "https://localhost:1/", saying="no/such/file")


@pytest.mark.parametrize("seconds", ["-1", "nan", "soon"])
def test_a_bad_timeout_is_a_usage_error(seconds: str) -> None:
    fails("--timeout", seconds, saying=f": not a number of seconds: '{seconds}'", status=2)


@pytest.mark.skipif(os.name == "nt", reason="no POSIX signals")
def test_ctrl_c_ends_it_as_a_signal_does_after_what_had_arrived(serve: Any) -> None:
    arrived = threading.Event()

    def peer(conn: socket.socket) -> None:
        request_from(conn)
        conn.sendall(b"first line\nhalf")
        arrived.wait(HANG)
        silent(conn)

    with start(url(serve(peer))) as process:
        assert process.stdout is not None
        while b"first line" not in process.stdout.readline():
            pass
        arrived.set()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=HANG)
    assert out == b"<<< half\n"
    assert err == b""
    assert process.returncode == -signal.SIGINT


@pytest.mark.skipif(os.name == "nt", reason="no POSIX signals")
def test_a_closed_pipe_ends_it_quietly(serve: Any) -> None:
    def peer(conn: socket.socket) -> None:
        with client_may_leave():
            request_from(conn)
            for _ in range(10_000):
                conn.sendall(b"a line\n" * 1_000)

    with start(url(serve(peer))) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while not process.stdout.readline().startswith(b"<<<"):
            pass
        process.stdout.close()
        assert process.wait(HANG) == -signal.SIGPIPE
        assert process.stderr.read() == b""


def test_an_output_that_can_t_be_written_is_one_line(serve: Any) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")

    def peer(conn: socket.socket) -> None:
        with client_may_leave():
            answering()(conn)

    full = os.strerror(errno.ENOSPC)
    saying = f"httpx_net: write to /dev/full failed: {full}"
    fails("--output", "/dev/full", url(serve(peer)), saying=saying)
    fails(
        url(serve(silent)),
        saying=f"httpx_net: write to standard output failed: {full}",
        preexec_fn=lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), 1),
    )


# ---- Corners


posix = pytest.mark.skipif(os.name == "nt", reason="POSIX descriptors and signals")


def test_main_returns_its_status(capsysbinary: Any) -> None:
    assert command_line.main([]) == 0
    assert b"<<< HTTP/1.1 200 OK\n" in capsysbinary.readouterr().out
    assert command_line.main(["ftp://www.example.com/"]) == 1
    assert capsysbinary.readouterr().err.startswith(b"httpx_net: bad URL")


def test_of_what_was_not_sent_to_the_end_the_part_that_went_out_is_shown(
    serve: Any, tmp_path: Path
) -> None:
    def full(conn: socket.socket) -> None:
        over.wait(3 * HANG)

    over = threading.Event()
    (tmp_path / "upload").write_bytes(b"x" * 20_000_000)
    ip, port = serve(full)
    try:
        done = run_command("-t", "0.3", "-s", str(tmp_path / "upload"), f"http://{ip}:{port}/")
    finally:
        over.set()
    assert done.returncode == 1
    shown = sum(line.count(b"x") for line in done.stdout.splitlines() if line[:4] == b">>> ")
    assert 0 < shown < 20_000_000
    assert b"timed out after %d of 20000000 bytes" % shown in done.stderr


@posix
def test_without_a_standard_output_it_says_so() -> None:
    done = run_command("http://127.0.0.1:1/", preexec_fn=lambda: os.close(1))
    assert done.returncode == 1
    assert done.stderr == b"httpx_net: standard output is closed\n"


def test_the_protocol_and_the_cipher_are_shown(serve_tls: Any, capsysbinary: Any) -> None:
    def answer(conn: ssl.SSLSocket) -> None:
        conn.recv(65536)
        ciphers.extend(conn.cipher() or ())
        send_close_notify(conn)

    ciphers: list[Any] = []
    _, port = serve_tls(answer, tickets=0)
    ca = str(CERTIFICATES / "ca.pem")
    assert command_line.main(["--cafile", ca, f"https://localhost:{port}/"]) == 0
    assert f" s: TLSv1.3, {ciphers[0]}: <".encode() in capsysbinary.readouterr().out


def test_https_needs_no_truststore(serve_tls: Any, tmp_path: Path) -> None:
    def answer(conn: ssl.SSLSocket) -> None:
        conn.recv(65536)
        conn.sendall(b"hello")
        conn.unwrap()

    (tmp_path / "truststore.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    _, port = serve_tls(answer)
    arguments = ("--cafile", str(CERTIFICATES / "ca.pem"), f"https://localhost:{port}/")
    done = run_command(*arguments, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert b"<<< hello\n" in done.stdout


@posix
def test_where_SIGPIPE_is_blocked_a_closed_pipe_is_a_status() -> None:
    def blocked() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
        os.dup2(writing, 1)

    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run_command(preexec_fn=blocked)
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("url", "port", "authority"),
    [
        ("http://www.example.com", 80, "www.example.com"),
        ("https://www.example.com", 443, "www.example.com"),
        ("https://www.example.com:443", 443, "www.example.com"),
        ("https://www.example.com:80", 80, "www.example.com:80"),
        ("http://[::1]:443/", 443, "[::1]:443"),
        ("http://[fe80::1%eth0]/", 80, "[fe80::1]"),
    ],
)
def test_the_port_is_that_of_the_scheme_unless_told(url: str, port: int, authority: str) -> None:
    target = command_line.Target.of(url)
    assert (target.port, target.authority, target.path) == (port, authority, "/")


def test_its_help_has_every_option_and_the_defaults_it_has(capsys: Any) -> None:
    options = command_line._parser().parse_args([])
    assert (options.timeout, options.connect_timeout) == (30.0, 10.0)
    with pytest.raises(SystemExit):
        command_line.main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    for part in (
        "--timeout SECONDS for everything together (30; inf for none)",
        "--connect-timeout SECONDS for name resolution, connecting and the TLS handsh",
        "--send FILE send exactly the bytes of FILE (- for standard input)",
        "--output FILE write what the server sends to FILE (- for standard output)",
        "--cafile FILE trust the CA certificates in FILE (PEM) as well",
        "--insecure accept any certificate",
        "--suppress-ragged-eofs take an end without TLS's close_notify for the end, not for",
        "[URL] Send raw bytes to a web server, and show what crosses the wire. positional",
        "URL http://... or https://... options:",
    ):
        assert part in told
    assert told.startswith("usage: python -m httpx_net [-h] ")
    assert told.endswith(" Without a URL it talks to a server of its own, on this machine.")
    with pytest.raises(SystemExit):
        command_line.main(["--version"])
    assert capsys.readouterr().out == f"httpx_net {httpx_net.__version__}\n"


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--send", "can't read no/such/file"),
        ("--output", "can't write no/such/file"),
        ("--cafile", "no CA certificates in no/such/file"),
    ],
)
def test_a_file_that_can_t_be_used_is_told(capsys: Any, option: str, text: str) -> None:
    assert command_line.main([option, "no/such/file", "https://localhost:1/"]) == 1
    said = capsys.readouterr().err
    assert said == f"httpx_net: {text}: {os.strerror(errno.ENOENT)}\n"


def test_its_own_server_is_on_a_port_that_the_kernel_chose() -> None:
    with command_line._own_server() as url:
        assert command_line.Target.of(url).port >= 1024


@pytest.mark.parametrize("size", [5, 100_000])
def test_it_counts_what_it_gets(serve: Any, capsysbinary: Any, size: int) -> None:
    def answer(conn: socket.socket) -> None:
        conn.recv(65536)
        conn.sendall(bytes(size))

    ip, port = serve(answer)
    assert command_line.main([f"http://{ip}:{port}/"]) == 0
    assert b" s: the end, after %d bytes\n" % size in capsysbinary.readouterr().out


def test_it_tells_how_long_each_step_took(serve: Any, capsysbinary: Any) -> None:
    start = time.monotonic()
    assert command_line.main([url(serve(answering()))]) == 0
    took = time.monotonic() - start
    told = re.findall(rb"^\*\*\* (\d+\.\d{3}) s: ", capsysbinary.readouterr().out, re.MULTILINE)
    first, last = map(float, told)
    assert first <= last <= took + 0.0005


def test_it_asks_for_HTTP_by_its_name_in_ALPN(serve_tls: Any) -> None:
    def answer(conn: ssl.SSLSocket) -> None:
        asked.append(conn.selected_alpn_protocol())
        conn.recv(65536)
        send_close_notify(conn)

    asked: list[str | None] = []
    _, port = serve_tls(answer, alpn=["http/1.1"], tickets=0)
    ca = str(CERTIFICATES / "ca.pem")
    assert command_line.main(["--cafile", ca, f"https://localhost:{port}/"]) == 0
    assert asked == ["http/1.1"]


def test_its_own_server_reads_the_request_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: Any
) -> None:
    class InBytes(httpx_net.NetworkStream):
        def read(self, max_bytes: int | None = None) -> bytes:
            received.append(super().read(1))
            return received[-1]

    received: list[bytes] = []
    monkeypatch.setattr(command_line, "NetworkStream", InBytes)
    assert command_line.main([]) == 0
    assert b"<<< HTTP/1.1 200 OK\n" in capsysbinary.readouterr().out
    assert b"".join(received).startswith(b"GET / HTTP/1.1\r\n")
    assert b"".join(received).endswith(b"\r\nConnection: close\r\n\r\n")


def shown(*parts: bytes, finish: bool = False) -> bytes:
    """What a transcript shows of *parts* that come one after another."""
    file = io.BytesIO()
    transcript = command_line.Transcript(command_line.Output(file, "file"), "ascii")
    for part in parts:
        transcript.show("<<< ", part)
    if finish:
        transcript.finish()
    return file.getvalue()


def test_a_line_is_shown_once_it_is_longer_than_8_KiB() -> None:
    longest = b"x" * 8192
    assert shown(longest) == b""
    assert shown(longest, b"yz") == b"<<< " + longest + b"\n"
    assert shown(longest, b"yz", finish=True) == b"<<< " + longest + b"\n<<< yz\n"


def test_a_note_may_have_any_character() -> None:
    file = io.BytesIO()
    transcript = command_line.Transcript(command_line.Output(file, "file"), "ascii")
    transcript.note("caf\u00e9 \udcff")
    assert file.getvalue() == b"*** caf\\xe9 \\udcff\n"


def test_of_a_write_that_does_not_say_how_far_it_got_nothing_is_shown(pair: Any) -> None:
    class Failing(httpx_net.NetworkStream):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            raise OSError("no luck")

    told: list[tuple[str, bytes]] = []
    with (
        command_line.RecordingStream(Failing(pair[0]), lambda *what: told.append(what)) as stream,
        pytest.raises(OSError, match="no luck"),
    ):
        stream.write(b"hello")
    assert told == [(">>> ", b"")]
