"""The network pass for real: a host in namespaces of its own, with neighbours, listeners and packets."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

import hostctl
from hostctl.config.references import PortMapping
from hostctl.network import balance, declared, nftables
from hostctl.network.allocate import Wanted, WantedAttachment, WantedNetwork, allocate
from hostctl.network.document import encode
from hostctl.network.model import NetworkPlan
from hostctl.network.work import host_side
from hostctl.workload import instance

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
START = 0x10000000
NS_GET_USERNS = 0xB701  # ioctl_ns(2)
LISTEN = """
import socket, sys
kind = socket.SOCK_DGRAM if sys.argv[2] == "udp" else socket.SOCK_STREAM
server = socket.socket(socket.AF_INET6, kind)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("", int(sys.argv[1])))
if kind == socket.SOCK_STREAM:
    server.listen()
print("ready", flush=True)
while True:
    if kind == socket.SOCK_STREAM:
        with server.accept()[0] as peer:
            peer.sendall(peer.getpeername()[0].removeprefix("::ffff:").encode())
    else:
        peer = server.recvfrom(10)[1]
        server.sendto(peer[0].removeprefix("::ffff:").encode(), peer)
"""
ASK = """
import socket, sys
kinds = {"tcp": (socket.SOCK_STREAM, 0), "udp": (socket.SOCK_DGRAM, 0), "icmp": (socket.SOCK_RAW, 1)}
client = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, *kinds[sys.argv[3]])
client.settimeout(float(sys.argv[4]))
try:
    client.bind(("", int(sys.argv[5])))
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
ip addr add 2001:db8::1/64 dev wan0 nodad && ip -n outside addr add 2001:db8::2/64 dev eth0 nodad
ip -n outside route add default via 2001:db8::1
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

    def ask(self, address: str, port: int, kind: str = "tcp", *, net: str | None = None, by: int = 0) -> str:
        """Return by which address a listener sees us, or who sent the echo; ``nothing`` if no answer comes soon."""
        return self.run(*PYTHON, ASK, address, str(port), kind, "0.4", str(by), net=net)

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


def wanted(name: str, *ports: str, on: tuple[str, ...] = ("default",)) -> Wanted:
    """Return a workload on networks, with published ports."""
    return Wanted(
        name=name,
        userns_start=START + 65536 * ord(name[0]),
        attachments=tuple(WantedAttachment(network=network) for network in on),
        ports=tuple(PortMapping.parse(port) for port in ports),
    )


def plan(*names: str, ports: tuple[str, ...] = (), former: NetworkPlan | None = None) -> NetworkPlan:
    """Return a plan in which the first workload publishes ``ports``."""
    return allocate([wanted(name, *(ports if name == names[0] else ())) for name in names], former)


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


def test_a_link_has_one_queue_each_way_on_both_sides(host: Host) -> None:
    host.apply(plan("a"))
    links = json.loads(host.run("ip", "-d", "-j", "link", "show", "type", "veth"))
    links += json.loads(host.run("ip", "-d", "-j", "link", "show", "dev", "eth0", net=netns("a")))
    ours = [link for link in links if link["ifname"] != "wan0"]
    assert [(link["num_tx_queues"], link["num_rx_queues"]) for link in ours] == [(1, 1), (1, 1)]


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
    host.run("ip", "link", "set", host_side("a", "default"), "alias", "")
    host.run("ip", "link", "set", host_side("b", "default"), "down")
    host.run("umount", netns("c"))
    host.run("ip", "link", "del", host_side("d", "default"))
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
    host.run("ip", "link", "add", host_side("a", "default"), "type", "bridge")
    with pytest.raises(AssertionError, match="1 of 2 workloads have no network: a"):
        host.apply(plan("a", "b"))
    with host.listen(80, net=netns("b")):
        assert host.ask("10.88.0.3", 80) == "10.88.0.1"
    assert host.run("ls", "/run/netns", "/run/hostctl/userns").split() == [
        "/run/hostctl/userns:",
        "b",
        "/run/netns:",
        "outside",
        "workload-b",
    ], "it could start without a network, which nobody would give it later"
    host.run("ip", "link", "del", host_side("a", "default"))
    host.apply(plan("a", "b"))
    with host.listen(80, net=netns("a")):
        assert host.ask("10.88.0.2", 80) == "10.88.0.1"


