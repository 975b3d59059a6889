"""Results as lines on the terminal, and as the tables of the page."""

from __future__ import annotations

from typing import Any

Results = dict[str, Any]
Row = dict[str, Any]

BEGIN = ".. The tables are made by tests/benchmarks/run.py --rst."
END = ".. Here the tables end."


def line(row: Row) -> str:
    """One row for the terminal: what everybody took, and whether the goal was met."""
    told = [f"{name} {told_value(row, name)}" for name in row["values"]]
    return f"{row['what']}:\n    " + "; ".join(told) + verdict(row)


def verdict(row: Row) -> str:
    ours = row["values"].get("httpx_net", {})
    if row.get("goal") is not None:
        reached, goal, word = ours["ratio"], row["goal"], "x"
    elif row.get("most") is not None:
        reached, goal, word = ours["value"], row["most"], ""
    else:
        return ""
    return f"   [goal {goal:g}{word}: {'met' if reached <= goal else 'MISSED'}]"


def told_value(row: Row, name: str) -> str:
    value = row["values"][name]
    if "calls" in value:
        return f"{value['value']} ({value['calls']})"
    text = f"{value['value']:.3f} {row['unit']}"
    if "outcome" in value:
        return f"{text} {value['outcome']}"
    if value.get("ratio") is not None and name != row["baseline"]:
        text += f" = {value['ratio']:.2f}x ({value['low']:.2f}-{value['high']:.2f})"
    return text


def replaced(page: str, results: Results) -> str:
    """*page* with the tables between its marks made of *results*."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"the page has no lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{tables(results)}\n{END}{after}"


def tables(results: Results) -> str:
    about = results["about"]
    text = (
        f"{about['Python']}, {about['OpenSSL']}, {about['system']}, {about['machine']}; "
        f"{about['peers']}.\n"
    )
    for part in results["parts"].values():
        if part["rows"]:
            text += f"\n**{part['title']}**\n\n{table(part['rows'])}"
    return text


def table(rows: list[Row]) -> str:
    """A table of one line a row."""
    names = list(dict.fromkeys(name for row in rows for name in row["values"]))
    baseline = rows[0]["baseline"]
    if baseline in names:
        names.remove(baseline)
        names.insert(0, baseline)
    # A column without a title would need a mark to be one.
    lines = [["\\", *names]]
    lines += [[row["what"], *(cell(row, name) for name in names)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    texts = [
        "  ".join(f"{each:{width}}" for each, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([rule, texts[0], rule, *texts[1:], rule, ""])


def cell(row: Row, name: str) -> str:
    """The baseline in its unit, the others as ratios to it; all in their unit without one."""
    value = row["values"].get(name)
    if value is None:
        return "\\-"
    if "calls" in value:
        return value["calls"] or "none"
    if "outcome" in value:
        return f"{value['value']:.2f}" + ("*" if value["outcome"] == "success" else "")
    number = value["value"]
    if name == row["baseline"] or value["ratio"] is None:
        return f"{float(f'{number:.3g}'):g} {row['unit']}"
    return f"{value['ratio']:.2f}"
