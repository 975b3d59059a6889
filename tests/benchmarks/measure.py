"""How to compare on a machine that is never quiet: in turns, round by round, by the median.

A contender that is measured for a second and then another for the next are measured on two
different machines: the clock rate, the neighbours and the caches have changed. So every round lets
each contender do one short batch, beginning with another one each time, and what counts is the
ratio of two batches of one round. A disturbed round is an outlier, and the median ignores it, as
long as a batch takes well under a millisecond: of longer ones, half may be disturbed on a machine
that others use, and of the slowest contender's more than of the others'.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

BASELINE = "socket"  # the hand-written loop, which everybody is compared to

Batch = Callable[[], float]  # does a batch, returns seconds (or whatever is counted) per operation
Row = dict[str, Any]


@dataclass(frozen=True)
class Extent:
    """How much to do: all, or less of everything."""

    name: str
    share: float  # of the rounds
    least: int  # rounds
    limit: float  # seconds, in the table of limits
    shrink: int  # divides the size of large transfers
    patience: float | None = None  # seconds until a name server that says nothing refuses

    def rounds(self, number: int) -> int:
        return max(self.least, round(number * self.share))


FULL = Extent("full", share=1, least=1, limit=1.0, shrink=1)
QUICK = Extent("quick", share=0.04, least=3, limit=0.1, shrink=8)
SMOKE = Extent("smoke", share=0, least=1, limit=0.05, shrink=64, patience=0.3)  # does it run?


def processors() -> list[int]:
    """The processors to pin the two ends to: ours, the other. Empty where there is no pinning."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    usable = sorted(os.sched_getaffinity(0))
    return [usable[0], usable[-1]]


def pin(processor: int | None) -> None:
    if processor is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {processor})


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector from being measured in whoever's batch it happens to run."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def take_turns(
    batches: dict[str, Batch], rounds: int, most_seconds: float = 60.0
) -> dict[str, list[float | None]]:
    """What each batch returned in each round, after one round to warm up (if there are many).

    One that takes *most_seconds* in all sits out the rest: None in those rounds.
    """
    names = list(batches)
    times: dict[str, list[float | None]] = {name: [] for name in names}
    spent = dict.fromkeys(names, 0.0)
    with no_collection():
        if rounds > 5:
            for name in names:
                batches[name]()
        for number in range(rounds):
            start = number % len(names)
            for name in names[start:] + names[:start]:
                if spent[name] > most_seconds:
                    times[name].append(None)
                else:
                    before = time.monotonic()
                    times[name].append(batches[name]())
                    spent[name] += time.monotonic() - before
    return times


def row(
    what: str,
    batches: dict[str, Batch],
    rounds: int,
    *,
    unit: str = "us",
    goal: float | None = None,
    baseline: str | None = BASELINE,
    most_seconds: float = 60.0,
) -> Row:
    """Measure *batches* in turns; *goal* is for the ratio of httpx_net to the *baseline*.

    Without a baseline there are no ratios, and no goal.
    """
    times = take_turns(batches, rounds, most_seconds)
    values = {}
    for name, measured in times.items():
        ratios = [
            mine / base
            for mine, base in zip(measured, times.get(baseline, ()), strict=baseline is not None)
            if mine is not None and base is not None
        ]
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        values[name] = {
            "value": statistics.median(each for each in measured if each is not None),
            "ratio": statistics.median(ratios) if ratios else None,
            "low": quartiles[0] if ratios else None,
            "high": quartiles[-1] if ratios else None,
        }
    return {"what": what, "unit": unit, "baseline": baseline, "goal": goal, "values": values}
