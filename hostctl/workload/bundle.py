"""Makes a workload's OCI bundle: config.json and the few files of /etc that every container needs.

Pure, and the same input gives the same bytes. What a container may do is decided here and nowhere else: everything
beyond the default set of capabilities and a private set of namespaces comes from a field of the declaration that a
reviewer can see. Nothing that an image says can widen it: annotations, volumes and labels of images are not read.
Format: https://github.com/opencontainers/runtime-spec v1.2, config.md and config-linux.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from hostctl.config.contents import parse_environment
from hostctl.run import PATH
from hostctl.workload import root, root_plan
from hostctl.workload.instance import LABEL
from hostctl.workload.mounts import INIT_INSIDE, NOTIFY_INSIDE, mounts
from hostctl.workload.resources import rlimits
from hostctl.workload.seccomp import convert
from hostctl.workload.shown import config_file
from hostctl.workload.spec import HEALTH_PROCESS, WorkloadError, WorkloadSpec

OCI_VERSION = "1.2.0"
DEFAULT_CAPABILITIES = (  # containers-common, containers.conf(5), "default_capabilities", and Docker's SETFCAP
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
MASKED = (  # what Podman masks by default, pkg/specgen
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
SERVE, HEALTH = "serve.json", "health.check"


def granted(spec: WorkloadSpec) -> tuple[str, ...]:
    """Return the capabilities that the workload may have: the default ones that it does not drop, and its own."""
    dropped = {name for each in spec.workload.cap_drop for name in each.names}
    declared = {str(capability) for capability in spec.workload.capabilities}
    return tuple(sorted(({*DEFAULT_CAPABILITIES} - dropped) | declared))


def arguments(spec: WorkloadSpec) -> tuple[str, ...]:
    """Return the command with its arguments.

    As with Docker and Kubernetes a declared command replaces the image's entrypoint *and* arguments.

    Raises:
        WorkloadError: neither the image nor the declaration says what to run.
    """
    workload, image = spec.workload, spec.image.config
    entrypoint = image.entrypoint if workload.command is None else workload.command
    rest = workload.args if workload.args is not None else image.cmd if workload.command is None else ()
    if not (*entrypoint, *rest):
        raise WorkloadError(
            f"workload {spec.name}: the image says nothing about what to run", hint=f"workloads.{spec.name}.command"
        )
    return (*entrypoint, *rest)


def environment(spec: WorkloadSpec) -> list[str]:
    """Return the variables: a default PATH, over it the image's, over them the declared ones."""
    variables = {"PATH": PATH, "HOSTNAME": spec.hostname}
    variables |= dict(entry.split("=", 1) for entry in spec.image.config.env)
    for name in spec.workload.env_from:
        variables |= parse_environment(spec.configs[name])
    if spec.workload.timezone is not None:
        variables["TZ"] = str(spec.workload.timezone)
    variables |= {str(name): value for name, value in spec.workload.env.items()}
    if spec.workload.notify:
        variables["NOTIFY_SOCKET"] = NOTIFY_INSIDE
    if spec.workload.sockets:  # crun passes the descriptors on, and says whose they are, but not how many
        variables["LISTEN_FDS"] = str(len(spec.workload.sockets))
    return [f"{name}={value}" for name, value in variables.items()]


def _process(spec: WorkloadSpec) -> dict[str, object]:
    uid, gid = spec.user
    capabilities = list(granted(spec))
    declared = sorted(str(capability) for capability in spec.workload.capabilities)
    effective = capabilities if uid == 0 else declared
    sets = {"bounding": capabilities, "effective": effective, "permitted": effective}
    if uid != 0 and declared:  # without these, execve would take them from another user than 0
        sets |= {"inheritable": declared, "ambient": declared}
    return {
        "terminal": False,
        "user": {"uid": uid, "gid": gid},
        "args": [*((INIT_INSIDE, "--") if spec.workload.init else ()), *arguments(spec)],
        "env": environment(spec),
        "cwd": spec.working_directory,
        "capabilities": sets,
        "rlimits": rlimits(spec.workload),
        "noNewPrivileges": True,
        **({} if spec.workload.apparmor is None else {"apparmorProfile": str(spec.workload.apparmor)}),
    }


def _seccomp(spec: WorkloadSpec, profile: bytes) -> dict[str, object]:
    own = spec.workload.seccomp
    if own is None:
        return convert(profile, granted(spec))
    return convert(spec.configs[own].encode(), granted(spec), own=True)


