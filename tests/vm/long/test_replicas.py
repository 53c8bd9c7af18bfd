"""Several containers of one workload behind one port: only those that work get connections, and only the difference
between two numbers of them is started or stopped."""

import json
from collections import Counter
from collections.abc import Callable, Mapping

import pytest
from hostctl_lab.host import Host

BOX = "/usr/bin/busybox"
READY_SECONDS = 90.0
APPLY_SECONDS = 600.0
REQUESTS = 120
SERVE = (
    f"{BOX} mkdir /www; echo $HOSTNAME >/www/index.html; echo $WORD from $HOSTNAME; exec {BOX} httpd -f -p 80 -h /www"
)
ASK = """
import collections, socket, sys
found = collections.Counter()
for _ in range(int(sys.argv[2])):
    try:
        with socket.create_connection((sys.argv[1], 8080), 10) as one:
            one.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            data = b""
            while part := one.recv(65536):
                data += part
        head, _, body = data.partition(b"\\r\\n\\r\\n")
        found[body.decode().strip() if b" 200 " in head.splitlines()[0] else "bad"] += 1
    except (OSError, IndexError) as error:
        found[repr(error)] += 1
print(__import__("json").dumps(found))
"""
Declare = Callable[..., str]


@pytest.fixture(scope="module")
def declare(declaration: str) -> Declare:
    """Return what makes a declaration with a number of replicas that serve their names, and one that looks them up."""

    def made(count: int, word: str = "serving") -> str:
        return f"""{declaration}\
workloads:
  site:
    image: localhost/box:1
    replicas: {count}
    command: [{BOX}, sh, -c, "{SERVE}"]
    env: {{WORD: {word}}}
    env_secrets: {{SECRET: key}}
    ports: ["8080:80"]
    volumes: ["shared:/shared"]
    required: true
    healthcheck: {{http: "http://localhost/", interval: 1s, start_period: 5s, retries: 2, action: none}}
  client: {{image: localhost/box:1, command: [{BOX}, sleep, "1000000"]}}
volumes: {{shared: {{}}}}
secrets: {{key: {{}}}}
"""

    return made


def keys(count: int) -> tuple[str, ...]:
    """Return what the units of so many replicas are called by."""
    return ("site", *(f"site.{number}" for number in range(2, count + 1)))


def labels(*numbers: int) -> set[str]:
    """Return what replicas call themselves."""
    return {f"site.{number}" for number in numbers}


def ask(host: Host, address: str = "127.0.0.1") -> Counter[str]:
    """Return who answered how many new connections, or why there was no answer."""
    found: Mapping[str, int] = json.loads(host.text("python3", "-I", "-c", ASK, address, str(REQUESTS), seconds=300))
    return Counter(found)


def runs(host: Host, count: int) -> dict[str, str]:
    """Return what is different after every start of a replica."""
    return {key: host.text("systemctl", "show", f"workload-{key}.service", "-P", "InvocationID") for key in keys(count)}


def rows(host: Host) -> dict[str, Mapping[str, object]]:
    """Return `hostctl ps` by name."""
    return {row["name"]: row for row in json.loads(host.text("hostctl", "ps", "--json"))}


def address(host: Host, name: str) -> str:
    """Return the address of a replica."""
    return str(json.loads(host.text("hostctl", "inspect", name))["NetworkSettings"]["IPAddress"])


def looked_up(host: Host, name: str) -> str:
    """Return what the name server says to a workload of the same network."""
    return host.run("hostctl", "exec", "client", "--", BOX, "nslookup", name, check=False).text


def wait_answers(host: Host, *numbers: int) -> None:
    """Return once these replicas answer and no other, and nothing is lost."""
    host.wait_for(f"replicas {numbers} answer", lambda: set(ask(host)) == labels(*numbers), READY_SECONDS)


