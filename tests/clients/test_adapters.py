"""What single adapters do, beyond what is asked of all; and the page about them."""

from __future__ import annotations

import poplib
import re
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest

import httpx_net
from clients import ADAPTERS, adapter, installed
from peers import HANG, silent
from test_clients import TIGHT
from test_docs import blocks, run_session

PAGE = ADAPTERS.parent / "embedding.rst"


def test_a_source_address_is_refused() -> None:
    connection = adapter("stdlib_client").HTTPConnection("localhost", source_address=("::1", 0))
    with pytest.raises(ValueError, match="local_address"):
        connection.connect()
    manager = installed("urllib3", "2").PoolManager(source_address=("::1", 0))
    with pytest.raises(ValueError, match="local_address"):
        adapter("urllib3_pools").over_httpx_net(manager).request("GET", "http://localhost/")


def test_what_urllib3_could_not_keep_is_refused() -> None:
    manager = installed("urllib3", "2").PoolManager()
    manager.pool_classes_by_scheme = {"http": object}  # As SOCKSProxyManager has it.
    with pytest.raises(ValueError, match="pools of its own"):
        adapter("urllib3_pools").over_httpx_net(manager)
    contrib = pytest.importorskip("urllib3.contrib.pyopenssl", reason="pyopenssl is not installed")
    context = contrib.PyOpenSSLContext(contrib.util.ssl_.PROTOCOL_TLS_CLIENT)
    with pytest.raises(TypeError, match="pyOpenSSL"):
        adapter("stream_socket").StartTLS(context)


def test_httpcore_does_not_sleep_past_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    httpcore, backend = installed("httpcore", "1"), adapter("httpcore_backend").Backend()
    slept, sleep = [], time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: slept.append(seconds) or sleep(seconds))
    pool = httpcore.ConnectionPool(network_backend=backend, retries=9)
    with pool, pytest.raises(httpcore.ConnectTimeout), httpx_net.timeout(TIGHT):
        pool.request("GET", "http://closed.example.com/")
    assert 0 < max(slept) <= TIGHT  # The second retry would wait for half a second.


# ---- Mail: clients that call more of a socket


def converses(*lines: bytes) -> Any:
    """A server that says the first of *lines*, and another for each line that it hears."""

    def server(conn: socket.socket) -> None:
        with conn.makefile("rb") as file:
            for line in lines:
                conn.sendall(line + b"\r\n")
                file.readline()
        silent(conn)

    return server


def connect(address: Any, timeout: float | None = None) -> Any:
    stream = httpx_net.NetworkBackend().connect(*address)
    return adapter("stream_socket").StreamSocket(stream, timeout)


def test_poplib_opens_and_shuts_down(serve: Any) -> None:
    class POP3(poplib.POP3):
        def _create_socket(self, timeout: Any) -> Any:
            return connect((self.host, self.port), timeout)

    with httpx_net.timeout(HANG):
        client = POP3(*serve(converses(b"+OK hello", b"+OK 0 0", b"+OK bye")))
        assert client.stat() == (0, 0)
        client.quit()


def test_a_file_of_text_reads_and_writes(serve: Any) -> None:
    sock = connect(serve(converses("220 grüß".encode(), b"221 bye")))
    with sock.makefile("rw", encoding="utf-8", newline="\r\n") as file:  # As ftplib opens it.
        assert file.readline() == "220 grüß\r\n"
        file.write("QUIT\r\n")
        file.flush()
        assert file.readline() == "221 bye\r\n"
        sock.close()


# ---- The page


def test_the_page_names_every_recipe_and_none_is_longer_than_promised() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for path in ADAPTERS.glob("*.py"):
        assert path.name in page
        assert len(path.read_text(encoding="utf-8").splitlines()) < 90


NEEDS: dict[str, list[tuple[str, str]]] = {
    "What the timeouts of clients do": [("requests", "2")],
    "Vendoring": [],
    "http.client and urllib.request": [],
    "httpcore and httpx 0.28": [("httpcore", "1"), ("httpx", "0.28")],
    "httpx 1.0": [("httpx", "1.0")],
    "urllib3 and requests": [("urllib3", "2")],
    "HTTP by h11": [("h11", "0")],
}


def sections() -> dict[str, range]:
    """The sections of the page, and their lines."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    titles = [n for n in range(1, len(lines)) if re.fullmatch("-{4,}", lines[n])]
    ends = [*titles[1:], len(lines)]
    return {lines[n - 1]: range(n, end) for n, end in zip(titles, ends, strict=True)}


def test_every_section_with_a_sample_is_replayed() -> None:
    where = [block.line for block in blocks(PAGE) if block.language in ("pycon", "python")]
    found = {title for title, lines in sections().items() if any(n in lines for n in where)}
    assert found == set(NEEDS)


@pytest.mark.parametrize("title", NEEDS)
def test_the_samples_run_as_printed(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package, version in NEEDS[title]:
        installed(package, version)
    shutil.copytree(Path(httpx_net.__file__).parent, tmp_path / "yourclient" / "_net")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(adapter("stdlib_client").Connecting, "net", httpx_net.NetworkBackend())
    namespace: dict[str, Any] = {"__name__": title}
    for block in blocks(PAGE):
        if block.language == "pycon" and block.line in sections()[title]:
            run_session(PAGE, block, namespace)
