"""What a declaration becomes below /etc."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hostctl.agent import render
from hostctl.agent.tree import File, Link, Tree, TreeError, merge, text, write
from hostctl.config.load import parse_host
from hostctl.data import data_folder

HOST = """
version: 1
hostname: web-1
timezone: Europe/Berlin
users:
  ops: {ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ops"], sudo: true}
  guest: {}
network:
  lan: {match: "en*", addresses: [192.0.2.10/24], gateway: 192.0.2.1, dns: [192.0.2.53]}
sysctl: {vm.swappiness: "10"}
files:
  /etc/motd: {content: "hello\\n", mode: 0600}
"""
MACHINE_ID = "0123456789abcdef0123456789abcdef"


def rendered(source: str = HOST) -> Tree:
    declaration = parse_host(source, "host.yaml")
    uids = render.allocate_uids([str(name) for name in declaration.users], {})
    return render.host(declaration, machine_id=MACHINE_ID, uids=uids)


def content(tree: Tree, path: str) -> str:
    entry = tree[path]
    assert isinstance(entry, File)
    return entry.content.decode()


def mode(tree: Tree, path: str) -> int:
    entry = tree[path]
    assert isinstance(entry, File)
    return entry.mode


def test_name_time_and_machine_id() -> None:
    tree = rendered()
    assert content(tree, "hostname") == "web-1\n"
    assert content(tree, "machine-id") == f"{MACHINE_ID}\n"
    assert tree["localtime"] == Link(target="../usr/share/zoneinfo/Europe/Berlin")


def test_users_are_records_with_links_by_number() -> None:
    tree = rendered()
    record = json.loads(content(tree, "userdb/ops.user"))
    assert record == {
        "userName": "ops",
        "uid": 1001,
        "gid": 1001,
        "homeDirectory": "/var/home/ops",
        "shell": "/bin/bash",
        "disposition": "regular",
    }
    keys = json.loads(content(tree, "userdb/ops.user-privileged"))["privileged"]["sshAuthorizedKeys"]
    assert len(keys) == 1
    assert keys[0].startswith("ssh-ed25519 ")
    assert mode(tree, "userdb/ops.user-privileged") == 0o600
    assert tree["userdb/1001.user"] == Link(target="ops.user")
    assert tree["userdb/1001.user-privileged"] == Link(target="ops.user-privileged")
    assert tree["userdb/1001.group"] == Link(target="ops.group")
    assert json.loads(content(tree, "userdb/guest.group"))["gid"] == 1000


def test_only_sudo_users_become_root() -> None:
    tree = rendered()
    assert "userdb/ops:sudo.membership" in tree
    assert "userdb/guest:sudo.membership" not in tree
    assert "ops ALL=(ALL:ALL) NOPASSWD: ALL\n" in content(tree, "sudoers.d/hostctl")
    assert "guest" not in content(tree, "sudoers.d/hostctl")
    assert mode(tree, "sudoers.d/hostctl") == 0o440


def test_homes_are_made_for_their_owners() -> None:
    assert "d /var/home/ops 0700 1001 1001 -\n" in content(rendered(), "tmpfiles.d/hostctl-homes.conf")


def test_a_declared_link() -> None:
    tree = rendered()
    lines = content(tree, "systemd/network/50-hostctl-lan.network").splitlines()
    assert lines[1:] == [
        "[Match]",
        "Name=en*",
        "",
        "[Network]",
        "DHCP=no",
        "Address=192.0.2.10/24",
        "Gateway=192.0.2.1",
        "DNS=192.0.2.53",
    ]
    assert "systemd/network/50-hostctl.network" not in tree


def test_where_a_link_is_declared_others_are_up_without_an_address() -> None:
    image = data_folder("rootfs") / "overlay/usr/lib" / render.OTHERS
    matched = next(line for line in image.read_text().splitlines() if line.startswith("Name="))
    lines = content(rendered(), render.OTHERS).splitlines()
    assert {matched, "DHCP=no", "LinkLocalAddressing=no", "IPv6AcceptRA=no"} <= {*lines}
    assert render.OTHERS not in rendered("version: 1\nhostname: a\n")
    own = rendered(HOST.replace("/etc/motd", f"/etc/{render.OTHERS}"))
    assert content(own, render.OTHERS) == "hello\n"


def test_no_declared_link_means_dhcp_on_wired_ones() -> None:
    tree = rendered("version: 1\nhostname: a\n")
    assert "Name=en* eth*\n\n[Network]\nDHCP=yes\n" in content(tree, "systemd/network/50-hostctl.network")
    assert not any(path.startswith(("userdb", "sudoers.d", "sysctl.d", "tmpfiles.d")) for path in tree)


def test_files_and_kernel_settings() -> None:
    tree = rendered()
    assert (content(tree, "motd"), mode(tree, "motd")) == ("hello\n", 0o600)
    assert "vm.swappiness = 10\n" in content(tree, "sysctl.d/99-zz-hostctl.conf")


def test_a_file_that_is_rendered_already_is_refused() -> None:
    with pytest.raises(TreeError, match="is written twice"):
        rendered(HOST.replace("/etc/motd", "/etc/sysctl.d/99-zz-hostctl.conf"))


def test_rendering_is_deterministic() -> None:
    assert rendered() == rendered()


def test_numbers_are_stable_and_never_given_twice() -> None:
    first = render.allocate_uids(["b", "a"], {})
    assert first == {"a": 1000, "b": 1001}
    second = render.allocate_uids(["aa", "b"], first)
    assert second == {"a": 1000, "b": 1001, "aa": 1002}
    with pytest.raises(ValueError, match="used up"):
        render.allocate_uids(["z"], {"y": 59999})


def test_numbers_of_other_generations_are_not_given_either() -> None:
    others = {"a": 1007, "eve": 1001, "bob": 1000}
    assert render.allocate_uids(["c"], {"a": 1000}, others) == {"a": 1000, "eve": 1001, "c": 1002}
    assert render.allocate_uids(["eve"], {}, others) == others


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", ".", "a//b", "a/./b", ""])
def test_no_path_leads_out_of_etc(path: str) -> None:
    with pytest.raises(TreeError):
        merge({path: text("")})


def test_a_file_is_not_also_a_folder() -> None:
    with pytest.raises(TreeError, match="/etc/a "):
        merge({"a": text("")}, {"a/b": text("")})


def test_a_tree_on_the_disk_has_its_modes_and_links(tmp_path: Path) -> None:
    write(tmp_path / "etc", merge({"d/secret": text("s", 0o400), "d/l": Link(target="secret")}))
    assert (tmp_path / "etc/d/secret").stat().st_mode & 0o7777 == 0o400
    assert (tmp_path / "etc/d").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "etc/d/l").readlink() == Path("secret")
