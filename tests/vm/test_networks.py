"""Networks of workloads, seen from inside the containers, from the kernel and from another machine."""

import json
import re
import socket

import pytest
from hostctl_lab.host import Host
from hostctl_lab.server import RepositoryServer

PAGE = "a page from inside"
BOX = "/usr/bin/busybox"
SECONDS = 60.0
NETWORKS = """
networks:
  front: {subnet: 10.90.1.0/24, ipv6: pool}
  back: {internal: true, mtu: 1400}
workloads:
"""
WORKLOADS = {
    "web": "networks: [front, back], ports: ['8080:80', '9000-9001:80-81', '5353:53/udp']",
    "db": "networks: {back: {aliases: [sql]}}",
    "fixed": "networks: {front: {ipv4: 10.90.1.77}}, dns: {servers: [10.0.2.3], search: [example.org]}",
    "other": "pids: 50",
}


def declared(declaration: str, **more: str) -> str:
    """Return the declaration with four workloads on three networks, and more of them."""
    lines = [f"  {name}: {{image: 'localhost/box:1', read_only: true, {rest}}}\n" for name, rest in WORKLOADS.items()]
    lines += [f"  {name}: {{image: 'localhost/box:1', read_only: true, {rest}}}\n" for name, rest in more.items()]
    return declaration + NETWORKS + "".join(lines)


def inside(host: Host, workload: str, script: str) -> str:
    """Return what a shell script prints inside a workload, and its exit status in the last line."""
    words = ("hostctl", "exec", workload, "--", BOX, "sh", "-c", f"{script}; echo status $?")
    return host.text(*words, seconds=60)


def get(host: Host, workload: str, where: str) -> bool:
    """Tell whether a workload gets the page from an address."""
    return PAGE in inside(host, workload, f"{BOX} wget -q -T 3 -O - http://{where}/")


def addresses(host: Host, workload: str) -> list[str]:
    """Return a workload's addresses as the kernel has them, those of the link and the loopback left out."""
    shown = json.loads(host.text("ip", "-n", f"workload-{workload}", "-j", "addr", "show", "scope", "global"))
    return [entry["local"] for link in shown for entry in link.get("addr_info", ()) if entry]  # {} is one left out


@pytest.fixture(scope="module")
def up(host: Host, declaration: str) -> Host:
    """Return the host with the workloads."""
    host.apply(declared(declaration))
    host.wait_for("the page is served", lambda: PAGE in host.get(), SECONDS)
    return host


def test_workloads_of_one_network_find_each_other_by_name_and_alias(up: Host) -> None:
    assert get(up, "web", "db")
    assert get(up, "web", "sql")
    assert get(up, "db", "web")
    assert get(up, "fixed", "web")
    assert get(up, "web", "fixed")


def test_workloads_of_other_networks_are_neither_found_nor_reached(up: Host) -> None:
    other = addresses(up, "other")[0]
    for workload, name in (("db", "fixed"), ("db", "other"), ("other", "web"), ("other", "sql"), ("fixed", "db")):
        said = inside(up, workload, f"{BOX} nslookup {name}")
        assert "status 0" not in said, f"{workload} finds {name}: {said}"
    assert not get(up, "db", "10.90.1.77")
    assert not get(up, "db", other)
    assert not get(up, "web", other)
    assert not get(up, "other", "10.90.1.77")


def test_an_internal_network_has_no_way_out(up: Host) -> None:
    host_address = json.loads(up.text("ip", "-j", "-4", "addr", "show", "scope", "global"))[0]["addr_info"][0]["local"]
    assert up.text("ip", "-n", "workload-db", "route", "show", "default") == ""
    assert not get(up, "db", f"{host_address}:8080")
    assert get(up, "other", f"{host_address}:8080")
    assert get(up, "web", f"{host_address}:8080")
    assert "default via 10.90.1.1 dev eth0" in up.text("ip", "-n", "workload-web", "route", "show", "default")


def test_systemd_makes_no_unit_for_a_link_of_a_workload(up: Host) -> None:
    assert "hc" in up.text("sh", "-c", "ip -o link show type veth")
    devices = up.text("systemctl", "list-units", "--type=device", "--no-legend", "--plain")
    assert "-net-devices-" in devices
    assert "-net-devices-hc" not in devices


