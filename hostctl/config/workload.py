"""The declaration of one workload, a part of ``host.yaml``, as frozen data; see :mod:`hostctl.config.host`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from hostctl.config import networks, replicas, rolling
from hostctl.config.networks import Attachment, Dns
from hostctl.config.values import (
    AppArmorProfile,
    ByteSize,
    Capability,
    ConfigMount,
    ContainerPath,
    Cpus,
    CpuSet,
    DeviceMount,
    DevicePath,
    DroppedCapability,
    Duration,
    HostName,
    HttpUrl,
    ImageReference,
    ListenAddress,
    MountTarget,
    Name,
    NamespacedSysctl,
    PortMapping,
    RestartPolicy,
    Schedule,
    Signal,
    TcpAddress,
    TimeZone,
    TmpfsMount,
    Ulimit,
    UlimitName,
    VolumeMount,
    WorkloadUser,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadHealth:
    """A check of one workload, run inside its own network (http, tcp) or container (exec)."""

    http: HttpUrl | None = None
    """An address, seen from inside the workload, that must answer with a status from 200 to 399."""
    tcp: TcpAddress | None = None
    """host:port, seen from inside the workload, that must accept a connection."""
    exec: tuple[str, ...] | None = None
    """A command in the container that must exit with 0."""
    interval: Duration = field(default_factory=lambda: Duration(10.0))
    """Time between two checks."""
    timeout: Duration = field(default_factory=lambda: Duration(5.0))
    """How long one check may take."""
    retries: int = 3
    """Failures in a row that make the workload unhealthy; see action."""
    start_period: Duration = field(default_factory=lambda: Duration(30.0))
    """Failures in this time after a start do not count."""
    action: Literal["restart", "none"] = "restart"
    """What happens when it is unhealthy: it is restarted, unless its restart policy is no, or (none) only shown."""

    def __post_init__(self) -> None:
        """Refuse a check that checks nothing, or two things."""
        if sum(kind is not None for kind in (self.http, self.tcp, self.exec)) != 1:
            raise ValueError("give exactly one of http, tcp, exec")
        if not 1 <= self.retries <= 100:
            raise ValueError("retries: must be from 1 to 100")


@dataclass(frozen=True, kw_only=True, slots=True)
class IoLimits:
    """What a workload may do to the host's disks, counted where it reaches the disk: what the cache answers is free."""

    weight: int | None = None
    """Share of a busy disk compared with others, from 1 to 10000; 100 is usual (systemd IOWeight=)."""
    read_bps: Mapping[DevicePath, ByteSize] = field(default_factory=dict)
    """Most bytes a second read from a disk (systemd IOReadBandwidthMax=)."""
    write_bps: Mapping[DevicePath, ByteSize] = field(default_factory=dict)
    """Most bytes a second written to a disk (systemd IOWriteBandwidthMax=)."""
    read_iops: Mapping[DevicePath, int] = field(default_factory=dict)
    """Most reads a second from a disk (systemd IOReadIOPSMax=)."""
    write_iops: Mapping[DevicePath, int] = field(default_factory=dict)
    """Most writes a second to a disk (systemd IOWriteIOPSMax=)."""

    def __post_init__(self) -> None:
        """Refuse numbers that the kernel would."""
        wrong = ["weight: must be from 1 to 10000"] if self.weight is not None and not 1 <= self.weight <= 10000 else []
        for name, limits in (("read_iops", self.read_iops), ("write_iops", self.write_iops)):
            wrong += [f"{name}.{device}: must be at least 1" for device, number in limits.items() if number < 1]
        if wrong:
            raise ValueError(*wrong)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dependency:
    """What must have become of another workload before this one starts."""

    condition: Literal["started", "healthy", "completed"] = "started"
    """started: its start has ended, with notify: true once it says that it is ready; healthy: its check has passed;
    completed: it is a job and has ended well. Starting this one starts the other. What becomes of it later has no
    effect without requires."""
    requires: bool = False
    """What becomes of the other holds for this one too (systemd Requires=): it does not start where the other cannot,
    stops with it, and is started again with it. While the other is tried again, so is this one."""

    def __post_init__(self) -> None:
        """Refuse to live on with what has ended."""
        if self.requires and self.condition == "completed":
            raise ValueError("requires: with condition: completed it starts when the other has ended")


