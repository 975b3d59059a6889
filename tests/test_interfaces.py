"""The public names: what the interfaces ask for, and parameters that people pass by keyword."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import httpx_net
from httpx_net import (
    NetworkBackend,
    NetworkBackendInterface,
    NetworkStream,
    NetworkStreamInterface,
)

ABSTRACT = {
    NetworkStreamInterface: ["close", "get_extra_info", "read", "start_tls", "write"],
    NetworkBackendInterface: ["connect"],
}


@pytest.mark.parametrize("interface", ABSTRACT)
def test_an_interface_asks_for_these_methods_and_no_others(interface: type) -> None:
    assert sorted(interface.__abstractmethods__) == ABSTRACT[interface]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("ours", "interface"),
    [(NetworkStream, NetworkStreamInterface), (NetworkBackend, NetworkBackendInterface)],
)
def test_ours_implement_them_with_the_same_arguments(ours: type, interface: type) -> None:
    assert issubclass(ours, interface)
    for name in ABSTRACT[interface]:
        assert arguments(getattr(ours, name)) == arguments(getattr(interface, name))


def arguments(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    found = inspect.signature(function).parameters.values()
    return [(parameter.name, parameter.kind, parameter.default) for parameter in found]


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (httpx_net.timeout, "duration"),
        (httpx_net.remaining, ""),
        (NetworkBackend.connect, "self host port"),
        (NetworkBackend.getaddrinfo, "self host port"),
        (
            NetworkBackend,
            "*local_address *socket_options *keepalive *happy_eyeballs_delay *suppress_ragged_eofs",
        ),
        (NetworkStream, "sock *suppress_ragged_eofs"),
        (NetworkStream.read, "self max_bytes"),
        (NetworkStream.write, "self data"),
        (NetworkStream.start_tls, "self ctx hostname"),
        (NetworkStream.get_extra_info, "self key"),
    ],
)
def test_the_names_of_parameters_are_part_of_the_api_and_options_go_by_keyword(
    function: Callable[..., Any], names: str
) -> None:
    found = arguments(function)
    assert [("*" if kind.name == "KEYWORD_ONLY" else "") + name for name, kind, _ in found] == (
        names.split()
    )


def test_an_interface_gives_its_subclasses_no_dict() -> None:
    class Slim(NetworkBackendInterface):
        __slots__ = ()

        def connect(self, host: str, port: int) -> Any: ...

    assert not hasattr(Slim(), "__dict__")
    assert "__dict__" not in dir(NetworkStream)
