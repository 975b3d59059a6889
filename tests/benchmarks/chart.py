"""Draw the table of limits: ``python tests/benchmarks/chart.py out.json docs/performance.svg``."""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

LEFT, RIGHT, TOP = 190, 50, 70
BAR, GAP, ROOM = 9, 2, 16  # heights: of a bar, between bars, between scenes
WIDTH = 760
COLOURS = {
    "httpx_net": "#0b6e4f",
    "socket": "#8d99ae",
    "httpcore": "#e9a03b",
    "httpx 1.0": "#c8553d",
    "http.client": "#6a8eae",
    "urllib3": "#7b5ea7",
}


def chart(rows: list[dict[str, Any]]) -> str:
    """An SVG of a group of bars for each scene, one for each client; the limit is a line."""
    limit = rows[0]["limit"]
    names = [name for name in COLOURS if any(name in row["values"] for row in rows)]
    longest = max(value["value"] for row in rows for value in row["values"].values())
    scale = (WIDTH - LEFT - RIGHT) / (longest * 1.08)
    shapes = []
    y = TOP
    for row in rows:
        top = y
        for name in names:
            value = row["values"].get(name)
            if value is not None:
                label = f"{value['value']:.2f}" + " success" * (value["outcome"] == "success")
                shapes.append(bar(y, value["value"] * scale, COLOURS[name], label))
            y += BAR + GAP
        shapes.append(text(LEFT - 10, (top + y) / 2 + 3, row["what"], "end"))
        y += ROOM
    at = LEFT + limit * scale
    shapes.append(
        f'<line x1="{at:.1f}" y1="{TOP - 10}" x2="{at:.1f}" y2="{y - ROOM + 4}" '
        f'stroke="#222" stroke-dasharray="4 3"/>'
    )
    shapes.append(text(at, TOP - 15, f"the limit: {limit:g} s", "middle"))
    x = LEFT
    for name in names:
        shapes.append(f'<rect x="{x}" y="22" width="10" height="10" fill="{COLOURS[name]}"/>')
        shapes.append(text(x + 14, 31, name, "start"))
        x += 30 + 7 * len(name)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
        f'viewBox="0 0 {WIDTH} {y}" role="img" font-family="sans-serif" font-size="11">\n'
        f"<title>Seconds until a client with a limit of {limit:g} s returns</title>\n"
        f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>\n' + "\n".join(shapes) + "\n</svg>\n"
    )


def bar(y: float, length: float, colour: str, label: str) -> str:
    rect = f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>'
    return rect + text(LEFT + length + 4, y + BAR - 1, label, "start", 9)


def text(x: float, y: float, words: str, anchor: str, size: int = 11) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="#222">'
        f"{escape(words)}</text>"
    )


def main() -> None:
    results, target = sys.argv[1:]
    rows = json.loads(Path(results).read_text())["parts"]["limits"]["rows"]
    Path(target).write_text(chart(rows))


if __name__ == "__main__":
    main()