def test_three_answer_at_one_port_each_in_its_turn(host: Host, declare: Declare) -> None:
    host.text("hostctl", "secret", "set", "key", stdin="one")
    host.apply(declare(3), seconds=APPLY_SECONDS)
    wait_answers(host, 1, 2, 3)
    found = ask(host)
    assert set(found) == labels(1, 2, 3)
    assert min(found.values()) >= REQUESTS // 4
    host.wait_for("it is reached from outside", lambda: host.get().strip() in labels(1, 2, 3), READY_SECONDS)
    assert set(ask(host, "10.88.0.1")) == labels(1, 2, 3)
    assert sorted(rows(host)) == ["client", "site.1", "site.2", "site.3"]
    assert sorted(host.text("crun", "list", "-q").split()) == ["client", "site", "site.2", "site.3"]


def test_each_has_a_place_of_its_own_and_the_volume_is_shared(host: Host) -> None:
    assert len({address(host, name) for name in labels(1, 2, 3)}) == 3
    maps = {host.text("hostctl", "exec", name, "--", BOX, "cat", "/proc/self/uid_map") for name in labels(1, 2, 3)}
    assert len(maps) == 3
    host.text("hostctl", "exec", "site.2", "--", BOX, "sh", "-c", "echo from two >/shared/file; echo own >/own")
    assert host.text("hostctl", "exec", "site.3", "--", BOX, "cat", "/shared/file") == "from two"
    owners = {host.text("hostctl", "exec", name, "--", BOX, "ls", "-ln", "/shared/file") for name in labels(2, 3)}
    assert len(owners) == 1
    host.fails("hostctl", "exec", "site.3", "--", BOX, "cat", "/own")


def test_the_name_leads_to_all_and_each_has_its_own(host: Host) -> None:
    known = {name: address(host, name) for name in labels(1, 2, 3)}
    said = looked_up(host, "site")
    assert all(each in said for each in known.values())
    for name, own in known.items():
        said = looked_up(host, name)
        assert own in said
        assert not any(other in said.split() for other in known.values() if other != own)


def test_verbs_reach_all_or_the_one_that_is_named(host: Host) -> None:
    for name, said in (("site", "site.1"), ("site.1", "site.1"), ("site.2", "site.2")):
        assert host.text("hostctl", "exec", name, "--", BOX, "cat", "/proc/sys/kernel/hostname") == said
    assert {f"serving from site.{number}" for number in (1, 2, 3)} <= {
        line.partition(": ")[2] for line in host.text("hostctl", "logs", "site").splitlines()
    }
    assert "serving from site.3" in host.text("hostctl", "logs", "site.3").splitlines()
    assert "site.2" not in host.text("hostctl", "logs", "site.3")
    assert "httpd" in host.text("hostctl", "top", "site.2")
    assert host.text("hostctl", "port", "site.2", "80") == "0.0.0.0:8080"
    assert "there is no workload" in host.fails("hostctl", "exec", "site.4", "--", BOX, "true")
    before = runs(host, 3)
    host.text("hostctl", "restart", "site.3")
    after = runs(host, 3)
    assert {key for key, run in after.items() if run != before[key]} == {"site.3"}
    wait_answers(host, 1, 2, 3)


@pytest.mark.parametrize(
    ("command", "value"),
    [("hostctl restart site", "one"), ("printf another | hostctl secret set key --restart", "another")],
)
def test_a_restart_of_all_leaves_some_that_serve(host: Host, command: str, value: str) -> None:
    before = runs(host, 3)
    asked = 'while kill -0 $restart 2>/dev/null; do python3 -I -c "$0" 127.0.0.1 20; done; wait $restart'
    argv = ("sh", "-euc", f"{command} & restart=$!; {asked}", ASK)
    rounds = [json.loads(line) for line in host.text(*argv, seconds=APPLY_SECONDS).splitlines() if line[:1] == "{"]
    assert rounds
    assert not [who for found in rounds for who in found if "Refused" in who], "the port refuses when none works"
    assert all(run != before[key] for key, run in runs(host, 3).items())
    wait_answers(host, 1, 2, 3)
    seen = {host.text("hostctl", "exec", name, "--", BOX, "printenv", "SECRET") for name in labels(1, 2, 3)}
    assert seen == {value}


