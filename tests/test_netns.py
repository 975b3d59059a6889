"""The promises about connecting on a real network: two hosts that this module makes, and a cable.

Each host is a network namespace. The server is the client's router as well, and one that forwards
nothing: addresses which it does not have are black holes, without a firewall. It is also the name
server, which knows a few names and never answers for others.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dialing import ROOT
from peers import HANG, wait_until

pytestmark = pytest.mark.netns

# Addresses for documentation (RFC 5737, RFC 3849); they exist inside the namespaces only.
CLIENT4, CLIENT6 = "198.51.100.1", "2001:db8:1::1"
SERVER4, SERVER6 = "198.51.100.2", "2001:db8:1::2"
LIVE4, LIVE6, LINK_LOCAL = "192.0.2.80", "2001:db8:2::80", "fe80::80"
DEAD4, DEAD6 = [f"192.0.2.{host}" for host in (1, 2, 3, 4)], "2001:db8:2::1"

NAMES = {
    "live.test": [LIVE6, LIVE4],
    "dead-ipv6.test": [DEAD6, LIVE4],
    "one-of-four.test": [*DEAD4[:3], LIVE4],
    "mute-ipv6.test": [LIVE4],
}

SERVER = """
import ipaddress, json, socket, struct, sys

names = json.loads(sys.argv[1])
# Nobody accepts: all that a client needs to be connected is the kernel.
listener = socket.create_server(("", 80), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
dns.bind(("", 53))
print("ready", flush=True)

while True:
    query, client = dns.recvfrom(512)
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    question, kind = query[12 : at + 5], query[at + 2]  # A is 1, AAAA is 28
    name = ".".join(labels)
    if name not in names or (name.startswith("mute-ipv6") and kind == 28):
        continue
    addresses = [ipaddress.ip_address(address).packed for address in names[name]]
    found = [packed for packed in addresses if len(packed) == {1: 4, 28: 16}.get(kind)]
    reply = query[:2] + struct.pack("!5H", 0x8180, 1, len(found), 0, 0) + question
    for packed in found:
        reply += struct.pack("!3HIH", 0xC00C, kind, 1, 60, len(packed)) + packed
    dns.sendto(reply, client)
"""

CLIENT = """
import json, sys, time
import httpx_net

host, seconds, delay = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
net = httpx_net.NetworkBackend(happy_eyeballs_delay=delay)
start = time.monotonic()
try:
    with httpx_net.timeout(seconds), net.connect(host, 80) as stream:
        result = stream.get_extra_info("server_addr")[0]
except OSError as exc:
    result = f"{type(exc).__name__}: {exc}"
print(json.dumps([result, time.monotonic() - start]))
"""

# Connects to a link-local address in all its forms, and again to what the stream calls its peer.
ZONES = """
import json, socket, sys
import httpx_net

class Hooked(httpx_net.NetworkBackend):
    def getaddrinfo(self, host, port):
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", sockaddr)]

ip, zone = sys.argv[1], sys.argv[2]
index = socket.if_nametoindex(zone)
net, streams = httpx_net.NetworkBackend(local_address=f"fe80::1%{index}"), []
with httpx_net.timeout(5.0):
    for host in (f"{ip}%{zone}", f"[{ip}%{zone}]", f"{ip}%{index}"):
        streams.append(net.connect(host, 80))
    for sockaddr in [(f"{ip}%{index}", 80), (f"{ip}%{zone}", 80, 0, 0), (ip, 80, 0, index)]:
        streams.append(Hooked().connect("printer.test", 80))
    streams.append(net.connect(*streams[0].get_extra_info("server_addr")))
keys = ("server_addr", "client_addr")
print(json.dumps([(repr(s), *(s.get_extra_info(key)[0] for key in keys)) for s in streams]))
"""

# Listens on four addresses, and connects to them from no more than twenty ports.
PORTS = """
import json, socket
import httpx_net

open("/proc/sys/net/ipv4/ip_local_port_range", "w").write("40000 40019")
for port, local_address in enumerate([None, "127.0.0.1", "0.0.0.0"], 80):
    hosts = [f"127.0.0.{number}" for number in range(1, 5)]
    servers = [socket.create_server((host, port), backlog=100) for host in hosts]
    net = httpx_net.NetworkBackend(local_address=local_address)
    held = [net.connect(host, port) for host in hosts * 15]
print(len(held))
"""


class Network:
    """A client, a server, and a cable between them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        unique = f"{os.getpid()}-{id(self)}"
        self.client, self.server = f"client-{unique}", f"server-{unique}"
        self._configure_names()
        for host in (self.client, self.server):
            stack.callback(quietly, f"ip netns delete {host}")
            ip(f"netns add {host}")
            ip(f"-n {host} link set lo up")
        ip(f"-n {self.client} link add main type veth peer name main netns {self.server}")
        self._take(self.client, f"{CLIENT4}/24", f"{CLIENT6}/64", "fe80::1/64")
        self._take(self.server, f"{SERVER4}/24", f"{SERVER6}/64", f"{LINK_LOCAL}/64")
        self._take(self.server, f"{LIVE4}/32", f"{LIVE6}/128")
        ip(f"-n {self.client} route add default via {SERVER4}")
        ip(f"-n {self.client} -6 route add default via {SERVER6}")
        self._serve()

    def connect(self, host: str, seconds: float, delay: float = 0.25) -> tuple[str, float]:
        """Connect to *host* under a deadline: where to, or the error, and how long it took."""
        return self.result(self.begin_to_connect(host, seconds, delay))

    def run(self, script: str, *arguments: str) -> Any:
        """What the client prints when it runs *script*."""
        return self.result(self._run(self.client, script, *arguments))

    def begin_to_connect(self, host: str, seconds: float, delay: float = 0.25) -> Any:
        return self._run(self.client, CLIENT, host, str(seconds), str(delay))

    def result(self, running: subprocess.Popen[str]) -> Any:
        output, _ = running.communicate(timeout=3 * HANG)
        assert running.returncode == 0
        return json.loads(output)

    def is_connecting(self) -> bool:
        """Whether the client has sent a SYN that is not answered yet."""
        command = ["ip", "netns", "exec", self.client, "cat", "/proc/net/tcp"]
        table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return any(line.split()[3] == "02" for line in table.splitlines()[1:])

    def _configure_names(self) -> None:
        """Files that stand in for those of /etc, in the client's namespace."""
        directory = Path("/etc/netns", self.client)
        self._stack.callback(quietly, f"rmdir --ignore-fail-on-non-empty {directory.parent}")
        self._stack.callback(shutil.rmtree, directory)
        # Another run may just be removing the empty /etc/netns.
        wait_until(lambda: quietly(f"mkdir -p {directory}"))
        (directory / "resolv.conf").write_text(f"nameserver {SERVER4}\n")
        (directory / "nsswitch.conf").write_text("hosts: dns\n")

    def _take(self, host: str, *addresses: str) -> None:
        # Without the address that the kernel would add by itself, after a while.
        ip(f"-n {host} link set main addrgenmode none up")
        for address in addresses:
            # An IPv6 address is of use at once only if nobody asks whether it is taken.
            ip(f"-n {host} address add dev main {address} {'nodad' if ':' in address else ''}")

    def _serve(self) -> None:
        server = self._run(self.server, SERVER, json.dumps(NAMES))
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

    def _run(self, host: str, script: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, "-c", script, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(end, process)
        return process


def end(process: subprocess.Popen[str]) -> None:
    # `ip netns exec` has become Python by now, and is no parent of it.
    process.kill()
    with process:
        pass


def ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, capture_output=True, text=True)


def quietly(command: str) -> bool:
    """Run *command*; return whether it did what it should."""
    return not subprocess.run(command.split(), capture_output=True).returncode


@pytest.fixture(scope="module")
def networks() -> None:
    """Skips where networks can't be made."""
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("only root makes network namespaces, only on Linux, and with iproute2")
    trial = f"trial-{os.getpid()}"
    try:
        ip(f"netns add {trial}")
        ip(f"-n {trial} link add cable type veth peer name elbac")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error}")
    finally:
        quietly(f"ip netns delete {trial}")


