"""Finds out about the machine at hand: its release, its disk, and where its declaration says updates come from.

A thin edge: reads /proc, /sys, os-release and the generation in force. Decides and writes nothing.
"""

from __future__ import annotations

from pathlib import Path

from hostctl.boot.slots import find_disk, running_root_hash
from hostctl.config.load import load_host
from hostctl.errors import EXIT_USAGE, HostctlError
from hostctl.layout import HostLayout
from hostctl.os_release import NotAHostError, identity
from hostctl.repository.client import Source
from hostctl.repository.clock import release_time
from hostctl.update.host import UpdateHost

TRUSTED_ROOT = Path("usr/share/hostctl/tuf/root.json")
ENTRIES = Path("EFI/Linux")


class NoRepositoryError(HostctlError):
    """The host's declaration names no repository."""

    id = "no-repository"
    exit_code = EXIT_USAGE


def this_host(layout: HostLayout) -> UpdateHost:
    """Return the machine at hand.

    Raises:
        NotAHostError: it does not run a release.
        SlotError: its disk is not one of ours.
    """
    release = identity(layout.root)
    root_hash = running_root_hash((layout.root / "proc/cmdline").read_text(encoding="ascii"))
    return UpdateHost(
        name=release.name,
        version=release.version,
        root_hash=root_hash,
        disk=find_disk(root_hash, layout.root),
        entries=layout.esp / ENTRIES,
        state=layout.state,
        runtime=layout.runtime,
        machine_id=_machine_id(layout.root),
    )


def _machine_id(root: Path) -> str:
    try:
        return (root / "etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def this_source(layout: HostLayout, host: UpdateHost) -> Source:
    """Return where the declaration in force says that updates come from.

    Raises:
        NoRepositoryError: it does not say.
        NotAHostError: the release came without a root of trust.
    """
    declaration = layout.current / "host.yaml"
    policy = load_host(declaration).update if declaration.exists() else None
    if policy is None:
        raise NoRepositoryError(
            "the declaration in force names no repository",
            hint="add `update: {repository: https://…}` to host.yaml and `hostctl apply` it",
        )
    try:
        root = (layout.root / TRUSTED_ROOT).read_bytes()
    except OSError as error:
        raise NotAHostError("this release came without a root of trust", details=str(error)) from error
    return Source(
        url=str(policy.repository),
        name=host.name,
        channel=str(policy.channel),
        root=root,
        cache=layout.state / "tuf",
        mirrors=tuple(map(str, policy.mirrors)),
        proxy=None if policy.proxy is None else str(policy.proxy),
        built=release_time(layout.root),
    )