def test_one_that_is_unhealthy_gets_no_new_connections_until_it_is_well_again(host: Host) -> None:
    before = runs(host, 3)
    host.text("hostctl", "exec", "site.2", "--", BOX, "mv", "/www/index.html", "/www/away")
    host.wait_for("it is unhealthy", lambda: rows(host)["site.2"]["health"] == "unhealthy", READY_SECONDS)
    wait_answers(host, 1, 3)
    assert set(ask(host)) == labels(1, 3)
    host.text("systemctl", "reload-or-restart", "hostctl-network.service")  # a pass makes the whole table anew
    assert set(ask(host)) == labels(1, 3)
    host.text("hostctl", "exec", "site.2", "--", BOX, "mv", "/www/away", "/www/index.html")
    wait_answers(host, 1, 2, 3)
    assert runs(host, 3) == before


def test_one_that_is_stopped_or_killed_gets_no_new_connections(host: Host) -> None:
    host.text("hostctl", "stop", "site.3")
    assert set(ask(host)) == labels(1, 2)
    host.text("hostctl", "stop", "site.1")
    assert set(ask(host)) == labels(2)
    host.text("hostctl", "start", "site")
    wait_answers(host, 1, 2, 3)
    before = runs(host, 3)["site.2"]
    host.text("hostctl", "kill", "site.2")
    # Its end has been seen as soon as it is started again; from then on nobody is led to it until it is healthy.
    host.wait_for("it is started again", lambda: runs(host, 3)["site.2"] != before, READY_SECONDS)
    found = ask(host)
    assert set(found) <= labels(1, 2, 3)
    assert found.total() == REQUESTS
    wait_answers(host, 1, 2, 3)


def test_a_change_of_their_number_restarts_none_that_stays(host: Host, declare: Declare) -> None:
    three = runs(host, 3)
    said = host.apply(declare(5), seconds=APPLY_SECONDS)
    assert "is in force" in said
    five = runs(host, 5)
    assert {key: five[key] for key in three} == three
    wait_answers(host, 1, 2, 3, 4, 5)
    host.apply(declare(2), seconds=APPLY_SECONDS)
    assert set(ask(host)) == labels(1, 2)
    assert runs(host, 2) == {key: three[key] for key in keys(2)}
    assert sorted(rows(host)) == ["client", "site.1", "site.2"]
    assert sorted(host.text("ls", "/run/netns").split()) == ["workload-client", "workload-site", "workload-site.2"]
    host.fails("ls", "/var/lib/hostctl/workloads/site.5")
    said = looked_up(host, "site")
    assert address(host, "site.2") in said
    host.apply(declare(1), seconds=APPLY_SECONDS)
    assert runs(host, 1)["site"] == three["site"]
    assert set(ask(host)) == labels(1)  # it was started by that name
    assert sorted(rows(host)) == ["client", "site"]
    host.apply(declare(3), seconds=APPLY_SECONDS)
    assert runs(host, 1)["site"] == three["site"]
    wait_answers(host, 1, 2, 3)


def test_another_change_is_one_of_all(host: Host, declare: Declare) -> None:
    before = runs(host, 3)
    host.apply(declare(3, "changed"), seconds=APPLY_SECONDS)
    assert all(run != before[key] for key, run in runs(host, 3).items())
    wait_answers(host, 1, 2, 3)
    assert "changed from site.2" in host.text("hostctl", "logs", "site.2")


def test_a_reboot_starts_all_of_them(host: Host) -> None:
    host.run("sync")
    host.power_cycle()
    host.wait_booted()
    wait_answers(host, 1, 2, 3)
    assert host.text("systemctl", "list-units", "--failed", "--no-legend", "--plain") == ""
