"""The hook at work: the three backends of the manual."""

from __future__ import annotations

import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import httpx_net
from dialing import Resolver, info
from hooks import CachingBackend, PinnedBackend, PublicBackend, is_public
from peers import HANG, Peers, client_context, echo, silent

NAME = "www.example.com"


# ---- A cache


def test_the_cache_asks_once_for_a_name(resolver: Resolver) -> None:
    resolver.answers[NAME] = ("127.0.0.1", 0)
    net = CachingBackend()
    assert net.getaddrinfo(NAME, 80) == net.getaddrinfo("WWW.Example.COM", 80)
    assert resolver.asked == [NAME]


def test_the_cache_serves_connect(peers: Peers, resolver: Resolver) -> None:
    resolver.answers["localhost"] = ("127.0.0.1", 0)
    net = CachingBackend()
    listener = peers.listen()
    for _ in range(3):
        with httpx_net.timeout(HANG), net.connect("localhost", listener.getsockname()[1]) as stream:
            assert stream.get_extra_info("server_addr") == listener.getsockname()
    assert resolver.asked == ["localhost"]


def test_the_cache_asks_again_when_the_time_to_live_is_over(resolver: Resolver) -> None:
    resolver.answers[NAME] = ("127.0.0.1", 0)
    net = CachingBackend(ttl=0.05)
    start = time.monotonic()
    while len(resolver.asked) < 2:
        net.getaddrinfo(NAME, 80)
        assert time.monotonic() - start < HANG
    assert time.monotonic() - start >= 0.05


def test_the_cache_keeps_names_and_ports_apart(resolver: Resolver) -> None:
    resolver.answers |= {NAME: ("127.0.0.1", 0), "other.example.com": ("127.0.0.2", 0)}
    net = CachingBackend()
    assert [info[4] for info in net.getaddrinfo(NAME, 80)] == [("127.0.0.1", 80)]
    assert [info[4] for info in net.getaddrinfo(NAME, 443)] == [("127.0.0.1", 443)]
    assert [info[4] for info in net.getaddrinfo("other.example.com", 80)] == [("127.0.0.2", 80)]


def test_the_cache_remembers_no_failure(resolver: Resolver) -> None:
    net = CachingBackend()
    with pytest.raises(socket.gaierror):
        net.getaddrinfo(NAME, 80)
    resolver.answers[NAME] = ("127.0.0.1", 0)
    assert net.getaddrinfo(NAME, 80)


def test_what_the_cache_returns_may_be_changed(resolver: Resolver) -> None:
    resolver.answers[NAME] = ("127.0.0.1", 0)
    net = CachingBackend()
    for _ in range(3):
        net.getaddrinfo(NAME, 80).pop()


def test_who_asked_first_and_gave_up_leaves_the_look_up_to_the_others(resolver) -> None:
    resolver.answers[NAME] = ("127.0.0.1", 0)
    resolver.hang()
    net = CachingBackend()
    with pytest.raises(TimeoutError), httpx_net.timeout(0.02):
        net.getaddrinfo(NAME, 80)
    with ThreadPoolExecutor() as pool:
        patient = pool.submit(net.getaddrinfo, NAME, 80)
        resolver.answer()
        assert patient.result()


# ---- A fixed map


def test_a_pinned_name_is_not_looked_up(serve, resolver: Resolver) -> None:
    ip, port = serve(echo)
    with PinnedBackend({(NAME, port): ip}).connect("WWW.Example.COM", port) as stream:
        assert stream.get_extra_info("server_addr") == (ip, port)
    assert not resolver.asked


def test_a_pin_is_for_its_port_and_name_alone(resolver: Resolver) -> None:
    net = PinnedBackend({(NAME, 80): "127.0.0.1"})
    for host, port in [(NAME, 443), ("example.com", 80)]:
        with pytest.raises(socket.gaierror), httpx_net.timeout(HANG):
            net.connect(host, port)
    assert resolver.asked == [NAME, "example.com"]