@dataclass(frozen=True, kw_only=True, slots=True)
class Logging:
    """How much a workload may write to the journal. Without it the host's own limits hold."""

    rate_limit: int = 1000
    """Most messages in the interval, times a small factor where the journal's disk has room; further ones are dropped
    and counted (systemd LogRateLimitBurst=)."""
    rate_interval: Duration = field(default_factory=lambda: Duration(30.0))
    """The time over which messages are counted (systemd LogRateLimitIntervalSec=)."""

    def __post_init__(self) -> None:
        """Refuse a limit that is none."""
        if not 1 <= self.rate_limit <= 1_000_000:
            raise ValueError("rate_limit: must be from 1 to 1000000")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadUpdate:
    """How a changed workload takes the place of the running one."""

    order: Literal["stop-first", "start-first"] = "stop-first"
    """stop-first: the old container ends before the new one starts. start-first: the new one is started beside the old
    one, and takes the published ports and the name once it is healthy or, with notify, ready; if it does not become
    that, the old one stays, untouched. It needs a healthcheck or notify, and nothing that only one can have."""
    drain: Duration = field(default_factory=lambda: Duration(10.0))
    """With start-first: how long connections to the old container may go on before it is asked to end; 10m at most."""

    def __post_init__(self) -> None:
        """Refuse what would keep a change waiting for too long."""
        if self.drain > rolling.LONGEST_DRAIN:
            raise ValueError(f"drain: must be at most {Duration(rolling.LONGEST_DRAIN)}")


