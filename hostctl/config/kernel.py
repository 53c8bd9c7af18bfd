"""Kernel settings of the host: which of them a declaration cannot change, because every host relies on them.

The image sets them in ``sysctl.d/60-hostctl.conf``, with others that are defaults only: a declared one counts for more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

FIXED: Mapping[str, str] = {
    "kernel/kexec_load_disabled": "1",  # no kernel runs that was not verified at boot
    "kernel/unprivileged_bpf_disabled": "1",
    "net/ipv4/ip_forward": "1",  # the networks of workloads
    "net/ipv4/conf/all/forwarding": "1",  # another name of the same
    "vm/memfd_noexec": "1",  # nothing runs that no file system with its options has seen
}
"""Settings by their path below /proc/sys, with the only value that they may have."""
_OTHER_SEPARATOR = str.maketrans("./", "/.")
_NAMESPACES = re.compile(r"user/max_(cgroup|ipc|mnt|net|pid|user|uts)_namespaces")


def problems(settings: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with declared kernel settings, each with its place."""
    for name, value in settings.items():
        path = key_path(name)
        fixed = FIXED.get(path)
        if not value.isprintable():
            yield f"sysctl.{name}: the value must be one line"
        elif fixed is not None and value.strip() != fixed:
            yield f"sysctl.{name}: every host has it at {fixed}, and relies on that; leave it out"
        elif _NAMESPACES.fullmatch(path) and value.strip() == "0":
            yield f"sysctl.{name}: every workload is in such namespaces, so none could run; leave it out"


def key_path(name: str) -> str:
    """Return the path below /proc/sys of a setting as sysctl.d(5) has it.

    Its first separator is the one that is meant: after a dot, a slash stands for a dot, as in the name of an interface.
    """
    first = next((letter for letter in name if letter in "./"), ".")
    return name if first == "/" else name.translate(_OTHER_SEPARATOR)
