"""The declaration of one workload, a part of ``host.yaml``, as frozen data; see :mod:`hostctl.config.host`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from hostctl.config.values import (
    ByteSize,
    Capability,
    Cpus,
    Duration,
    HttpUrl,
    ImageReference,
    PortMapping,
    VolumeMount,
    WorkloadUser,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadHealth:
    """A check of one workload, run inside its own network (http, tcp) or container (exec)."""

    http: HttpUrl | None = None
    """An address, seen from inside the workload, that must answer with a status from 200 to 399."""
    tcp: str | None = None
    """host:port, seen from inside the workload, that must accept a connection."""
    exec: tuple[str, ...] | None = None
    """A command in the container that must exit with 0."""
    interval: Duration = field(default_factory=lambda: Duration(10.0))
    """Time between two checks."""
    timeout: Duration = field(default_factory=lambda: Duration(5.0))
    """How long one check may take."""
    retries: int = 3
    """Failures in a row that make the workload unhealthy; it is then restarted by its restart policy."""
    start_period: Duration = field(default_factory=lambda: Duration(30.0))
    """Failures in this time after a start do not count."""

    def __post_init__(self) -> None:
        """Refuse a check that checks nothing, or two things."""
        if sum(kind is not None for kind in (self.http, self.tcp, self.exec)) != 1:
            raise ValueError("give exactly one of http, tcp, exec")
        if not 1 <= self.retries <= 100:
            raise ValueError("retries: must be from 1 to 100")


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A declared container, running as workload-NAME.service."""

    image: ImageReference
    """registry/name:tag or registry/name@sha256:…; images that came with the release are found by the same name."""
    command: tuple[str, ...] | None = None
    """Replaces the image's entrypoint."""
    args: tuple[str, ...] | None = None
    """Replaces the image's command, that is, the arguments of the entrypoint."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables on top of the image's."""
    ports: tuple[PortMapping, ...] = ()
    """Published ports: [ADDRESS:]HOST:CONTAINER[/tcp|/udp]."""
    volumes: tuple[VolumeMount, ...] = ()
    """Mounted volumes: NAME:/path[:ro]."""
    memory: ByteSize | None = None
    """Most memory it may use (systemd MemoryMax=); past it the workload, and nothing else, is killed."""
    cpus: Cpus | None = None
    """Processor time it may use, in cores, as in 0.5 (systemd CPUQuota=)."""
    pids: int = 1024
    """Most processes and threads (systemd TasksMax=)."""
    restart: Literal["no", "on-failure", "always"] = "always"
    """When systemd starts it again."""
    read_only: bool = False
    """The root file system cannot be written."""
    user: WorkloadUser | None = None
    """UID[:GID] inside the container; default is the image's."""
    capabilities: tuple[Capability, ...] = ()
    """Capabilities on top of the default set, as in CAP_NET_RAW."""
    network: Literal["private", "none", "host"] = "private"
    """private: an address of its own on the host's bridge; none: only loopback; host: the host's own network."""
    required: bool = False
    """A release or declaration under which it does not come up healthy is taken back."""
    may_delay_reboot: bool = False
    """An unattended restart of the host waits, for update.delay at most, while the workload holds a lock (flock) on
    /run/hostctl/inhibit, a file that is there for nothing else."""
    healthcheck: WorkloadHealth | None = None
    """How to tell that it works."""

    def __post_init__(self) -> None:
        """Refuse limits and ports that cannot work."""
        if not 1 <= self.pids <= 4194304:
            raise ValueError("pids: must be from 1 to 4194304")
        targets = [mount.target for mount in self.volumes]
        for index, target in enumerate(targets):
            if target in targets[:index]:
                raise ValueError(f"volumes[{index}]: another volume is already mounted at {target}")
        if self.ports and self.network != "private":
            raise ValueError("ports: only network: private can publish ports")
        for name in self.env:
            if not name or "=" in name or "\0" in name:
                raise ValueError(f"env: {name!r} is not a variable name")
