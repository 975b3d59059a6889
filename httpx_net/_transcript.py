"""How the command shows what it sees: bytes as lines of text, and what can be said about them.

A transcript shows bytes when they come, and exactly which. So a line that comes in pieces is shown
in pieces, and goes on where it stopped; nothing that comes is obeyed by a terminal; and what is
shown can be turned back into the bytes. A line that CR LF ends is shown as it is. One that a bare
LF ends has ``\\n`` behind it, and a ``\\`` means that no end has come before something else did.
What else is not printable is shown byte by byte, as ``\\x1b``, and a backslash is doubled.

What it prints must not decide when a transfer ends, and to look at each character in Python comes
to 5 MB/s. So text is recognised by the piece, and what is no text is escaped by the line.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

SENT, RECEIVED, NOTE = ">>> ", "<<< ", "*** "

# What can't be shown before the next byte has come: half of a line's end, or of a character.
_UNFINISHED = re.compile(
    rb"(?:\r|[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z"
)

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LONGEST_HEAD = 65_536
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d{1,18})[ \t]*\r?$")
_CHUNKED = re.compile(rb"(?im)^transfer-encoding:")

# Of ASCII, what _shown() can do without looking at each character.
_PLAIN = bytes([*range(0x20, 0x7F), *b"\t\r\n"])

# Seconds: a transfer is long after the first, and its progress is shown as often as the second.
_LONG = 1.0
_REFRESH = 0.2


class Failure(Exception):
    """Why the command ends: its exit status, and the one line that it says."""


class OutputClosed(Exception):
    """Whoever read our output has stopped reading."""


class Output:
    """A file to write to, whose failures are not mistaken for those of the network.

    Nothing is buffered: what has been written has been shown.
    """

    def __init__(self, file: Any, name: str) -> None:
        if file is None:
            raise Failure(23, f"{name} is closed")
        self._fd = file.fileno()
        self.is_terminal = file.isatty()
        self._name = name

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except BrokenPipeError:
            raise OutputClosed from None
        except OSError as exc:
            raise Failure(23, f"write to {self._name} failed: {exc.strerror}") from None


class Transcript:
    """Shows bytes as lines of text, each with a mark before it. Any thread may show some.

    With *progress*, a terminal that shows nothing else of a long transfer shows how far it is.
    """

    def __init__(self, output: Output, encoding: str, *, progress: bool = False) -> None:
        self._output = output
        self._encoding = encoding
        self._start = time.monotonic()
        self._refresh = self._start + _LONG if progress else math.inf
        self._drawn = 0
        self._lock = threading.Lock()
        # The mark of the line that has not ended yet, and what waits for an end, or for more.
        self._open = ""
        self._unfinished = {SENT: b"", RECEIVED: b""}
        self._notes: list[str] = []

    def show(self, mark: str, data: bytes) -> None:
        with self._lock:
            data = self._unfinished[mark] + data
            found = _UNFINISHED.search(data[-3:])
            end = len(data) - len(found[0]) if found else len(data)
            self._unfinished[mark] = data[end:]
            self._show(mark, _shown(data[:end]))

    def note(self, *texts: str) -> None:
        """Say *texts*, with the time, and without breaking a line that is still coming."""
        with self._lock:
            now = f"{NOTE}{time.monotonic() - self._start:.3f} s: "
            for text in texts:
                self._notes.append(f"{now}{_shown(text.encode('utf-8', 'surrogateescape'))}\n")
            if not self._open:
                self._print(self._noted())

    def update(self, sent: int, received: int) -> None:
        """Show how far it is, if it is a long way."""
        now = time.monotonic()
        if now >= self._refresh:
            with self._lock:
                self._refresh = now + _REFRESH
                rate = (sent + received) / (now - self._start) / 1e6
                self._draw(f"{sent:,} bytes sent, {received:,} received, {rate:.2f} MB/s")

    def finish(self) -> None:
        """End the line that nothing has ended, and show what was waiting for its end."""
        # Where another thread hangs in showing something, nothing can be shown any more.
        if not self._lock.acquire(timeout=_REFRESH):
            return
        try:
            for mark, data in self._unfinished.items():
                self._unfinished[mark] = b""
                self._show(mark, _shown(data))
            if self._open:
                self._print("\\\n" + self._noted())
                self._open = ""
            if self._drawn:
                self._draw("")
        finally:
            self._lock.release()

    def _show(self, mark: str, text: str) -> None:
        if not text:
            return
        begin = "" if self._open == mark else mark
        if self._open not in ("", mark):
            begin = "\\\n" + self._noted() + mark
        lines, end, rest = text.rpartition("\n")
        if end:
            begin += lines.replace("\n", "\n" + mark) + "\n" + self._noted()
            rest = rest and mark + rest
        self._open = mark if rest else ""
        self._print(begin + rest)

    def _noted(self) -> str:
        notes, self._notes = self._notes, []
        return "".join(notes)

    def _draw(self, text: str) -> None:
        sys.stderr.write(f"\r{text.ljust(self._drawn)}" + "\r"[: not text])
        sys.stderr.flush()
        self._drawn = len(text)

    def _print(self, text: str) -> None:
        if self._drawn and self._output.is_terminal:
            self._draw("")
        self._output.write(text.encode(self._encoding, "backslashreplace"))


def _shown(data: bytes) -> str:
    """*data* as text, in which there is a line feed where a line has ended."""
    if _is_text(data):
        text = data.decode().replace("\\", "\\\\").replace("\t", "\\t")
        return text.replace("\n", "\\n\n").replace("\r\\n\n", "\n").replace("\r", "\\r")
    # With a NUL in it, no line need be tried as text.
    show = _escaped if b"\0" in data else _shown_piece
    *lines, rest = data.split(b"\n")
    ended = [show(x[:-1]) + "\n" if x[-1:] == b"\r" else show(x) + "\\n\n" for x in lines]
    return "".join([*ended, show(rest)])


def _is_text(data: bytes) -> bool:
    """Whether *data* is all printable UTF-8 but for tabs and the ends of its lines."""
    special = data.translate(None, _PLAIN)
    try:
        return not special or (bool(data.decode()) and special.decode().isprintable())
    except UnicodeDecodeError:
        return False


def _shown_piece(piece: bytes) -> str:
    if piece.isascii():
        return _escaped(piece)
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return _escaped(piece)
    text = text.replace("\\", "\\\\")
    return "".join([char if char.isprintable() else _escaped(char.encode()) for char in text])


def _escaped(data: bytes) -> str:
    return data.decode("latin-1").encode("unicode_escape").decode("ascii")


class Answer:
    """As much of HTTP as tells the head of an answer, and a whole one from a part of one."""

    def __init__(self) -> None:
        # None once it is over.
        self._head: bytes | None = b""
        self._length: int | None = None
        self._body = 0

    def take(self, data: bytes) -> int:
        """How many bytes of *data*, which has come next, are the head's."""
        if self._head is None:
            self._body += len(data)
            return 0
        self._head += data
        while found := _HEAD_END.search(self._head):
            head, rest = self._head[: found.end()], self._head[found.end() :]
            # It comes after "HTTP/1.1 ". All that begin with 1, but one, announce another head.
            status = head[9:12]
            if status[:1] != b"1" or status == b"101":
                length = None if _CHUNKED.search(head) else _LENGTH.search(head)
                self._length = 0 if status in (b"204", b"304") else length and int(length[1])
                self._head, self._body = None, len(rest)
                return len(data) - len(rest)
            self._head = rest
        if len(self._head) > _LONGEST_HEAD:
            self._head = None
        return len(data)

    def missing(self) -> int | None:
        """How many bytes of Content-Length have not come; None where nothing says how many."""
        return None if self._length is None else self._length - self._body


def facts(tls: Any) -> Iterator[str]:
    """What there is to say about the certificate of *tls*: ``ssl`` decodes what it has verified."""
    if certificate := tls.getpeercert():
        for whose in ("subject", "issuer"):
            pairs = [f"{name}={value}" for part in certificate[whose] for name, value in part]
            yield f"certificate {whose}: {', '.join(pairs)}"
        names = [name for _, name in certificate.get("subjectAltName", ())]
        yield f"certificate names: {', '.join(names)}"
        yield f"certificate valid: {certificate['notBefore']} to {certificate['notAfter']}"
    if der := tls.getpeercert(binary_form=True):
        yield f"certificate SHA-256: {hashlib.sha256(der).hexdigest()}"
