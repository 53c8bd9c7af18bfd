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


def state(host: Host, name: str) -> str:
    """Return what `hostctl ps` says of a workload; nothing if there is none."""
    return host.text("hostctl", "ps", "--filter", f"name={name}", "--format", "{{.State}}")


def invocation(host: Host, name: str) -> str:
    """Return what is different after each start of a workload."""
    return host.text("systemctl", "show", f"workload-{name}.service", "-P", "InvocationID")


def test_what_is_created_waits_for_its_start_and_is_renamed(host: Host) -> None:
    web = invocation(host, "web")
    assert host.text("hostctl", "create", "-q", "--name", "a", "--memory", "32M", "localhost/box:1") == "run-a"
    assert state(host, "run-a") == "created"
    assert host.status()["state"] == "running"
    assert "is declared" in host.fails("hostctl", "rename", "web", "b")
    assert "change its name in host.yaml" in host.fails("hostctl", "rename", "web", "b")
    assert host.run("hostctl", "rename", "a", "b", user="eve", check=False).status == 1
    host.text("hostctl", "rename", "a", "b")
    assert (state(host, "run-a"), state(host, "run-b")) == ("", "created")
    host.text("hostctl", "start", "run-b")
    assert state(host, "run-b") == "running"
    assert json.loads(host.text("hostctl", "rename", "--json", "b", "c"))["former"] == "run-b"
    assert (state(host, "run-b"), state(host, "run-c")) == ("", "running")
    assert inside(host, "run-c", "echo here") == "here"
    host.text("hostctl", "kill", "run-c")
    host.wait_for("its end is known", lambda: state(host, "run-c") == "exited", 30)
    assert host.text("hostctl", "wait", "run-c") == "137"
    assert host.status()["state"] in ("degraded", "starting"), "it was killed, and is there to be looked at"
    host.text("hostctl", "rm", "c")
    assert invocation(host, "web") == web
    assert "no workload" in host.fails("hostctl", "rename", "nope", "x")
