"""Renders a workload's systemd units from ``units/workload/*.j2``: its service, its check, what starts it.

Pure but for reading the templates. systemd owns the life of a workload: starting, stopping and restarting one runs
crun, mount, rm and systemd-tmpfiles, none of our own code, and nothing stays resident. What can be is done before: a
start of a workload without volumes is crun alone, in a root that was laid by the pass for all workloads or at the end
of its last run. The text names no generation and no other workload, so that what did not change is not restarted. Of a
workload that is started beside the running one, every unit has the instance's letter in its name, and the workload's
name is an alias; but who waits for its health waits for that of either.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from string import ascii_letters, digits

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hostctl.config.values import Duration, Name
from hostctl.config.workload import Workload
from hostctl.data import data_folder
from hostctl.errors import HostctlError
from hostctl.workload import resources, root_plan
from hostctl.workload.bundle import serve_file
from hostctl.workload.instance import INSTANCES, key, numbers
from hostctl.workload.spec import BINDS, HEALTH_PROCESS, PIDS, SECRETS, VOLUMES, WorkloadSpec

SYSTEM = "systemd/system"
NETWORK = "hostctl-network.service"
COMPLETED = "/run/hostctl/completed"
"""Has a file for each job that has ended well."""
RESTART_WINDOW = 600.0  # seconds in which restarts count, if they are limited
LONGEST_PAUSE = 30.0  # seconds between two tries
PROBE_GRACE = 10.0  # seconds that a check has on top of its own timeout: to start, to write, to end what hangs


class UnitValueError(HostctlError):
    """A value cannot be written into a unit file."""

    id = "unit-value"


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise UnitValueError(f"{text!r} cannot be written into a unit file")
    return text


def unit_value(value: object) -> str:
    """Return a value as the whole of a setting: one line, specifiers taken literally (systemd.unit(5))."""
    return _one_line(str(value)).replace("%", "%%")


def unit_word(value: object) -> str:
    """Return a value as one word of a command line or list (systemd.service(5), "Command lines")."""
    text = _one_line(str(value))
    if text and all(letter in ascii_letters + digits + "/._:,=+@-" for letter in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$").replace("%", "%%")
    return f'"{escaped}"'


def tmpfiles_path(value: object) -> str:
    """Return a path as a field of tmpfiles.d(5), where wildcards mean themselves only when escaped."""
    text = _one_line(str(value))
    if any(letter in text for letter in "*?["):
        raise UnitValueError(f"{text!r} cannot be a mount point: wildcards are not possible there")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if escaped != text or " " in text else text


@cache
def environment() -> Environment:
    """Return the templates, with the filters that quote for systemd; a forgotten value is an error.

    They are compiled once for all workloads: that takes ten times as long as filling them in.
    """
    made = Environment(
        loader=FileSystemLoader(data_folder("units") / "workload"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - unit files, not HTML; the filters quote
    )
    made.filters.update(value=unit_value, word=unit_word, path=tmpfiles_path)
    return made


def render(spec: WorkloadSpec, probe: Path, secret_env: Path, device_links: Path) -> Mapping[str, str]:
    """Return the text of every file below /etc that makes the workload, by path.

    Args:
        spec: the workload.
        probe: where the program of its health check lies on the host, which also waits for things.
        secret_env: where the program lies that puts secrets into its environment.
        device_links: where the program lies that follows links to devices.

    Raises:
        WorkloadError, UnitValueError: it cannot be run as it is declared, or as its image wants.
    """
    templates = environment()
    values = _service(spec, device_links) | _secrets(spec, secret_env) | {"probe": probe}
    service = templates.get_template("workload.service.j2").render(values)
    made = {f"{SYSTEM}/workload-{spec.key}.service": service}
    if not spec.workload.read_only:
        fresh = {"state": spec.state, "first_id": spec.first_id}
        made[f"hostctl/workloads/{spec.key}.fresh.conf"] = templates.get_template("fresh.conf.j2").render(fresh)
    if _prepares(spec):
        made[f"hostctl/workloads/{spec.key}.conf"] = templates.get_template("start.conf.j2").render(_prepared(spec))
    if not spec.workload.autostart:
        made[f"{SYSTEM}/{NETWORK}.d/{spec.key}.conf"] = templates.get_template("kept.conf.j2").render(name=spec.key)
    if spec.workload.healthcheck is not None:
        values = _health(spec, probe)
        for kind in ("service", "timer"):
            text = templates.get_template(f"health.{kind}.j2").render(values)
            made[f"{SYSTEM}/workload-{spec.key}.health.{kind}"] = text
    if spec.awaited:
        # One for both instances: of two, an alias would take those who wait to the other one, which nobody has started.
        name = spec.name if spec.instance in INSTANCES else spec.key
        values = {"name": name, "called": spec.label, "probe": probe}
        text = templates.get_template("healthy.service.j2").render(values)
        made[f"{SYSTEM}/workload-{name}.healthy.service"] = text
    if spec.workload.starter != "service":
        values = {"name": spec.name, "schedule": _schedule(spec.workload), "sockets": spec.workload.sockets}
        text = templates.get_template(f"start.{spec.workload.starter}.j2").render(values)
        made[f"{SYSTEM}/workload-{spec.key}.{spec.workload.starter}"] = text
    return made


def _schedule(workload: Workload) -> str:
    """Return the calendar expression with its time zone (systemd.time(7), "Calendar Events")."""
    return " ".join(filter(None, (workload.schedule or "", workload.timezone or "")))


def links(spec: WorkloadSpec) -> Mapping[str, str]:
    """Return the symbolic links below /etc, by path.

    One starts at boot the workload, or what starts it, unless that is left to somebody. The service of an instance is
    found by the workload's name too (systemd.unit(5), "Unit File Load Path", on aliases).
    """
    kind = spec.workload.starter
    target = {"service": "multi-user", "timer": "timers", "socket": "sockets"}[kind]
    unit = f"workload-{spec.key}.{kind}"
    made = {f"{SYSTEM}/{target}.target.wants/{unit}": f"../{unit}"} if spec.workload.autostart else {}
    if spec.instance in INSTANCES:
        made[f"{SYSTEM}/workload-{spec.name}.service"] = f"workload-{spec.key}.service"
    return made


def _service(spec: WorkloadSpec, device_links: Path) -> dict[str, object]:
    workload = spec.workload
    return {
        "name": spec.key,
        "called": spec.label,
        "read_only": workload.read_only,
        "prepares": _prepares(spec),
        "device_links": device_links,
        "links": [f"{device.source}={device.access}" for device in workload.devices if device.is_link],
        "users": _users(spec),
        "host_network": workload.network == "host",
        "profiled": workload.apparmor is not None,
        "health": workload.healthcheck is not None,
        "pid_file": spec.pid_file,
        "rootfs": spec.rootfs,
        "state": spec.state,
        "bundle": spec.bundle,
        "overlay": "" if workload.read_only else _overlay(spec),
        "job": workload.type == "job",
        "scheduled": workload.schedule is not None,
        "notify": workload.notify,
        "waits": _waits(spec),
        "once": workload.restarts == "no" and workload.type != "job" and not workload.notify,
        "sockets": bool(workload.sockets),
        "after": [f"workload-{key}.service" for other in workload.wants for key in _keys(spec, other)],
        "required": [key for other in workload.requires for key in _keys(spec, other)],
        "pids": PIDS,
        "healthy": [
            f"workload-{key}.healthy.service" for other in _others(workload, "healthy") for key in _keys(spec, other)
        ],
        "completed": [f"{COMPLETED}/{other}" for other in _others(workload, "completed")],
        "completion": f"{COMPLETED}/{spec.key}",
        "serve": serve_file(spec) if spec.network and spec.network.chain else "",
        "chain": spec.network.chain if spec.network else "",
        "restart": workload.restarts.when,
        "limit": workload.restarts.limit,
        "window": _systemd_time(_window(workload.restarts.limit or 0)),
        "stop_signal": spec.stop_signal,
        "stop_timeout": _systemd_time(workload.stop_grace_period),
        "settings": resources.settings(workload),
    }


def _waits(spec: WorkloadSpec) -> bool:
    """Tell whether a start waits for a network that may be late, because not every start that fails has another one."""
    restarts = spec.workload.restarts
    endless = restarts.when != "no" and restarts.limit is None
    return spec.network is not None and spec.network.may_be_late and not endless


def _keys(spec: WorkloadSpec, other: Name) -> list[str]:
    """Return what the containers of another workload are called by, of instances what both are."""
    return [key(str(other), number) for number in numbers(spec.replicas_of.get(str(other), 1))]


def _others(workload: Workload, condition: str) -> list[Name]:
    """Return the workloads that must be in a condition first."""
    return [other for other, dependency in workload.depends_on.items() if dependency.condition == condition]


def _window(limit: int) -> float:
    """Return the seconds in which ``limit`` restarts count: so many, at their longest interval, surely fit in."""
    return max(RESTART_WINDOW, 2 * limit * LONGEST_PAUSE)


def _secrets(spec: WorkloadSpec, secret_env: Path) -> dict[str, object]:
    """Return what the service says of secrets: all that it decrypts, and what puts some into the environment."""
    variables, check = spec.workload.env_secrets, spec.workload.healthcheck
    return {
        "secrets": {str(name): f"{SECRETS}/{name}" for name in spec.workload.used_secrets},
        "secret_env": secret_env,
        "runtime": spec.runtime,
        "files": ["config.json", *([HEALTH_PROCESS] if check is not None and check.exec is not None else [])],
        "variables": [f"{variable}={secret}" for variable, secret in variables.items()],
        "config": spec.config_file if variables else "",
    }


def _prepares(spec: WorkloadSpec) -> bool:
    """Tell whether each start has something to make."""
    nodes = [device for device in spec.workload.devices if not device.is_link]
    return bool(spec.workload.volumes or nodes or spec.inhibitor)


def _users(spec: WorkloadSpec) -> list[int]:
    """Return who may open its devices, by number on the host: the container's root and its own user."""
    return sorted({spec.first_id, spec.first_id + spec.user[0]})


