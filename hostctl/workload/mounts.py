"""What is mounted in a container besides its root file system: the kernel's file systems, memory, volumes.

Pure. ``/dev`` is a fresh tmpfs, so nothing that an image put there is ever followed. Mounts lie outside in.
Format: https://github.com/opencontainers/runtime-spec v1.2, config.md, "Mounts".
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from hostctl.config.values import TmpfsMount
from hostctl.workload.shown import ETC_FILES, config_file
from hostctl.workload.spec import BINDS, VOLUMES, WorkloadSpec

INIT = "/usr/bin/catatonit"  # reaps orphans and passes signals on: as process 1 most programs would ignore SIGTERM
INIT_INSIDE = "/dev/init"  # on a file system that no image can have prepared
NOTIFY = "/run/systemd/notify"  # of the service manager; who sends is known by the cgroup (sd_notify(3))
NOTIFY_INSIDE = "/dev/notify"
INHIBITOR_INSIDE = "/run/hostctl/inhibit"
SECRETS_INSIDE = "/run/secrets"
QUIET = ("nosuid", "noexec", "nodev")
PRIVATE = "rprivate"
"""crun clones what it binds in the host's mount namespace, of whose mounts it would stay a peer: what is mounted below
it in the container would appear on the host, as the container's own view of /sys/fs/cgroup over the host's."""


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _bind(destination: str, source: str, *options: str) -> dict[str, Any]:
    return _mount(destination, "bind", source, "bind", PRIVATE, "nosuid", "nodev", *options)


def _mapped(mount: dict[str, Any], mapping: dict[str, int]) -> dict[str, Any]:
    """Return a mount whose files are shown with other owners (config.md, ``uidMappings`` of a mount)."""
    return {**mount, "uidMappings": [mapping], "gidMappings": [mapping]}


def _secrets(spec: WorkloadSpec) -> list[dict[str, Any]]:
    """Return the mounts of the secrets' files, which systemd has decrypted into memory for this start.

    Each is root's on the host, and is shown as the workload's own user's.
    """
    if not spec.workload.secrets:
        return []
    uid, gid = spec.user
    made = [_mount(SECRETS_INSIDE, "tmpfs", "tmpfs", *QUIET, "mode=755", "size=64k")]
    for name in spec.workload.secrets:
        mount = _bind(f"{SECRETS_INSIDE}/{name}", f"{spec.credentials}/{name}", "ro", "noexec", "rprivate")
        ids = {"containerID": 0, "size": 1}
        mount["uidMappings"] = [{**ids, "hostID": spec.first_id + uid}]
        mount["gidMappings"] = [{**ids, "hostID": spec.first_id + gid}]
        made.append(mount)
    return made


def _kernel(spec: WorkloadSpec) -> list[dict[str, Any]]:
    mounts = [
        _mount("/proc", "proc", "proc", *QUIET),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=64k"),
        _mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        _mount("/dev/shm", "tmpfs", "shm", *QUIET, "mode=1777", f"size={int(spec.workload.shm_size)}"),  # noqa: S108
        _mount("/dev/mqueue", "mqueue", "mqueue", *QUIET),
    ]
    if spec.workload.network == "host":  # sysfs shows a network namespace, and this one is not the container's
        mounts.append(_mount("/sys", "bind", "/sys", "rbind", PRIVATE, *QUIET, "ro", "rro"))
    else:
        mounts.append(_mount("/sys", "sysfs", "sysfs", *QUIET, "ro"))
    mounts.append(_mount("/sys/fs/cgroup", "cgroup", "cgroup", *QUIET, "relatime", "ro"))
    return mounts


def _memory(mount: TmpfsMount) -> dict[str, Any]:
    options = ["nosuid", "nodev", *([] if mount.executable else ["noexec"])]
    options.append(f"mode={mount.mode}" if mount.mode is not None else "mode=1777")
    options += [f"size={int(mount.size)}"] if mount.size is not None else []
    return _mount(mount.target, "tmpfs", "tmpfs", *options)


def _declared(spec: WorkloadSpec) -> list[dict[str, Any]]:
    """Return what is declared, and the files of /etc that lie over it unless one is declared itself.

    Where a volume at /etc lacks these files, crun makes them, empty; it makes mounts read-only at the very end.
    """
    made = [_memory(mount) for mount in spec.workload.tmpfs]
    for volume in spec.workload.volumes:
        source = f"{BINDS if volume.of_host else VOLUMES}/{volume.volume}"
        made.append(_mapped(_bind(volume.target, source, *(["ro"] if volume.read_only else [])), spec.mapping))
    made += [_bind(target, spec.volume_root(target), "ro") for target in spec.image_volumes]
    for device in spec.workload.devices:  # no "nodev", or it could not be opened
        access = ["ro"] if device.access == "r" else []
        made.append(_mount(device.target, "bind", device.source, "bind", "nosuid", "noexec", *access))
    for config in spec.workload.configs:
        source = f"{spec.bundle}/{config_file(config.config)}"
        made.append(_mapped(_bind(config.target, source, "ro", "noexec"), spec.mapping))
    taken = {mount["destination"] for mount in made}
    made += [_bind(f"/etc/{name}", f"{spec.bundle}/{name}", "ro") for name in ETC_FILES if f"/etc/{name}" not in taken]
    return sorted(made, key=lambda mount: str(mount["destination"]))  # outer before inner


def mounts(spec: WorkloadSpec) -> list[dict[str, Any]]:
    """Return the mounts of a container, in the order in which they are made."""
    made = _kernel(spec)
    if spec.workload.read_only:
        scratch = [_mount("/run", "tmpfs", "tmpfs", "nosuid", "nodev", "mode=755")]
        scratch.append(_mount("/tmp", "tmpfs", "tmpfs", "nosuid", "nodev", "mode=1777"))  # noqa: S108
        own = {mount.target for mount in spec.workload.tmpfs}
        made += [mount for mount in scratch if mount["destination"] not in own]
    if spec.workload.init:
        made.append(_bind(INIT_INSIDE, INIT, "ro"))
    if spec.workload.notify:
        made.append(_bind(NOTIFY_INSIDE, NOTIFY, "ro", "noexec"))
    declared = _declared(spec)
    if spec.inhibitor is not None:
        declared.append(_bind(INHIBITOR_INSIDE, spec.inhibitor, "ro", "noexec"))
    return made + declared + _secrets(spec)


def targets(spec: WorkloadSpec) -> list[str]:
    """Return the folders that must exist in the root file system, which the image may lack."""
    wanted = ["/proc", "/sys", "/dev", "/run", "/tmp", "/etc", spec.working_directory]  # noqa: S108
    wanted += [mount.target for mount in spec.workload.volumes]
    wanted += [mount.target for mount in spec.workload.tmpfs]
    wanted += spec.image_volumes
    wanted += [str(PurePosixPath(mount.target).parent) for mount in spec.workload.configs]
    return [path for path in wanted if path != "/"]


def target_files(spec: WorkloadSpec) -> list[str]:
    """Return the files that must exist in the root file system, as paths from its root."""
    return [*(f"/etc/{name}" for name in ETC_FILES), *(mount.target for mount in spec.workload.configs)]
