"""The package works wherever it is copied to, under any name; importing it only defines things."""

from __future__ import annotations

import ast
import re
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
    hidden = shutil.ignore_patterns("__pycache__", ".*")
    for copy in ("first/vendor/net", "second/_http"):
        shutil.copytree(PACKAGE, tmp_path / copy, ignore=hidden)

    def run(script: str) -> None:
        script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{textwrap.dedent(script)}"
        # Isolated, so that neither this package nor one that is installed can be found.
        command = [sys.executable, "-I", "-S", "-B", "-W", "error", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")

    return run


def test_a_copy_works_under_another_name(run: Run) -> None:
    run("""
        from first.vendor.net import __main__ as command

        # It makes use of everything, and without a URL it talks to a server of its own.
        assert command.main([]) == 0
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


def test_importing_does_nothing_but_define_and_brings_nothing_that_only_some_need(run: Run) -> None:
    # The first copy brings in what both need of the standard library; the second one is watched.
    run("""
        import first.vendor.net

        rare = {"argparse", "asyncio", "decimal", "fractions", "importlib.metadata", "queue"}
        assert not rare & {*sys.modules}

        import atexit, os, signal, socket, threading, warnings

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


def test_it_imports_nothing_but_itself_and_what_comes_with_python() -> None:
    for path in PACKAGE.glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        imports = [
            ast.unparse(each) for each in nodes if isinstance(each, ast.Import | ast.ImportFrom)
        ]
        for module in re.findall(r"(?m)^(?:from|import) (\w+)", "\n".join(imports)):
            assert module in sys.stdlib_module_names, path.name
