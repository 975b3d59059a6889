"""Send raw bytes to a web server, and show what crosses the wire as it crosses.

usage: python3 -m httpx_net [options] [URL]      (no URL: a server of its own)

  -t, --timeout SECONDS          for everything together (30; inf for none)
  -c, --connect-timeout SECONDS  for look-up, connecting and TLS handshake (10)
  -s, --send FILE         send the bytes of FILE (- for standard input), no GET
  -o, --output FILE       save what is received in FILE (- for standard output)
  --resolve HOST:PORT:ADDRESS    connect to ADDRESS for HOST and PORT
  --server-name NAME      the name to send and to verify, if not the URL's host
  --cafile FILE           trust the CA certificates in FILE (PEM) as well
  --cert FILE, --key FILE show this certificate (PEM); its key, if not in there
  --insecure              accept any certificate
  --suppress-ragged-eofs  take an end without TLS's close_notify for an end
  --demo drip|silent|slow-reader|reset|truncate|dead-address    its own server
  -4, -6                  use IPv4 alone, or IPv6
  -h, --help, --version

>>> is sent, <<< is received, *** says what happened, and when. CR LF ends a
line as usual; \\n behind it is a bare LF, and \\ means that no end has come.
Exit status: 2 usage; as with curl 3 URL, 6 look-up, 7 connect, 18 cut off,
23 output, 26 --send, 28 time, 35 TLS, 52 no answer, 55 send, 56 receive,
58 --cert, 60 certificate, 77 --cafile.
"""

# It is also the longest example of how to use the package, by its public names alone: a look-up
# hook, a stream that records what passes through it, blocks in blocks, and two threads on a stream.
# The main thread reads while another one sends, since a server may answer before it has heard all,
# and may hear no more before its answer is read.

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import os
import re
import signal
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from . import NetworkBackend, NetworkStream, NetworkStreamInterface, __version__, remaining, timeout
from ._transcript import RECEIVED, SENT, Answer, Failure, Output, OutputClosed, Transcript, facts

# A piece of what is sent is shown before it goes out, so that what answers it comes after it. The
# smaller the pieces, the less is shown of what a slow server has not taken yet. What is received
# comes in such pieces, too: larger ones take longer to show, since each has its memory mapped anew.
_PIECE = 16_384

# Seconds that the main thread waits for the other one to come to an end, when its own has come.
_PATIENCE = 0.1


class RecordingStream(NetworkStreamInterface):
    """A stream that shows what passes through it, and counts it.

    What is received goes to *file* as well, if there is one; then only the head of it is shown.
    """

    def __init__(self, stream: NetworkStreamInterface, transcript: Transcript, file: Any) -> None:
        self._stream = stream
        self._transcript = transcript
        self._file = file
        self.answer = Answer()
        self.handed = self.sent = self.received = 0
        # When the last bytes came, and how long it took to show all that have come.
        self.last = self.showing = 0.0

    def read(self, max_bytes: int | None = None) -> bytes:
        if data := self._stream.read(max_bytes):
            self._record(data)
        return data

    def _record(self, data: bytes) -> None:
        self.last = time.monotonic()
        if not self.received:
            self._transcript.note("first byte")
        self.received += len(data)
        head = self.answer.take(data)
        self._transcript.show(RECEIVED, data[:head] if self._file else data)
        if self._file:
            self._file.write(data)
        self._transcript.update(self.sent, self.received)
        self.showing += time.monotonic() - self.last

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.handed += len(data)
        self._transcript.show(SENT, bytes(data))
        try:
            self._stream.write(data)
        except OSError as exc:
            self.sent += getattr(exc, "characters_written", 0)
            raise
        self.sent += len(data)
        self._transcript.update(self.sent, self.received)

    def start_tls(self, ctx: ssl.SSLContext, hostname: str | None = None) -> None:
        self._stream.start_tls(ctx, hostname)

    def get_extra_info(self, key: str) -> Any:
        return self._stream.get_extra_info(key)

    def close(self) -> None:
        self._stream.close()

    def __repr__(self) -> str:
        return repr(self._stream)


