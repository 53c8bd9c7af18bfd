"""The network pass for real: a host in namespaces of its own, with neighbours, listeners and packets."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import hostctl
from hostctl.config.references import PortMapping
from hostctl.network.model import NetworkPlan, Wanted, allocate, encode
from hostctl.network.work import host_side

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
START = 0x10000000
NS_GET_USERNS = 0xB701  # ioctl_ns(2)
LISTEN = """
import socket, sys
kind = socket.SOCK_DGRAM if sys.argv[2] == "udp" else socket.SOCK_STREAM
server = socket.socket(socket.AF_INET, kind)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("", int(sys.argv[1])))
if kind == socket.SOCK_STREAM:
    server.listen()
print("ready", flush=True)
while True:
    if kind == socket.SOCK_STREAM:
        with server.accept()[0] as peer:
            peer.sendall(peer.getpeername()[0].encode())
    else:
        peer = server.recvfrom(10)[1]
        server.sendto(peer[0].encode(), peer)
"""
ASK = """
import socket, sys
kinds = {"tcp": (socket.SOCK_STREAM, 0), "udp": (socket.SOCK_DGRAM, 0), "icmp": (socket.SOCK_RAW, 1)}
client = socket.socket(socket.AF_INET, *kinds[sys.argv[3]])
client.settimeout(float(sys.argv[4]))
try:
    client.connect((sys.argv[1], int(sys.argv[2])))
    client.send(b"\\x08\\0\\xf7\\xff\\0\\0\\0\\0")  # an echo request, to the others as good as anything
    answer = client.recv(100)
    print(socket.inet_ntoa(answer[12:16]) if sys.argv[3] == "icmp" else answer.decode())
except OSError as error:
    print("refused" if isinstance(error, ConnectionRefusedError) else "nothing")
"""
PYTHON = (sys.executable, "-I", "-S", "-c")
OUTSIDE = "/run/netns/outside"
PREPARE = """
echo 2 > /proc/sys/net/ipv4/conf/all/rp_filter
mount -t tmpfs none /run && ip link set lo up && ip netns add outside
ip link add wan0 type veth peer name eth0 netns outside
ip addr add 192.0.2.1/24 dev wan0 && ip link set wan0 up
ip -n outside addr add 192.0.2.2/24 dev eth0 && ip -n outside link set eth0 up
ip -n outside route add default via 192.0.2.1
echo ready && exec cat
"""


class Host:
    """A host in network and mount namespaces of its own; 192.0.2.2 is somebody outside, next to its 192.0.2.1."""

    def __init__(self) -> None:
        words = ["unshare", "-n", "-m", "sh", "-ec", PREPARE]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def words(self, *words: str, net: str | None = None) -> list[str]:
        """Return the words that run a program on this host, or in a namespace pinned there."""
        enter = ["nsenter", "-t", str(self.process.pid), "-n", "-m"]
        if net is not None:
            enter += ["nsenter", f"--net={net}"]
        return [*enter, *words]

    def run(self, *words: str, net: str | None = None, check: bool = True) -> str:
        """Run a program and return its output."""
        done = subprocess.run(self.words(*words, net=net), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()

    def apply(self, plan: NetworkPlan) -> None:
        """Run the pass as the unit does."""
        path = Path(f"/proc/{self.process.pid}/root/run/network.json")
        path.write_bytes(encode(plan))
        code = "import sys; sys.path[:0] = sys.argv.pop(1).split(':'); from hostctl.network.apply import main; "
        where = os.pathsep.join([str(Path(hostctl.__file__).parent.parent), *filter(None, sys.path)])
        self.run(sys.executable, "-I", "-c", code + "sys.exit(main(sys.argv[1:]))", where, "/run/network.json")

    def ask(self, address: str, port: int, kind: str = "tcp", *, net: str | None = None) -> str:
        """Return by which address a listener sees us, or who sent the echo; ``nothing`` if no answer comes soon."""
        return self.run(*PYTHON, ASK, address, str(port), kind, "0.4", net=net)

    @contextmanager
    def listen(self, port: int, kind: str = "tcp", *, net: str | None = None) -> Iterator[None]:
        """Answer at a port with the asking address."""
        words = self.words(*PYTHON, LISTEN, str(port), kind, net=net)
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                yield
            finally:
                process.kill()

    def namespace(self, name: str) -> int:
        """Return the number of a workload's network namespace."""
        return Path(f"/proc/{self.process.pid}/root{netns(name)}").stat().st_ino

    def links(self) -> list[str]:
        """Return index, name, state and master of all links."""
        return self.run("ip", "-o", "link").splitlines()


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    with made.process:
        yield made
        made.process.kill()


