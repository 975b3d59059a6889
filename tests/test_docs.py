"""The documentation is right: its samples run as printed, and its tables say what happens.

In README.rst and docs/*.rst, the ``python`` blocks of a page are run and its ``pycon`` blocks are
replayed as sessions, in their order and in one namespace. A ``text`` block that follows a
``python`` block is what that prints. ``...`` stands for anything. Everything happens on loopback,
see ``internet.py``.
"""

from __future__ import annotations

import contextlib
import doctest
import inspect
import io
import re
import shutil
import ssl
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest

import httpx_net
from internet import Internet
from peers import CERTIFICATES, Peers

ROOT = Path(__file__).parent.parent
ELSEWHERE = {"embedding.rst", "performance.rst", "command.rst"}  # these have tests of their own
PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))]
SAMPLED = [page for page in PAGES if page.name not in ELSEWHERE]

BLOCK = re.compile(r"(?m)^( *)\.\. code-block:: (\w+)\n+((?:\1 {2,}.*\n|\n)+)")


class Block(NamedTuple):
    language: str
    line: int
    text: str


def blocks(page: Path) -> list[Block]:
    """The code blocks of *page*, without their indentation."""
    source = page.read_text(encoding="utf-8") + "\n"
    return [
        Block(match[2], source.count("\n", 0, match.start(3)), textwrap.dedent(match[3]))
        for match in BLOCK.finditer(source)
    ]


@pytest.fixture
def internet(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Internet]:
    internet = Internet(peers, monkeypatch)
    yield internet
    internet.close()


def tidied(text: str) -> str:
    """*text* without what no page prints: blanks at the end of lines, and where in C it failed."""
    text = re.sub(r"[ \r]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\(_ssl\.c:\d+\)", "(_ssl.c:1000)", text)


class Checker(doctest.OutputChecker):
    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(want, tidied(got), optionflags)


