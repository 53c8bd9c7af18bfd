"""The declaration of a machine, ``host.yaml``, as frozen data.

The types are the only truth: the decoder, the error messages and the JSON Schema are derived from them.
Each field's documentation is the string that follows it; ``hostctl config schema`` and the reference print it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from hostctl.config import kernel, networks, replicas, rolling
from hostctl.config.contents import check_profile, parse_environment
from hostctl.config.networks import Network, NetworkPool
from hostctl.config.registries import ImagePolicy, Registry, SignaturePolicy
from hostctl.config.values import (
    BindAddress,
    ByteSize,
    Cpus,
    Duration,
    EtcPath,
    FileMode,
    HostName,
    HttpUrl,
    ImageReference,
    InterfaceAddress,
    InterfaceMatch,
    IpAddress,
    LockGroup,
    Name,
    RegistryHost,
    SshKey,
    SysctlName,
    TcpAddress,
    TimeZone,
    UserName,
    Window,
)
from hostctl.config.workload import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """A person who may log in by SSH key."""

    ssh_keys: tuple[SshKey, ...] = ()
    """Public keys, one a line, as in authorized_keys."""
    sudo: bool = False
    """May become root without a password, and ask the agent for whatever root may."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """One network link, configured by systemd-networkd: by DHCP or with static addresses."""

    match: InterfaceMatch
    """Interface names this applies to, with * and ? (systemd.network Name=)."""
    dhcp: bool = False
    """Take addresses, routes and name servers from DHCP."""
    addresses: tuple[InterfaceAddress, ...] = ()
    """Static addresses with prefix length, as in 192.0.2.10/24."""
    gateway: IpAddress | None = None
    """Default route."""
    dns: tuple[IpAddress, ...] = ()
    """Name servers."""

    def __post_init__(self) -> None:
        """Refuse a link that gets no address, or a static gateway without one."""
        if not self.dhcp and not self.addresses:
            raise ValueError("set dhcp: true, or give addresses")
        if self.gateway and not self.addresses:
            raise ValueError("gateway: needs addresses")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """A file below /etc."""

    content: str
    """What is in it."""
    mode: FileMode = field(default_factory=lambda: FileMode(0o644))
    """Permissions, in octal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RebootLock:
    """A server that lets few hosts of a group restart at a time, by the FleetLock protocol."""

    url: HttpUrl
    """Address of the server; /v1/pre-reboot and /v1/steady-state are added to it."""
    group: LockGroup = field(default_factory=lambda: LockGroup("default"))
    """The group whose turns the host takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdatePolicy:
    """Where new releases come from, and when they are taken. They are loaded at any time; this decides on restarts."""

    repository: HttpUrl
    """Address of the repository's static files."""
    mirrors: tuple[HttpUrl, ...] = ()
    """Other addresses of the same files, asked in this order when the repository does not answer well."""
    proxy: HttpUrl | None = None
    """HTTP proxy on the way to the repository and its mirrors."""
    channel: Name = field(default_factory=lambda: Name("stable"))
    """The line of releases to follow."""
    strategy: Literal["manual", "immediate", "window", "lock"] = "manual"
    """manual: only on `hostctl update`. The others look every hour, load what is new, and restart into it: immediate at
    once, window in a window, lock when the lock server agrees."""
    window: Window | tuple[Window, ...] = ()
    """One or several windows in which the host may restart; for strategy window, and if wanted for lock."""
    timezone: TimeZone | None = None
    """Time zone of the windows; the host's own by default."""
    lock: RebootLock | None = None
    """The lock server of strategy lock."""
    jitter: Duration = field(default_factory=lambda: Duration(600.0))
    """Restarts are spread over this time from when they are due, in a window over half of it at most. The machine id
    decides on a host's place, which stays the same."""
    delay: Duration = field(default_factory=lambda: Duration(3600.0))
    """The longest that inhibitors, of workloads and others, may hold back a restart."""
    notice: Duration = field(default_factory=lambda: Duration(300.0))
    """How long before a restart people at a terminal are warned; where there is nobody, nothing is waited for."""
    freeze_after: Duration = field(default_factory=lambda: Duration(14 * 86400.0))
    """A host that could not look for releases for so long says so in its status and in the journal."""

    def __post_init__(self) -> None:
        """Refuse a strategy without what it needs, and what no strategy would look at."""
        wrong = []
        if self.strategy == "window" and not self.windows:
            wrong.append("strategy: window needs a window, as in window: 'Sat 03:00-05:00'")
        if self.windows and self.strategy not in ("window", "lock"):
            wrong.append(f"window: strategy {self.strategy} does not look at windows, window and lock do")
        if self.timezone is not None and not self.windows:
            wrong.append("timezone: it is that of windows, and there is none")
        if self.strategy == "lock" and self.lock is None:
            wrong.append("strategy: lock needs a server, as in lock: {url: 'https://lock.example/'}")
        if self.lock is not None and self.strategy != "lock":
            wrong.append(f"lock: strategy {self.strategy} does not ask a lock server, lock does")
        known = [self.repository, *self.mirrors]
        wrong += [
            f"mirrors[{index}]: this address is given already"
            for index, mirror in enumerate(self.mirrors)
            if mirror in known[: index + 1]
        ]
        if wrong:
            raise ValueError(*wrong)

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows."""
        return (self.window,) if isinstance(self.window, Window) else self.window

    @property
    def unattended(self) -> bool:
        """Whether the host looks for releases by itself."""
        return self.strategy != "manual"


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthCheck:
    """A check, one of http, tcp, unit, that must pass before a booted release is blessed or a declaration is kept."""

    http: HttpUrl | None = None
    """An address that must answer with a status from 200 to 399."""
    tcp: TcpAddress | None = None
    """host:port that must accept a connection."""
    unit: str | None = None
    """A systemd unit that must be active."""
    within: Duration = field(default_factory=lambda: Duration(120.0))
    """How long it may take from the start of the checks."""

    def __post_init__(self) -> None:
        """Refuse a check that checks nothing, or two things."""
        if sum(kind is not None for kind in (self.http, self.tcp, self.unit)) != 1:
            raise ValueError("give exactly one of http, tcp, unit")


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """A named folder that outlives workloads, generations and releases."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A text that workloads may have as a file or as their environment. It is no secret."""

    content: str
    """What is in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Secret:
    """A secret of workloads. Its value is in no declaration: `hostctl secret set` stores it on the host, encrypted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """Where Prometheus finds the host's metrics, as plain HTTP at /metrics. Nothing runs while nobody asks."""

    listen: BindAddress
    """Address and TCP port. Whoever reaches it can read the names, images and use of all workloads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildPolicy:
    """What `hostctl build` builds images with. A build may mount file systems in namespaces of its own."""

    image: ImageReference
    """An image with buildah and crun, whose own command goes on running, as in examples/buildah."""
    memory: ByteSize | None = None
    """Most memory that a build may use."""
    cpus: Cpus | None = None
    """Processor time that a build may use, in cores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostDeclaration:
    """A machine: name, users, network, time, files, kernel settings, update policy, health and workloads."""

    version: Literal[1]
    """Version of this format."""
    hostname: HostName
    """The machine's name."""
    users: Mapping[UserName, User] = field(default_factory=dict)
    """People who may log in, by name."""
    network: Mapping[Name, Link] = field(default_factory=dict)
    """Links, by a name of your choice. None at all means DHCP on every wired interface; as soon as there are any, a
    wired one that none of them matches is up without an address."""
    networks: Mapping[Name, Network] = field(default_factory=dict)
    """Networks of workloads, by name. Without any there is `default`, which can be declared to be different."""
    network_pool: NetworkPool = field(default_factory=NetworkPool)
    """Where networks without a subnet of their own get theirs from."""
    timezone: TimeZone = field(default_factory=lambda: TimeZone("UTC"))
    """Name from the time zone database, as in Europe/Berlin."""
    files: Mapping[EtcPath, FileEntry] = field(default_factory=dict)
    """Files below /etc, by path."""
    sysctl: Mapping[SysctlName, str] = field(default_factory=dict)
    """Kernel settings. They count for more than the release's own, but for those that every host relies on:
    kernel.kexec_load_disabled, kernel.unprivileged_bpf_disabled, net.ipv4.ip_forward and vm.memfd_noexec stay 1. One
    that is not declared any more gets back what the release or the kernel had, if the kernel takes that; else it stays
    until the host restarts, and `hostctl apply` says so."""
    update: UpdatePolicy | None = None
    """Where new releases come from."""
    metrics: Metrics | None = None
    """Where metrics are to be had; nowhere by default."""
    health: Mapping[Name, HealthCheck] = field(default_factory=dict)
    """Checks of the whole machine, by name."""
    registries: Mapping[RegistryHost, Registry] = field(default_factory=dict)
    """How registries are reached, by host[:port]."""
    images: ImagePolicy = field(default_factory=ImagePolicy)
    """What is kept of images, and what they must show."""
    workloads: Mapping[Name, Workload] = field(default_factory=dict)
    """Containers, by name."""
    volumes: Mapping[Name, Volume] = field(default_factory=dict)
    """Named volumes."""
    configs: Mapping[Name, Config] = field(default_factory=dict)
    """Texts for workloads, by name."""
    secrets: Mapping[Name, Secret] = field(default_factory=dict)
    """Secrets of workloads, by name."""
    allow_run: bool = False
    """`hostctl run` may add workloads that are not declared here, until the next host.yaml is applied."""
    build: BuildPolicy | None = None
    """What `hostctl build` builds images with; without it none are built."""

    def __post_init__(self) -> None:
        """Refuse references to what is not declared, host ports published twice, files inside files, torn settings."""
        wrong = [
            *self._volume_problems(),
            *networks.problems(self),
            *rolling.problems(self),
            *replicas.problems(self),
            *self._file_problems(),
            *self._used_problems(),
            *self._dependency_problems(),
            *self._image_problems(),
            *kernel.problems({str(name): value for name, value in self.sysctl.items()}),
        ]
        if wrong:
            raise ValueError(*wrong)

    def _volume_problems(self) -> Iterator[str]:
        for name, workload in self.workloads.items():
            for index, mount in enumerate(workload.volumes):
                if not mount.of_host and mount.volume not in self.volumes:
                    yield f"workloads.{name}.volumes[{index}]: volume {mount.volume!r} is not declared under volumes"

    def _used_problems(self) -> Iterator[str]:
        for name, workload in self.workloads.items():
            where = f"workloads.{name}"
            for index, mount in enumerate(workload.configs):
                if mount.config not in self.configs:
                    yield f"{where}.configs[{index}]: config {mount.config!r} is not declared under configs"
            for index, config in enumerate(workload.env_from):
                if config not in self.configs:
                    yield f"{where}.env_from[{index}]: config {config!r} is not declared under configs"
                    continue
                try:
                    parse_environment(self.configs[config].content)
                except ValueError as error:
                    yield f"{where}.env_from[{index}]: config {config!r}: {error}"
            if workload.seccomp is not None:
                yield from self._profile_problems(f"{where}.seccomp", workload.seccomp)
            uses = [(f"{where}.secrets[{index}]", secret) for index, secret in enumerate(workload.secrets)]
            uses += [(f"{where}.env_secrets.{variable}", each) for variable, each in workload.env_secrets.items()]
            for place, secret in uses:
                if secret not in self.secrets:
                    yield f"{place}: secret {secret!r} is not declared under secrets"

    def signatures(self, registry: str) -> SignaturePolicy:
        """Return what images of a registry must show."""
        declared = self.registries.get(RegistryHost(registry))
        return self.images.signatures if declared is None or declared.signatures is None else declared.signatures

    def wants_digest(self, reference: ImageReference) -> bool:
        """Tell whether an image must be named by digest, and is not."""
        return reference.digest is None and self.signatures(reference.registry).require == "digest"

    def _image_problems(self) -> Iterator[str]:
        named = {"build.image": self.build.image} if self.build is not None else {}
        for name, workload in self.workloads.items():
            where = f"workloads.{name}"
            named[f"{where}.image"] = workload.image
            named |= {f"{where}.image_volumes.{target}": each for target, each in workload.image_volumes.items()}
        for place, reference in named.items():
            if self.wants_digest(reference):
                yield f"{place}: images of {reference.registry} must be named by digest"

    def _profile_problems(self, where: str, config: Name) -> Iterator[str]:
        if config not in self.configs:
            yield f"{where}: config {config!r} is not declared under configs"
            return
        try:
            check_profile(self.configs[config].content)
        except ValueError as error:
            yield f"{where}: config {config!r}: {error}"

    def _dependency_problems(self) -> Iterator[str]:
        for name, workload in self.workloads.items():
            for other, dependency in workload.depends_on.items():
                where = f"workloads.{name}.depends_on.{other}"
                target = self.workloads.get(other)
                if target is None:
                    yield f"{where}: workload {other!r} is not declared"
                elif _leads_to(self.workloads, other, name):
                    yield f"{where}: {other!r} is itself started after {name!r}"
                elif target.starter != "service":
                    yield f"{where}: {other!r} is not started by others, but by its {target.starter}"
                elif dependency.condition == "healthy" and target.healthcheck is None:
                    yield f"{where}: {other!r} has no healthcheck"
                elif dependency.condition == "completed" and target.type != "job":
                    yield f"{where}: {other!r} is no job, so it is never completed"
                elif dependency.requires and target.type == "job":
                    yield f"{where}.requires: {other!r} is a job, which ends by itself"
                elif dependency.requires and workload.autostart and not target.autostart:
                    yield f"{where}.requires: {other!r} has autostart: false, so this one would wait for it at boot"
                elif dependency.requires and target.rolls:
                    yield f"{where}.requires: {other!r} has update.order: start-first, so that none starts anew with it"

    def _file_problems(self) -> Iterator[str]:
        for path in self.files:
            for parent in PurePosixPath(path).parents:
                if str(parent) in self.files:
                    yield f"files.{path}: {parent} is declared as a file, so nothing can be below it"


def _leads_to(workloads: Mapping[Name, Workload], start: Name, goal: Name) -> bool:
    """Tell whether ``start`` depends on ``goal``, directly or through others, or is it."""
    seen: set[Name] = set()
    open_ends = [start]
    while open_ends:
        name = open_ends.pop()
        if name == goal:
            return True
        if name not in seen and name in workloads:
            seen.add(name)
            open_ends += workloads[name].depends_on
    return False
