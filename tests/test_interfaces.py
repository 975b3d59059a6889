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
    ("interface", "name"),
    [(interface, name) for interface in ABSTRACT for name in ABSTRACT[interface]],
)
def test_a_class_that_lacks_one_cannot_be_made(interface: type, name: str) -> None:
    methods = {method: len for method in ABSTRACT[interface] if method != name}
    with pytest.raises(TypeError, match=name):
        type("Incomplete", (interface,), methods)()


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
            "local_address socket_options keepalive happy_eyeballs_delay suppress_ragged_eofs",
        ),
        (NetworkStream, "sock suppress_ragged_eofs"),
        (NetworkStream.read, "self max_bytes"),
        (NetworkStream.write, "self data"),
        (NetworkStream.start_tls, "self ctx hostname"),
        (NetworkStream.get_extra_info, "self key"),
    ],
)
def test_the_names_of_parameters_are_part_of_the_api(
    function: Callable[..., Any], names: str
) -> None:
    assert list(inspect.signature(function).parameters) == names.split()


@pytest.mark.parametrize(
    "call", [lambda: NetworkBackend("127.0.0.1"), lambda: NetworkStream(None, True)]
)
def test_options_are_passed_by_keyword_alone(call: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match="positional argument"):
        call()


def test_an_interface_gives_its_subclasses_no_dict() -> None:
    class Slim(NetworkBackendInterface):
        __slots__ = ()

        def connect(self, host: str, port: int) -> Any: ...

    assert not hasattr(Slim(), "__dict__")
    assert "__dict__" not in dir(NetworkStream)
