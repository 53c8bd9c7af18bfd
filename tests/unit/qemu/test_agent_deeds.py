"""What is asked of an agent that is killed, and what counts as settled: without a machine."""

from __future__ import annotations

import random
import subprocess

import pytest
from hostctl_lab import agent_deeds, resources
from hostctl_lab.agent_deeds import BESIDE, BUS, CHANGED, PULLED, WANTED, Deed, counted, difference
from hostctl_lab.agent_kills import KILLS, moments

from hostctl.agent import plan
from hostctl.compose import host_units
from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host

HELD = """\
image /var/lib/hostctl/images/layers/sha256-0.erofs
net h
netns workload-beside.a
mount overlay /run/hostctl/workloads/beside.a/rootfs
cgroup /sys/fs/cgroup/system.slice/workload-beside.a.service
"""


def declared(which: str) -> HostDeclaration:
    base = "version: 1\nhostname: web-1\n"
    return parse_host(agent_deeds.declaration(base, "10.0.2.2:5000", which), which)


@pytest.mark.parametrize(
    ("old", "new", "changed", "created"),
    [("c", "b", (BESIDE, CHANGED), (PULLED,)), ("b", "a", (CHANGED,), ()), ("a", "c", (BESIDE,), ())],
)
def test_each_declaration_changes_what_it_is_for(
    old: str, new: str, changed: tuple[str, ...], created: tuple[str, ...]
) -> None:
    actions = plan.plan(declared(old), declared(new), old_release="1", new_release="1")
    assert tuple(sorted(plan.workloads(actions, "change"))) == changed
    assert plan.workloads(actions, "create") == created
    assert tuple(sorted(map(str, declared(new).workloads))) == WANTED[new]
    assert declared(new).workloads[next(each for each in declared(new).workloads if str(each) == BESIDE)].rolls


def test_the_other_instance_is_as_good() -> None:
    assert difference(counted(HELD), counted(HELD.replace("beside.a", "beside.b"))) == ""


@pytest.mark.parametrize(
    "leak",
    [
        "net h",
        "userns changed",
        "netns workload-beside.b",
        "mount overlay /run/hostctl/workloads/beside.b/rootfs",
        "file /var/lib/hostctl/generations/3.tmp",
        "failed workload-beside.b.service",
        "cgroup /sys/fs/cgroup/system.slice/workload-pulled.service",
        "image /var/lib/hostctl/images/incoming/sha256-1",
        "image /var/lib/hostctl/images/tmp/commit",
    ],
)
def test_whatever_there_is_more_of_was_leaked(leak: str) -> None:
    assert difference(counted(HELD), counted(f"{HELD}{leak}\n")).startswith("left: ")


def test_what_is_gone_is_told_but_for_files_of_images() -> None:
    image, *others = HELD.splitlines()
    assert difference(counted(HELD), counted("\n".join(others))) == ""
    assert difference(counted(HELD), counted("\n".join([image, *others[1:]]))) == "gone: net h"


def test_what_comes_and_goes_does_not_count() -> None:
    more = "cgroup /sys/fs/cgroup/system.slice/workload-beside.a.health.service\nmount vfat /efi\n"
    assert counted(HELD + more) == counted(HELD)


@pytest.mark.parametrize("script", [agent_deeds.LOOK, resources.SCRIPT])
def test_the_guest_can_read_what_it_is_told(script: str) -> None:
    subprocess.run(["dash", "-n", "-c", script], check=True)


def seeded(deed: Deed, seed: int) -> list[float]:
    return moments(deed, random.Random(seed), KILLS)  # noqa: S311 - reproducible, not secret


def test_the_agent_is_killed_often_and_what_the_host_needs_once() -> None:
    deed = Deed(name="apply", command="x", seconds=10.0)
    instead = deed.without(BUS)
    assert (instead.name, instead.command, instead.victim) == ("apply without dbus-broker.service", "x", BUS)
    assert {len(seeded(deed, seed)) for seed in range(200)} == set(range(1, KILLS + 1))
    assert all(seeded(instead, seed) == seeded(deed, seed)[:1] for seed in range(20))


def test_who_is_killed_is_on_the_host() -> None:
    assert BUS in host_units.ALIASES.values()