def run_python(page: Path, block: Block, namespace: dict[str, Any]) -> str:
    """Run *block* and return what it prints. Tracebacks show the page and its lines."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile("\n" * block.line + block.text, str(page), "exec"), namespace)
    return printed.getvalue()


def run_session(page: Path, block: Block, namespace: dict[str, Any]) -> None:
    """Replay *block*, a session at the prompt, and compare what it prints."""
    parser = doctest.DocTestParser()
    session = parser.get_doctest(block.text, namespace, page.name, str(page), block.line)
    report = io.StringIO()
    runner = doctest.DocTestRunner(Checker(), verbose=False, optionflags=doctest.ELLIPSIS)
    failed, _ = runner.run(session, out=report.write, clear_globs=False)
    namespace.update(session.globs)
    assert not failed, report.getvalue()


def classes(name: str) -> Any:
    """What a page defines, for other pages and for tests of their own."""
    namespace: dict[str, Any] = {"httpx_net": httpx_net, "__name__": name}
    for block in blocks(ROOT / "docs" / name):
        if block.language == "python" and re.search(r"(?m)^(class|def) ", block.text):
            text = block.text.partition("\nwith ")[0]
            exec(compile("\n" * block.line + text, name, "exec"), namespace)
    return SimpleNamespace(**namespace)


@pytest.mark.usefixtures("internet")
@pytest.mark.parametrize("page", SAMPLED, ids=lambda page: page.name)
def test_every_sample_runs_as_printed(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where the files are that samples name.
    shutil.copy(CERTIFICATES / "client.pem", tmp_path)
    monkeypatch.chdir(tmp_path)
    namespace = {
        "__name__": page.stem,
        "read_response": classes("quickstart.rst").read_response,
    }
    printed = None
    for block in blocks(page):
        if block.language == "python":
            printed = run_python(page, block, namespace)
        elif block.language == "pycon":
            run_session(page, block, namespace)
        elif block.language == "text" and printed is not None:
            text = block.text.rstrip()
            matches = Checker().check_output(text, printed.rstrip(), doctest.ELLIPSIS)
            assert matches, f"{page.name}:{block.line} is not what is printed:\n{printed}"
            printed = None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_of_code_is_overlooked(page: Path) -> None:
    assert len(blocks(page)) == page.read_text(encoding="utf-8").count(".. code-block::")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_page(page: Path) -> None:
    links = re.findall(r"<([\w./-]+)>`_|:: ([\w/-]+\.svg)$", page.read_text("utf-8"), re.MULTILINE)
    assert [link for link in map("".join, links) if not (page.parent / link).exists()] == []


def test_the_figures_are_well_formed() -> None:
    for figure in (ROOT / "docs").glob("*.svg"):
        ElementTree.parse(figure)


def test_the_reference_has_all_that_is_public_with_its_signature() -> None:
    page = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    assert [name for name in httpx_net.__all__ if f"``httpx_net.{name}" not in page] == []
    owners = {"net": httpx_net.NetworkBackend, "stream": httpx_net.NetworkStream}
    owners |= {"httpx_net": httpx_net, "t": httpx_net.timeout}
    for owner, name, written in re.findall(r"(?m)^``(\w+)\.(\w+)(\(.*\))``$", page):
        parameters = inspect.signature(getattr(owners[owner], name)).parameters.values()
        bare = [each.replace(annotation=each.empty) for each in parameters if each.name != "self"]
        assert str(inspect.Signature(bare)) == written, name


def connect(host: str, port: int = 80, within: float | None = None, **options: Any) -> Any:
    with httpx_net.timeout(within):
        return httpx_net.NetworkBackend(**options).connect(host, port)


def connect_tls(host: str, within: float | None = None) -> httpx_net.NetworkStream:
    stream, context = connect(host, 443), ssl.create_default_context()
    with httpx_net.timeout(within):
        stream.start_tls(context, hostname=host)
    return stream


def on(stream: httpx_net.NetworkStream, *writes: bytes, within: float | None = None) -> None:
    """Write that, and read to the end."""
    with stream, httpx_net.timeout(within):
        for data in writes:
            stream.write(data)
        while stream.read():
            pass


def read_after_close() -> None:
    with connect("www.example.com") as stream:
        pass
    stream.read()


def write_after_a_failed_one() -> None:
    with connect_tls("full.example.com") as stream:
        with pytest.raises(TimeoutError, match=r"after [1-9]"), httpx_net.timeout(0.2):
            stream.write(bytes(20_000_000))
        stream.write(b"more")


def start_without_a_name() -> None:
    with connect("www.example.com", 443) as stream:
        stream.start_tls(ssl.create_default_context())


def enter_twice() -> None:
    t = httpx_net.timeout(3.0)
    for _ in range(2):
        with t:
            pass


GET = b"GET / HTTP/1.0\r\n\r\n"

# docs/errors.rst has a row for each of these.
SITUATIONS: dict[str, Callable[[], object]] = {
    "the name does not resolve": lambda: connect("no-such-name.example.com"),
    "the resolver does not answer in time": lambda: connect("slow-dns.example.com", within=0.05),
    "none of the addresses can be used": lambda: connect("www.example.com", local_address="::1"),
    "nobody listens on the port": lambda: connect("closed.example.com"),
    "no address answers in time": lambda: connect("dead.example.com", within=0.5),
    "one address refuses, another does not answer in time": lambda: connect(
        "mixed.example.com", within=0.5
    ),
    "the deadline has passed before the connect": lambda: connect("www.example.com", within=0),
    "the local address is not one of this machine": lambda: connect(
        "www.example.com", local_address="203.0.113.99"
    ),
    "the certificate is for another name": lambda: connect_tls("wrong-name.example.com"),
    "the certificate has expired": lambda: connect_tls("expired.example.com"),
    "the certificate is signed by itself": lambda: connect_tls("self-signed.example.com"),
    "the handshake is not answered in time": lambda: connect_tls("silent.example.com", 0.1),
    "the server does not speak TLS": lambda: connect_tls("plain.example.com"),
    "nothing arrives in time": lambda: on(connect("silent.example.com"), within=0.05),
    "the peer has reset the connection": lambda: on(connect("reset.example.com"), GET),
    "TLS ends without close_notify": lambda: on(connect_tls("cut.example.com"), GET),
    "the stream is closed": read_after_close,
    "the peer takes only part of it in time": lambda: on(
        connect("full.example.com"), bytes(20_000_000), within=0.05
    ),
    "on TLS, an earlier write has failed": write_after_a_failed_one,
    "the port is out of range": lambda: connect("www.example.com", 65536),
    "the host is not a host": lambda: connect("www..example.com"),
    "a name that the context checks is not given": start_without_a_name,
    "the data is not bytes": lambda: on(connect("www.example.com"), "GET"),  # type: ignore[arg-type]
    "a timeout is negative": lambda: httpx_net.timeout(-1),
    "a timeout object is used twice": enter_twice,
}


ROW = re.compile(
    r"^   \* - (?P<situation>.+)\n     - ``(?P<class>.+)``\n     - ``(?P<text>[^`]+)``$",
    re.MULTILINE,
)


def rows() -> dict[str, str]:
    """What docs/errors.rst promises: class and text, by situation."""
    page = (ROOT / "docs" / "errors.rst").read_text(encoding="utf-8")
    return {row[1]: f"{row[2]}: {' '.join(row[3].split())}" for row in ROW.finditer(page)}


def test_the_table_of_errors_has_the_situations_that_are_tried_here() -> None:
    assert list(rows()) == list(SITUATIONS)


@pytest.mark.usefixtures("internet")
@pytest.mark.parametrize("situation", SITUATIONS)
def test_errors_are_as_the_table_says(situation: str) -> None:
    with pytest.raises(Exception) as caught:
        SITUATIONS[situation]()
    (text,) = traceback.format_exception_only(caught.value)
    assert without_numbers(text) == without_numbers(rows()[situation] + "\n")


def without_numbers(text: str) -> str:
    """*text* without what depends on the system: numbers, sizes of buffers, OpenSSL's words."""
    return re.sub(r"\[Errno -?\d+\]|after \d+ of|\[SSL: (?!CERT)\w+\].*", "_", tidied(text))
