"""What all tests of this suite need: a client that is closed before its peers are waited for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from clients import Client
from internet import Internet
from test_docs import internet  # noqa: F401

Using = Callable[..., Client]


@pytest.fixture
def using(kind: type[Client], internet: Internet) -> Iterator[Using]:  # noqa: F811
    """``using(...)``: a client of the kind in question, which is closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(contextlib.closing(kind(**options)))