def netns(name: str) -> str:
    return f"/run/netns/workload-{name}"


def plan(*names: str, ports: tuple[str, ...] = (), former: NetworkPlan | None = None) -> NetworkPlan:
    """Return a plan in which the first workload publishes ``ports``."""
    wanted = [
        Wanted(
            name=name,
            userns_start=START + 65536 * ord(name[0]),
            ports=tuple(PortMapping.parse(port) for port in ports) if name == names[0] else (),
        )
        for name in names
    ]
    return allocate(wanted, former)


def test_published_ports_answer_from_everywhere(host: Host) -> None:
    host.apply(plan("a", "b", ports=("8080:80", "127.0.0.1:8081:80", "53:53/udp")))
    with host.listen(80, net=netns("a")), host.listen(53, "udp", net=netns("a")):
        assert host.ask("192.0.2.1", 8080, net=OUTSIDE) == "192.0.2.2"
        assert host.ask("192.0.2.1", 53, "udp", net=OUTSIDE) == "192.0.2.2"
        assert host.ask("127.0.0.1", 8080) == "10.88.0.1"
        assert host.ask("127.0.0.1", 8081) == "10.88.0.1"
        assert host.ask("192.0.2.1", 8080) != "nothing"
        assert host.ask("192.0.2.1", 8080, net=netns("b")) == "10.88.0.1"
        assert host.ask("10.88.0.1", 8080, net=netns("a")) == "10.88.0.1"
        assert host.ask("10.88.0.2", 80, net=netns("b")) == "10.88.0.3"
        assert host.ask("10.88.0.2", 80) == "10.88.0.1"
        # What is published for the host alone, or not at all, is for nobody outside.
        assert host.ask("192.0.2.1", 8081, net=OUTSIDE) == "refused"
        assert host.ask("10.88.0.2", 80, net=OUTSIDE) == "nothing"


def test_workloads_reach_outside_but_not_the_host(host: Host) -> None:
    host.apply(plan("a"))
    with host.listen(9000), host.listen(53, "udp"), host.listen(9001, net=OUTSIDE):
        assert host.ask("192.0.2.2", 9001, net=netns("a")) == "192.0.2.1"
        assert host.ask("127.0.0.1", 9000) == "127.0.0.1"
        assert host.ask("192.0.2.1", 9000, net=OUTSIDE) == "192.0.2.2"
        for address in ("10.88.0.1", "192.0.2.1"):
            assert host.ask(address, 9000, net=netns("a")) == "nothing"
        assert host.ask("10.88.0.1", 53, "udp", net=netns("a")) == "10.88.0.2"
        assert host.ask("192.0.2.1", 53, "udp", net=netns("a")) == "nothing"
        assert host.ask("10.88.0.1", 0, "icmp", net=netns("a")) == "10.88.0.1"


def test_nobody_gets_in_as_the_host_itself(host: Host) -> None:
    """The bridge routes loopback addresses, and ports published there are redirected before the kernel looks at it."""
    host.apply(plan("a", "b", ports=("127.0.0.1:8081:80",)))
    with host.listen(80, net=netns("a")), host.listen(9000):
        for net, gateway in ((netns("b"), "10.88.0.1"), (OUTSIDE, "192.0.2.1")):
            host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet", net=net)
            host.run("ip", "link", "set", "lo", "down", net=net)
            host.run("ip", "route", "add", "127.0.0.1", "via", gateway, net=net)
            for port in (8081, 9000):
                assert host.ask("127.0.0.1", port, net=net) == "nothing"
        assert host.ask("127.0.0.1", 8081) == "10.88.0.1"


def test_a_workload_sends_only_from_its_own_network(host: Host) -> None:
    host.apply(plan("a"))
    host.run("ip", "route", "add", "198.51.100.7", "dev", "hostctl0")
    host.run("ip", "addr", "add", "198.51.100.7/32", "dev", "eth0", net=netns("a"))
    with host.listen(9001, net=OUTSIDE):
        assert host.ask("192.0.2.2", 9001, net=netns("a")) == "192.0.2.1"
        host.run("ip", "route", "replace", "default", "via", "10.88.0.1", "src", "198.51.100.7", net=netns("a"))
        assert host.ask("192.0.2.2", 9001, net=netns("a")) == "nothing"


