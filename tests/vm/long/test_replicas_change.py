"""Replicas change one after the other: under load no request is lost, whether the change is kept or taken back."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hostctl_lab import agent_kills, images, load
from hostctl_lab.host import Host
from hostctl_lab.registry import Registry
from hostctl_lab.releases import Lab

BOX = "/usr/bin/busybox"
GATEWAY = "10.88.0.1"
READY_SECONDS = 300.0
APPLY_SECONDS = 900.0
SETTLE_SECONDS = 60.0  # what takes 30 on a machine that is not emulated
ENOUGH = 500
REST = 0.2  # seconds between two requests of one asker: three replicas, checked and changed, need a processor too
# Asked to end it answers what it has begun: it goes on for a while, and gets no new connections any more.
SERVE = (
    f"{BOX} mkdir /www; echo ${{PAGE:-$({BOX} cat /srv/index.html)}} >/www/index.html;"
    f" test $HOSTNAME != $BAD || exit 1; {BOX} httpd -f -p 80 -h /www & server=$!;"
    f" trap '{BOX} sleep 6; kill $server' TERM; wait; wait"
)
Declare = Callable[..., str]


@pytest.fixture(scope="module")
def declare(declaration: str, registry: Registry) -> Declare:
    """Return what makes a declaration with three replicas that serve a page, and one whose network strangers use."""

    def made(
        page: str, *, check: str = "/", bad: str = "none", memory: str = "128M", image: str = "", more: str = ""
    ) -> str:
        return f"""{declaration}\
registries: {{"{registry.guest_address}": {{insecure: true}}}}
workloads:
  site:
    image: {image or "localhost/box:1"}
    replicas: 3
    command: [{BOX}, sh, -c, "{SERVE}"]
    env: {{PAGE: "{page}", BAD: {bad}}}
    memory: {memory}
    ports: ["8080:80"]
    stop_grace_period: 30s
    healthcheck: {{http: "http://localhost{check}", interval: 20s, timeout: 10s, retries: 3}}
{more}
  client: {{image: localhost/box:1, command: [{BOX}, sleep, "1000000"]}}
