"""Interrupting the package at any of its lines, one after another."""

from __future__ import annotations

import functools
import itertools
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from peers import PACKAGE


@contextmanager
def interrupted_at(
    number: int,
    exception: BaseException | type[BaseException] = KeyboardInterrupt,
    counts: Callable[[FrameType, str], object] = lambda frame, event: True,
) -> Iterator[list[str]]:
    """Press Ctrl-C when so many lines of the package have been run, or raise *exception* there.

    That is what a signal handler does at this place: the traceback ends in a frame of its own.

    To begin a function counts like a line. ``counts(frame, event)`` may leave out some. Gives a
    list which the functions that are interrupted will be in, as "module.function", innermost first.
    """
    moments = itertools.count()
    where: list[str] = []
    last: dict[int, int] = {}

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "call":
            last.pop(id(frame), None)
        if (
            (event == "call" or (event == "line" and _lets_signals_in(frame, last)))
            and counts(frame, event)
            and next(moments) == number
        ):
            stack = [each for each in traceback.extract_stack(frame) if PACKAGE in each.filename]
            where.extend(f"{Path(each.filename).stem}.{each.name}" for each in reversed(stack))
            raise exception
        return trace

    tracing = sys.gettrace()
    sys.settrace(trace)
    try:
        yield where
    finally:
        sys.settrace(tracing)


def _lets_signals_in(frame: FrameType, last: dict[int, int]) -> bool:
    """Whether a signal might be handled where this line begins; *last* has each frame's last line.

    CPython looks for signals where a function begins, after calls, and where a loop jumps back; but
    not on the way into a ``try``, or from there into its ``finally``, and not on the way out of a
    ``with``, which is a line once more. Nor where an error is being handled and no call is made:
    to raise there would leave that error behind, for all that the thread does later.
    """
    file, number = frame.f_code.co_filename, frame.f_lineno
    before, last[id(frame)] = last.get(id(frame), 0), number
    leaving = before > number and linecache.getline(file, number).lstrip().startswith("with ")
    return not leaving and _may_call(file, number)


@functools.cache
def _may_call(file: str, number: int) -> bool:
    line, above = (linecache.getline(file, n).strip() for n in (number, number - 1))
    entering = line == "try:" or above in ("try:", "finally:")
    handling = any(block.startswith("except") for block in _blocks_around(file, number))
    return not entering and line != "pass" and ("(" in line or not handling)


def _blocks_around(file: str, number: int) -> Iterator[str]:
    """The lines that begin the blocks which that line is in, up to its function's."""
    indent = None
    while not (line := linecache.getline(file, number)).lstrip().startswith("def ") and number:
        depth = len(line) - len(line.lstrip())
        if line.strip() and (indent is None or depth < indent):
            if indent is not None:
                yield line.strip()
            indent = depth
        number -= 1