def test_a_workload_waits_for_a_parent_that_comes_late(host: Host) -> None:
    lan = WantedNetwork(name="lan", driver="macvlan", parent="late0", subnet=IPv4Network("192.0.2.0/24"))
    place = WantedAttachment(network="lan", address=IPv4Network("192.0.2.0/24")[77])
    made = allocate([Wanted(name="m", userns_start=START, attachments=(place,)), wanted("b")], networks=[lan])
    with pytest.raises(AssertionError, match="network lan is in that of the link late0, which is not there"):
        host.apply(made)
    assert host.run("ls", "/run/netns").split() == ["outside", "workload-b"]
    host.run("ip", "link", "add", "late0", "type", "veth", "peer", "name", "late1")
    host.run("ip", "link", "set", "late0", "up")
    host.apply(made)
    assert "192.0.2.77/24" in host.run("ip", "addr", "show", "dev", "eth0", net=netns("m"))


def marked(host: Host, name: str) -> bool:
    return host.run("cat", "/proc/sys/net/ipv4/ip_default_ttl", net=netns(name)) == "77"


FRONT = WantedNetwork(name="front", subnet6=IPv6Network("fd00:1::/64"), mtu=1400)
BACK = WantedNetwork(name="back", internal=True)


def several(*more: WantedNetwork, former: NetworkPlan | None = None) -> NetworkPlan:
    """Return a plan of a web server on two networks, a data base on the inner one, and somebody on neither."""
    web = wanted("web", "8080:80", "9000-9002:90-92", "53:53/udp", on=("front", "back"))
    return allocate([web, wanted("db", on=("back",)), wanted("other")], former, [FRONT, BACK, *more])


def test_networks_are_isolated_and_internal_ones_have_no_way_out(host: Host) -> None:
    host.apply(several())
    web, db, other = netns("web"), netns("db"), netns("other")
    with (
        host.listen(80, net=web),
        host.listen(80, net=db),
        host.listen(80, net=other),
        host.listen(9001, net=OUTSIDE),
        host.listen(53, "udp"),
    ):
        assert host.ask("10.89.1.2", 80, net=web) == "10.89.1.3"
        assert host.ask("10.89.1.3", 80, net=db) == "10.89.1.2"
        for asking, address in ((other, "10.89.0.2"), (other, "10.89.1.2"), (db, "10.89.0.2"), (db, "10.88.0.2")):
            assert host.ask(address, 80, net=asking) == "nothing"
        assert host.ask("192.0.2.2", 9001, net=web) == "192.0.2.1"
        assert host.ask("192.0.2.2", 9001, net=db) == "nothing"
        assert host.ask("10.89.1.1", 53, "udp", net=db) == "10.89.1.2"
        assert host.ask("10.88.0.1", 53, "udp", net=db) == "nothing"
        # What is published is for all who can ask the host, by their own address; not for an internal network.
        assert host.ask("192.0.2.1", 8080, net=OUTSIDE) == "192.0.2.2"
        assert host.ask("192.0.2.1", 8080, net=other) == "10.88.0.2"
        assert host.ask("192.0.2.1", 8080, net=web) == "10.89.0.1"
        assert host.ask("127.0.0.1", 8080) == "10.89.0.1"
        assert host.ask("192.0.2.1", 8080, net=db) == "nothing"
        assert host.ask("10.89.1.1", 8080, net=db) == "nothing"
        assert host.ask("10.89.1.2", 80) == "10.89.1.1"
    # A way that a workload makes for itself leads nowhere: the host forwards nothing of an internal network.
    host.run("ip", "route", "add", "default", "via", "10.89.1.1", net=db)
    with host.listen(9001, net=OUTSIDE), host.listen(80, net=other):
        assert host.ask("192.0.2.2", 9001, net=db) == "nothing"
        assert host.ask("10.88.0.2", 80, net=db) == "nothing"


