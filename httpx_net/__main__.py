"""The main job as a command: ``python -m httpx_net [URL]``.

It connects, starts TLS for ``https``, sends a GET request (or exactly the bytes it is given), and
shows what crosses the wire in both directions, under one deadline for all of it and a nearer one
for the connection. Without a URL it talks to a server of its own, on this machine.

It is no HTTP client: it shows what comes as it comes, until the server ends the connection.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from . import (
    NetworkBackend,
    NetworkBackendInterface,
    NetworkStream,
    NetworkStreamInterface,
    __version__,
    timeout,
)
from ._names import check_port, lookup_name

Show = Callable[[str, bytes], None]

# A longer line is shown in pieces, as it comes: a body need not have any line ends.
_LONGEST_LINE = 8_192


class Failure(Exception):
    """Why the command ends: the one line that it says."""


class OutputClosed(Exception):
    """Whoever read our output has stopped reading."""


class RecordingStream(NetworkStreamInterface):
    """A stream that shows what passes through it."""

    def __init__(self, stream: NetworkStreamInterface, show: Show) -> None:
        self._stream = stream
        self._show = show

    def read(self, max_bytes: int | None = None) -> bytes:
        data = self._stream.read(max_bytes)
        self._show("<<< ", data)
        return data

    def write(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self._stream.write(data)
        except OSError as exc:
            self._show(">>> ", bytes(data)[: getattr(exc, "characters_written", 0)])
            raise
        self._show(">>> ", bytes(data))

    def start_tls(self, ctx: ssl.SSLContext, hostname: str | None = None) -> None:
        self._stream.start_tls(ctx, hostname)

    def get_extra_info(self, key: str) -> Any:
        return self._stream.get_extra_info(key)

    def close(self) -> None:
        self._stream.close()

    def __repr__(self) -> str:
        return repr(self._stream)


class RecordingBackend(NetworkBackendInterface):
    """A backend whose streams show what passes through them."""

    def __init__(self, backend: NetworkBackendInterface, show: Show) -> None:
        self._backend = backend
        self._show = show

    def connect(self, host: str, port: int) -> RecordingStream:
        return RecordingStream(self._backend.connect(host, port), self._show)


class Output:
    """A binary file that tells its own failures from those of the network."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._file.flush()
        except BrokenPipeError:
            raise OutputClosed from None
        except OSError as exc:
            raise Failure(f"write to {self._name} failed: {exc.strerror}") from None


class Transcript:
    """Shows bytes as lines of text, each with a mark before it."""

    def __init__(self, output: Output, encoding: str) -> None:
        self._output = output
        self._encoding = encoding
        self._mark = ""
        self._unfinished = b""

    def show(self, mark: str, data: bytes) -> None:
        if mark != self._mark:
            self.finish()
            self._mark = mark
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        while len(self._unfinished) > _LONGEST_LINE:
            lines.append(self._unfinished[:_LONGEST_LINE])
            self._unfinished = self._unfinished[_LONGEST_LINE:]
        self._print(lines)

    def note(self, text: str) -> None:
        self.show("*** ", text.encode("utf-8", "backslashreplace") + b"\n")

    def finish(self) -> None:
        """Show what has come of a line whose end has not."""
        unfinished, self._unfinished = self._unfinished, b""
        if unfinished:
            self._print([unfinished])

    def _print(self, lines: list[bytes]) -> None:
        text = "".join(f"{self._mark}{_printable(line)}\n" for line in lines)
        if text:
            self._output.write(text.encode(self._encoding, "backslashreplace"))


def _printable(line: bytes) -> str:
    """*line* without its CR, and with nothing in it that a terminal would obey."""
    text = line.removesuffix(b"\r").decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class Target(NamedTuple):
    """What a URL says about the connection and the request."""

    tls: bool
    host: str
    port: int
    path: str
    authority: str  # as the Host field has it

    @classmethod
    def of(cls, url: str) -> Target:
        try:
            parts = urllib.parse.urlsplit(url)
            if parts.scheme not in ("http", "https"):
                raise ValueError("it must begin with http:// or https://")
            if "@" in parts.netloc:
                raise ValueError("user and password in it are not supported")
            host = lookup_name(parts.hostname or "")
            tls = parts.scheme == "https"
            default = 443 if tls else 80
            port = check_port(default if parts.port is None else parts.port)
        except ValueError as exc:
            raise Failure(f"bad URL {url!r}: {exc}") from None
        path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
        query = urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~?[]")
        name = f"[{host.partition('%')[0]}]" if ":" in host else host
        return cls(
            tls=tls,
            host=host,
            port=port,
            path=f"{path}?{query}" if query else path,
            authority=name if port == default else f"{name}:{port}",
        )

    def request(self) -> bytes:
        return (
            f"GET {self.path} HTTP/1.1\r\n"
            f"Host: {self.authority}\r\n"
            f"User-Agent: httpx_net/{__version__}\r\n"
            "Accept: */*\r\n"
            "Connection: close\r\n"
            "\r\n"
        ).encode("ascii")


