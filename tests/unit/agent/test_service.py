"""The agent's methods over a real bus, on a machine below a temporary folder."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hostctl.agent import bus, client, exclusive, generation, introspection, service
from hostctl.agent.generation import Content, Record
from hostctl.agent.request import Request
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout

HOST = "version: 1\nhostname: web-1\nusers: {ops: {sudo: true}}\n"


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    root = tmp_path / "root"
    (root / "proc/sys/kernel").mkdir(parents=True)
    (root / "proc/sys/kernel/hostname").write_text("web-0\n")
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/os-release").write_text('IMAGE_ID=edge\nIMAGE_VERSION="7"\n')
    return HostLayout(root=root)


@pytest.fixture
def address(tmp_path: Path, layout: HostLayout) -> Iterator[str]:
    """Run the agent on a bus of our own; it ends by being idle."""
    daemon = subprocess.Popen(
        [
            "dbus-daemon",
            "--session",
            "--nofork",
            "--nopidfile",
            f"--address=unix:path={tmp_path}/bus",
            "--print-address=1",
        ],
        stdout=subprocess.PIPE,
    )
    assert daemon.stdout is not None
    where = daemon.stdout.readline().decode().strip()
    agent = threading.Thread(target=service.run, args=(layout,), kwargs={"address": where, "idle": 0.3})
    agent.start()
    while True:
        try:
            bus.call("Status", address=where)
            break
        except bus.AgentUnavailableError:
            assert agent.is_alive(), "the agent ended before it owned its name"
    yield where
    agent.join(10)
    daemon.terminate()
    daemon.wait(10)
    daemon.stdout.close()


def refused(member: str, *arguments: str, address: str) -> str:
    with pytest.raises(HostctlError) as caught:
        bus.call(member, *arguments, address=address)
    return caught.value.id


def test_administrators_are_read_once_a_generation(layout: HostLayout) -> None:
    def put(number: int, name: str) -> None:
        record = Record(number=number, created="", release="7", declaration_sha256="", uids={"ops": 1000, "dev": 1001})
        text = HOST.replace("ops", name)
        generation.store(layout, Content(record=record, declaration=text, etc={}, bundles={}, network=b"{}"))
        generation.put_in_force(layout, number)

    administrators = service.Administrators(layout)
    assert administrators() == frozenset()
    put(1, "ops")
    assert administrators() == {1000}
    (layout.generations / "1/host.yaml").unlink()
    assert administrators() == {1000}, "it was read again"
    put(2, "dev")
    assert administrators() == {1001}


def test_a_machine_without_a_generation_answers(address: str) -> None:
    status = json.loads(bus.call("Status", address=address))
    assert (status["hostname"], status["release"], status["generation"]) == ("web-0", "7", 0)
    assert json.loads(bus.call("ListWorkloads", address=address)) == []


def test_plan_is_what_apply_would_do(address: str) -> None:
    actions = json.loads(bus.call("Plan", HOST, "host.yaml", address=address))
    assert [action["area"] for action in actions] == ["hostname", "timezone", "user"]


def test_failures_come_with_the_ids_of_their_errors(address: str) -> None:
    assert refused("Plan", "hostnam: x", "host.yaml", address=address) == "declaration-invalid"
    assert refused("Inspect", "nope", address=address) == "unknown-workload"


@pytest.mark.skipif(os.geteuid() != 0, reason="these methods are for root")
def test_what_changes_things_says_what_is_wrong(address: str, layout: HostLayout) -> None:
    assert refused("Stop", "nope", "", address=address) == "unknown-workload"
    with pytest.raises(HostctlError) as caught:
        client.execute("nope", Request(argv=("id",)), (0, 1, 2), address=address)
    assert caught.value.id == "unknown-workload"
    with exclusive.lock(layout), pytest.raises(HostctlError) as caught:
        client.apply(HOST, "host.yaml", lambda text: None, address=address)
    assert (caught.value.id, caught.value.exit_code) == ("busy", 75)


HARMLESS = {"Status", "ListWorkloads", "Info", "Version"}
"""What everybody may ask: it shows no settings, no files and no output of workloads."""
GUARDED = {
    *("Inspect", "Plan", "Apply", "AutoUpdate", "Exec", "CopyIn", "CopyOut", "Diff", "Start", "Stop", "Restart"),
    *("Kill", "Pause", "Unpause", "SetLimits", "ResetLimits", "Run", "Create", "Rename", "Remove", "Commit", "Build"),
    *("ConnectNetwork", "DisconnectNetwork", "ListVolumes", "InspectVolume", "CreateVolume", "RemoveVolume"),
    *("PruneVolumes", "BackupVolume", "RestoreVolume", "PullImage", "SearchImages", "PushImage", "SaveImages"),
    *("TagImage", "RemoveImage", "PruneImages", "LoadImages", "Login", "Logout"),
    *("ListImages", "InspectImage", "ImageHistory", "VerifyImages", "ListNetworks", "InspectNetwork"),
    *("Stats", "Top", "Ports", "GetLimits", "ListSecrets", "SetSecret", "RemoveSecret"),
}


def test_what_is_not_known_to_be_harmless_is_for_root(layout: HostLayout) -> None:
    methods = service.HostService(layout).methods()
    assert len({method.name for method in methods}) == len(methods)
    assert {method.name for method in methods if not method.root_only} == HARMLESS
    assert {method.name for method in methods if method.root_only} == GUARDED


def test_every_method_says_what_it_does_and_takes(layout: HostLayout) -> None:
    for method in service.HostService(layout).methods():
        assert len(method.takes) == len(method.signature), method.name
        assert len(set(method.takes)) == len(method.takes), method.name
        assert (method.handler.__doc__ or "").strip(), method.name


def test_introspection_explains_everything(layout: HostLayout) -> None:
    xml = introspection.document(bus.NAME, service.HostService(layout).methods()).partition('dtd">')[2]
    tree = ElementTree.fromstring(xml)  # noqa: S314 - ours
    members = [*tree.iter("method"), *tree.iter("signal")]
    assert {member.attrib["name"] for member in members} == HARMLESS | GUARDED | {"Progress"}
    for member in members:
        (said,) = [each.attrib["value"] for each in member.iter("annotation")]
        who = {"method": "For everybody." if member.attrib["name"] in HARMLESS else "For root and users with sudo."}
        assert said.endswith(who.get(member.tag, ".")), member.attrib["name"]
        assert all(each.attrib.get("name") for each in member.iter("arg")), member.attrib["name"]
