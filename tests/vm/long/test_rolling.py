"""A workload changes beside itself: under load no request is lost, and what is not healthy never gets one."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hostctl_lab import agent_kills, images, load
from hostctl_lab.host import Host
from hostctl_lab.registry import Registry
from hostctl_lab.releases import Lab

BOX = "/usr/bin/busybox"
GATEWAY = "10.88.0.1"
READY_SECONDS = 60.0
APPLY_SECONDS = 600.0
ENOUGH = 10_000
SERVE = f"{BOX} mkdir /www; echo $PAGE >/www/index.html; exec {BOX} httpd -f -p 80 -h /www"
Declare = Callable[..., str]


@pytest.fixture(scope="module")
def declare(declaration: str, registry: Registry) -> Declare:
    """Return what makes a declaration with one workload that serves a page, and one whose network strangers use."""

    def made(page: str, check: str = "/", more: str = "") -> str:
        return f"""{declaration}\
registries: {{"{registry.guest_address}": {{insecure: true}}}}
workloads:
  site:
    image: localhost/box:1
    command: [{BOX}, sh, -c, "{SERVE}"]
    env: {{PAGE: {page}}}
    ports: ["8080:80"]
    healthcheck: {{http: "http://localhost{check}", interval: 1s, start_period: 5s, retries: 5}}
    update: {{order: start-first, drain: 10s}}
  client: {{image: localhost/box:1, command: [{BOX}, sleep, "1000000"]}}
{more}"""

    return made


@pytest.fixture(scope="module")
def renewed(declaration: str, registry: Registry) -> str:
    """Return a declaration of a workload whose image moves under its tag."""
    return f"""{declaration}\
registries: {{"{registry.guest_address}": {{insecure: true}}}}
workloads:
  site:
    image: {registry.guest_address}/rolling:1
    auto_update: true
    ports: ["8080:80"]
    read_only: true
    healthcheck: {{http: "http://localhost/", interval: 1s, start_period: 5s, retries: 5}}
    update: {{order: start-first, drain: 5s}}
  client: {{image: localhost/box:1, command: [{BOX}, sleep, "1000000"]}}
"""


def live(host: Host) -> str:
    """Return the letter of the instance that the workload's name is an alias of."""
    unit = host.text("systemctl", "show", "-P", "Id", "workload-site.service")
    return unit.removeprefix("workload-site.").removesuffix(".service")


def run_of(host: Host, letter: str) -> str:
    """Return what is different after every start of an instance."""
    return host.text("systemctl", "show", f"workload-site.{letter}.service", "-P", "InvocationID,MainPID,NRestarts")


def rows(host: Host) -> dict[str, Mapping[str, object]]:
    """Return `hostctl ps` by name."""
    return {row["name"]: row for row in json.loads(host.text("hostctl", "ps", "--json"))}


def assert_only(host: Host, letter: str) -> None:
    """Check that one instance is there, and nothing of the other."""
    gone = "a" if letter == "b" else "b"
    assert live(host) == letter
    assert sorted(rows(host)) == ["client", "site"]
    assert rows(host)["site"]["state"] == "active"
    assert sorted(host.text("crun", "list", "-q").split()) == ["client", f"site.{letter}"]
    assert sorted(host.text("ls", "/run/netns").split()) == ["workload-client", f"workload-site.{letter}"]
    assert host.text("systemctl", "list-units", "--plain", "--no-legend", f"workload-site.{gone}*") == ""
    host.wait_for(
        "its mounts are gone",
        lambda: f"/workloads/site.{gone}/" not in host.text("cat", "/proc/mounts"),
        READY_SECONDS,
    )
    host.fails("ls", f"/var/lib/hostctl/workloads/site.{gone}")
    host.fails("ls", "/run/hostctl/network.json")
    host.fails("ls", "/var/lib/hostctl/pending")
    address = json.loads(host.text("hostctl", "inspect", "site"))["NetworkSettings"]["IPAddress"]
    assert address in host.run("hostctl", "exec", "client", "--", BOX, "nslookup", "site", check=False).text


def test_a_workload_starts_as_the_first_of_two(host: Host, declare: Declare) -> None:
    host.apply(declare("old"), seconds=APPLY_SECONDS)
    host.wait_for("the page is served", lambda: host.get() == "old\n", READY_SECONDS)
    assert_only(host, "a")


