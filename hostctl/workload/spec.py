"""What a workload is when everything about it is decided: the one value that its bundle and its units are made from.

Paths are those of the running host; nothing in :mod:`hostctl.workload` looks at a disk to make a bundle or a unit.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hostctl.config.values import Signal
from hostctl.config.workload import Workload
from hostctl.errors import HostctlError
from hostctl.image.store import StoredImage
from hostctl.workload import instance as instances
from hostctl.workload.identity import RANGE, range_start

RUNTIME = "/run/hostctl/workloads"
PIDS = "/run/hostctl/pids"
STATE = "/var/lib/hostctl/workloads"
VOLUMES = "/var/lib/hostctl/volumes"
BINDS = "/var/lib/hostctl/binds"
SECRETS = "/var/lib/hostctl/secrets"
INHIBITORS = "/run/hostctl/inhibit"
HEALTH_PROCESS = "health-process.json"
BUNDLES = "/var/lib/hostctl/current/bundles"  # through the link, so that a unit does not name a generation


class WorkloadError(HostctlError):
    """A workload cannot be run as it is declared."""

    id = "workload-cannot-run"


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """How a workload with a private network is connected; the name server knows the other workloads' names."""

    addresses: tuple[str, ...]
    """Its own, without prefix length, the first network's first."""
    name_servers: tuple[str, ...]
    chain: str = ""
    """The packet filter's chain that leads new connections to it, of a replica with published ports."""
    serve: bytes = b""
    """What fills that chain, as nft's JSON."""
    may_be_late: bool = False
    """One of its networks is that of a link of the host, which may come up after the workload was to be started."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadSpec:
    """One workload, its image and its range of user ids; ``network`` only when it is private."""

    name: str
    workload: Workload
    image: StoredImage
    range_number: int
    network: Network | None = None
    image_volumes: Mapping[str, StoredImage] = field(default_factory=dict)
    """The images whose files it is shown, by path."""
    configs: Mapping[str, str] = field(default_factory=dict)
    """What is in the configs that it uses, by name."""
    awaited: bool = False
    """Whether another workload's start waits until this one is healthy."""
    zone: bytes | None = None
    """The rules of its time zone (RFC 8536), if it declares one."""
    instance: str = ""
    """The letter of this instance, of a workload that is started beside the running one when it changes, or its number,
    of a replica but the first."""
    replicas_of: Mapping[str, int] = field(default_factory=dict)
    """How many containers the workloads have that it depends on, where they have several."""

    @property
    def key(self) -> str:
        """What units, folders and namespaces of this instance are called by."""
        return instances.key(self.name, self.instance)

    @property
    def label(self) -> str:
        """What people call this instance: the workload's name, of replicas with their number."""
        return instances.label(self.key, self.workload.replicas)

    @property
    def hostname(self) -> str:
        """The host name that the workload sees of itself."""
        return str(self.workload.hostname or self.label)

    @property
    def first_id(self) -> int:
        """The user id, on the host, of the container's user 0."""
        return range_start(self.range_number)

    @property
    def mapping(self) -> dict[str, int]:
        """The container's ids on the host (runtime-spec 1.2, "User namespace mappings")."""
        return {"containerID": 0, "hostID": self.first_id, "size": RANGE}

    @property
    def runtime(self) -> str:
        """The folder with its mount points, on a tmpfs, closed to everybody but host root and the workload's root."""
        return f"{RUNTIME}/{self.key}"

    @property
    def pid_file(self) -> str:
        """The file with the process id of its first process; everybody may see when it was written."""
        return f"{PIDS}/{self.key}"

    @property
    def rootfs(self) -> str:
        """Where the container's root file system is mounted."""
        return f"{self.runtime}/rootfs"

    @property
    def state(self) -> str:
        """The folder with the writable layer, which no start inherits from the one before."""
        return f"{STATE}/{self.key}"

    @property
    def bundle(self) -> str:
        """The folder with config.json and the files of :func:`hostctl.workload.bundle.files`."""
        return f"{BUNDLES}/{self.key}"

    @property
    def inhibitor(self) -> str | None:
        """The file whose lock holds back a restart of the host, if the workload may do that."""
        return f"{INHIBITORS}/{self.key}" if self.workload.may_delay_reboot else None

    @property
    def credentials(self) -> str:
        """The folder in which systemd shows the secrets to the workload's unit (systemd.exec(5), "Credentials")."""
        return f"/run/credentials/workload-{self.key}.service"

    @property
    def config_file(self) -> str:
        """The container's config.json; with secrets in the environment it is made before each start, in memory."""
        return f"{self._processes}/config.json"

    @property
    def health_process(self) -> str:
        """The process document of the check, if that is a command; made where :attr:`config_file` is."""
        return f"{self._processes}/{HEALTH_PROCESS}"

    @property
    def _processes(self) -> str:
        return self.runtime if self.workload.env_secrets else self.bundle

    @property
    def stop_signal(self) -> str:
        """The signal that asks the workload to end.

        Raises:
            WorkloadError: what the image wants is no signal's name or number.
        """
        if self.workload.stop_signal is not None:
            return str(self.workload.stop_signal)
        text = self.image.config.stop_signal
        try:
            if text.isascii() and text.isdigit():
                return signal.Signals(int(text)).name
            if text.startswith("SIG"):
                return str(Signal.parse(text))
        except ValueError:
            pass
        raise WorkloadError(f"workload {self.name}: the image wants to be stopped by {text!r}, no signal")

    @property
    def layers(self) -> tuple[tuple[str, Path], ...]:
        """A short name and the EROFS file of each layer, lowest first; one that occurs twice counts on top."""
        return layers_of(self.image)

    def volume_root(self, target: str) -> str:
        """Return where the files of the image are mounted that the container is shown at ``target``."""
        return f"{self.runtime}/images/{hashlib.sha256(target.encode()).hexdigest()[:16]}"

    @property
    def user(self) -> tuple[int, int]:
        """User and group inside the container.

        Raises:
            WorkloadError: the image asks for a user by name.
        """
        if self.workload.user is not None:
            return self.workload.user.uid, self.workload.user.gid or 0
        words = self.image.config.user.split(":")
        numbers = ["0" if word in ("", "root") else word for word in words]
        if len(numbers) > 2 or not all(n.isascii() and n.isdigit() and int(n) < RANGE for n in numbers):
            raise WorkloadError(
                f"workload {self.name}: the image wants to run as user {self.image.config.user!r}, a name",
                details="names are not looked up in an image's own files",
                hint=f"workloads.{self.name}.user: UID:GID, in numbers",
            )
        return int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else 0

    @property
    def working_directory(self) -> str:
        """Where the command starts.

        Raises:
            WorkloadError: it leads into /proc, where a file of the host could be named.
        """
        if self.workload.working_dir is not None:
            return str(self.workload.working_dir)
        parts = [part for part in self.image.config.working_dir.split("/") if part not in ("", ".")]
        if ".." in parts or parts[:1] == ["proc"]:
            raise WorkloadError(f"workload {self.name}: the image wants to start in {self.image.config.working_dir!r}")
        return "/" + "/".join(parts)


def layers_of(image: StoredImage) -> tuple[tuple[str, Path], ...]:
    """Return a short name and the EROFS file of each layer, lowest first; one that occurs twice counts on top."""
    found = {_layer_name(path): path for path in reversed(image.layers)}
    return tuple(reversed(found.items()))


def _layer_name(path: Path) -> str:
    """Return 128 bits of a layer's digest, from the store's file name ``sha256-<hex>.erofs``: short, yet unique."""
    return path.stem.removeprefix("sha256-")[:32]