def test_published_ports_answer_and_show_who_asks(up: Host) -> None:
    with socket.create_connection(("127.0.0.1", up.web_port), timeout=10) as asking:
        asking.send(b"GET / HTTP/1.0\r\n")
        # The emulated network's own address, which the machine outside has: 10.0.2.2, as in /proc/net/tcp.
        connected = inside(up, "web", "cat /proc/net/tcp /proc/net/tcp6")
        assert re.search(r":0050 \S*0202000A:[0-9A-F]{4} 01 ", connected), connected
    fetch = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=5).read().decode())"
    inner = addresses(up, "web")[-1].rpartition(".")[0] + ".1"  # the host's own in the network that it answers past
    for address in ("127.0.0.1:8080", "127.0.0.1:9000", "10.90.1.1:8080", f"{inner}:8080"):
        assert PAGE in up.text("python3", "-c", fetch, f"http://{address}/")
    assert "refused" in up.fails("python3", "-c", fetch, "http://127.0.0.1:9001/")
    assert "refused" in up.fails("python3", "-c", fetch, "http://127.0.0.1:9002/")


KEEP_SENDING = """
import socket, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.bind(("127.0.0.1", 5000))
while True:
    sender.sendto(b"a line of syslog", ("127.0.0.1", 5514))
    time.sleep(0.5)
"""
RECEIVE = """
import os, socket
os.setns(os.open("/run/netns/workload-log", os.O_RDONLY), os.CLONE_NEWNET)
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.settimeout(20)
receiver.bind(("", 5514))
print(receiver.recv(100).decode())
"""


def test_who_sends_udp_since_before_a_port_was_published_reaches_it(up: Host, declaration: str) -> None:
    up.text("systemd-run", "--unit=sender", "python3", "-c", KEEP_SENDING)
    up.apply(declared(declaration, log="ports: ['5514:5514/udp']"))
    try:
        assert up.text("python3", "-c", RECEIVE) == "a line of syslog"
    finally:
        up.text("systemctl", "stop", "sender.service")
        up.apply(declared(declaration))


def test_ipv6_works_inside_and_towards_published_ports(up: Host) -> None:
    four, six = addresses(up, "web")[:2]
    assert (four.startswith("10.90.1."), six.startswith("fd")) == (True, True)
    assert get(up, "fixed", f"[{six}]")
    gateway = up.text("sh", "-c", "ip -j -6 addr show dev hcb-front scope global")
    own = json.loads(gateway)[0]["addr_info"][0]["local"]
    assert get(up, "fixed", f"[{own}]:8080")
    assert "inet6" not in up.text("ip", "-n", "workload-db", "addr", "show", "dev", "eth0")
    assert up.text("ip", "-6", "addr", "show", "dev", "hcb-front", "tentative") == ""


def test_addresses_sizes_and_name_servers_are_the_declared_ones(up: Host) -> None:
    assert addresses(up, "fixed")[0] == "10.90.1.77"
    assert "mtu 1400" in up.text("ip", "-n", "workload-db", "link", "show", "eth0")
    links = up.text("ip", "-n", "workload-web", "-o", "link")
    assert re.findall(r"(eth\d)@.* mtu (\d+)", links) == [("eth0", "1500"), ("eth1", "1400")]
    said = inside(up, "fixed", "cat /etc/resolv.conf")
    assert "nameserver 10.90.1.1\nsearch example.org" in said


def test_a_subnet_that_somebody_is_in_already_is_refused(up: Host, declaration: str) -> None:
    inner = addresses(up, "db")[0].rpartition(".")[0]
    taken = (f"{inner}.0/24", "network back has from the pool"), ("10.88.5.0/24", "first half of network_pool")
    for subnet, said in taken:
        late = f"networks:\n  late: {{subnet: {subnet}}}\n"
        text = declared(declaration).replace("networks:\n", late, 1)
        assert said in up.fails("hostctl", "apply", "-", stdin=text)
    assert get(up, "web", "db")


def test_the_packet_filter_comes_back_and_others_tables_stay(up: Host) -> None:
    up.text("nft", "flush", "ruleset")
    up.text("nft", "add", "table", "inet", "mine")
    assert up.get() == ""
    up.text("systemctl", "restart", "hostctl-network.service")
    assert PAGE in up.get()
    assert not get(up, "other", "10.90.1.77")
    assert up.text("nft", "list", "tables").splitlines() == ["table inet mine", "table inet hostctl"]
    up.text("nft", "delete", "table", "inet", "mine")


def test_debians_packet_filter_takes_ours_away_for_no_longer_than_a_moment(up: Host) -> None:
    for verb in ("start", "reload", "restart", "stop"):  # each ends with our rules gone
        up.text("systemctl", verb, "nftables.service")
        up.wait_for(f"the page is served after a {verb}", lambda: PAGE in up.get(), SECONDS)
        assert not get(up, "other", "10.90.1.77")
    assert up.text("nft", "list", "tables") == "table inet hostctl"


