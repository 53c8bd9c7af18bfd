"""The system call profile for a container, by what it may do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hostctl.workload.seccomp import SeccompProfileError, convert

PROFILE = json.dumps(
    {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
            {"names": ["swapcontext"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["ppc64le"]}},
            {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "args": None, "includes": {"arches": ["amd64"]}},
            {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT"]}},
            {"names": ["chroot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_CHROOT"]}},
            {
                "names": ["socket"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 2, "value": 9, "valueTwo": 0, "op": "SCMP_CMP_NE"}],
                "excludes": {"caps": ["CAP_AUDIT_WRITE", "CAP_OTHER"]},
            },
        ],
    }
).encode()


def rules(*capabilities: str) -> list[tuple[str, str]]:
    made = convert(PROFILE, capabilities)["syscalls"]
    assert isinstance(made, list)
    return [(rule["names"][0], rule["action"]) for rule in made]


def test_rules_of_other_machines_and_of_capabilities_not_given_are_left_out() -> None:
    assert rules() == [
        ("read", "SCMP_ACT_ALLOW"),
        ("arch_prctl", "SCMP_ACT_ALLOW"),
        ("chroot", "SCMP_ACT_ERRNO"),
        ("socket", "SCMP_ACT_ALLOW"),
        ("clone", "SCMP_ACT_ALLOW"),  # unless it makes a namespace
        ("fsconfig", "SCMP_ACT_ERRNO"),
    ]


def test_namespaces_and_mounts_are_for_who_may_administer_or_brings_a_profile() -> None:
    names = ["read", "clone", "clone3", "unshare", "mount", "setns", "open_tree"]
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]}
    data = json.dumps(profile).encode()
    for free in (convert(data, ("CAP_SYS_ADMIN",)), convert(data, (), own=True)):
        assert free["syscalls"] == profile["syscalls"]
    made: Any = convert(data, ())["syscalls"]
    allowed, flagged, refused = made
    assert allowed["names"] == ["read"]
    assert (flagged["names"], flagged["action"]) == (["clone", "unshare"], "SCMP_ACT_ALLOW")
    (argument,) = flagged["args"]
    assert argument == {"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    assert {"mount", "setns", "open_tree"} <= set(refused["names"])
    assert (refused["action"], refused["errnoRet"]) == ("SCMP_ACT_ERRNO", 1)


def test_a_given_capability_opens_its_rules_and_any_excluded_one_drops_a_rule() -> None:
    given = rules("CAP_SYS_CHROOT", "CAP_OTHER")
    assert ("chroot", "SCMP_ACT_ALLOW") in given
    assert ("chroot", "SCMP_ACT_ERRNO") not in given
    assert "socket" not in [name for name, _ in given]


def test_arguments_and_errors_are_kept() -> None:
    made = convert(PROFILE, ())
    assert made["defaultErrnoRet"] == 38
    assert "'errnoRet': 1" in str(made)
    assert "SCMP_CMP_NE" in str(made)


@pytest.mark.parametrize("broken", [b"", b"[]", b"{}", b'{"syscalls": [{}]}'])
def test_a_broken_profile_is_refused(broken: bytes) -> None:
    with pytest.raises(SeccompProfileError):
        convert(broken, ())
