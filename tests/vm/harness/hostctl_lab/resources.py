"""What a host holds, to be compared before and after: whatever there is more of afterwards was leaked."""

from __future__ import annotations

from hostctl_lab.host import Host

SCRIPT = r"""
ls /sys/class/net | sed 's/[0-9a-f]*$//; s/^/net /'
ls /run/netns 2>/dev/null | sed 's/^/netns /'
ls /run/hostctl/userns 2>/dev/null | sed 's/^/userns /'
cat /sys/block/loop*/loop/backing_file 2>/dev/null | sed 's/^/loop /'
sed -E 's/^[^ ]+ ([^ ]+) ([^ ]+) .*/mount \2 \1/' /proc/mounts | grep -v -e ' autofs ' -e ' /run/user' | sort
find /var/lib/hostctl /efi -name '*.tmp' -o -name '*.new' -o -name '.*.partial' | sed 's/^/file /'
systemctl list-units --failed --no-legend --plain | sed -E 's/^([^ ]+).*/failed \1/'
find /sys/fs/cgroup -name 'workload-*' -type d | sed 's/^/cgroup /'
"""


def held(host: Host) -> tuple[str, ...]:
    """Return network devices, pinned namespaces, loop devices, mounts, temporary files, failed units and cgroups."""
    return listed(host.shell(SCRIPT))


def listed(said: str) -> tuple[str, ...]:
    """Return what :data:`SCRIPT` printed."""
    return tuple(sorted(line.strip() for line in said.splitlines() if line.strip()))


def leaked(before: tuple[str, ...], after: tuple[str, ...]) -> tuple[str, ...]:
    """Return what there is more of after than before."""
    left = list(before)
    more = []
    for line in after:
        if line in left:
            left.remove(line)
        else:
            more.append(line)
    return tuple(more)
