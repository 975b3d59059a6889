"""The benchmarks run, and make the page and the chart. How fast anything is, nobody asserts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
BEGIN = ".. The tables are made by tests/benchmarks/run.py --rst."
END = ".. Here the tables end."

# Those that take a second; --smoke runs one round of each.
QUICK_PARTS = ("small", "blocks", "uploads", "connecting", "keepalive", "memory")


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, BENCHMARKS / script, *arguments]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Smoke:
    """One round of each of the benchmarks, all at once: one of them does little but wait."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._running: dict[tuple[str, ...], subprocess.Popen[bytes]] = {}
        for parts in (("limits",), QUICK_PARTS, ("calls",)):
            arguments = ["--smoke", "--only", *parts, "--json", self._file(parts, "json")]
            with open(self._file(parts, "log"), "wb") as log:
                process = subprocess.Popen(
                    [sys.executable, BENCHMARKS / "run.py", *arguments],
                    stdout=log,
                    stderr=log,
                )
            stack.enter_context(process)
            stack.callback(process.kill)  # for which nobody has asked
            self._running[parts] = process

    def kept(self, *parts: str) -> Path:
        """The results of *parts*."""
        assert self._running[parts].wait(60) == 0, self._file(parts, "log").read_text()
        return self._file(parts, "json")

    def _file(self, parts: tuple[str, ...], suffix: str) -> Path:
        return self._directory / f"{parts[0]}.{suffix}"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Smoke]:
    with ExitStack() as stack:
        yield Smoke(tmp_path_factory.mktemp("benchmarks"), stack)


@pytest.fixture
def kept(smoke: Smoke) -> Path:
    """The results of one round of everything that takes no time."""
    return smoke.kept(*QUICK_PARTS)


def test_everybody_is_measured_beside_the_socket(kept: Path) -> None:
    parts = json.loads(kept.read_text())["parts"]
    assert list(parts) == list(QUICK_PARTS)
    for part in parts.values():
        for row in part["rows"]:
            ours = {"httpx_net", "keepalive=60.0"} & set(row["values"])
            assert ours, row["what"]
            assert (row["baseline"] or "socket") in row["values"], row["what"]


def test_a_limit_ends_what_a_peer_draws_out(smoke: Smoke, tmp_path: Path) -> None:
    kept, chart = smoke.kept("limits"), tmp_path / "chart.svg"
    rows = json.loads(kept.read_text())["parts"]["limits"]["rows"]
    outcomes = {row["values"]["httpx_net"]["outcome"] for row in rows}
    assert "TimeoutError" in outcomes <= {"TimeoutError", "KeyboardInterrupt", "success"}
    # Never early.
    assert all(
        values["value"] >= row["limit"]
        for row in rows
        if (values := row["values"]["httpx_net"])["outcome"] == "TimeoutError"
    )
    run("chart.py", kept, chart)
    bars = ElementTree.parse(chart).getroot().iter("{http://www.w3.org/2000/svg}rect")
    assert len(list(bars)) > len(rows)


def test_the_page_takes_its_tables_from_kept_results(kept: Path, tmp_path: Path) -> None:
    page = tmp_path / "performance.rst"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\nafter\n")
    run("run.py", "--from", kept, "--rst", page)
    before, tables, after = re.split(f"{BEGIN}|{END}", page.read_text())
    assert (before, after) == ("before\n\n", "\nafter\n")
    assert re.search(r"\nread 64 bytes, plain, a deadline +[\d.]+ us +[\d.]+", tables)
    assert "old" not in tables


def test_a_deadline_adds_no_system_call_to_what_is_ready(smoke: Smoke) -> None:
    rows = json.loads(smoke.kept("calls").read_text())["parts"]["calls"]["rows"]
    if not rows:
        pytest.skip("no strace here, or none that may trace")
    calls = {row["what"]: row["values"]["httpx_net"]["calls"] for row in rows}
    assert calls["read that is ready, plain, a deadline"] == "recvfrom"
    assert calls["write that is ready, plain, a deadline"] == "sendto"
    assert calls["read that must wait, plain, a deadline"] == "recvfrom poll recvfrom"