def main(argv: list[str] | None = None) -> int:
    """Run the command with *argv*, and return its exit status."""
    options = _parser().parse_args(argv)
    try:
        with contextlib.ExitStack() as stack:
            _run(options, stack)
        return 0
    except Failure as exc:
        print(f"httpx_net: {exc}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace, stack: contextlib.ExitStack) -> None:
    url = options.url or stack.enter_context(_own_server())
    target = Target.of(url)
    data = target.request() if options.send is None else _contents(options.send)
    context = _tls_context(options) if target.tls else None
    if sys.stdout is None:
        raise Failure("standard output is closed")
    screen = Output(sys.stdout.buffer, "standard output")
    transcript = Transcript(screen, sys.stdout.encoding)
    show: Show = transcript.show
    if options.output == "-":
        transcript = Transcript(Output(sys.stderr.buffer, "standard error"), sys.stderr.encoding)
        show = _saving(transcript.show, screen)
    elif options.output is not None:
        show = _saving(transcript.show, stack.enter_context(_created(options.output)))
    stack.callback(transcript.finish)  # what had arrived before a failure, too
    backend = NetworkBackend(suppress_ragged_eofs=options.suppress_ragged_eofs)
    try:
        _talk(RecordingBackend(backend, show), target, context, data, options, transcript)
    except (OSError, ValueError) as exc:
        raise Failure(getattr(exc, "strerror", None) or str(exc)) from None


def _talk(
    backend: RecordingBackend,
    target: Target,
    context: Any,
    data: bytes,
    options: argparse.Namespace,
    transcript: Transcript,
) -> None:
    start = time.monotonic()

    def note(text: str) -> None:
        transcript.note(f"{time.monotonic() - start:.3f} s: {text}")

    with timeout(options.timeout), contextlib.ExitStack() as stack:
        with timeout(options.connect_timeout):
            stream = stack.enter_context(backend.connect(target.host, target.port))
            note(f"connected: {stream!r}")
            if context is not None:
                stream.start_tls(context, hostname=target.host)
                tls = stream.get_extra_info("ssl_object")
                note(f"{tls.version()}, {tls.cipher()[0]}: {stream!r}")
        stream.write(data)
        count = 0
        while received := stream.read():
            count += len(received)
        note(f"the end, after {count} bytes")


def _saving(show: Show, output: Output) -> Show:
    """*show*, but for what is received, which goes to *output* byte for byte."""

    def save_or_show(mark: str, data: bytes) -> None:
        if mark == "<<< ":
            output.write(data)
        else:
            show(mark, data)

    return save_or_show


def _contents(path: str) -> bytes:
    try:
        if path == "-":
            return sys.stdin.buffer.read()
        with open(path, "rb") as file:
            return file.read()
    except OSError as exc:
        raise Failure(f"can't read {path}: {exc.strerror}") from None


@contextlib.contextmanager
def _created(path: str) -> Iterator[Output]:
    try:
        file = open(path, "wb", buffering=0)  # noqa: SIM115
    except OSError as exc:
        raise Failure(f"can't write {path}: {exc.strerror}") from None
    with file:
        yield Output(io.BufferedWriter(file), path)


def _tls_context(options: argparse.Namespace) -> Any:
    """The system's certificates where truststore is installed to find them, OpenSSL's else."""
    try:
        import truststore
    except ImportError:
        context: Any = ssl.create_default_context()
    else:
        context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    if options.cafile is not None:
        try:
            context.load_verify_locations(cafile=options.cafile)
        except OSError as exc:
            raise Failure(f"no CA certificates in {options.cafile}: {exc.strerror}") from None
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.contextmanager
def _own_server() -> Iterator[str]:
    """A server on loopback, for one connection; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            with contextlib.suppress(OSError):  # where nobody has come: let it stop waiting
                socket.create_connection(listener.getsockname(), timeout=1.0).close()
            thread.join()


def _serve(listener: socket.socket) -> None:
    body = b"Hello. This answer comes from your own machine: give a URL to leave it.\n"
    with contextlib.suppress(OSError), timeout(10.0):
        conn, _ = listener.accept()
        with NetworkStream(conn) as stream:
            request = b""
            while b"\r\n\r\n" not in request and (data := stream.read()):
                request += data
            stream.write(
                b"HTTP/1.1 200 OK\r\n"
                b"Content-Type: text/plain\r\n"
                b"Content-Length: %d\r\n"
                b"Connection: close\r\n"
                b"\r\n" % len(body) + body
            )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
        timeout(seconds)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text!r}") from None
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description="Send raw bytes to a web server, and show what crosses the wire.",
        epilog="Without a URL it talks to a server of its own, on this machine.",
    )
    add = parser.add_argument
    add("url", metavar="URL", nargs="?", help="http://... or https://...")
    add(
        "-t",
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=30.0,
        help="for everything together (30; inf for none)",
    )
    add(
        "-c",
        "--connect-timeout",
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help="for name resolution, connecting and the TLS handshake (10)",
    )
    add(
        "-s",
        "--send",
        metavar="FILE",
        help="send exactly the bytes of FILE (- for standard input) in place of a GET request",
    )
    add(
        "-o",
        "--output",
        metavar="FILE",
        help="write what the server sends to FILE (- for standard output), byte for byte",
    )
    add("--cafile", metavar="FILE", help="trust the CA certificates in FILE (PEM) as well")
    add("--insecure", action="store_true", help="accept any certificate")
    add(
        "--suppress-ragged-eofs",
        action="store_true",
        help="take an end without TLS's close_notify for the end, not for an error",
    )
    add("--version", action="version", version=f"httpx_net {__version__}")
    return parser


def _die_by(number: int) -> None:
    """End the way a command does that does not catch the signal, for the shell to see."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        if os.name != "nt":  # where os.kill() would end it with the status of a usage error
            _die_by(signal.SIGINT)
        status = 130
    except OutputClosed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for its flush at exit
        if hasattr(signal, "SIGPIPE"):  # as everywhere but on Windows
            _die_by(signal.SIGPIPE)
        status = 1
    sys.exit(status)
