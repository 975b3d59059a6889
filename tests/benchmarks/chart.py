"""Draw the table of limits: ``python tests/benchmarks/chart.py out.json docs/performance.svg``."""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

WIDTH, LEFT, RIGHT, TOP = 760, 150, 170, 96
BAR, STEP, ROOM = 16, 21, 46  # heights: of a bar, from bar to bar, from scene to scene

STYLE = """
  .paper { fill: #ffffff; }
  text { fill: #24292f; stroke: #ffffff; stroke-width: 4; paint-order: stroke; }
  .faint { fill: #57606a; }
  .strong { font-weight: bold; }
  .here { fill: #218bff; } .usual { fill: #afb8c1; }
  .limit { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 5 3; }
  .limit-text { fill: #cf222e; font-weight: bold; }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117; } text { fill: #e6edf3; stroke: #0d1117; } .faint { fill: #9198a1; }
    .here { fill: #1f6feb; } .usual { fill: #6e7681; }
    .limit { stroke: #ff7b72; } .limit-text { fill: #ff7b72; }
  }
"""


def chart(rows: list[dict[str, Any]]) -> str:
    """An SVG with a group of bars for each scene in which somebody is late; the limit is a line."""
    limit = rows[0]["limit"]
    late = {row["what"]: [name for name in row["values"] if is_late(row, name)] for row in rows}
    rows = [row for row in rows if late[row["what"]]] or rows
    longest = max(value["value"] for row in rows for value in row["values"].values())
    scale = (WIDTH - LEFT - RIGHT) / longest
    shapes, y = [], TOP
    for row in rows:
        shapes.append(text(20, y - 8, row["what"], "strong"))
        for name in ["httpx_net", *late[row["what"]]]:
            value = row["values"][name]
            label = f"{value['value']:.2g} s" if value["value"] < 1 else f"{value['value']:.1f} s"
            if value["outcome"] == "success":
                label += ", answered" if value["value"] < limit else ", no error"
            length = value["value"] * scale
            kind = "here" if name == "httpx_net" else "usual"
            shapes.append(text(LEFT - 10, y + 13, name, "faint", "end"))
            shapes.append(
                f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}"/>'
            )
            shapes.append(text(LEFT + length + 8, y + 13, label))
            y += STEP
        others = [name for name in row["values"] if name not in ("httpx_net", *late[row["what"]])]
        answered = [name for name in others if row["values"][name]["outcome"] == "success"]
        failed = [name for name in others if name not in answered]
        for how, those in (("answered in time", answered), ("in time", failed)):
            if those:
                shapes.append(text(LEFT, y + 13, f"{how}: {', '.join(those)}", "faint"))
                y += STEP
        y += ROOM - STEP
    at, bottom = LEFT + limit * scale, y - ROOM + STEP
    shapes.insert(0, f'<path class="limit" d="M{at:.1f} {TOP - 26}V{bottom}"/>')
    shapes.append(text(at, TOP - 32, f"the limit: {limit:g} s", "limit-text", "middle"))
    title = f"Seconds until a client with a limit of {limit:g} s returns"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" '
        f'font-family="system-ui, \'DejaVu Sans\', sans-serif" font-size="13">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n"
        f'<rect class="paper" width="{WIDTH}" height="{y}" rx="8"/>\n'
        + text(20, 30, title, "strong")
        + "\n"
        + "\n".join(shapes)
        + "\n</svg>\n"
    )


def is_late(row: dict[str, Any], name: str) -> bool:
    return name != "httpx_net" and row["values"][name]["value"] > row["limit"] * 1.5


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f'<text{mark} x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


def main() -> None:
    results, target = sys.argv[1:]
    rows = json.loads(Path(results).read_text())["parts"]["limits"]["rows"]
    Path(target).write_text(chart(rows))


if __name__ == "__main__":
    main()