def test_a_pin_may_be_an_ipv6_address(peers: Peers) -> None:
    ip, port = peers.serve(silent, family=socket.AF_INET6)
    with PinnedBackend({(NAME, port): ip}).connect(NAME, port) as stream:
        assert stream.get_extra_info("server_addr") == (ip, port)


def test_the_certificate_of_a_pinned_name_is_verified(peers: Peers) -> None:
    ip, port = peers.serve_tls(silent, tickets=0)  # its certificate is for localhost
    net = PinnedBackend({("localhost", port): ip})
    with httpx_net.timeout(HANG), net.connect("localhost", port) as stream:
        stream.start_tls(client_context(), hostname="localhost")


def test_a_pin_is_no_excuse_for_another_name(peers: Peers) -> None:
    ip, port = peers.serve_tls(certificate="wrong-name", refused=True)
    net = PinnedBackend({(NAME, port): ip})
    with (
        httpx_net.timeout(HANG),
        net.connect(NAME, port) as stream,
        pytest.raises(ssl.SSLCertVerificationError, match=NAME),
    ):
        stream.start_tls(client_context(), hostname=NAME)


# ---- A filter

PRIVATE = {
    "loopback": "127.0.0.1",
    "all of loopback": "127.255.255.254",
    "this host": "0.0.0.0",
    "this network": "0.1.2.3",
    "10/8": "10.0.0.1",
    "172.16/12": "172.31.255.255",
    "192.168/16": "192.168.1.1",
    "link-local, where clouds keep their metadata": "169.254.169.254",
    "carrier-grade NAT": "100.64.0.1",
    "benchmarks": "198.18.0.1",
    "documentation": "192.0.2.1",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "IPv6 loopback": "::1",
    "IPv6 any": "::",
    "IPv6 link-local": "fe80::1",
    "IPv6 site-local": "fec0::1",
    "IPv6 unique local": "fd00::1",
    "IPv6 multicast": "ff02::1",
    "IPv6 documentation": "2001:db8::1",
    "IPv4-mapped": "::ffff:127.0.0.1",
    "IPv4-mapped, in hex": "::ffff:7f00:1",
    "IPv4-mapped, not even private": "::ffff:8.8.8.8",
    "IPv4-compatible": "::127.0.0.1",
    "NAT64": "64:ff9b::127.0.0.1",
    "NAT64, local": "64:ff9b:1::127.0.0.1",
    "6to4": "2002:7f00:1::",
    "Teredo": "2001:0:7f00:1::",
}


@pytest.mark.parametrize("address", PRIVATE.values(), ids=PRIVATE)
def test_a_private_address_is_refused_as_a_literal_and_behind_a_name(resolver, address) -> None:
    resolver.answers[NAME] = (address, 0)
    for host in [address, NAME]:
        with pytest.raises(PermissionError, match=f"'{host}' has no public address"):
            PublicBackend().connect(host, 80)


@pytest.mark.parametrize("literal", ["127.1", "0x7f.1", "2130706433", "017700000001", "[::1]"])
def test_a_disguised_literal_is_refused(literal: str) -> None:
    with pytest.raises(PermissionError):
        PublicBackend().connect(literal, 80)


def test_an_address_with_a_zone_is_refused() -> None:
    with pytest.raises(PermissionError):
        PublicBackend().connect(f"fe80::1%{socket.if_nameindex()[0][1]}", 80)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111"])
def test_a_public_address_passes(resolver: Resolver, address: str) -> None:
    assert is_public(address)
    resolver.answers[NAME] = (address, 0)
    assert [info[4][0] for info in PublicBackend().getaddrinfo(NAME, 80)] == [address]


def test_of_a_mixed_answer_only_the_public_part_is_used(monkeypatch) -> None:
    mixed = [info(("127.0.0.1", 0)), info(("8.8.8.8", 0)), info(("::1", 0, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, flags=0, **options: mixed)
    assert [each[4][0] for each in PublicBackend().getaddrinfo(NAME, 80)] == ["8.8.8.8"]