def test_a_new_workload_is_found_by_name_and_nobody_is_restarted(up: Host, declaration: str) -> None:
    def invocations() -> list[str]:
        units = [f"workload-{name}.service" for name in WORKLOADS]
        return up.text("systemctl", "show", "-p", "InvocationID", *units, "hostctl-names.service").split()

    before, held = invocations(), {name: addresses(up, name) for name in WORKLOADS}
    up.apply(declared(declaration, late="networks: {back: {aliases: [cache]}}"))
    up.wait_for("the new workload is found", lambda: get(up, "db", "cache"), SECONDS)
    assert get(up, "late", "web")
    up.apply(declared(declaration))
    up.wait_for("its name is gone", lambda: "status 0" not in inside(up, "db", f"{BOX} nslookup cache"), SECONDS)
    assert invocations() == before
    assert {name: addresses(up, name) for name in WORKLOADS} == held


def test_addresses_are_kept_over_a_restart(up: Host) -> None:
    before = addresses(up, "web")
    up.text("systemctl", "restart", "workload-web.service")
    up.wait_for("the page is served", lambda: PAGE in up.get(), SECONDS)
    assert addresses(up, "web") == before
    assert get(up, "db", "web")


def test_the_name_server_is_confined_and_small(up: Host) -> None:
    shown = up.text("systemctl", "show", "-p", "MainPID,MemoryCurrent,ActiveState", "hostctl-names.service")
    facts = dict(line.split("=", 1) for line in shown.splitlines())
    assert facts["ActiveState"] == "active"
    status = up.text("cat", f"/proc/{facts['MainPID']}/status")
    assert re.search(r"^Uid:\t(?!0\t)\d+", status, re.MULTILINE)
    assert re.search(r"^CapEff:\t0000000000000400$", status, re.MULTILINE)  # CAP_NET_BIND_SERVICE alone
    assert int(facts["MemoryCurrent"]) < 32 << 20


def test_a_workload_starts_when_the_parent_of_its_network_is_there(up: Host, declaration: str) -> None:
    make = "ip link add late0 type veth peer name late1 && ip link set late0 up"
    up.shell(make)
    lan = "  lan: {driver: macvlan, parent: late0, subnet: 10.99.0.0/24}\n"
    up.apply(declared(declaration, edge="networks: [lan]").replace("networks:\n", f"networks:\n{lan}", 1))
    before = addresses(up, "edge")
    up.text("systemctl", "stop", "workload-edge.service")
    up.text("ip", "link", "del", "late0")
    up.run("systemctl", "restart", "hostctl-network.service", check=False)
    up.text("systemctl", "start", "--no-block", "workload-edge.service")
    tries = ("systemctl", "show", "--value", "-p", "NRestarts", "workload-edge.service")
    up.wait_for("it was tried", lambda: int(up.text(*tries)) > 0, SECONDS)
    up.shell(make)
    is_active = ("systemctl", "is-active", "workload-edge.service")
    up.wait_for("it runs", lambda: up.run(*is_active, check=False).text.strip() == "active", 180)
    assert addresses(up, "edge") == before
    up.apply(declared(declaration))
    up.text("ip", "link", "del", "late0")


def test_macvlan_is_a_machine_of_its_own_and_none_is_left_behind(
    up: Host, declaration: str, server: RepositoryServer
) -> None:
    link = up.text("sh", "-c", "ip -o -4 addr show scope global | grep -v 'hc\\|hostctl' | head -1").split()[1]
    lan = f"  lan: {{driver: macvlan, parent: {link}, subnet: 10.0.2.0/24, gateway: 10.0.2.2}}\n"
    text = declared(declaration, edge="networks: {lan: {ipv4: 10.0.2.77}}").replace(
        "networks:\n", f"networks:\n{lan}", 1
    )
    up.apply(text)
    assert addresses(up, "edge")[0] == "10.0.2.77"
    fetch = f"{BOX} wget -q -T 3 -O /dev/null {server.url}"
    up.wait_for("another machine answers", lambda: "status 0" in inside(up, "edge", fetch), SECONDS)
    up.apply(declared(declaration).split("networks:")[0])
    assert not re.search(r"hcb-|hostctl0|: hc[0-9a-f]{12}", up.text("ip", "-o", "link"))
    assert up.text("nft", "list", "tables") == ""
    assert up.text("systemctl", "is-active", "hostctl-network.service") == "active"
    is_active = ("systemctl", "is-active", "hostctl-names.service")
    up.wait_for("the name server ended", lambda: up.run(*is_active, check=False).text.strip() == "inactive", 20)