def _linux(spec: WorkloadSpec, profile: bytes) -> dict[str, object]:
    namespaces: list[dict[str, str]] = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "cgroup")]
    linux: dict[str, object] = {
        "namespaces": namespaces,
        "maskedPaths": list(MASKED),
        "readonlyPaths": list(READ_ONLY),
        "seccomp": _seccomp(spec, profile),
    }
    if spec.workload.sysctls:
        linux["sysctl"] = {str(name): value for name, value in spec.workload.sysctls.items()}
    if spec.workload.network == "private":
        namespaces.append({"type": "user", "path": f"/run/hostctl/userns/{spec.key}"})
        namespaces.append({"type": "network", "path": f"/run/netns/workload-{spec.key}"})
        return linux
    namespaces.append({"type": "user"})
    if spec.workload.network == "none":
        namespaces.append({"type": "network"})
    return {**linux, "uidMappings": [spec.mapping], "gidMappings": [spec.mapping]}


def render(spec: WorkloadSpec, profile: bytes) -> Mapping[str, bytes]:
    """Return the files of the bundle, by name: config.json, what its root is made of, and others where it has such.

    These are the files of :func:`files`, of the health check, and of a replica.

    Args:
        spec: the workload.
        profile: the host's seccomp profile, see :mod:`hostctl.workload.seccomp`.

    Raises:
        WorkloadError: it cannot be run as it is declared, or as its image wants.
        SeccompProfileError: the profile cannot be read.
    """
    document = {
        "ociVersion": OCI_VERSION,
        "process": _process(spec),
        "root": {"path": spec.rootfs, "readonly": spec.workload.read_only},
        "hostname": spec.hostname,
        "mounts": mounts(spec),
        "linux": _linux(spec, profile),
    }
    if spec.workload.labels:
        document["annotations"] = {f"{LABEL}{name}": value for name, value in spec.workload.labels.items()}
    serve = {SERVE: spec.network.serve} if spec.network and spec.network.chain else {}
    own = {"config.json": _json(document), root.FILE: root.encode(root_plan.plan(spec))}
    return {**own, **files(spec), **_health(spec, document["process"]), **serve}


def serve_file(spec: WorkloadSpec) -> str:
    """Return the file with what leads new connections to this replica."""
    return f"{spec.bundle}/{SERVE}"


def _json(document: object) -> bytes:
    return (json.dumps(document, separators=(",", ":"), sort_keys=True) + "\n").encode()


def _health(spec: WorkloadSpec, process: object) -> Mapping[str, bytes]:
    """Return what :mod:`hostctl.workload.probe` reads, a line for a setting, and the process document of a command."""
    check = spec.workload.healthcheck
    if check is None:
        return {}
    kind = "http" if check.http is not None else "tcp" if check.tcp is not None else "exec"
    document = {
        "kind": kind,
        "target": str(check.http or check.tcp or spec.health_process),
        "timeout": float(check.timeout),
        "retries": check.retries,
        "start_period": float(check.start_period),
        "restart": check.action == "restart" and spec.workload.restarts != "no",
        "join": spec.workload.network == "none" and kind != "exec",
        **({"serve": serve_file(spec), "chain": spec.network.chain} if spec.network and spec.network.chain else {}),
    }
    lines = "".join(f"{key} {value}\n" for key, value in document.items())
    made = {HEALTH: lines.encode()}
    if check.exec is not None and isinstance(process, dict):
        made[HEALTH_PROCESS] = _json({**process, "args": list(check.exec)})
    return made


def files(spec: WorkloadSpec) -> Mapping[str, bytes]:
    """Return the files that the container is shown: host name, hosts and name server, configs, its time zone's rules.

    Other workloads are not in the hosts file: it would have to change while the workload runs.
    """
    own = spec.network.addresses if spec.network else ("127.0.1.1",)
    # The name of a workload with replicas is for the name server to answer, with the addresses of all.
    names = " ".join(dict.fromkeys((spec.hostname, spec.label)))
    lines = ["127.0.0.1 localhost", "::1 localhost", *(f"{address} {names}" for address in own)]
    made = {
        "hostname": f"{spec.hostname}\n".encode(),
        "hosts": "".join(f"{line}\n" for line in lines).encode(),
        "resolv.conf": _resolv_conf(spec),
    }
    made |= {config_file(mount.config): spec.configs[mount.config].encode() for mount in spec.workload.configs}
    return made if spec.zone is None else {**made, root.LOCALTIME: spec.zone}


def _resolv_conf(spec: WorkloadSpec) -> bytes:
    """Return resolv.conf(5): the name server of its networks, else the declared ones.

    The name server of a network asks the declared ones for what it does not know itself. In the host's network the
    host's own is there by default; without a network there is none.
    """
    dns = spec.workload.dns
    servers = spec.network.name_servers if spec.network else ()
    if not servers:
        servers = tuple(map(str, dns.servers)) or (("127.0.0.53",) if spec.workload.network == "host" else ())
    lines = [f"nameserver {server}" for server in servers]
    if dns.search:
        lines.append(f"search {' '.join(dns.search)}")
    if servers:
        lines.append("options edns0")
    return "".join(f"{line}\n" for line in lines).encode()