@pytest.mark.parametrize("inner", [False, True])
def test_who_asks_by_way_of_the_host_from_another_network_of_a_workload_is_answered(host: Host, inner: bool) -> None:
    """The workload has a way of its own there, past the host; who else is on its first network keeps their address."""
    back = replace(BACK, internal=inner, subnet6=IPv6Network("fd00:2::/64"))
    on_both = wanted("web", "8080:80", on=("front", "back"))
    alone = wanted("near", "8081:80", on=("front",))
    host.apply(allocate([on_both, alone, wanted("behind", on=("back",))], networks=[FRONT, back]))
    web, behind = netns("web"), netns("behind")
    with host.listen(80, net=web), host.listen(80, net=netns("near")):
        for address in ("192.0.2.1", "10.89.1.1"):
            assert host.ask(address, 8080, net=behind) == ("nothing" if inner else "10.89.0.1")
            assert host.ask(address, 8081, net=behind) == ("nothing" if inner else "10.89.1.2")
        assert host.ask("2001:db8::1", 8080, net=behind) == ("nothing" if inner else "fd00:1::1")
        assert host.ask("10.89.1.1", 8080) == "10.89.0.1"  # the host itself, by its address there
        assert host.ask("fd00:2::1", 8080) == "fd00:1::1"
        assert host.ask("192.0.2.1", 8080, net=OUTSIDE) == "192.0.2.2"
        host.run("ip", "route", "add", "192.0.2.1", "via", "10.89.1.1", net=web)
        assert host.ask("192.0.2.1", 8080, net=web) == ("nothing" if inner else "10.89.0.1")


def test_neighbours_in_the_network_of_a_macvlan_link_are_answered_by_way_of_the_host(host: Host) -> None:
    subnet = IPv4Network("192.0.2.0/24")
    lan = WantedNetwork(name="lan", driver="macvlan", parent="wan0", subnet=subnet)
    host.apply(allocate([wanted("web", "8080:80", on=("front", "lan"))], networks=[FRONT, lan]))
    with host.listen(80, net=netns("web")):
        assert host.ask("192.0.2.1", 8080, net=OUTSIDE) == "10.89.0.1"
        assert host.ask("2001:db8::1", 8080, net=OUTSIDE) == "2001:db8::2"


def test_who_publishes_port_53_is_not_asked_instead_of_the_name_servers(host: Host) -> None:
    host.apply(several())
    with host.listen(53, "udp", net=netns("web")):
        assert host.ask("192.0.2.1", 53, "udp", net=OUTSIDE) == "192.0.2.2"
        assert host.ask("127.0.0.1", 53, "udp") == "10.89.0.1"
        assert host.ask("127.0.0.53", 53, "udp") == "refused"
        assert host.ask("10.88.0.1", 53, "udp", net=netns("other")) == "refused"


def test_the_name_server_is_for_workloads_and_the_host_alone(host: Host) -> None:
    """Whoever is beside the host may send to the address of a gateway by way of it."""
    web = wanted("web", on=("front", "back"))
    host.apply(allocate([web, wanted("db", on=("back",)), wanted("other")], networks=[FRONT, BACK]))
    for kind in ("udp", "tcp"):
        with host.listen(53, kind):
            for address in ("10.89.0.1", "10.89.1.1", "10.88.0.1", "fd00:1::1"):
                assert host.ask(address, 53, kind, net=OUTSIDE) == "nothing"
                if kind == "tcp":  # by udp this listener answers from another address than it was asked at
                    assert host.ask(address, 53, kind) in (address, "192.0.2.1")
            assert host.ask("10.89.0.1", 53, kind, net=netns("web")) == "10.89.0.2"
            assert host.ask("fd00:1::1", 53, kind, net=netns("web")) == "fd00:1::2"
            assert host.ask("10.89.1.1", 53, kind, net=netns("db")) == "10.89.1.2"
            assert host.ask("10.89.0.1", 53, kind, net=netns("other")) == "nothing"
            assert host.ask("192.0.2.1", 53, kind, net=OUTSIDE) == "192.0.2.2"