@pytest.fixture(scope="module")
def network(networks: None) -> Iterator[Network]:
    with ExitStack() as stack:
        yield Network(stack)


@pytest.fixture
def own_network(networks: None) -> Iterator[Network]:
    """For a test that leaves it in another state."""
    with ExitStack() as stack:
        yield Network(stack)


@pytest.mark.parametrize(
    ("host", "delay", "least", "server"),
    [
        ("live.test", 0.25, 0.0, LIVE6),
        ("dead-ipv6.test", 0.25, 0.25, LIVE4),
        ("one-of-four.test", 0.1, 0.3, LIVE4),
        # Here it is the name server that does not answer for IPv6.
        ("mute-ipv6.test", 0.25, 0.25, LIVE4),
    ],
)
def test_who_does_not_answer_costs_the_delay(
    network: Network, host: str, delay: float, least: float, server: str
) -> None:
    connected, took = network.connect(host, 5.0, delay)
    assert connected == server
    assert least <= took < least + 2.0


def test_a_name_server_that_never_answers_costs_the_deadline(network: Network) -> None:
    start = time.monotonic()
    error, took = network.connect("unanswered.test", 0.2)
    assert error == "TimeoutError: look-up of 'unanswered.test' timed out: timeout(0.2) expired"
    assert 0.2 <= took < 2.0
    # Nor does the process wait for the resolver's ten.
    assert time.monotonic() - start < 8.0


def test_an_interface_that_goes_down_moves_no_deadline_and_leads_nowhere(
    own_network: Network,
) -> None:
    connecting = own_network.begin_to_connect(DEAD4[0], 0.5)
    wait_until(own_network.is_connecting)
    ip(f"-n {own_network.client} link set main down")
    error, took = own_network.result(connecting)
    assert 0.5 <= took < 2.5
    assert error == f"TimeoutError: connect to {DEAD4[0]}:80 timed out: timeout(0.5) expired"
    error, took = own_network.connect(LIVE4, 5.0)
    assert error.startswith(f"OSError: [Errno {errno.ENETUNREACH}] connect to {LIVE4}:80 failed: ")
    assert took < 2.0


def test_the_zone_of_a_link_local_address_survives(network: Network) -> None:
    far, near = f"{LINK_LOCAL}%main", "fe80::1%main"
    streams = network.run(ZONES, LINK_LOCAL, "main")
    assert streams == [[f'<NetworkStream ["[{far}]:80"]>', far, near]] * 7


def test_a_local_address_takes_no_port_from_other_destinations(own_network: Network) -> None:
    assert own_network.run(PORTS) == 60
