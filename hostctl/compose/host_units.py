"""Which systemd units run on a host: what is enabled, and what of Debian's set has no use here.

A host starts nothing that is not named here or pulled in by systemd itself, so this table is the boot.
"""

from __future__ import annotations

from collections.abc import Mapping

SYSTEM = "usr/lib/systemd/system"

ENABLED: Mapping[str, tuple[str, ...]] = {
    "local-fs.target.requires": ("var.mount",),
    "local-fs.target.wants": ("efi.automount",),
    "sysinit.target.wants": ("hostctl-apparmor.service", "hostctl-deadline.timer", "hostctl-sysctl.service"),
    "multi-user.target.wants": (
        "hostctl-firstboot.service",
        "hostctl-health.service",
        "hostctl-rerender.service",
        "hostctl-steady.service",
        "ssh.service",
        "systemd-networkd.service",
        "systemd-resolved.service",
        "systemd-timesyncd.service",
    ),
    "boot-complete.target.requires": ("hostctl-health.service",),
    "sockets.target.wants": ("dbus.socket", "systemd-networkd.socket"),
}
ALIASES: Mapping[str, str] = {
    "default.target": "multi-user.target",
    "dbus.service": "dbus-broker.service",
    "dbus-org.freedesktop.network1.service": "systemd-networkd.service",
    "dbus-org.freedesktop.resolve1.service": "systemd-resolved.service",
    "dbus-org.freedesktop.timesync1.service": "systemd-timesyncd.service",
}
# Nothing here debugs a kernel, asks for a password, edits /etc, writes to the ESP on every boot, or rebuilds a cache
# that the image has.
MASKED: tuple[str, ...] = (
    "autovt@.service", "console-getty.service", "dev-hugepages.mount", "dev-mqueue.mount", "getty@.service",
    "getty-static.service", "ldconfig.service", "modprobe@dm_mod.service", "modprobe@drm.service",
    "run-lock.mount", "systemd-boot-random-seed.service", "systemd-networkd-persistent-storage.service",
    "proc-sys-fs-binfmt_misc.automount", "proc-sys-fs-binfmt_misc.mount",
    "serial-getty@.service", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount", "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount", "systemd-binfmt.service", "systemd-firstboot.service",
    "systemd-hwdb-update.service", "systemd-journal-catalog-update.service", "systemd-machine-id-commit.service",
    "systemd-sysusers.service", "systemd-update-done.service",
)  # fmt: skip
# systemd runs every generator at boot and whenever it reads its units again, which each change of workloads asks for.
# These have nothing to find: consoles, swap and other partitions, scripts of System V, sockets for SSH over vsock. And
# nobody declared the units that the debug generator takes from credentials.
MASKED_GENERATORS: tuple[str, ...] = (
    "debug", "getty", "gpt-auto", "hibernate-resume", "rc-local", "run", "ssh", "system-update", "sysv",
)  # fmt: skip


def unit_links() -> dict[str, str]:
    """Return the symbolic links that enable, alias and mask: path in the image -> target."""
    links = {f"{SYSTEM}/{where}/{unit}": f"../{unit}" for where, units in ENABLED.items() for unit in units}
    links |= {f"{SYSTEM}/{alias}": unit for alias, unit in ALIASES.items()}
    links |= {f"{SYSTEM}/{unit}": "/dev/null" for unit in MASKED}
    # It writes the key of root's into a home folder that cannot be written; our own line puts it below /run.
    links["etc/tmpfiles.d/provision.conf"] = "/dev/null"
    generators = (f"usr/lib/systemd/system-generators/systemd-{name}-generator" for name in MASKED_GENERATORS)
    return links | dict.fromkeys(generators, "/dev/null")