def test_who_sends_on_and_on_from_one_port_reaches_a_port_that_is_published_later_or_moves(host: Host) -> None:
    def syslog(address: str = "192.0.2.1", net: str | None = OUTSIDE) -> str:
        return host.ask(address, 514, "udp", net=net, by=5000)

    host.apply(plan("c"))
    assert [syslog(), syslog("127.0.0.1", None), syslog("2001:db8::1")] == ["refused"] * 3
    front = replace(FRONT, name="default")
    log = wanted("c", "514:1514/udp")
    first = allocate([log], networks=[front])
    host.apply(first)
    with host.listen(1514, "udp", net=netns("c")), host.listen(514, "udp", net=OUTSIDE):
        assert syslog() == "192.0.2.2"
        assert syslog("2001:db8::1") == "2001:db8::2"
        assert syslog("127.0.0.1", None) == "10.88.0.1"
        assert syslog("192.0.2.2", netns("c")) == "192.0.2.1"
    moved = allocate([wanted("a"), log], networks=[front])
    assert first.workloads[0].attachments[0].address != moved.workloads[1].attachments[0].address
    for made in (moved, moved):
        host.apply(made)
        with host.listen(1514, "udp", net=netns("c")):
            assert syslog() == "192.0.2.2"
            assert syslog("2001:db8::1") == "2001:db8::2"
            assert syslog("127.0.0.1", None) == "10.88.0.1"


def test_ranges_of_ports_lead_to_the_port_at_the_same_place(host: Host) -> None:
    host.apply(several())
    with host.listen(92, net=netns("web")), host.listen(90, net=netns("web")):
        assert host.ask("192.0.2.1", 9002, net=OUTSIDE) == "192.0.2.2"
        assert host.ask("192.0.2.1", 9000, net=OUTSIDE) == "192.0.2.2"
        assert host.ask("192.0.2.1", 9001, net=OUTSIDE) == "refused"
        assert host.ask("192.0.2.1", 9003, net=OUTSIDE) == "refused"
    host.apply(plan("a", ports=("7000-7009:7000-7009/udp",)))
    with host.listen(7009, "udp", net=netns("a")):
        assert host.ask("192.0.2.1", 7009, "udp", net=OUTSIDE) == "192.0.2.2"


def test_ipv6_reaches_out_and_in(host: Host) -> None:
    host.apply(several())
    web, own = netns("web"), "fd00:1::2"
    with host.listen(80, net=web), host.listen(9001, net=OUTSIDE), host.listen(7000):
        assert host.ask(own, 80) == "fd00:1::1"
        assert host.ask("2001:db8::2", 9001, net=web) == "2001:db8::1"
        assert host.ask("2001:db8::1", 8080, net=OUTSIDE) == "2001:db8::2"
        assert host.ask("2001:db8::1", 8080) == "2001:db8::1"
        assert host.ask("2001:db8::1", 8080, net=web) == "fd00:1::1"
        assert host.ask("::1", 8080) == "refused"
        assert host.ask(own, 80, net=OUTSIDE) == "nothing"
        assert host.ask("fd00:1::1", 7000, net=web) == "nothing"
        host.run("ip", "addr", "add", "fd00:7::7/128", "dev", "eth0", "nodad", net=web)
        host.run("ip", "route", "replace", "default", "via", "fd00:1::1", "src", "fd00:7::7", "dev", "eth0", net=web)
        assert host.ask("2001:db8::2", 9001, net=web) == "nothing"


def test_a_port_at_an_ipv6_address_is_there_alone(host: Host) -> None:
    host.apply(allocate([wanted("a", "[2001:db8::1]:81:80", "127.0.0.1:82:80", on=("front",))], networks=[FRONT]))
    with host.listen(80, net=netns("a")):
        assert host.ask("2001:db8::1", 81) == "2001:db8::1"
        assert host.ask("2001:db8::1", 81, net=OUTSIDE) == "2001:db8::2"
        assert host.ask("127.0.0.1", 82) == "10.89.0.1"
        for address, port in (("127.0.0.1", 81), ("::1", 82), ("2001:db8::1", 82)):
            assert host.ask(address, port) == "refused"
        assert host.ask("192.0.2.1", 81, net=OUTSIDE) == "refused"


def test_interfaces_are_as_the_networks_say(host: Host) -> None:
    host.apply(several())
    shown = host.run("ip", "-o", "link", "show", net=netns("web"))
    assert re.findall(r"(eth\d)@.* mtu (\d+)", shown) == [("eth0", "1400"), ("eth1", "1500")]
    assert "mtu 1400" in host.run("ip", "link", "show", "hcb-front")
    assert host.run("ip", "route", "show", "default", net=netns("web")).startswith("default via 10.89.0.1 dev eth0")
    assert host.run("ip", "route", "show", "default", net=netns("db")) == ""
    assert host.run("ip", "-6", "addr", "show", "scope", "global", net=netns("db")) == ""


