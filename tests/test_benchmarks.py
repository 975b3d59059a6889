"""The benchmarks run, and make the page and the chart. How fast anything is, nobody asserts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
BEGIN = ".. The tables are made by tests/benchmarks/run.py --rst."
END = ".. Here the tables end."

# What --smoke runs one round of, in three processes at once: the first does little but wait.
QUICK = ["small", "blocks", "uploads", "connecting", "keepalive", "memory"]
PARTS = [["limits"], QUICK, ["calls"]]


def run(script: str, *arguments: object) -> None:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one round of everything that takes no time."""
    directory = tmp_path_factory.mktemp("benchmarks")

    def smoke(parts: list[str]) -> Any:
        file = directory / f"{parts[0]}.json"
        run("run.py", "--smoke", "--only", *parts, "--json", file)
        return json.loads(file.read_text())

    with ThreadPoolExecutor() as threads:
        results, *others = threads.map(smoke, PARTS)
    for other in others:
        results["parts"] |= other["parts"]
    kept = directory / "kept.json"
    kept.write_text(json.dumps(results))
    return kept


def rows(kept: Path, part: str) -> Any:
    return json.loads(kept.read_text())["parts"][part]["rows"]


def test_everybody_is_measured_beside_the_socket(kept: Path) -> None:
    for row in (row for parts in PARTS for part in parts for row in rows(kept, part)):
        assert {"httpx_net", "keepalive=60.0"} & set(row["values"]), row["what"]
        assert (row["baseline"] or "socket") in row["values"], row["what"]


def test_a_limit_ends_what_a_peer_draws_out_and_never_early(kept: Path, tmp_path: Path) -> None:
    limits = rows(kept, "limits")
    ours = [(row["limit"], row["values"]["httpx_net"]) for row in limits]
    outcomes = {values["outcome"] for _, values in ours}
    assert "TimeoutError" in outcomes <= {"TimeoutError", "KeyboardInterrupt", "success"}
    for limit, values in ours:
        assert values["value"] >= limit or values["outcome"] != "TimeoutError"
    run("chart.py", kept, tmp_path / "chart.svg")
    chart = ElementTree.parse(tmp_path / "chart.svg").getroot()
    assert len(list(chart.iter("{http://www.w3.org/2000/svg}rect"))) > len(limits)


def test_the_page_takes_its_tables_from_kept_results(kept: Path, tmp_path: Path) -> None:
    page = tmp_path / "performance.rst"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\nafter\n")
    run("run.py", "--from", kept, "--rst", page)
    before, tables, after = re.split(f"{BEGIN}|{END}", page.read_text())
    assert (before, after) == ("before\n\n", "\nafter\n")
    assert re.search(r"\nread 64 bytes, plain, a deadline +[\d.]+ us +[\d.]+", tables)
    assert "old" not in tables


def test_a_deadline_adds_no_system_call_to_what_is_ready(kept: Path) -> None:
    calls = {row["what"]: row["values"]["httpx_net"]["calls"] for row in rows(kept, "calls")}
    if not calls:
        pytest.skip("no strace here, or none that may trace")
    assert calls["read that is ready, plain, a deadline"] == "recvfrom"
    assert calls["write that is ready, plain, a deadline"] == "sendto"
    assert calls["read that must wait, plain, a deadline"] == "recvfrom poll recvfrom"
