"""Pinned namespaces: for every workload a user namespace and the network namespace that it owns.

They are made ahead of the workload, so that starting or restarting one runs nothing of ours, and live until they are
unpinned. The network namespace is made inside the user namespace: only so may the workload's root mount sysfs and
change its own network. What goes on inside them is not decided here.

A thin edge over clone(2), setns(2) and umount2(2), for which Python 3.11 has no functions.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hostctl import mounting
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.libc import call, library
from hostctl.mounting import MNT_DETACH
from hostctl.workload.identity import RANGE

CLONE_VM, CLONE_NEWUSER, CLONE_NEWNET = 0x100, 0x10000000, 0x40000000  # <linux/sched.h>
PREFIX = "workload-"
CHUNK = 64  # workloads whose namespaces are held at once, each by descriptors
STACK = 16384  # bytes; pause(2) needs next to nothing


class NamespaceError(HostctlError):
    """The kernel refused to make, pin or enter a workload's namespaces."""

    id = "namespace-failed"


def user_namespace(layout: HostLayout, name: str) -> Path:
    """Return where the user namespace of workload ``name`` is pinned."""
    return layout.runtime / "userns" / name


def network_namespace(layout: HostLayout, name: str) -> Path:
    """Return where the network namespace of workload ``name`` is pinned; ip-netns(8) finds it there too."""
    return layout.root / "run/netns" / f"{PREFIX}{name}"


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
    maker, failed, names = _Maker(), dict[str, NamespaceError](), list(ranges)
    for path in (user_namespace(layout, "x"), network_namespace(layout, "x")):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    for first in range(0, len(names), CHUNK):
        with ExitStack() as held:
            made = dict[str, tuple[int, int]]()
            for name in names[first : first + CHUNK]:
                try:
                    made[name] = maker.make(ranges[name], held)
                except OSError as error:
                    failed[name] = _failure(name, error)
            for name, copies in made.items():  # in a row, as in mounting.aside
                try:
                    _attach(layout, name, *copies)
                except OSError as error:
                    unpin(layout, name)
                    failed[name] = _failure(name, error)
    return failed


def _attach(layout: HostLayout, name: str, users: int, network: int) -> None:
    for copy, place in ((users, user_namespace(layout, name)), (network, network_namespace(layout, name))):
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
        mounting.attach(copy, place)


def _failure(name: str, error: OSError) -> NamespaceError:
    return NamespaceError(f"workload {name}: no namespaces", details=str(error))


@contextmanager
def user_namespace_of(start: int) -> Iterator[int]:
    """Give the descriptor of a user namespace that nobody is in.

    Args:
        start: the host's user id that its user 0 is; the next 65535 follow.

    Raises:
        NamespaceError: the kernel refused.
    """
    maker = _Maker()
    try:
        with maker.holding(CLONE_NEWUSER, start) as process:
            descriptor = os.open(f"/proc/{process}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NamespaceError("there is no user namespace", details=str(error)) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _Maker:
    """Makes namespaces by processes that hold them until they are pinned.

    Such a process shares the memory of this one and sits in pause(2) on a stack of its own until it is killed: it runs
    no Python, and nothing is copied for it, which takes a tenth of the time of a fork.
    """

    def __init__(self) -> None:
        self.libc = library()
        self.libc.clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
        self.stack = ctypes.create_string_buffer(STACK)
        self.top = (ctypes.addressof(self.stack) + STACK) & ~15  # it grows downwards, aligned as the ABI wants it
        self.pause = ctypes.cast(self.libc.pause, ctypes.c_void_p)

    def make(self, start: int, held: ExitStack) -> tuple[int, int]:
        """Make a user and a network namespace and return descriptors to attach, which are closed with ``held``."""
        made = []
        with self.holding(CLONE_NEWUSER | CLONE_NEWNET, start) as process:
            for kind in ("user", "net"):
                made.append(mounting.copy(Path(f"/proc/{process}/ns/{kind}")))
                held.callback(os.close, made[-1])
        return made[0], made[1]

    @contextmanager
    def holding(self, kinds: int, start: int) -> Iterator[int]:
        """Give the id of a process in new namespaces, one of them a user namespace whose user ids are mapped."""
        process = call(self.libc.clone, self.pause, self.top, CLONE_VM | kinds | signal.SIGCHLD, None)
        try:
            for kind in ("uid_map", "gid_map"):
                _write(f"/proc/{process}/{kind}", f"0 {start} {RANGE}\n")
            yield process
        finally:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def unpin(layout: HostLayout, name: str) -> None:
    """Let go of a workload's namespaces; the kernel removes them when no process is in them.

    Raises:
        OSError: a place cannot be removed.
    """
    libc = library()
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
    libc = library()
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            call(libc.setns, target, CLONE_NEWNET)
        finally:
            os.close(target)
        try:
            yield
        finally:
            call(libc.setns, own, CLONE_NEWNET)
    finally:
        os.close(own)