def test_a_change_under_load_loses_no_request(host: Host, declare: Declare) -> None:
    load.start(host, "client", GATEWAY)
    said = host.apply(declare("new"), seconds=APPLY_SECONDS)
    assert "is in force" in said
    done = load.stop(host, ENOUGH)
    assert done.requests >= ENOUGH
    assert (done.failures, done.failed, done.late) == (0, (), 0)
    assert done.slow > 0
    assert done.answers == ("old", "new")
    assert host.get() == "new\n"
    assert_only(host, "b")


def test_every_verb_finds_the_live_one(host: Host) -> None:
    assert "PAGE=new" in host.text("hostctl", "exec", "site", "--", BOX, "env")
    host.wait_for("it is shown as healthy", lambda: rows(host)["site"]["health"] == "healthy", READY_SECONDS)
    before = run_of(host, "b")
    host.text("hostctl", "restart", "site")
    assert run_of(host, "b") != before
    host.text("hostctl", "pause", "site")
    assert rows(host)["site"]["paused"] is True
    host.text("hostctl", "unpause", "site")
    host.wait_for("the page is served", lambda: host.get() == "new\n", READY_SECONDS)
    assert "C /etc" not in host.text("hostctl", "diff", "site").splitlines()
    assert "A /www/index.html" in host.text("hostctl", "diff", "site").splitlines()
    assert host.text("hostctl", "port", "site", "80") == "0.0.0.0:8080"


def test_one_that_is_not_healthy_gets_no_request_and_the_old_one_stays(host: Host, declare: Declare) -> None:
    before, generation = run_of(host, "b"), host.text("readlink", "/var/lib/hostctl/current")
    load.start(host, "client", GATEWAY)
    said = host.fails("hostctl", "apply", "-", stdin=declare("bad", "/absent"), seconds=APPLY_SECONDS)
    done = load.stop(host)
    assert "was taken back" in said
    assert "workload site:" in said
    assert (done.failures, done.failed, done.answers) == (0, (), ("new",))
    assert run_of(host, "b") == before
    assert host.text("readlink", "/var/lib/hostctl/current") == generation
    assert_only(host, "b")


def test_a_reboot_starts_the_live_one_alone(host: Host) -> None:
    host.run("sync")
    host.power_cycle()
    host.wait_booted()
    host.wait_for("the page is served", lambda: host.get() == "new\n", READY_SECONDS)
    assert_only(host, "b")
    assert host.text("systemctl", "list-units", "--failed", "--no-legend", "--plain") == ""


CHANGING = "test -e /run/hostctl/network.json"


@pytest.mark.parametrize(
    ("moment", "answers", "letter"),
    [
        pytest.param(CHANGING, ("new",), "b", id="before-it-starts"),
        pytest.param(
            f"{CHANGING} && systemctl is-active --quiet workload-site.a.service", ("new",), "b", id="while-it-is-tried"
        ),
        pytest.param(
            f"{CHANGING} && ! test -e /var/lib/hostctl/pending", ("new", "newer"), "a", id="while-the-old-one-leaves"
        ),
    ],
)
def test_a_killed_agent_leaves_one_of_the_two(
    host: Host, declare: Declare, moment: str, answers: tuple[str, ...], letter: str
) -> None:
    load.start(host, "client", GATEWAY)
    agent_kills.kill_at(host, declare("newer"), moment, load.FOLDER, APPLY_SECONDS)
    settled = f"! {CHANGING} && ! test -e /var/lib/hostctl/pending"
    host.wait_for("all is settled", lambda: host.run("sh", "-c", settled, check=False).status == 0, 300)
    done = load.stop(host)
    assert (done.failures, done.failed, done.answers) == (0, (), answers)
    assert host.get() == f"{answers[-1]}\n"
    assert_only(host, letter)


def push(lab: Lab, registry: Registry, folder: Path, page: str, *entrypoint: str) -> str:
    """Let the tag stand for an image with another page, or another program; return its digest."""
    digest = images.changed(lab.image(), folder / page, {"srv/index.html": f"{page}\n".encode()}, entrypoint)
    registry.push(f"oci:{folder / page}", "rolling:1")
    return digest


