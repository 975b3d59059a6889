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
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest

import conformance
import hooks
import httpx_net
from internet import Internet
from peers import CERTIFICATES, Peers

ROOT = Path(__file__).parent.parent
ELSEWHERE = {"embedding.rst", "performance.rst"}  # these have tests of their own
PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))]
SAMPLED = [page for page in PAGES if page.name not in ELSEWHERE]

BLOCK = re.compile(
    r"^(?P<indent> *)\.\. code-block:: (?P<language>\w+)\n+"
    r"(?P<text>(?:(?P=indent) {2,}.*\n|\n)+)",
    re.MULTILINE,
)


class Block(NamedTuple):
    language: str
    line: int
    text: str


def blocks(page: Path) -> list[Block]:
    """The code blocks of *page*, without their indentation."""
    found = []
    source = page.read_text(encoding="utf-8") + "\n"
    for match in BLOCK.finditer(source):
        text = match["text"].rstrip("\n") + "\n"
        margin = len(text) - len(text.lstrip(" "))
        text = "".join(line[margin:] or "\n" for line in text.splitlines(keepends=True))
        found.append(Block(match["language"], source.count("\n", 0, match.start("text")), text))
    return found


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


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory of samples that name files."""
    shutil.copy(CERTIFICATES / "client.pem", tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def yourclient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that has vendored this one: ``from yourclient import _net``."""
    own = Path(httpx_net.__file__).parent
    shutil.copytree(own, tmp_path / "yourclient" / "_net", ignore=shutil.ignore_patterns(".*"))
    (tmp_path / "yourclient" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "yourclient"]:
        del sys.modules[name]


@pytest.mark.usefixtures("internet", "here", "yourclient")
@pytest.mark.parametrize("page", SAMPLED, ids=lambda page: page.name)
def test_every_sample_runs_as_printed(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "LIMIT", 0.02)  # a page runs its streams through that
    namespace: dict[str, Any] = {"__name__": page.stem}
    printed = None
    for block in blocks(page):
        if block.language == "python":
            printed = run_python(page, block, namespace)
        elif block.language == "pycon":
            run_session(page, block, namespace)
        elif block.language == "text" and printed is not None:
            matches = Checker().check_output(block.text, printed.rstrip() + "\n", doctest.ELLIPSIS)
            assert matches, f"{page.name}:{block.line} is not what is printed:\n{printed}"
            printed = None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_of_code_is_overlooked(page: Path) -> None:
    assert len(blocks(page)) == page.read_text(encoding="utf-8").count(".. code-block::")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_page(page: Path) -> None:
    links = re.findall(r"<([\w./-]+)>`_|:: ([\w/-]+\.svg)$", page.read_text("utf-8"), re.MULTILINE)
    assert [link for link in map("".join, links) if not (page.parent / link).exists()] == []


def test_the_figure_is_well_formed() -> None:
    ElementTree.parse(ROOT / "docs" / "deadlines.svg")


@pytest.mark.parametrize("page", SAMPLED, ids=lambda page: page.name)
def test_every_page_shows_something_that_fails(page: Path) -> None:
    if page.name == "changelog.rst":
        return  # it shows nothing at all
    assert any("Traceback" in block.text for block in blocks(page) if block.language == "pycon")


def test_the_reference_has_all_that_is_public() -> None:
    page = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    assert [name for name in httpx_net.__all__ if f"``httpx_net.{name}" not in page] == []


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("httpx_net.timeout{}", httpx_net.timeout),
        ("httpx_net.remaining{}", httpx_net.remaining),
        ("httpx_net.NetworkBackend{}", httpx_net.NetworkBackend),
        ("net.connect{}", httpx_net.NetworkBackend().connect),
        ("net.getaddrinfo{}", httpx_net.NetworkBackend().getaddrinfo),
        ("httpx_net.NetworkStream{}", httpx_net.NetworkStream),
    ],
)
def test_the_signatures_of_the_reference_are_right(written: str, what: Any) -> None:
    parameters = inspect.signature(what).parameters.values()
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    page = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    assert f"\n``{written.format(inspect.Signature(bare))}``\n" in page


@pytest.mark.parametrize(
    "sample", [hooks.CachingBackend, hooks.PinnedBackend, hooks.PublicBackend, hooks.is_public]
)
def test_the_hooks_of_the_page_are_those_that_are_tested(sample: Any) -> None:
    code = [block.text for block in blocks(ROOT / "docs" / "connecting.rst")]
    assert any(inspect.getsource(sample) in text for text in code)


# docs/errors.rst has a row for each of these.
SITUATIONS: dict[str, Callable[[], object]] = {}


def situation(row: str) -> Callable[[Callable[[], object]], object]:
    return lambda scene: SITUATIONS.setdefault(row, scene)


def connect(host: str, port: int = 80, **options: Any) -> httpx_net.NetworkStream:
    return httpx_net.NetworkBackend(**options).connect(host, port)