def test_namespaces_belong_to_the_workload(host: Host) -> None:
    host.apply(plan("a"))
    root = f"/proc/{host.process.pid}/root"
    with Path(root + netns("a")).open() as network:
        owner = fcntl.ioctl(network, NS_GET_USERNS)
        assert os.fstat(owner).st_ino == Path(f"{root}/run/hostctl/userns/a").stat().st_ino
        os.close(owner)
    words = ("nsenter", "--user=/run/hostctl/userns/a", "cat", "/proc/self/uid_map", "/proc/self/gid_map")
    assert host.run(*words).split() == ["0", str(START + 65536 * ord("a")), "65536"] * 2
    assert host.run("cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start", net=netns("a")) == "0"
    assert host.run("cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start") == "1024"
    assert "127.0.0.1" in host.run("ip", "-4", "addr", "show", "dev", "lo", net=netns("a"))


def test_a_second_pass_changes_nothing(host: Host) -> None:
    host.apply(plan("a", "b", ports=("8080:80",)))
    links, rules, namespace = host.links(), host.run("nft", "list", "ruleset"), host.namespace("a")
    host.apply(plan("a", "b", ports=("8080:80",)))
    assert (host.links(), host.run("nft", "list", "ruleset"), host.namespace("a")) == (links, rules, namespace)


def test_what_is_not_declared_any_more_goes_and_nothing_else(host: Host) -> None:
    before = host.links()
    host.run("nft", "add", "table", "ip", "other")
    first = plan("a", "b")
    host.apply(first)
    namespace = host.namespace("b")
    host.apply(plan("b", "c", former=first))
    assert host.run("ls", "/run/netns").split() == ["outside", "workload-b", "workload-c"]
    assert host.namespace("b") == namespace
    with host.listen(80, net=netns("c")):
        assert host.ask("10.88.0.4", 80, net=netns("b")) == "10.88.0.3"
    host.apply(NetworkPlan())
    assert host.links() == before
    assert host.run("ls", "/run/netns", "/run/hostctl/userns").split() == [
        "/run/hostctl/userns:",
        "/run/netns:",
        "outside",
    ]
    assert host.run("nft", "list", "ruleset") == "table ip other {\n}"


def test_a_lost_bridge_is_made_again_under_running_workloads(host: Host) -> None:
    host.apply(plan("a"))
    namespace = host.namespace("a")
    host.run("ip", "link", "del", "hostctl0")
    host.apply(plan("a", ports=("8080:80",)))
    assert host.namespace("a") == namespace
    with host.listen(80, net=netns("a")):
        assert host.ask("10.88.0.2", 80) == "10.88.0.1"
        assert host.ask("10.88.0.1", 8080, net=netns("a")) == "10.88.0.1"


def test_what_a_cut_pass_left_half_done_is_done_anew(host: Host) -> None:
    host.apply(plan("a", "b", "c", "d"))
    host.run("ip", "link", "set", host_side("a"), "alias", "")
    host.run("ip", "link", "set", host_side("b"), "down")
    host.run("umount", netns("c"))
    host.run("ip", "link", "del", host_side("d"))
    host.apply(plan("a", "b", "c", "d"))
    for name, address in (("a", "10.88.0.2"), ("b", "10.88.0.3"), ("c", "10.88.0.4"), ("d", "10.88.0.5")):
        with host.listen(80, net=netns(name)):
            assert host.ask(address, 80) == "10.88.0.1"


def test_another_range_of_user_ids_makes_new_namespaces(host: Host) -> None:
    host.apply(plan("a"))
    host.apply(allocate([Wanted(name="a", userns_start=START)]))
    words = ("nsenter", "--user=/run/hostctl/userns/a", "cat", "/proc/self/uid_map")
    assert host.run(*words).split() == ["0", str(START), "65536"]


def test_one_workload_that_cannot_be_connected_does_not_keep_the_others(host: Host) -> None:
    host.run("ip", "link", "add", host_side("a"), "type", "bridge")
    with pytest.raises(AssertionError, match="1 of 2 workloads have no network: a"):
        host.apply(plan("a", "b"))
    with host.listen(80, net=netns("b")):
        assert host.ask("10.88.0.3", 80) == "10.88.0.1"