class ResolvingBackend(NetworkBackend):
    """A backend that notes what names resolve to, and takes *pinned* addresses in their place."""

    def __init__(self, pinned: Any, note: Callable[[str], None], **options: Any) -> None:
        super().__init__(**options)
        self._pinned = dict(pinned)
        self._note = note

    def getaddrinfo(self, host: str, port: int) -> Any:
        pinned = self._pinned.get((host.lower(), port))
        found = super().getaddrinfo(pinned or host, port)
        addresses = ", ".join(dict.fromkeys(info[4][0] for info in found))
        if addresses != host.partition("%")[0]:
            self._note(f"{'--resolve' if pinned else 'look-up of'} {host}: {addresses}")
        return found


class Target(NamedTuple):
    """What a URL says about the connection and the request."""

    tls: bool
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> Target:
        scheme, mark, rest = url.partition("://")
        if scheme.lower() not in ("http", "https") or not mark:
            raise ValueError("it must begin with http:// or https://")
        authority = re.split("[/?#]", rest, maxsplit=1)[0]
        if "@" in authority:
            raise ValueError("user and password in it are not supported")
        parts = re.fullmatch(r"(\[.*\]|[^:]*)(?::([0-9]*))?", authority)
        if parts is None:
            raise ValueError(f"{authority!r} is no host and port")
        # In a URL, the zone of an address follows "%25" (RFC 6874).
        host = re.sub("%25(?=.+]$)", "%", parts[1].lower(), count=1)
        tls = scheme.lower() == "https"
        path, mark, query = rest[len(authority) :].partition("#")[0].partition("?")
        return cls(
            tls=tls,
            host=host,
            port=int(parts[2] or (443 if tls else 80)),
            path=_quoted(path or "/") + mark + _quoted(query, "?[]"),
        )

    def request(self, method: str = "GET", fields: str = "") -> bytes:
        # A zone means nothing to others. Names that this codec confuses, connect() refuses.
        host = re.sub(r"%.*]", "]", self.host)
        if not host.isascii():
            host = host.encode("idna").decode()
        port = "" if self.port == (443 if self.tls else 80) else f":{self.port}"
        return (
            f"{method} {self.path} HTTP/1.1\r\nHost: {host}{port}\r\n"
            f"User-Agent: httpx_net/{__version__}\r\nAccept: */*\r\n"
            f"{fields}Connection: close\r\n\r\n"
        ).encode("ascii")


def _quoted(text: str, safe: str = "") -> str:
    return urllib.parse.quote(os.fsencode(text), safe="/%:@!$&'()*+,;=~" + safe)