def test_a_change_of_one_network_or_workload_touches_no_other(host: Host) -> None:
    first = several()
    host.apply(first)
    for name in ("web", "db", "other"):  # a mark that a new namespace would not have
        host.run("sh", "-c", "echo 77 > /proc/sys/net/ipv4/ip_default_ttl", net=netns(name))
    front = WantedNetwork(name="front", subnet6=IPv6Network("fd00:1::/64"), mtu=1300)
    web = wanted("web", on=("front", "back"))
    host.apply(allocate([web, wanted("db", on=("back",)), wanted("other"), wanted("new")], first, [front, BACK]))
    left = [name for name in ("web", "db", "other") if marked(host, name)]
    assert left == ["db", "other"]
    assert "mtu 1300" in host.run("ip", "link", "show", "eth0", net=netns("web"))
    with host.listen(80, net=netns("web")):
        assert host.ask("10.89.1.3", 80, net=netns("db")) == "10.89.1.2"
    host.apply(allocate([wanted("other")], first))
    assert sorted(re.findall(r"hcb-\w+|hostctl0", "\n".join(host.links()))) == ["hostctl0", "hostctl0"]
    assert marked(host, "other")


def lasting(*on: str, former: NetworkPlan | None = None) -> NetworkPlan:
    """Return a plan of a workload whose networks may change while it runs, and of a neighbour on each network."""
    one = replace(wanted("web", on=on), lasting=True)
    return allocate([one, wanted("near"), wanted("front-db", on=("front",)), BEHIND], former, [FRONT, BACK])


BEHIND = Wanted(name="behind", userns_start=START, attachments=(WantedAttachment(network="back"),))
NEIGHBOURS = {"back": "behind", "default": "near", "front": "front-db"}


def test_networks_come_and_go_while_a_workload_runs(host: Host) -> None:
    plans = [lasting("back")]
    host.apply(plans[0])
    web = netns("web")
    host.run("sh", "-c", "echo 77 > /proc/sys/net/ipv4/ip_default_ttl", net=web)
    first = host.run("ip", "-o", "link", "show", "eth0", net=web)
    with host.listen(80, net=web), host.listen(9001, net=OUTSIDE):
        assert host.ask("192.0.2.2", 9001, net=web) == "nothing"
        for on, interfaces, route in (
            (("back", "default"), {"eth0", "eth1"}, "eth1"),
            (("back", "default", "front"), {"eth0", "eth1", "eth2"}, "eth1"),
            (("back", "front"), {"eth0", "eth2"}, "eth2"),
            (("back", "front", "default"), {"eth0", "eth2", "eth1"}, "eth2"),
            (("back",), {"eth0"}, ""),
            (("back", "front"), {"eth0", "eth1"}, "eth1"),
            (("front",), {"eth1"}, "eth1"),
        ):
            plans.append(lasting(*on, former=plans[-1]))
            host.apply(plans[-1])
            links = host.links(), host.run("ip", "-o", "link", net=web)
            host.apply(plans[-1])
            assert (host.links(), host.run("ip", "-o", "link", net=web)) == links
            assert set(re.findall(r"(eth\d)@", links[1])) == interfaces
            said = host.run("ip", "route", "show", "default", net=web)
            assert re.findall(r"dev (\w+)", said) == ([route] if route else [])
            assert host.ask("192.0.2.2", 9001, net=web) == ("192.0.2.1" if route else "nothing")
            (own,) = [each for each in plans[-1].workloads if each.name == "web"]
            for place in own.attachments:
                assert host.ask(str(place.address), 80, net=netns(NEIGHBOURS[place.network])) != "nothing", on
            if "back" in on:
                assert host.run("ip", "-o", "link", "show", "eth0", net=web) == first
    assert marked(host, "web")
    host.run("ip", "link", "del", host_side("web", "front"))
    host.apply(plans[-1])
    assert not marked(host, "web"), "nobody can tell any more whose the namespaces were"


