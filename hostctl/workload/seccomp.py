"""Turns the seccomp profile of containers-common into what the OCI runtime specification wants.

Pure. The profile is the one that Podman and CRI-O use; its rules depend on the architecture and on the capabilities
that a container is given. It lets containers make namespaces and mounts of their own, the way that most attacks on the
kernel went in the last years; here only those may that are given CAP_SYS_ADMIN, as with Docker.
Format: containers/common, pkg/seccomp/types.go. Result: runtime-spec 1.2, config-linux.md, "Seccomp".
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from hostctl.errors import HostctlError

ARCHITECTURE = "amd64"
EPERM = 1
ARCHITECTURES = ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")


NAMESPACES = 0x7E020000
"""Flags of clone(2) that make namespaces: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""
FLAGGED = ("clone", "unshare")
REFUSED = (
    *("fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree", "pivot_root"),
    *("setns", "umount", "umount2"),
)
HIDDEN = ("clone3",)  # its flags lie in memory; without it the C library takes clone


class SeccompProfileError(HostctlError):
    """The system call profile of this release cannot be read."""

    id = "seccomp-profile"


def _holds(condition: Mapping[str, Any], capabilities: Collection[str]) -> bool:
    """Tell whether an ``includes`` is met: every capability of it is given, and it is for this architecture."""
    arches = condition.get("arches") or ()
    if arches and ARCHITECTURE not in arches:
        return False
    return all(capability in capabilities for capability in condition.get("caps") or ())


def _excluded(condition: Mapping[str, Any], capabilities: Collection[str]) -> bool:
    """Tell whether an ``excludes`` is met: any capability of it is given, or it is for this architecture."""
    if ARCHITECTURE in (condition.get("arches") or ()):
        return True
    return any(capability in capabilities for capability in condition.get("caps") or ())


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"names": [str(name) for name in rule["names"]], "action": str(rule["action"])}
    if rule.get("errnoRet") is not None:
        made["errnoRet"] = int(rule["errnoRet"])
    if rule.get("args"):
        made["args"] = [
            {key: argument[key] for key in ("index", "value", "valueTwo", "op") if key in argument}
            for argument in rule["args"]
        ]
    return made


def _without_namespaces(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rules that allow what the given ones do, but no namespaces and mounts of the container's own."""
    left = {*FLAGGED, *REFUSED, *HIDDEN}
    kept = [{**rule, "names": [name for name in rule["names"] if name not in left]} for rule in rules]
    none = {"index": 0, "value": NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    return [
        *(rule for rule in kept if rule["names"]),
        {"names": list(FLAGGED), "action": "SCMP_ACT_ALLOW", "args": [none]},
        {"names": list(REFUSED), "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM},
    ]


def convert(profile: bytes, capabilities: Collection[str], *, own: bool = False) -> dict[str, object]:
    """Return the ``linux.seccomp`` of a container.

    Args:
        profile: the profile's JSON.
        capabilities: those that the container may have, as in CAP_CHOWN.
        own: the profile is the declaration's, and is taken as it is.

    Raises:
        SeccompProfileError: the profile is not one.
    """
    try:
        document = json.loads(profile)
        rules = [
            _rule(rule)
            for rule in document["syscalls"]
            if _holds(rule.get("includes") or {}, capabilities)
            and not _excluded(rule.get("excludes") or {}, capabilities)
        ]
        if not own and "CAP_SYS_ADMIN" not in capabilities:
            rules = _without_namespaces(rules)
        return {
            "defaultAction": str(document["defaultAction"]),
            "defaultErrnoRet": int(document.get("defaultErrnoRet", EPERM)),
            "architectures": list(ARCHITECTURES),
            "syscalls": rules,
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SeccompProfileError("the seccomp profile cannot be read", details=repr(error)) from error
