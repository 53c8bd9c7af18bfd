"""Turns the seccomp profile of containers-common into what the OCI runtime specification wants.

Pure. The profile is the one that Podman and CRI-O use; its rules depend on the architecture and on the capabilities
that a container is given. Format: containers/common, pkg/seccomp/types.go. Result: runtime-spec 1.2, config-linux.md,
"Seccomp".
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from hostctl.errors import HostctlError

ARCHITECTURE = "amd64"
ARCHITECTURES = ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")


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


def _rule(rule: Mapping[str, Any]) -> dict[str, object]:
    made: dict[str, object] = {"names": [str(name) for name in rule["names"]], "action": str(rule["action"])}
    if rule.get("errnoRet") is not None:
        made["errnoRet"] = int(rule["errnoRet"])
    if rule.get("args"):
        made["args"] = [
            {key: argument[key] for key in ("index", "value", "valueTwo", "op") if key in argument}
            for argument in rule["args"]
        ]
    return made


def convert(profile: bytes, capabilities: Collection[str]) -> dict[str, object]:
    """Return the ``linux.seccomp`` of a container.

    Args:
        profile: the profile's JSON.
        capabilities: those that the container may have, as in CAP_CHOWN.

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
        return {
            "defaultAction": str(document["defaultAction"]),
            "defaultErrnoRet": int(document["defaultErrnoRet"]),
            "architectures": list(ARCHITECTURES),
            "syscalls": rules,
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SeccompProfileError("the seccomp profile cannot be read", details=repr(error)) from error