@dataclasses.dataclass
class Conversation:
    """One connection: what is sent, what comes, and what is to be said about both."""

    options: argparse.Namespace
    target: Target
    transcript: Transcript
    # What has ended the sending, if it was not that all was sent.
    stopped: BaseException | None = None
    all_sent: bool = False

    def hold(self, pieces: Iterable[bytes], context: Any, file: Output | None) -> None:
        """Connect, send all *pieces*, and show what comes until the server ends the stream."""
        with timeout(self.options.timeout), contextlib.ExitStack() as stack:
            with timeout(self.options.connect_timeout):
                plain = stack.enter_context(self._connect())
                self._stream = RecordingStream(plain, self.transcript, file)
                self.transcript.note(f"connected: {plain!r}")
                if context is not None:
                    self._start_tls(context)
            if self.options.send == "-" and sys.stdin.isatty():
                self.transcript.note("type what to send, and Ctrl-D when that is all")
            # A deadline holds in the thread that entered its block, so the other one needs its own.
            sender = threading.Thread(target=self._send, args=(pieces, remaining()), daemon=True)
            sender.start()
            # In the end, close the stream first: that wakes the sender where it waits.
            stack.callback(sender.join, _PATIENCE)
            stack.callback(plain.close)
            self._listen(sender)

    def _connect(self) -> NetworkStream:
        options, target = self.options, self.target
        backend = ResolvingBackend(
            options.resolve,
            self.transcript.note,
            local_address=options.family,
            socket_options=[_SMALL] if options.demo == "slow-reader" else (),
            suppress_ragged_eofs=options.suppress_ragged_eofs,
        )
        try:
            return backend.connect(target.host, target.port)
        except OSError as exc:
            raise _failure(exc, 6 if isinstance(exc, socket.gaierror) else 7) from None

    def _start_tls(self, context: Any) -> None:
        stream, name = self._stream, self.options.server_name or self.target.host
        try:
            stream.start_tls(context, name)
        except ssl.SSLCertVerificationError as exc:
            self._look_again(stream.get_extra_info("server_addr"), name)
            raise _failure(exc, 60) from None
        except OSError as exc:
            raise _failure(exc, 35) from None
        except ValueError as exc:
            raise Failure(2, f"--server-name: {exc}") from None
        tls = stream.get_extra_info("ssl_object")
        alpn = tls.selected_alpn_protocol() or "was not chosen"
        text = f"{tls.version()}, {tls.cipher()[0]}, ALPN {alpn}: {stream!r}"
        self.transcript.note(text, *facts(tls))

    def _look_again(self, address: Any, name: str) -> None:
        """Say what a certificate says that was refused.

        A failed handshake keeps it to itself, and ``ssl`` decodes none that it has not verified. So
        connect once more without verifying, to get it, and then with no trust but in it, to have it
        decoded. Nothing is sent on either connection.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        shown: list[str] = []
        with contextlib.suppress(OSError):
            for _ in range(2):
                with NetworkBackend().connect(*address) as stream:
                    stream.start_tls(context, name)
                    tls = stream.get_extra_info("ssl_object")
                    shown = ["certificate refused; other connections have shown:", *facts(tls)]
                    context.load_verify_locations(cadata=tls.getpeercert(binary_form=True))
                context.verify_mode = ssl.CERT_REQUIRED
                # The number is OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which ssl has no name.
                context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | 0x200000
        self.transcript.note(*shown)

    def _send(self, pieces: Iterable[bytes], left: float | None) -> None:
        """Send, in a thread, while the main thread listens."""
        try:
            with timeout(left):
                for piece in pieces:
                    self._stream.write(piece)
            self.all_sent = True
            if self._stream.sent > _PIECE:
                self.transcript.note(f"sent {self._stream.sent} bytes")
        except OSError as exc:
            # There may be an answer all the same. The main thread reads it, and then reports this.
            self.stopped = exc
        except BaseException as exc:
            # Nothing can be shown, or nothing more be sent. Wake the main thread from its read.
            self.stopped = exc
            self._stream.close()

    def _listen(self, sender: threading.Thread) -> None:
        error: OSError | None = None
        try:
            while self._stream.read(_PIECE):
                pass
        except OSError as exc:
            error = exc
        sender.join(_PATIENCE)
        if not isinstance(self.stopped, (OSError, type(None))):
            raise self.stopped
        missing = self._stream.answer.missing()
        if isinstance(error, ssl.SSLEOFError) and missing == 0:
            self.transcript.note("no close_notify came, but all of Content-Length has")
        elif error:
            lost = self.stopped if isinstance(self.stopped, ConnectionError) else None
            raise _failure(lost or error, 55 if lost else 56, self._so_far())
        received = self._stream.received
        self.transcript.note(f"the end, after {received} bytes")
        # Of standard input nobody knows whether there is more to come.
        more = self.options.send not in (None, "-") and not self.all_sent
        if self.stopped or more or self._stream.handed > self._stream.sent:
            early = OSError("the server ended the stream before all was sent")
            raise _failure(self.stopped or early, 55, self._so_far())
        if self.options.send is None and (not received or (missing or 0) > 0):
            short = f"{missing} bytes short of Content-Length" if received else "without an answer"
            raise Failure(18 if received else 52, f"the stream ended {short}")

    def _so_far(self) -> str:
        stream = self._stream
        text = f", {stream.received} bytes so far"
        if stream.received:
            text += f", the last {time.monotonic() - stream.last:.1f} s ago"
        if stream.showing > 1.0:
            text += f"; to show them took {stream.showing:.1f} s"
        return text if self.all_sent else f"{text}; {stream.sent} bytes sent"


def _failure(exc: BaseException, status: int, so_far: str = "") -> Failure:
    text = getattr(exc, "strerror", None) or str(exc)
    # What the library says of a write is about one piece, and about an argument of its own.
    text = re.sub(r" after \d+ of \d+ bytes", "", text)
    text = text.replace("suppress_ragged_eofs=True", "--suppress-ragged-eofs")
    return Failure(28 if isinstance(exc, TimeoutError) else status, text + so_far)


def main(argv: list[str] | None = None) -> int:
    """Run the command with *argv*, and return its exit status."""
    options = _options(argv)
    try:
        with contextlib.ExitStack() as stack:
            _run(options, stack)
        return 0
    except ValueError as exc:
        status, text = 3, f"bad URL {options.url!r}: {exc}"
    except Failure as exc:
        status, text = exc.args
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    with contextlib.suppress(Failure, OutputClosed):
        Output(sys.stderr, "standard error").write(f"httpx_net: {text}\n".encode())
    return status


def _run(options: argparse.Namespace, stack: contextlib.ExitStack) -> None:
    if options.help or options.version:
        text = __doc__ if options.help else f"httpx_net {__version__}\n"
        Output(sys.stdout, "standard output").write(str(text).encode())
        return
    url = stack.enter_context(_own_server(options.demo)) if options.url is None else options.url
    target = Target.of(url)
    pieces = _pieces(options, target, stack)
    context = _tls_context(options) if target.tls else None
    file, shown, screen = None, sys.stdout, Output(sys.stdout, "standard output")
    hidden = options.output is not None or not shown.isatty()
    if options.output == "-":
        file, shown, screen = screen, sys.stderr, Output(sys.stderr, "standard error")
    elif options.output is not None:
        with _usable(f"write {options.output}", 23):
            opened = stack.enter_context(open(options.output, "wb", buffering=0))  # noqa: SIM115
        file = Output(opened, options.output)
    progress = hidden and sys.stderr is not None and sys.stderr.isatty()
    transcript = Transcript(screen, shown.encoding, progress=progress)
    # What had come before a failure is shown, too.
    stack.callback(transcript.finish)
    try:
        Conversation(options, target, transcript).hold(pieces, context, file)
    except Failure:
        with contextlib.suppress(Failure, OutputClosed):
            transcript.note("failed")
        raise


@contextlib.contextmanager
def _usable(what: str, status: int) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise Failure(status, f"can't {what}: {exc.strerror or exc}") from None


def _pieces(options: Any, target: Target, stack: contextlib.ExitStack) -> Iterable[bytes]:
    """What to send: standard input as it comes, for one."""
    if options.send is None:
        return _slow_upload(target) if options.demo == "slow-reader" else [target.request()]
    doing = "read standard input" if options.send == "-" else f"read {options.send}"
    with _usable(doing, 26):
        # Without a standard input, 0 may be the number of anything.
        source = os.dup(0 if sys.stdin else -1) if options.send == "-" else options.send
        file = stack.enter_context(open(source, "rb", buffering=0))  # noqa: SIM115

    def read() -> bytes:
        with _usable(doing, 26):
            return file.read(_PIECE)

    return iter(read, b"")


def _tls_context(options: argparse.Namespace) -> Any:
    """The system's certificates where truststore is installed to find them, OpenSSL's else."""
    with _usable("use SSLKEYLOGFILE", 23):
        try:
            context = importlib.import_module("truststore").SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        except ImportError:
            context = ssl.create_default_context()
        if file := os.environ.get("SSLKEYLOGFILE"):
            context.keylog_filename = file
    context.set_alpn_protocols(["http/1.1"])
    if options.cafile is not None:
        with _usable(f"use --cafile {options.cafile}", 77):
            context.load_verify_locations(cafile=options.cafile)
    if options.cert is not None:
        with _usable(f"use --cert {options.cert}", 58):
            context.load_cert_chain(options.cert, options.key)
    if options.insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


# ---- The own server, and the ways in which it can misbehave.

_DEMOS = ("hello", "drip", "silent", "slow-reader", "reset", "truncate", "dead-address")

# So that a slow reader is felt after some kilobytes.
_SMALL = (socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


@contextlib.contextmanager
def _own_server(kind: str) -> Iterator[str]:
    """A server on loopback, for one connection; gives its URL."""
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.settimeout(_PATIENCE)
        address = listener.getsockname()
        if kind == "dead-address":
            # Nobody accepts this one. It fills the queue, and what comes then is ignored.
            stack.enter_context(socket.create_connection(address))
        else:
            thread = threading.Thread(target=_accept, args=(listener, kind, over), daemon=True)
            thread.start()
            stack.callback(thread.join)
        stack.callback(over.set)
        yield f"http://{address[0]}:{address[1]}/"


def _accept(listener: socket.socket, kind: str, over: threading.Event) -> None:
    while not over.is_set():
        with contextlib.suppress(OSError), NetworkStream(listener.accept()[0]) as stream:
            _serve(stream, kind, over)


def _serve(stream: NetworkStream, kind: str, over: threading.Event) -> None:
    request = b""
    while kind == "slow-reader" and not over.wait(_PATIENCE) and stream.read(100):
        pass
    while (kind == "silent" or b"\r\n\r\n" not in request) and (data := stream.read()):
        request += data
    while kind == "drip" and not over.wait(_PATIENCE):
        stream.write(b".")
    body = b"Hello. This answer comes from your own machine: give a URL to leave it.\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    stream.write(head + (body if kind == "hello" else body[:40]))
    if kind == "reset":
        over.wait(_PATIENCE)
        sock = stream.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


def _slow_upload(target: Target) -> Iterator[bytes]:
    line = b"This is one of a thousand lines for a server that reads slowly.\r\n"
    yield target.request("POST", f"Content-Length: {1000 * len(line)}\r\n")
    yield from [line] * 1000


# ---- The options.


def _options(argv: list[str] | None) -> argparse.Namespace:
    usage = f"python3 -m {__package__} [options] [URL] (--help tells more)"
    parser = argparse.ArgumentParser("httpx_net", usage, add_help=False)
    add = parser.add_argument
    add("url", metavar="URL", nargs="?")
    add("-t", "--timeout", type=seconds, default=30.0)
    add("-c", "--connect-timeout", type=seconds, default=10.0)
    add("-4", dest="family", action="store_const", const="0.0.0.0")
    add("-6", dest="family", action="store_const", const="::")
    add("--resolve", type=host_port_address, action="append", default=[])
    for option in ("-s --send", "-o --output", "--server-name", "--cafile", "--cert", "--key"):
        add(*option.split())
    for option in ("--insecure", "--suppress-ragged-eofs", "-h --help", "--version"):
        add(*option.split(), action="store_true")
    add("--demo", choices=_DEMOS, default="hello")
    options = parser.parse_args(argv)
    if options.url is not None and options.demo != "hello":
        parser.error("--demo is what the own server does, and has no URL")
    return options


# argparse shows these names: "invalid seconds value: 'soon'".


def seconds(text: str) -> float:
    timeout(float(text))
    return float(text)


def host_port_address(text: str) -> tuple[tuple[str, int], str]:
    host, port, address = text.split(":", 2)
    return (host.lower(), int(port)), address


def _end() -> int:
    """Run the command as a process, which ends the way commands do."""
    try:
        return main()
    except KeyboardInterrupt:
        return _die_by("SIGINT", 130)
    except OutputClosed:
        return _die_by("SIGPIPE", 23)


def _die_by(name: str, status: int) -> int:
    """End as a command does that does not catch the signal, for the shell to see."""
    # On Windows, os.kill() would end it with the status of wrong usage.
    if os.name != "nt":
        number = getattr(signal, name)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return status


if __name__ == "__main__":
    sys.exit(_end())