def test_an_image_that_moves_under_its_tag_is_renewed(
    host: Host, lab: Lab, registry: Registry, renewed: str, tmp_path: Path
) -> None:
    push(lab, registry, tmp_path, "first")
    host.apply(renewed, seconds=APPLY_SECONDS)
    host.wait_for("the page is served", lambda: host.get() == "first\n", READY_SECONDS)
    assert host.text("systemctl", "is-active", "hostctl-auto-update.timer") == "active"
    assert "current" in host.text("hostctl", "auto-update")
    digest = push(lab, registry, tmp_path, "second")
    (row,) = json.loads(host.text("hostctl", "auto-update", "--dry-run", "--json"))
    assert (row["result"], row["found"]) == ("new", digest)
    assert host.get() == "first\n"
    load.start(host, "client", GATEWAY)
    (row,) = json.loads(host.text("hostctl", "auto-update", "--json", seconds=APPLY_SECONDS))
    assert (row["workload"], row["result"]) == ("site", "renewed")
    done = load.stop(host)
    assert (done.failures, done.failed, done.late) == (0, (), 0)
    assert done.answers == ("first", "second")
    assert_only(host, live(host))
    assert any(event == "renewed" and digest[:19] in cause for event, _, cause in host.history())
    events = host.text("hostctl", "events", "--since", "10m", "--until", "0s", "--filter", "action=renewed")
    assert json.loads(events.splitlines()[-1])["attributes"]["digest"] == digest


def test_a_bad_image_is_taken_back_and_not_tried_again(
    host: Host, lab: Lab, registry: Registry, tmp_path: Path
) -> None:
    letter = live(host)
    before = run_of(host, letter)
    digest = push(lab, registry, tmp_path, "broken", f"{BOX}", "sleep", "1000000")
    load.start(host, "client", GATEWAY)
    done = host.run("hostctl", "auto-update", "--json", seconds=APPLY_SECONDS, check=False)
    (row,) = json.loads(done.text)
    assert (done.status, row["result"]) == (1, "failed")
    assert "was taken back" in row["cause"]
    asked = load.stop(host)
    assert (asked.failures, asked.failed, asked.answers) == (0, (), ("second",))
    generation = host.text("readlink", "/var/lib/hostctl/current")
    (row,) = json.loads(host.text("hostctl", "auto-update", "--json"))
    assert (row["result"], row["found"]) == ("refused", digest)
    assert host.text("readlink", "/var/lib/hostctl/current") == generation
    assert run_of(host, letter) == before
    assert any(event == "not-renewed" for event, _, _ in host.history())


def test_one_that_was_stopped_gets_the_next_image_and_stays_down(
    host: Host, lab: Lab, registry: Registry, tmp_path: Path
) -> None:
    letter = live(host)
    host.text("hostctl", "stop", "site")
    digest = push(lab, registry, tmp_path, "stopped")
    (row,) = json.loads(host.text("hostctl", "auto-update", "--json", seconds=APPLY_SECONDS))
    assert (row["result"], row["found"]) == ("renewed", digest)
    assert rows(host)["site"]["digest"] == digest
    assert rows(host)["site"]["state"] not in ("active", "activating")
    assert host.text("crun", "list", "-q").split() == ["client"]
    host.text("hostctl", "start", "site")
    host.wait_for("the page is served", lambda: host.get() == "stopped\n", READY_SECONDS)
    assert_only(host, letter)


def test_the_next_image_under_the_tag_is_tried_by_the_timers_service(
    host: Host, lab: Lab, registry: Registry, tmp_path: Path
) -> None:
    push(lab, registry, tmp_path, "third")
    host.text("systemctl", "start", "hostctl-auto-update.service", seconds=APPLY_SECONDS)
    assert host.get() == "third\n"
    assert_only(host, live(host))
    (row,) = json.loads(host.text("hostctl", "auto-update", "--json"))
    assert row["result"] == "current"


def test_a_tag_that_moved_is_seen_by_plan_and_taken_by_apply_where_it_is_always_looked_up(
    host: Host, lab: Lab, registry: Registry, renewed: str, tmp_path: Path
) -> None:
    always = renewed.replace("auto_update: true", "pull_policy: always")
    host.apply(always, seconds=APPLY_SECONDS)
    assert "nothing would change" in host.text("hostctl", "plan", "-", stdin=always)
    digest = push(lab, registry, tmp_path, "fourth")
    assert f"→ {digest[:19]}" in host.text("hostctl", "plan", "-", stdin=always)
    assert host.get() == "third\n"
    assert digest[:19] in host.apply(always, seconds=APPLY_SECONDS)
    assert host.get() == "fourth\n"
    generation = host.text("readlink", "/var/lib/hostctl/current")
    nowhere = always.replace(registry.guest_address, "127.0.0.1:1")
    assert "nothing was changed" in host.fails("hostctl", "apply", "-", stdin=nowhere)
    never = nowhere.replace("always", "never")
    assert "workloads.site.image: 127.0.0.1:1/rolling:1 is not here" in host.fails("hostctl", "apply", "-", stdin=never)
    assert host.text("readlink", "/var/lib/hostctl/current") == generation