LONGEST_STOP = 240.0  # seconds; whoever stops a unit waits for it no longer than five minutes


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A declared container, running as workload-NAME.service; with `replicas`, several of them."""

    image: ImageReference
    """registry/name:tag or registry/name@sha256:…; images that came with the release are found by the same name."""
    pull_policy: Literal["missing", "always", "never"] = "missing"
    """When a registry is asked for its images, image_volumes too. missing: only for one that is not here, so a tag is
    looked up once. always: `hostctl apply` and `plan` look the tag up each time, and another image under it is a change
    of the workload; where no registry answers nothing is changed. An image named by its digest is never looked up, and
    a boot, `hostctl run` of another workload and auto_update of another ask as with missing. never: what is not here,
    nor in the release, is an error. Its name and words are Docker Compose's, as those of its neighbours; Quadlet calls
    it Pull=, Kubernetes imagePullPolicy, and there it is about starts, which never pull here."""
    replicas: int = 1
    """So many containers of it run, NAME.1 to NAME.N, 100 at most. New connections to published ports are spread over
    those that work, and the workload's name leads to all. Each has limits and a root file system of its own; volumes
    are shared. A change of this number starts or stops only the difference, any other change restarts all of them."""
    command: tuple[str, ...] | None = None
    """Replaces the image's entrypoint."""
    args: tuple[str, ...] | None = None
    """Replaces the image's command, that is, the arguments of the entrypoint."""
    init: bool = True
    """Process 1 is a small init that passes signals on and reaps orphans; false: it is the command itself."""
    working_dir: ContainerPath | None = None
    """Folder in which the command starts; default is the image's."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables on top of the image's."""
    env_from: tuple[Name, ...] = ()
    """Configs whose lines are NAME=value: variables over the image's and under those of env; of two, the later one."""
    env_secrets: Mapping[str, Name] = field(default_factory=dict)
    """Variables with the value of a secret, in its check and `hostctl exec` too. Whoever may see the workload's
    processes sees it: prefer secrets."""
    hostname: HostName | None = None
    """Host name that it sees of itself; default is the workload's name, by which others find it in any case."""
    timezone: TimeZone | None = None
    """Time zone, by TZ and /etc/localtime; default is the image's. The zone's rules are the host's."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Notes for people and programs, shown by `hostctl inspect` and, with the prefix org.hostctl.label., by crun."""
    stop_signal: Signal | None = None
    """Asks it to end; default is the image's, else SIGTERM."""
    stop_grace_period: Duration = field(default_factory=lambda: Duration(30.0))
    """How long it may take to end before it is killed; 4m at most."""
    ports: tuple[PortMapping, ...] = ()
    """Published ports: [ADDRESS:]HOST[-LAST]:CONTAINER[-LAST][/tcp|/udp], at the workload's first network that
    has a way in. Who asks from outside is seen by their own address, neighbours of its macvlan link by the host's."""
    volumes: tuple[VolumeMount, ...] = ()
    """Mounted volumes, NAME:/path[:ro], and folders of the host, /var/lib/hostctl/binds/NAME:/path[:rw]."""
    image_volumes: Mapping[MountTarget, ImageReference] = field(default_factory=dict)
    """Other images' files, by where they are seen; they can only be read."""
    configs: tuple[ConfigMount, ...] = ()
    """Configs as files that can only be read: NAME:/path."""
    secrets: tuple[Name, ...] = ()
    """Secrets as files /run/secrets/NAME, which only the workload's own user can read."""
    memory: ByteSize | None = None
    """Most memory it may use (systemd MemoryMax=); past it the workload, and nothing else, is killed."""
    cpus: Cpus | None = None
    """Processor time it may use, in cores, as in 0.5 (systemd CPUQuota=)."""
    memory_high: ByteSize | None = None
    """Past it the workload is slowed down and its memory taken back (systemd MemoryHigh=)."""
    memory_reservation: ByteSize | None = None
    """So much is not taken from it when the host is short of memory (systemd MemoryLow=)."""
    memory_swap: ByteSize | None = None
    """Swap that it may use on top of memory (systemd MemorySwapMax=); none by default if memory is limited."""
    cpu_weight: int | None = None
    """Share of busy processors compared with others, from 1 to 10000; 100 is usual (systemd CPUWeight=)."""
    cpuset: CpuSet | None = None
    """Processors on which it may run, by number (systemd AllowedCPUs=)."""
    io: IoLimits | None = None
    """Limits on the host's disks."""
    ulimits: Mapping[UlimitName, Ulimit] = field(default_factory=dict)
    """Limits of each of its processes, as in nofile: 1024:4096."""
    oom_score_adj: int = 0
    """From -999 to 1000: the higher, the earlier it is killed when the host runs out of memory."""
    sysctls: Mapping[NamespacedSysctl, str] = field(default_factory=dict)
    """Kernel settings of its own network and IPC namespaces. One that is no longer declared keeps its value until the
    workload is removed or the host restarts, if it is one of the network."""
    shm_size: ByteSize = field(default_factory=lambda: ByteSize(64 << 20))
    """Size of /dev/shm."""
    tmpfs: tuple[TmpfsMount, ...] = ()
    """File systems in memory: PATH[:size=64M,mode=1777,exec]."""
    pids: int = 1024
    """Most processes and threads (systemd TasksMax=)."""
    type: Literal["service", "job"] = "service"
    """service: it runs until it is stopped. job: it runs to its end, at boot or by its schedule; it has failed unless
    it ends with status 0."""
    schedule: Schedule | None = None
    """When a job runs, in the workload's time zone, by default the host's; one that was missed while the host was off
    runs at the next boot."""
    restart: RestartPolicy | None = None
    """When it is started again after its end; always by default, for a job no."""
    autostart: bool = True
    """It starts at boot and when it is declared. false: it waits for `hostctl start`, after each boot anew."""
    depends_on: Mapping[Name, Dependency] = field(default_factory=dict)
    """Other workloads that are started before this one."""
    notify: bool = False
    """Its start ends when it says READY=1 to $NOTIFY_SOCKET (sd_notify(3)), within 90s."""
    sockets: tuple[ListenAddress, ...] = ()
    """Sockets of the host that it is given from descriptor 3 on (sd_listen_fds(3)); the first connection starts it.
    init must be false, because they are for process 1."""
    logging: Logging | None = None
    """Limits of what it writes to the journal."""
    read_only: bool = False
    """The root file system cannot be written."""
    user: WorkloadUser | None = None
    """UID[:GID] inside the container; default is the image's."""
    capabilities: tuple[Capability, ...] = ()
    """Capabilities on top of the default set, as in CAP_NET_RAW."""
    cap_drop: tuple[DroppedCapability, ...] = ()
    """Capabilities of the default set that it does not get, or ALL."""
    seccomp: Name | None = None
    """A config with a profile of system calls in place of the host's, in the JSON of containers-common. There is no way
    to run without one."""
    apparmor: AppArmorProfile | None = None
    """An AppArmor profile of the release that confines it on top of all else, and what `hostctl exec` runs in it."""
    devices: tuple[DeviceMount, ...] = ()
    """Devices of the host: NODE[:NODE IN THE CONTAINER][:r|w|rw]. Its own user may open them."""
    network: Literal["private", "none", "host"] = "private"
    """private: addresses of its own on `networks`; none: only loopback; host: the host's own network, without rights
    over it. There a port below 1024 is for `sockets`, or for a host with `sysctl: {net.ipv4.ip_unprivileged_port_start:
    "80"}`, which lets every program of the host have such ports."""
    networks: tuple[Name, ...] | Mapping[Name, Attachment] = ()
    """The networks it is on, in the order of its interfaces eth0, eth1, …: names, or a mapping with aliases and static
    addresses. By default it is on the network `default`. The first that is not internal leads outside."""
    dns: Dns = field(default_factory=Dns)
    """Where names are looked up that are not those of workloads."""
    required: bool = False
    """A release or declaration under which it does not come up healthy is taken back."""
    may_delay_reboot: bool = False
    """An unattended restart of the host waits, for update.delay at most, while the workload holds a lock (flock) on
    /run/hostctl/inhibit, a file that is there for nothing else."""
    healthcheck: WorkloadHealth | None = None
    """How to tell that it works."""
    update: WorkloadUpdate = field(default_factory=WorkloadUpdate)
    """How a changed one takes its place."""
    auto_update: bool = False
    """The image's tag is looked up again every hour, or by `hostctl auto-update`, and a new image under it is taken as
    a change of the workload is; one with which it does not become healthy is taken back, and not tried again. One that
    was stopped gets it and stays down."""

    def __post_init__(self) -> None:
        """Refuse limits, mounts and ports that cannot work."""
        wrong = [*self._number_problems(), *self._memory_problems(), *self._mount_problems(), *self._word_problems()]
        wrong += networks.workload_problems(self)
        wrong += self._run_problems()
        wrong += rolling.workload_problems(self)
        wrong += replicas.workload_problems(self)
        if self.network == "host":
            wrong += [
                f"sysctls.{name}: with network: host it is the whole machine's"
                for name in self.sysctls
                if name.of_network
            ]
        if wrong:
            raise ValueError(*wrong)

    def _number_problems(self) -> Iterator[str]:
        if not 1 <= self.pids <= 4194304:
            yield "pids: must be from 1 to 4194304"
        if self.cpu_weight is not None and not 1 <= self.cpu_weight <= 10000:
            yield "cpu_weight: must be from 1 to 10000"
        if not -999 <= self.oom_score_adj <= 1000:
            yield "oom_score_adj: must be from -999 to 1000"
        if self.stop_grace_period > LONGEST_STOP:
            yield f"stop_grace_period: must be at most {Duration(LONGEST_STOP)}"

    def _run_problems(self) -> Iterator[str]:
        job = self.type == "job"
        if job and self.restarts.when == "always":
            yield f"restart: a job cannot be restarted {self.restarts}; no and on-failure are possible"
        if self.schedule is not None and not job:
            yield "schedule: only a job has one, as in type: job"
        for name, given in (("notify", self.notify), ("sockets", self.sockets), ("healthcheck", self.healthcheck)):
            if job and given:
                yield f"{name}: a job has none"
        for other in self.requires if job else ():
            yield f"depends_on.{other}.requires: a job runs once, and not again because {other!r} was restarted"
        if self.required and not self.autostart:
            yield "required: with autostart: false it does not come up by itself"
        if self.sockets and self.init:
            yield "sockets: they are for process 1, so init: false is needed"
        added = {str(capability) for capability in self.capabilities}
        for index, dropped in enumerate(self.cap_drop):
            if dropped in added:
                yield f"cap_drop[{index}]: it is in capabilities as well"
        targets = [device.target for device in self.devices]
        for index, target in enumerate(targets):
            if target in targets[:index]:
                yield f"devices[{index}]: another device is already {target}"

    def _memory_problems(self) -> Iterator[str]:
        if self.memory is not None:
            for name, size in (("memory_high", self.memory_high), ("memory_reservation", self.memory_reservation)):
                if size is not None and size > self.memory:
                    yield f"{name}: it is more than memory, {self.memory}"

    def _mount_problems(self) -> Iterator[str]:
        taken: set[str] = set()
        mounts = [("volumes", "volume", mount.target) for mount in self.volumes]
        mounts += [("tmpfs", "mount", mount.target) for mount in self.tmpfs]
        mounts += [("configs", "file", mount.target) for mount in self.configs]
        for place in self.image_volumes:
            if place in {target for _, _, target in mounts}:
                yield f"image_volumes.{place}: something else is already mounted there"
        counts: dict[str, int] = {}
        for setting, what, target in mounts:
            index = counts.get(setting, 0)
            counts[setting] = index + 1
            if target in taken:
                yield f"{setting}[{index}]: another {what} is already mounted at {target}"
            taken.add(target)

    def _word_problems(self) -> Iterator[str]:
        for setting, names in (("env", self.env), ("env_secrets", self.env_secrets)):
            for name in names:
                if not name or "=" in name or "\0" in name:
                    yield f"{setting}: {name!r} is not a variable name"
        for name in self.env_secrets:
            if name in self.env:
                yield f"env_secrets.{name}: the variable is declared in env as well"
        for name in self.labels:
            if not name or not name.isprintable() or len(name) > 255:
                yield f"labels: {name!r} is not a name of 1 to 255 printable characters"
        for sysctl, value in self.sysctls.items():
            if not value.isprintable():
                yield f"sysctls.{sysctl}: the value must be one line"

    @property
    def used_configs(self) -> tuple[Name, ...]:
        """The configs that it uses, each once."""
        return tuple(dict.fromkeys((*(mount.config for mount in self.configs), *self.env_from, *_given(self.seccomp))))

    @property
    def rolls(self) -> bool:
        """Whether a changed one is started beside the running one."""
        return self.update.order == "start-first"

    @property
    def requires(self) -> tuple[Name, ...]:
        """The workloads with which it stops and is started again."""
        return tuple(name for name, dependency in self.depends_on.items() if dependency.requires)

    @property
    def wants(self) -> tuple[Name, ...]:
        """The other workloads that are started before it."""
        return tuple(name for name, dependency in self.depends_on.items() if not dependency.requires)

    @property
    def restarts(self) -> RestartPolicy:
        """When it is started again."""
        return self.restart or RestartPolicy("no" if self.type == "job" else "always")

    @property
    def starter(self) -> Literal["service", "timer", "socket"]:
        """The kind of unit whose start makes it run: its own, or what starts that when it is time."""
        return "timer" if self.schedule is not None else "socket" if self.sockets else "service"

    @property
    def used_secrets(self) -> tuple[Name, ...]:
        """The secrets that it uses, each once."""
        return tuple(dict.fromkeys((*self.secrets, *self.env_secrets.values())))


def _given(name: Name | None) -> tuple[Name, ...]:
    return () if name is None else (name,)