"""

    return made


def runs(host: Host) -> list[str]:
    """Return what is different after every start of each replica."""
    units = [f"workload-{key}.service" for key in ("site", "site.2", "site.3")]
    return [host.text("systemctl", "show", unit, "-P", "InvocationID,NRestarts") for unit in units]


def assert_settled(host: Host, page: str) -> None:
    """Check that all serve one page, and that nothing is left of a change."""
    found = {host.text("hostctl", "exec", f"site.{n}", "--", BOX, "cat", "/www/index.html") for n in (1, 2, 3)}
    assert found == {page}
    host.wait_for(
        "all are healthy",
        lambda: [row["health"] for row in json.loads(host.text("hostctl", "ps", "--json")) if row["name"] != "client"]
        == ["healthy"] * 3,
        READY_SECONDS,
    )
    host.fails("ls", "/run/hostctl/turns")
    host.fails("ls", "/var/lib/hostctl/pending")
    mounts = host.text("cat", "/proc/self/mountinfo")
    assert not re.findall(r"^.* /var/lib/hostctl/generations/.*$", mounts, re.MULTILINE)
    assert "/run/hostctl/turns" not in mounts


def test_three_serve(host: Host, declare: Declare) -> None:
    host.apply(declare("old"), seconds=APPLY_SECONDS)
    host.wait_for("the page is served", lambda: host.get() == "old\n", READY_SECONDS)
    assert_settled(host, "old")


def test_a_change_under_load_loses_no_request(host: Host, declare: Declare) -> None:
    before = runs(host)
    load.start(host, "client", GATEWAY, REST)
    said = host.apply(declare("new", memory="160M"), seconds=APPLY_SECONDS)
    done = load.stop(host, ENOUGH)
    assert "is in force" in said
    assert (done.failures, done.failed) == (0, ())
    assert done.answers == ("old", "new")
    assert done.slow > 0
    assert not set(before) & set(runs(host))
    assert_settled(host, "new")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        pytest.param({"check": "/absent"}, "site.1 did not become healthy; not changed: site.2, site.3", id="first"),
        pytest.param({"bad": "site.2"}, "site.2 did not become healthy; not changed: site.3", id="second"),
        pytest.param({"memory": "1M"}, "site.1 did not become healthy; not changed: site.2, site.3", id="no-memory"),
    ],
)
def test_one_that_is_not_healthy_is_taken_back_under_load(
    host: Host, declare: Declare, wrong: dict[str, str], said: str
) -> None:
    before, generation = runs(host), host.text("readlink", "/var/lib/hostctl/current")
    load.start(host, "client", GATEWAY, REST)
    output = host.fails("hostctl", "apply", "-", stdin=declare("newer", **wrong), seconds=APPLY_SECONDS)
    done = load.stop(host)
    assert "was taken back" in output
    assert said in output
    assert (done.failures, done.failed) == (0, ())
    assert done.answers == (("new", "newer") if "bad" in wrong else ("new",))
    after = runs(host)
    touched = [one != other for one, other in zip(before, after, strict=True)]
    assert touched == [True, "bad" in wrong, False]
    assert host.text("readlink", "/var/lib/hostctl/current") == generation
    assert_settled(host, "new")


NOTED = "/run/hostctl/turns/unchanged"


@pytest.mark.parametrize(
    ("moment", "bad", "touched"),
    [
        pytest.param(f"test -e {NOTED}", "none", 1, id="before-the-first"),
        pytest.param(f"grep -qs '.\"site.3\".}}' {NOTED}", "none", 2, id="at-the-second"),
        pytest.param(f"grep -qs '.\"site.3\".}}' {NOTED} && sleep 20", "site.2", 2, id="while-it-waits-for-the-second"),
    ],
)
def test_a_killed_agent_goes_back_one_after_the_other(
    host: Host, declare: Declare, moment: str, bad: str, touched: int
) -> None:
    before = runs(host)
    load.start(host, "client", GATEWAY, REST)
    agent_kills.kill_at(host, declare("newer", bad=bad), moment, load.FOLDER, APPLY_SECONDS)
    began = time.monotonic()
    settled = f"! test -e {NOTED} && ! test -e /var/lib/hostctl/pending"
    host.wait_for("all is settled", lambda: host.run("sh", "-c", settled, check=False).status == 0, 300)
    took = time.monotonic() - began
    print(f"settled after {took:.0f} s")
    done = load.stop(host)
    assert (done.failures, done.failed) == (0, ())
    after = runs(host)
    assert sum(one != other for one, other in zip(before, after, strict=True)) <= touched
    assert before[2] == after[2]
    assert took < SETTLE_SECONDS
    assert_settled(host, "new")


def push(lab: Lab, registry: Registry, folder: Path, page: str) -> None:
    """Let the tag stand for an image with another page."""
    images.changed(lab.image(), folder / page, {"srv/index.html": f"{page}\n".encode()})
    registry.push(f"oci:{folder / page}", "turns:1")


def test_a_renewed_image_goes_to_one_after_the_other(
    host: Host, lab: Lab, registry: Registry, declare: Declare, tmp_path: Path
) -> None:
    push(lab, registry, tmp_path, "first")
    wanted = declare("", image=f"{registry.guest_address}/turns:1", more="    auto_update: true")
    load.start(host, "client", GATEWAY, REST)
    host.apply(wanted, seconds=APPLY_SECONDS)
    push(lab, registry, tmp_path, "second")
    (row,) = json.loads(host.text("hostctl", "auto-update", "--json", seconds=APPLY_SECONDS))
    done = load.stop(host)
    assert (row["workload"], row["result"]) == ("site", "renewed")
    assert (done.failures, done.failed) == (0, ())
    assert done.answers == ("new", "first", "second")
    assert_settled(host, "second")


def test_a_power_cut_in_a_change_goes_back_at_the_boot(host: Host, declare: Declare, lab: Lab) -> None:
    host.apply(declare("new"), seconds=APPLY_SECONDS)
    host.shell(f"rm -rf {load.FOLDER}; mkdir {load.FOLDER}")
    host.text("tee", f"{load.FOLDER}/wanted.yaml", stdin=declare("newer"))
    wait = f"until grep -qs '.\"site.3\".}}' {NOTED}; do sleep 0.05; done; sync"
    host.shell(f"hostctl apply {load.FOLDER}/wanted.yaml >{load.FOLDER}/said 2>&1 & {wait}", seconds=APPLY_SECONDS)
    host.power_cycle()
    host.wait_booted()
    host.wait_for("the page is served", lambda: host.get() == "new\n", READY_SECONDS)
    host.wait_for(
        "all is settled", lambda: host.run("test", "!", "-e", "/var/lib/hostctl/pending", check=False).status == 0, 300
    )
    assert_settled(host, "new")
    assert host.text("systemctl", "list-units", "--failed", "--no-legend", "--plain") == ""
