"""The agent's methods that look, and those on secrets: the documents that the verbs print, without an agent's help."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hostctl_lab.images import layout as make_layout

from hostctl.agent import generation, secrets
from hostctl.agent.bus import Call
from hostctl.agent.generation import Content, Pin, Record
from hostctl.agent.machine import SystemdMachine, UnitState
from hostctl.agent.network_view import UnknownNetworkError
from hostctl.agent.overview import NotRunningError, UnknownWorkloadError
from hostctl.agent.secret_methods import SecretService
from hostctl.agent.view_methods import ViewService
from hostctl.errors import UsageError
from hostctl.image.lookup import UnknownImageError
from hostctl.image.store import ImageStore
from hostctl.layout import HostLayout

HOST = """\
version: 1
hostname: a
secrets: {db: {}, unset: {}}
workloads: {web: {image: "r.example/web:1", secrets: [db]}}
"""
NETWORK = {
    "networks": {"front": {"subnet": "10.89.0.0/24", "gateway": "10.89.0.1"}},
    "workloads": {
        "web": {"ports": ["8080:80"], "attachments": [{"network": "front", "address": "10.89.0.2", "aliases": []}]}
    },
}


def _plain(output: Path) -> tuple[str, ...]:
    return ("sh", "-c", f"cat >{output}")


class Down(SystemdMachine):
    """A machine on which nothing runs."""

    def states(self, names: Sequence[str]) -> Mapping[str, UnitState]:
        """Return nothing: systemd has loaded no such unit."""
        return {}


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    """Return a host with one image under two names, a workload and its network."""
    layout = HostLayout(root=tmp_path / "root")
    (tmp_path / "root/proc").mkdir(parents=True)
    (tmp_path / "root/proc/meminfo").write_text("MemTotal: 1024 kB\n")
    digest = make_layout(tmp_path / "web", b"web")
    store = ImageStore(layout.images)
    store.name(store.add(tmp_path / "web", digest, "r.example/web:1", make=_plain), "r.example/web:stable")
    pins = {"web": Pin(reference="r.example/web:1", digest=digest)}
    record = Record(number=1, created="", release="7", declaration_sha256="", images=pins)
    network = json.dumps(NETWORK).encode()
    generation.store(layout, Content(record=record, declaration=HOST, etc={}, bundles={}, network=network))
    generation.put_in_force(layout, 1)
    return layout


def ask(layout: HostLayout, member: str, *arguments: str, descriptors: tuple[int, ...] = ()) -> Any:  # noqa: ANN401
    """Call a method as the bus does."""
    methods = (*ViewService(layout, Down(layout)).methods(), *SecretService(layout, Down(layout)).methods())
    method = next(each for each in methods if each.name == member)
    assert (method.strings, method.descriptors) == (len(arguments), len(descriptors))
    return json.loads(
        method.handler(Call(uid=0, arguments=arguments, descriptors=descriptors, notify=lambda text: None))
    )


def test_images_are_listed_inspected_and_verified(layout: HostLayout) -> None:
    listed = ask(layout, "ListImages")["images"]
    assert [image["reference"] for image in listed] == ["r.example/web:1", "r.example/web:stable"]
    assert set(listed[0]) == {"reference", "digest", "id", "bytes", "created"}
    image = ask(layout, "InspectImage", listed[0]["id"])
    assert image["references"] == ["r.example/web:1", "r.example/web:stable"]
    assert (image["baked"], len(image["layers"])) == (False, 1)
    assert isinstance(ask(layout, "ImageHistory", "r.example/web:1"), list)
    assert ask(layout, "VerifyImages", "[]") == ask(layout, "VerifyImages", '["r.example/web:stable"]')
    assert [each["digest"] for each in ask(layout, "VerifyImages", "[]")] == [listed[0]["digest"]]
    for member, argument in (("InspectImage", "nope"), ("ImageHistory", "nope"), ("VerifyImages", '["nope"]')):
        with pytest.raises(UnknownImageError):
            ask(layout, member, argument)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '"web"'])
def test_names_are_a_list(layout: HostLayout, text: str) -> None:
    for member in ("VerifyImages", "Stats"):
        with pytest.raises(UsageError, match="a list of names"):
            ask(layout, member, text)


def test_networks_are_listed_and_inspected(layout: HostLayout) -> None:
    (network,) = ask(layout, "ListNetworks")
    assert (network["name"], network["workloads"]["web"]["address"]) == ("front", "10.89.0.2")
    found = ask(layout, "InspectNetwork", "front")
    assert found["IPAM"]["Config"]["Subnet"] == "10.89.0.0/24"
    assert found["Containers"]["web"]["IPv4Address"] == "10.89.0.2"
    with pytest.raises(UnknownNetworkError) as caught:
        ask(layout, "InspectNetwork", "back")
    assert caught.value.hint == "there is front"


def test_workloads_are_looked_at(layout: HostLayout) -> None:
    (place,) = ask(layout, "Ports", "web")["80/tcp"]
    assert place["HostPort"] == "8080"
    assert ask(layout, "Stats", "[]") == []
    with pytest.raises(NotRunningError):
        ask(layout, "Top", "web")
    for member, argument in (("Ports", "x"), ("Stats", '["x"]'), ("Top", "x"), ("GetLimits", "x")):
        with pytest.raises(UnknownWorkloadError):
            ask(layout, member, argument)


def test_the_host_is_looked_at(layout: HostLayout) -> None:
    info = ask(layout, "Info")
    assert (info["counts"]["workloads"], info["images"], info["memory"]) == (1, 2, 1 << 20)
    assert info["versions"] == ask(layout, "Version")


def test_a_value_comes_as_a_file_and_never_comes_out(
    layout: HostLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin/systemd-creds"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\ntr a-z A-Z\n")
    program.chmod(0o755)
    monkeypatch.setattr("hostctl.run.ENVIRONMENT", {"PATH": f"{program.parent}:{os.environ['PATH']}"})
    reader, writer = os.pipe()
    os.write(writer, b"hush")
    os.close(writer)
    said = ask(layout, "SetSecret", "db", "", descriptors=(reader,))
    os.close(reader)
    assert said == {"done": "set", "name": "db", "restarted": []}
    assert (layout.secrets / "db").read_bytes() == b"HUSH"
    listed = {row["name"]: row for row in ask(layout, "ListSecrets")["secrets"]}
    assert (listed["db"]["declared"], listed["db"]["workloads"]) == (True, ["web"])
    assert listed["unset"] == {"name": "unset", "changed": "", "declared": True, "workloads": []}
    ask(layout, "RemoveSecret", "db")
    with pytest.raises(secrets.SecretNameError):
        ask(layout, "RemoveSecret", "../db")


def test_the_agent_starts_without_what_single_methods_need() -> None:
    late = ("hostctl.agent.facts", "hostctl.agent.processes", "hostctl.agent.secrets", "hostctl.image.details")
    code = f"import sys, hostctl.agent.service; print([name for name in {late!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