def test_a_route_moves_to_the_next_network_with_a_way_out(host: Host) -> None:
    first = lasting("default", "front")
    host.apply(first)
    host.run("sh", "-c", "echo 77 > /proc/sys/net/ipv4/ip_default_ttl", net=netns("web"))
    host.apply(lasting("front", former=first))
    with host.listen(9001, net=OUTSIDE):
        assert host.ask("192.0.2.2", 9001, net=netns("web")) == "192.0.2.1"
        assert host.ask("2001:db8::2", 9001, net=netns("web")) == "2001:db8::1"
    assert marked(host, "web")


def test_another_range_of_user_ids_makes_new_namespaces_here_too(host: Host) -> None:
    first = lasting("back")
    second = lasting("back", "front", former=first)
    host.apply(second)
    host.run("sh", "-c", "echo 77 > /proc/sys/net/ipv4/ip_default_ttl", net=netns("web"))
    start = START + (1 << 26)
    moved = [replace(each, userns_start=start) if each.name == "web" else each for each in second.workloads]
    host.apply(replace(second, workloads=tuple(moved)))
    assert not marked(host, "web")


def test_a_flushed_packet_filter_is_set_again_and_others_rules_stay(host: Host) -> None:
    host.apply(several())
    host.run("nft", "flush", "ruleset")
    host.run("nft", "add", "table", "inet", "mine")
    with host.listen(80, net=netns("web")), host.listen(80, net=netns("other")):
        assert host.ask("192.0.2.1", 8080, net=OUTSIDE) == "refused"
        host.apply(several())
        assert host.ask("192.0.2.1", 8080, net=OUTSIDE) == "192.0.2.2"
        assert host.ask("10.88.0.2", 80, net=netns("web")) == "nothing"
    assert host.run("nft", "list", "tables").splitlines() == ["table inet mine", "table inet hostctl"]


def test_a_macvlan_workload_is_a_machine_of_its_own(host: Host) -> None:
    subnet = IPv4Network("192.0.2.0/24")
    lan = WantedNetwork(name="lan", driver="macvlan", parent="wan0", subnet=subnet, gateway=subnet[2])
    made = allocate(
        [
            Wanted(name=name, userns_start=START + number * 65536, attachments=(place,))
            for number, (name, place) in enumerate(
                (name, WantedAttachment(network="lan", address=subnet[at])) for name, at in (("m", 77), ("n", 78))
            )
        ],
        networks=[lan],
    )
    host.apply(made)
    namespace = host.namespace("m")
    with host.listen(80, net=netns("m")), host.listen(9001, net=OUTSIDE):
        assert host.ask("192.0.2.77", 80, net=OUTSIDE) == "192.0.2.2"
        assert host.ask("192.0.2.77", 80, net=netns("n")) == "192.0.2.78"
        assert host.ask("192.0.2.2", 9001, net=netns("m")) == "192.0.2.77"
    host.apply(made)
    assert host.namespace("m") == namespace
    assert "default via 192.0.2.2 dev eth0" in host.run("ip", "route", net=netns("m"))
    host.run("ip", "link", "set", "eth0", "down", net=netns("m"))
    host.apply(made)
    assert host.namespace("m") != namespace
    with host.listen(80, net=netns("m")):
        assert host.ask("192.0.2.77", 80, net=OUTSIDE) == "192.0.2.2"


def test_names_are_written_for_the_server_and_only_what_changed(host: Host) -> None:
    first = several()
    host.apply(first)
    folder = "/run/hostctl/names"
    assert host.run("ls", folder).split() == ["aardvark.pid", "back%int", "default", "front"]
    assert host.run("cat", f"{folder}/back%int").splitlines() == ["10.89.1.1", "db 10.89.1.2  db", "web 10.89.1.3  web"]
    assert host.run("cat", f"{folder}/front").splitlines() == ["10.89.0.1,fd00:1::1", "web 10.89.0.2 fd00:1::2 web"]
    kept = host.run("stat", "-c", "%i", f"{folder}/front")
    host.apply(allocate([wanted("web", on=("front",))], first, [FRONT, BACK]))
    assert host.run("ls", folder).split() == ["aardvark.pid", "front"]
    assert host.run("stat", "-c", "%i", f"{folder}/front") == kept


