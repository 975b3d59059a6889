"""What single adapters do, beyond what is asked of all; and the page about them."""

from __future__ import annotations

import re
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest

import httpx_net
from clients import ADAPTERS, adapter, installed
from peers import echo
from test_clients import TIGHT
from test_docs import blocks, run_session

PAGE = ADAPTERS.parent / "embedding.rst"

pytestmark = pytest.mark.usefixtures("internet")


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


def test_other_clients_find_a_file_of_text_and_shutdown(peers: Any) -> None:
    stream = httpx_net.NetworkBackend().connect(*peers.serve(echo))
    sock = adapter("stream_socket").StreamSocket(stream, object())  # "No timeout was given."
    with sock.makefile("rw", encoding="utf-8", newline="\r\n") as file:  # As ftplib opens it.
        file.write("grüß\n")
        file.flush()
        assert file.readline() == "grüß\r\n"
        sock.shutdown(socket.SHUT_RDWR)  # As imaplib and poplib end.
        assert file.read() == ""
    sock.close()


# ---- The page


def test_the_page_names_every_recipe_and_none_is_longer_than_promised() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for path in ADAPTERS.glob("*.py"):
        assert path.name in page
        assert len(path.read_text(encoding="utf-8").splitlines()) < 90


def sections() -> dict[str, range]:
    """The sections of the page, and their lines."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    titles = [n for n in range(1, len(lines)) if re.fullmatch("-{4,}", lines[n])]
    ends = [*titles[1:], len(lines)]
    return {lines[n - 1]: range(n, end) for n, end in zip(titles, ends, strict=True)}


VERSIONS = {"requests": "2", "httpcore": "1", "httpx": "0.28", "urllib3": "2", "h11": "0"}


@pytest.mark.parametrize("title", sections())
def test_the_samples_run_as_printed(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, versions = sections()[title], VERSIONS | ({"httpx": "1.0"} if "1.0" in title else {})
    samples = [each for each in blocks(PAGE) if each.language == "pycon" and each.line in lines]
    for package in re.findall(r">>> import (\w+)", "".join(each.text for each in samples)):
        if package in versions:
            installed(package, versions[package])
    shutil.copytree(Path(httpx_net.__file__).parent, tmp_path / "yourclient" / "_net")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(adapter("stdlib_client").Connecting, "net", httpx_net.NetworkBackend())
    namespace: dict[str, Any] = {"__name__": title}
    for sample in samples:
        run_session(PAGE, sample, namespace)
