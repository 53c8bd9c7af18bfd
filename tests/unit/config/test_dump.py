"""Declarations written back: nothing is lost, whatever is in them."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hostctl.config.dump import plain, to_yaml
from hostctl.config.host import FileEntry, HostDeclaration, Link, Volume
from hostctl.config.load import parse_host, parse_release
from hostctl.config.values import (
    ByteSize,
    Cpus,
    EtcPath,
    HostName,
    ImageReference,
    InterfaceAddress,
    InterfaceMatch,
    Name,
    PortMapping,
    VolumeMount,
    WorkloadUser,
)
from hostctl.config.workload import Workload

HOST = HostDeclaration(
    version=1,
    hostname=HostName("web-1"),
    network={Name("lan"): Link(match=InterfaceMatch("en*"), addresses=(InterfaceAddress("192.0.2.1/24"),))},
    files={EtcPath("/etc/motd"): FileEntry(content="one\ntwo: {\n\n")},
    workloads={
        Name("site"): Workload(
            image=ImageReference("registry.example/site:1"),
            command=("/bin/sh", "-c", "true # x"),
            env={"A": "no", "B": "0080", "C": "1.10", "D": "null", "E": "", "F": "a\x85 b\u2028"},
            ports=(PortMapping(host_port=22, container_port=22),),
            volumes=(VolumeMount(volume=Name("data"), target="/srv", read_only=True),),
            memory=ByteSize(64 << 20),
            cpus=Cpus(0.5),
            user=WorkloadUser(uid=1000),
        )
    },
    volumes={Name("data"): Volume()},
)


def test_defaults_are_left_out_unless_asked_for() -> None:
    tree = plain(HOST)
    assert isinstance(tree, dict)
    assert list(tree) == ["version", "hostname", "network", "files", "workloads", "volumes"]
    full = plain(HOST, full=True)
    assert isinstance(full, dict)
    assert full["timezone"] == "UTC"
    assert full["update"] is None


def test_the_tree_is_what_the_file_would_say() -> None:
    tree = json.loads(json.dumps(plain(HOST)))
    site = tree["workloads"]["site"]
    assert (site["memory"], site["cpus"], site["user"], site["ports"]) == ("64M", 0.5, "1000", ["22:22"])
    assert site["volumes"] == ["data:/srv:ro"]


def test_yaml_decodes_to_an_equal_declaration() -> None:
    for full in (False, True):
        assert parse_host(to_yaml(HOST, full=full)) == HOST
    release = parse_release("version: 1\nname: edge\nrelease: 2026.10\nfiles: overlay/\nimages: [a.tar]\n")
    assert parse_release(to_yaml(release, full=True)) == release


def test_other_programs_read_the_same_texts() -> None:
    assert yaml.safe_load(to_yaml(HOST)) == plain(HOST)


NAMES = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, TEXTS, max_size=3), st.dictionaries(NAMES, TEXTS, max_size=3))
def test_any_text_survives(contents: dict[str, str], env: dict[str, str]) -> None:
    host = HostDeclaration(
        version=1,
        hostname=HostName("a"),
        files={EtcPath(str(PurePosixPath("/etc/x", name))): FileEntry(content=text) for name, text in contents.items()},
        workloads={Name("w"): Workload(image=ImageReference("r.example/w:1"), env=env)},
    )
    assert parse_host(to_yaml(host)) == host
