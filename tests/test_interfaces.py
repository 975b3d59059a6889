"""The two abstract classes: what they ask of an implementation, and what they give it."""

from __future__ import annotations

import abc
import inspect
from typing import Any

import pytest

import httpx_net
from httpx_net import (
    NetworkBackend,
    NetworkBackendInterface,
    NetworkStream,
    NetworkStreamInterface,
)

STREAM_METHODS = {"read", "write", "start_tls", "get_extra_info", "close"}


class Stream(NetworkStreamInterface):
    """As little as a stream can be: it says "hello" once."""

    def __init__(self) -> None:
        self.left = b"hello"
        self.closed = 0

    def read(self, max_bytes: int | None = None) -> bytes:
        httpx_net.remaining()
        data, self.left = self.left[:max_bytes], self.left[len(self.left[:max_bytes]) :]
        return data

    def write(self, data: bytes | bytearray | memoryview) -> None:
        raise NotImplementedError

    def start_tls(self, ctx: Any, hostname: str | None = None) -> None:
        raise NotImplementedError

    def get_extra_info(self, key: str) -> Any:
        return None

    def close(self) -> None:
        self.closed += 1


class Backend(NetworkBackendInterface):
    def connect(self, host: str, port: int) -> Stream:
        httpx_net.remaining()
        return Stream()


def test_a_stream_is_five_methods() -> None:
    assert NetworkStreamInterface.__abstractmethods__ == STREAM_METHODS


def test_a_backend_is_one_method() -> None:
    assert NetworkBackendInterface.__abstractmethods__ == {"connect"}


@pytest.mark.parametrize("name", sorted(STREAM_METHODS))
def test_a_stream_that_lacks_one_cannot_be_made(name: str) -> None:
    methods = {method: getattr(Stream, method) for method in STREAM_METHODS - {name}}
    incomplete = type("Incomplete", (NetworkStreamInterface,), methods)
    with pytest.raises(TypeError, match=name):
        incomplete()


def test_a_backend_that_cannot_connect_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="connect"):
        NetworkBackendInterface()  # type: ignore[abstract]


@pytest.mark.parametrize(
    ("ours", "interface"),
    [(NetworkStream, NetworkStreamInterface), (NetworkBackend, NetworkBackendInterface)],
)
def test_ours_implement_them_with_the_same_arguments(ours: type, interface: type) -> None:
    assert issubclass(ours, interface)
    for name in interface.__abstractmethods__:  # type: ignore[attr-defined]
        assert parameters(ours, name) == parameters(interface, name)


def parameters(owner: type, name: str) -> list[tuple[str, Any, Any]]:
    found = inspect.signature(getattr(owner, name)).parameters.values()
    return [(parameter.name, parameter.kind, parameter.default) for parameter in found]


def test_a_stream_of_ones_own_gets_the_with_statement() -> None:
    with Stream() as stream:
        assert isinstance(stream, Stream)
        assert stream.closed == 0
    assert stream.closed == 1


def test_the_with_statement_closes_and_lets_an_exception_pass() -> None:
    stream = Stream()
    with pytest.raises(KeyboardInterrupt), stream:
        raise KeyboardInterrupt
    assert stream.closed == 1


def test_code_written_for_the_interfaces_runs_on_any_implementation() -> None:
    def fetch(net: NetworkBackendInterface) -> bytes:
        with net.connect("nowhere.test", 80) as stream:
            return stream.read(2) + stream.read()

    assert fetch(Backend()) == b"hello"


def test_a_stream_of_ones_own_is_under_the_deadlines_too() -> None:
    expired = pytest.raises(TimeoutError, match=r"^timeout\(0\) expired$")
    with Backend().connect("nowhere.test", 80) as stream, httpx_net.timeout(0), expired:
        stream.read()


def test_the_interfaces_give_no_dict_to_who_has_slots() -> None:
    class Slim(NetworkBackendInterface):
        __slots__ = ()

        def connect(self, host: str, port: int) -> Stream:
            return Stream()

    assert not hasattr(Slim(), "__dict__")
    assert "__dict__" not in dir(NetworkStream)


@pytest.mark.parametrize("interface", [NetworkStreamInterface, NetworkBackendInterface])
def test_they_can_be_registered_for(interface: abc.ABCMeta) -> None:
    class Duck:
        pass

    interface.register(Duck)
    assert isinstance(Duck(), interface)