SERVE = """
import socketserver, sys
class Answer(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(sys.argv[1].encode() + line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, request_queue_size, daemon_threads = True, 128, True
with Server(("", 80), Answer) as server:
    print("ready", flush=True)
    server.serve_forever()
"""
KEEP_ASKING = """
import socket, sys
failed, answers = 0, []
held = socket.create_connection((sys.argv[1], 8080), 5).makefile("rw")
def asked(file):
    file.write("x\\n")
    file.flush()
    return file.readline()[:1]
print(asked(held), flush=True)
while answers[-200:] != ["b"] * 200 and len(answers) < 20000:
    try:
        with socket.create_connection((sys.argv[1], 8080), 5) as one:
            answers.append(asked(one.makefile("rw")))
    except OSError:
        failed += 1
print(failed, "".join(dict.fromkeys(answers)), asked(held), flush=True)
"""


@contextmanager
def serving(host: Host, key: str) -> Iterator[None]:
    """Answer each line at port 80 of an instance with its letter."""
    words = host.words(*PYTHON, SERVE, key[-1], net=netns(key))
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
        process.kill()


@pytest.mark.parametrize(("address", "net"), [("192.0.2.1", OUTSIDE), ("127.0.0.1", None)])
def test_new_connections_move_to_another_instance_and_those_that_are_there_stay(
    host: Host, address: str, net: str | None
) -> None:
    site = replace(wanted("site", "8080:80"), instance="a")
    first = allocate([site])
    second = allocate([replace(site, instance="b"), replace(site, standby=True)], first)
    before, after = declared.moved(second, to=["site.a"]), declared.moved(second, to=["site.b"])
    host.apply(first)
    with serving(host, "site.a"):
        namespace = host.namespace("site.a")
        host.apply(before)
        assert host.namespace("site.a") == namespace
        with serving(host, "site.b"):
            words = host.words(*PYTHON, KEEP_ASKING, address, net=net)
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as asking:
                assert asking.stdout is not None
                assert asking.stdout.readline() == "a\n"
                host.apply(after)
                assert asking.stdout.readline() == "0 ab a\n"
            host.apply(replace(after, workloads=tuple(each for each in after.workloads if not each.standby)))
            assert not Path(f"/proc/{host.process.pid}/root{netns('site.a')}").exists()


SAY = """
import socket, sys
kind = socket.SOCK_DGRAM if sys.argv[2] == "udp" else socket.SOCK_STREAM
server = socket.socket(socket.AF_INET6, kind)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.bind(("", int(sys.argv[1])))
if kind == socket.SOCK_STREAM:
    server.listen()
print("ready", flush=True)
while True:
    if kind == socket.SOCK_STREAM:
        with server.accept()[0] as peer:
            peer.sendall(sys.argv[3].encode())
    else:
        server.sendto(sys.argv[3].encode(), server.recvfrom(10)[1])
"""
MANY = """
import socket, sys
for _ in range(int(sys.argv[4])):
    kind = socket.SOCK_DGRAM if sys.argv[3] == "udp" else socket.SOCK_STREAM
    client = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, kind)
    client.settimeout(2)
    try:
        client.connect((sys.argv[1], int(sys.argv[2])))
        client.send(b"x")
        print(client.recv(100).decode())
    except OSError as error:
        print("refused" if isinstance(error, ConnectionRefusedError) else "nothing")
    client.close()
"""
KEYS = ("a", "a.2", "a.3")


def replicas(count: int = 3, former: NetworkPlan | None = None) -> NetworkPlan:
    """Return a plan of a workload with replicas."""
    one = wanted("a", "8080:80", "5300-5301:53-54/udp", on=("front",))
    ranges = [START, *(START + 65536 * number for number in range(1, count))]
    made = [
        replace(one, instance=number, userns_start=start)
        for number, start in zip(instance.numbers(count), ranges, strict=True)
    ]
    return allocate([*made, wanted("b", on=("front",))], former, [FRONT])


@contextmanager
def saying(host: Host, *keys: str) -> Iterator[None]:
    """Let replicas answer with their key."""
    words = [
        host.words(*PYTHON, SAY, *port, key, net=netns(key)) for key in keys for port in (("80", "tcp"), ("53", "udp"))
    ]
    processes = [subprocess.Popen(each, stdout=subprocess.PIPE) for each in words]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        for process in processes:
            with process:
                process.kill()


