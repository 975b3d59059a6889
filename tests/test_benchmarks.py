"""The benchmarks run, and make the page and the chart. How fast anything is, nobody asserts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
BEGIN = ".. The tables are made by tests/benchmarks/run.py --rst."
END = ".. Here the tables end."

# Those that take a second; --smoke runs one round of each.
QUICK_PARTS = ("small", "blocks", "uploads", "connecting", "memory")


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, BENCHMARKS / script, *arguments]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one round of everything that takes no time."""
    kept = tmp_path_factory.mktemp("benchmarks") / "kept.json"
    run("run.py", "--smoke", "--only", *QUICK_PARTS, "--json", kept)
    return kept


def test_everybody_is_measured_beside_the_socket(kept: Path) -> None:
    parts = json.loads(kept.read_text())["parts"]
    assert list(parts) == list(QUICK_PARTS)
    for part in parts.values():
        for row in part["rows"]:
            assert {row["baseline"] or "socket", "httpx_net"} <= set(row["values"]), row["what"]


def test_a_limit_ends_what_a_peer_draws_out(tmp_path: Path) -> None:
    kept, chart = tmp_path / "kept.json", tmp_path / "chart.svg"
    run("run.py", "--smoke", "--only", "limits", "--json", kept)
    rows = json.loads(kept.read_text())["parts"]["limits"]["rows"]
    assert {row["values"]["httpx_net"]["outcome"] for row in rows} == {"TimeoutError"}
    assert all(row["values"]["httpx_net"]["value"] >= row["limit"] for row in rows)  # never early
    run("chart.py", kept, chart)
    bars = ElementTree.parse(chart).getroot().iter("{http://www.w3.org/2000/svg}rect")
    assert len(list(bars)) > len(rows)


def test_the_page_takes_its_tables_from_kept_results(kept: Path, tmp_path: Path) -> None:
    page = tmp_path / "performance.rst"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\nafter\n")
    run("run.py", "--from", kept, "--rst", page)
    before, tables, after = re.split(f"{BEGIN}|{END}", page.read_text())
    assert (before, after) == ("before\n\n", "\nafter\n")
    assert re.search(r"\* - read 64 bytes, plain, a deadline\n +- [\d.]+ us\n", tables)
    assert "old" not in tables


def test_a_deadline_adds_no_system_call_to_what_is_ready(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    run("run.py", "--smoke", "--only", "calls", "--json", kept)
    rows = json.loads(kept.read_text())["parts"]["calls"]["rows"]
    if not rows:
        pytest.skip("no strace here, or none that may trace")
    calls = {row["what"]: row["values"]["httpx_net"]["calls"] for row in rows}
    assert calls["read that is ready, plain, a deadline"] == "recvfrom"
    assert calls["write that is ready, plain, a deadline"] == "sendto"
    assert calls["first read that must wait, plain, a deadline"] == "recvfrom poll recvfrom"
    assert calls["next read that must wait, plain, a deadline"] == "poll recvfrom"
