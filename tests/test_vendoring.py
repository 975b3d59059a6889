"""The package works wherever it is copied to, under any name; importing it only defines things."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import httpx_net

PACKAGE = Path(httpx_net.__file__).parent

Run = Callable[[str], None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a script where ``first.vendor.net`` and ``second._http`` are copies of the package."""
    for copy in ("first/vendor/net", "second/_http"):
        shutil.copytree(
            PACKAGE, tmp_path / copy, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    for package in ("first", "first/vendor", "second"):
        (tmp_path / package / "__init__.py").touch()

    def run(script: str) -> None:
        script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{textwrap.dedent(script)}"
        # Isolated, so that neither this package nor one that is installed can be found.
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", "-W", "error", "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""

    return run


def test_a_copy_works_under_another_name(run: Run) -> None:
    run("""
        import socket
        from first.vendor import net

        listener = socket.create_server(("127.0.0.1", 0))
        with net.timeout(10.0), net.NetworkBackend().connect(*listener.getsockname()) as stream:
            conn, _ = listener.accept()
            with conn:
                stream.write(b"hello")
                assert conn.recv(10) == b"hello"
                conn.sendall(b"world")
                assert stream.read() == b"world"
            assert net.NetworkBackend().getaddrinfo("localhost", 80)
        listener.close()
        assert net.__name__ == "first.vendor.net"
        assert "httpx_net" not in sys.modules
    """)


def test_the_deadlines_of_one_copy_are_not_those_of_another(run: Run) -> None:
    run("""
        import first.vendor.net as first
        import second._http as second

        with first.timeout(60.0):
            assert 0 < first.remaining() <= 60.0
            assert second.remaining() is None
            with second.timeout(0):
                assert first.remaining() > 0
        assert not issubclass(first.NetworkStream, second.NetworkStreamInterface)
    """)


def test_importing_does_nothing_but_define(run: Run) -> None:
    # The first copy brings in what both need of the standard library; the second one is watched.
    run("""
        import atexit, gc, os, signal, socket, threading, warnings
        import first.vendor.net

        def refused(*args, **kwargs):
            raise AssertionError(f"called with {args}")

        def audit(event, args):
            if event.partition(".")[0] in {"socket", "subprocess", "os", "signal"}:
                assert event in {"os.listdir", "os.scandir"}, (event, args)
            if event == "open":
                assert str(args[0]).endswith((".py", ".pyc")), args

        os.register_at_fork = atexit.register = threading.Thread.start = refused
        signal.signal = warnings.simplefilter = warnings.filterwarnings = refused
        filters, modules = list(warnings.filters), set(sys.modules)
        switch, default = sys.getswitchinterval(), socket.getdefaulttimeout()
        sys.addaudithook(audit)

        import second._http

        assert warnings.filters == filters
        assert (sys.getswitchinterval(), socket.getdefaulttimeout()) == (switch, default)
        assert threading.active_count() == 1
        new = {name for name in set(sys.modules) - modules if not name.startswith("second")}
        assert not new, new
    """)


def test_importing_it_brings_nothing_that_only_some_need(run: Run) -> None:
    run("""
        import first.vendor.net as net

        assert net.__version__
        rare = {"argparse", "asyncio", "decimal", "fractions", "importlib.metadata", "queue"}
        assert not rare & {*sys.modules}
    """)


def test_the_command_of_a_copy_works_too(run: Run) -> None:
    run("""
        import runpy

        sys.argv[1:] = ["--help"]
        try:
            runpy.run_module("first.vendor.net", run_name="__main__", alter_sys=True)
        except SystemExit as exc:
            assert not exc.code
        assert "httpx_net" not in sys.modules
    """)


def test_it_imports_itself_relatively_and_else_only_what_comes_with_python() -> None:
    for path in PACKAGE.glob("*.py"):
        known = sys.stdlib_module_names
        if path.name == "__main__.py":
            # The command does without truststore where that is not installed.
            known |= {"truststore"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                assert name.partition(".")[0] in known, f"{path.name}:{node.lineno}: {name}"
