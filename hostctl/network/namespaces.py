"""Pinned namespaces: for every workload a user namespace and the network namespace that it owns.

They are made ahead of the workload, so that starting or restarting one runs nothing of ours, and live until they are
unpinned. The network namespace is made inside the user namespace: only so may the workload's root mount sysfs and
change its own network. What goes on inside them is not decided here.

A thin edge over unshare(2), setns(2), mount(2) and umount2(2), for which Python 3.11 has no functions.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.network.model import RANGE_SIZE

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # <linux/sched.h>
MS_BIND, MNT_DETACH = 4096, 2  # <sys/mount.h>
PREFIX = "workload-"
BATCH = 64
"""Children at once: the kernel makes the namespaces of one while those of another are pinned. Two descriptors each."""
_READY = b"\0"


class NamespaceError(HostctlError):
    """The kernel refused to make, pin or enter a workload's namespaces."""

    id = "namespace-failed"


def user_namespace(layout: HostLayout, name: str) -> Path:
    """Return where the user namespace of workload ``name`` is pinned."""
    return layout.runtime / "userns" / name


def network_namespace(layout: HostLayout, name: str) -> Path:
    """Return where the network namespace of workload ``name`` is pinned; ip-netns(8) finds it there too."""
    return layout.root / "run/netns" / f"{PREFIX}{name}"


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{getattr(function, '__name__', 'system call')}: {os.strerror(number)}")


def pinned(layout: HostLayout) -> frozenset[str]:
    """Return the workloads of which anything is pinned, or was meant to be."""
    users, networks = user_namespace(layout, "x").parent, network_namespace(layout, "x").parent
    names = {path.name for path in users.iterdir()} if users.is_dir() else set()
    if networks.is_dir():
        names |= {path.name.removeprefix(PREFIX) for path in networks.iterdir() if path.name.startswith(PREFIX)}
    return frozenset(names)


def is_whole(layout: HostLayout, name: str) -> bool:
    """Tell whether both namespaces of workload ``name`` are pinned."""
    nsfs = Path("/proc/self/ns/net").stat().st_dev
    try:
        return all(path(layout, name).stat().st_dev == nsfs for path in (user_namespace, network_namespace))
    except OSError:
        return False


def pin(layout: HostLayout, ranges: Mapping[str, int]) -> dict[str, NamespaceError]:
    """Make and pin the namespaces of workloads.

    Args:
        layout: the host.
        ranges: by workload, the host's user id that its user 0 is; the next 65535 follow.

    Returns:
        What failed, by workload; nothing of these is left pinned.
    """
    libc, failed = _libc(), {}
    for path in (user_namespace(layout, "x"), network_namespace(layout, "x")):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    names = list(ranges)
    for first in range(0, len(names), BATCH):
        children = {name: _Child(libc) for name in names[first : first + BATCH]}
        for name, child in children.items():
            try:
                child.pin(layout, name, ranges[name])
            except OSError as error:
                unpin(layout, name)
                failed[name] = NamespaceError(f"workload {name}: no namespaces", details=str(error))
            finally:
                child.end()
    return failed


class _Child:
    """A process that holds two new namespaces until it is ended."""

    def __init__(self, libc: ctypes.CDLL) -> None:
        self.libc = libc
        said, says = os.pipe()
        waits, self.leash = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(self.leash)
            self._live(says, waits)
        os.close(says)
        os.close(waits)
        self.said = said

    def _live(self, says: int, waits: int) -> None:
        """Be the child: make the namespaces, say so or the error's number, wait for the parent, and leave."""
        try:
            number = 0 if self.libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 else ctypes.get_errno()
            os.write(says, bytes([number]))
            # Later children have copies of our leash; they end first or are told to, so this returns in any case.
            os.read(waits, 1)
        finally:
            os._exit(0)

    def pin(self, layout: HostLayout, name: str, start: int) -> None:
        """Map the user ids and bind the namespaces to their places."""
        answer = os.read(self.said, 1)
        if answer != _READY:
            number = answer[0] if answer else 0
            raise OSError(number, f"unshare: {os.strerror(number) if number else 'the process ended'}")
        process = Path(f"/proc/{self.process}")
        for kind in ("uid_map", "gid_map"):
            (process / kind).write_text(f"0 {start} {RANGE_SIZE}\n")
        for kind, place in (("user", user_namespace(layout, name)), ("net", network_namespace(layout, name))):
            place.touch(mode=0o444)
            _call(self.libc.mount, f"{process}/ns/{kind}".encode(), bytes(place), None, MS_BIND, None)

    def end(self) -> None:
        """Let the child leave, and wait until it has."""
        os.write(self.leash, _READY)
        os.close(self.leash)
        os.close(self.said)
        os.waitpid(self.process, 0)


def unpin(layout: HostLayout, name: str) -> None:
    """Let go of a workload's namespaces; the kernel removes them when no process is in them.

    Raises:
        OSError: a place cannot be removed.
    """
    libc = _libc()
    for place in (network_namespace(layout, name), user_namespace(layout, name)):
        while place.exists() and libc.umount2(bytes(place), MNT_DETACH) == 0:
            pass  # pinned more than once by a pass that was cut
        place.unlink(missing_ok=True)


@contextmanager
def inside(place: Path) -> Iterator[None]:
    """Work in the network namespace pinned at ``place``: sockets opened and /proc/sys/net read here belong to it.

    Raises:
        OSError: it cannot be entered.
    """
    libc = _libc()
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call(libc.setns, target, CLONE_NEWNET)
        finally:
            os.close(target)
        try:
            yield
        finally:
            _call(libc.setns, own, CLONE_NEWNET)
    finally:
        os.close(own)