def many(
    host: Host, address: str = "192.0.2.1", port: int = 8080, kind: str = "tcp", net: str = OUTSIDE
) -> Counter[str]:
    """Return how many of sixty new connections each answered."""
    return Counter(host.run(*PYTHON, MANY, address, str(port), kind, "60", net=net).split())


def started(host: Host, *keys: str) -> None:
    """Leave what systemd and the runtime leave when replicas start."""
    for key in keys:
        host.run("sh", "-c", f"mkdir -p /run/hostctl/pids && echo 1 >/run/hostctl/pids/{key}")


def serve(host: Host, made: NetworkPlan, key: str) -> None:
    """Do what the start of a replica does."""
    (one,) = [each for each in made.workloads if each.key == key]
    path = Path(f"/proc/{host.process.pid}/root/run/serve.json")
    path.write_bytes(nftables.serve(made, one))
    host.run("nft", "-j", "-f", "/run/serve.json")


def test_new_connections_are_spread_over_the_replicas_that_serve(host: Host) -> None:
    made = replicas()
    host.apply(made)
    with saying(host, *KEYS):
        assert many(host) == {"refused": 60}
        for key in KEYS:
            serve(host, made, key)
        assert many(host) == dict.fromkeys(KEYS, 20)  # by turns
        assert many(host, "2001:db8::1") == dict.fromkeys(KEYS, 20)
        assert set(many(host, port=5300, kind="udp")) == set(KEYS)
        assert set(many(host, "127.0.0.1", net="/proc/self/ns/net")) == set(KEYS)
        assert set(many(host, net=netns("b"))) == set(KEYS)
        host.run("nft", "flush", "chain", "inet", "hostctl", balance.chain("a.2"))
        found = many(host)
        assert set(found) == {"a", "a.3"}
        assert min(found.values()) >= 20
        serve(host, made, "a.2")
        serve(host, made, "a.2")
        assert many(host) == dict.fromkeys(KEYS, 20)
        for key in ("a", "a.2"):
            host.run("nft", "flush", "chain", "inet", "hostctl", balance.chain(key))
        assert many(host) == {"a.3": 60}


def test_who_sends_on_and_on_while_no_replica_serves_reaches_the_first_that_does(host: Host) -> None:
    made = replicas()
    host.apply(made)
    with saying(host, *KEYS):
        for address in ("192.0.2.1", "2001:db8::1"):
            host.ask(address, 5300, "udp", net=OUTSIDE, by=5000)
        serve(host, made, "a.2")
        for address in ("192.0.2.1", "2001:db8::1"):
            assert host.ask(address, 5300, "udp", net=OUTSIDE, by=5000) == "a.2"


def test_a_pass_leads_to_the_replicas_that_run_and_scaling_moves_no_other(host: Host) -> None:
    first = replicas()
    host.apply(first)
    started(host, *KEYS)
    namespaces = [host.namespace(key) for key in KEYS]
    host.apply(first)
    with saying(host, *KEYS):
        assert many(host) == dict.fromkeys(KEYS, 20)
        more = replicas(5, first)
        host.apply(more)
        assert set(many(host)) == set(KEYS)  # the new ones do not run yet
        started(host, "a.4", "a.5")
        with saying(host, "a.4", "a.5"):
            for key in ("a.4", "a.5"):
                serve(host, more, key)
            assert many(host) == dict.fromkeys((*KEYS, "a.4", "a.5"), 12)
        host.apply(replicas(2, more))
        assert many(host) == {"a": 30, "a.2": 30}
        assert [host.namespace(key) for key in KEYS[:2]] == namespaces[:2]
        host.apply(replicas(1, more))
        assert many(host) == {"a": 60}


def test_established_connections_stay_when_a_replica_gets_no_new_ones(host: Host) -> None:
    made = replicas()
    host.apply(made)
    with host.listen(80, net=netns("a")):
        serve(host, made, "a")
        code = (
            "import socket, sys; c = socket.create_connection(('192.0.2.1', 8080), 5); print('there', flush=True); "
            "sys.stdin.readline(); print(c.recv(100).decode(), flush=True)"
        )
        words = host.words(*PYTHON, code, net=OUTSIDE)
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == "there\n"
            host.run("nft", "flush", "chain", "inet", "hostctl", balance.chain("a"))
            assert many(host) == {"refused": 60}
            assert client.communicate("\n", timeout=20)[0] == "192.0.2.2\n"
