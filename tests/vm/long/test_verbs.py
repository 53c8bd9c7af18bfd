"""Docker's verbs that make something of what is there: looked for, created, renamed, committed, connected, built."""

import json
from pathlib import Path

import pytest
from hostctl_lab.host import Host
from hostctl_lab.registry import Registry
from hostctl_qemu.ssh import make_key

BOX = "/usr/bin/busybox"
READY_SECONDS = 60.0


@pytest.fixture(scope="module")
def wanted(declaration: str, ssh_folder: Path, registry: Registry) -> str:
    """Return a declaration where workloads may be run, with one that is declared, and a user who is nobody."""
    with_eve = declaration.replace("users:\n", f"users:\n  eve: {{ssh_keys: ['{make_key(ssh_folder)}']}}\n")
    return f"""{with_eve}\
registries: {{"{registry.guest_address}": {{insecure: true}}}}
allow_run: true
workloads:
  web:
    image: localhost/box:1
    ports: ["8080:80"]
"""


def inside(host: Host, name: str, script: str) -> str:
    """Return what a shell script prints in a workload, whose image has no links to its one program."""
    aliases = "".join(f'alias {each}="{BOX} {each}"\n' for each in ("cat", "ip", "mkdir", "ping", "rm", "wget"))
    return host.text("hostctl", "exec", name, "--", BOX, "sh", "-c", aliases + script)


def test_a_registry_is_looked_through(host: Host, wanted: str, registry: Registry) -> None:
    host.apply(wanted)
    name = f"{registry.guest_address}/box"
    rows = host.text("hostctl", "search", "--registry", registry.guest_address, "bo").splitlines()
    assert rows[0].split() == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]
    assert rows[1].split() == [name, "0"]
    found = json.loads(host.text("hostctl", "search", "--json", f"{registry.guest_address}/box"))
    assert [image["name"] for image in found["images"]] == [name]
    assert found["complete"] is True
    assert json.loads(host.text("hostctl", "search", "--json", f"{registry.guest_address}/nothing"))["images"] == []
    assert host.run("hostctl", "search", "--limit", "0", "box", check=False).status == 2
    assert host.run("hostctl", "search", "--registry", "127.0.0.1:1", "box", check=False).status == 69
    assert host.run("hostctl", "search", name, user="eve", check=False).status == 1