def connect_tls(host: str, hostname: str | None = None) -> httpx_net.NetworkStream:
    stream = connect(host, 443)
    stream.start_tls(ssl.create_default_context(), hostname=hostname or host)
    return stream


@situation("the name does not resolve")
def _() -> None:
    connect("no-such-name.example.com")


@situation("the resolver does not answer in time")
def _() -> None:
    with httpx_net.timeout(0.05):
        connect("slow-dns.example.com")


@situation("none of the addresses can be used")
def _() -> None:
    connect("www.example.com", local_address="::1")


@situation("nobody listens on the port")
def _() -> None:
    connect("closed.example.com")


@situation("no address answers in time")
def _() -> None:
    with httpx_net.timeout(0.5):
        connect("dead.example.com")


@situation("one address refuses, another does not answer in time")
def _() -> None:
    with httpx_net.timeout(0.5):
        connect("mixed.example.com")


@situation("the deadline has passed before the connect")
def _() -> None:
    with httpx_net.timeout(0):
        connect("www.example.com")


@situation("the local address is not one of this machine")
def _() -> None:
    connect("www.example.com", local_address="203.0.113.99")


@situation("the certificate is for another name")
def _() -> None:
    connect_tls("wrong-name.example.com")


@situation("the certificate has expired")
def _() -> None:
    connect_tls("expired.example.com")


@situation("the certificate is signed by itself")
def _() -> None:
    connect_tls("self-signed.example.com")


@situation("the handshake is not answered in time")
def _() -> None:
    with connect("silent.example.com", 443) as stream, httpx_net.timeout(0.05):
        stream.start_tls(ssl.create_default_context(), hostname="silent.example.com")


@situation("nothing arrives in time")
def _() -> None:
    with connect("silent.example.com") as stream, httpx_net.timeout(0.05):
        stream.read()


@situation("the peer has reset the connection")
def _() -> None:
    with connect("reset.example.com") as stream:
        stream.write(b"GET / HTTP/1.1\r\n\r\n")
        stream.read()


@situation("TLS ends without close_notify")
def _() -> None:
    with connect_tls("cut.example.com") as stream:
        stream.write(b"GET / HTTP/1.0\r\n\r\n")
        while stream.read():
            pass


@situation("the stream is closed")
def _() -> None:
    with connect("www.example.com") as stream:
        pass
    stream.read()


@situation("the peer takes only part of it in time")
def _() -> None:
    with connect("full.example.com") as stream, httpx_net.timeout(0.05):
        stream.write(bytes(20_000_000))


@situation("on TLS, an earlier write has failed")
def _() -> None:
    plenty = bytes(20_000_000)
    with connect_tls("full.example.com") as stream:
        with pytest.raises(TimeoutError, match=r"timed out after [1-9]"), httpx_net.timeout(0.2):
            stream.write(plenty)
        stream.write(b"more")


@situation("the port is out of range")
def _() -> None:
    connect("www.example.com", 65536)


@situation("the host is not a host")
def _() -> None:
    connect("www..example.com")


@situation("a name that the context checks is not given")
def _() -> None:
    with connect("www.example.com", 443) as stream:
        stream.start_tls(ssl.create_default_context())


@situation("the data is not bytes")
def _() -> None:
    with connect("www.example.com") as stream:
        stream.write("GET / HTTP/1.1")  # type: ignore[arg-type]


@situation("a timeout is negative")
def _() -> None:
    httpx_net.timeout(-1)


@situation("a timeout object is used twice")
def _() -> None:
    t = httpx_net.timeout(3.0)
    for _ in range(2):
        with t:
            pass


ROW = re.compile(
    r"^   \* - (?P<situation>.+)\n     - ``(?P<class>.+)``\n     - ``(?P<text>[^`]+)``$",
    re.MULTILINE,
)


def rows() -> dict[str, tuple[str, str]]:
    """What docs/errors.rst promises: class and text, by situation."""
    page = (ROOT / "docs" / "errors.rst").read_text(encoding="utf-8")
    return {row[1]: (row[2], " ".join(row[3].split())) for row in ROW.finditer(page)}


def test_the_table_of_errors_has_the_situations_that_are_tried_here() -> None:
    assert list(rows()) == list(SITUATIONS)


@pytest.mark.usefixtures("internet")
@pytest.mark.parametrize("situation", SITUATIONS)
def test_errors_are_as_the_table_says(situation: str) -> None:
    name, text = rows()[situation]
    with pytest.raises(Exception) as caught:
        SITUATIONS[situation]()
    error = caught.type
    module = "" if error.__module__ == "builtins" else f"{error.__module__}."
    assert f"{module}{error.__name__}" == name
    assert without_numbers(str(caught.value)) == without_numbers(text)


def without_numbers(text: str) -> str:
    """*text* without what depends on the system: numbers of errors, sizes of buffers."""
    return re.sub(r"\[Errno -?\d+\]|after \d+ of", "_", tidied(text))