def _overlay(spec: WorkloadSpec) -> str:
    """Return the options of a writable root's overlay, as :mod:`hostctl.workload.roots` mounts the first one.

    One ``lowerdir+`` a layer: all in one string would not fit into the kernel's 256 bytes.
    """
    options = ["nodev", "nosuid", *(f"lowerdir+={spec.runtime}/{name}" for name in root_plan.plan(spec).lower)]
    return ",".join([*options, f"upperdir={spec.state}/upper", f"workdir={spec.state}/work"])


def _prepared(spec: WorkloadSpec) -> dict[str, object]:
    uid, gid = spec.user
    return {
        "volumes": sorted({f"{VOLUMES}/{mount.volume}" for mount in spec.workload.volumes if not mount.of_host}),
        "binds": sorted({f"{BINDS}/{mount.volume}" for mount in spec.workload.volumes if mount.of_host}),
        "inhibitor": spec.inhibitor,
        "devices": [(device.source, device.access) for device in spec.workload.devices if not device.is_link],
        "users": _users(spec),
        "uid": uid,
        "gid": gid,
    }


def _health(spec: WorkloadSpec, probe: Path) -> dict[str, object]:
    check = spec.workload.healthcheck
    if check is None:
        raise ValueError(f"{spec.name} has no health check")
    return {
        "name": spec.key,
        "called": spec.label,
        "bundle": spec.bundle,
        "probe": probe,
        "interval": _systemd_time(check.interval),
        "deadline": _systemd_time(check.timeout + PROBE_GRACE),
        # A command is run in the container; an address is reached from the workload's network.
        "private_network": spec.workload.network == "private" and check.exec is None,
    }


def _systemd_time(seconds: float) -> str:
    """Return a time as systemd.time(7) reads it."""
    return str(Duration(seconds))
