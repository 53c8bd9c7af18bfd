"""Secrets of workloads on this host: encrypted files that only systemd opens, when a workload that may see them starts.

A value goes in by standard input and never comes out again: it is neither in the declaration nor in a generation, and
nothing here decrypts. systemd-creds encrypts it with the host's key, and with its TPM where there is one
(systemd-creds(1), ``--with-key=auto``), bound to the secret's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hostctl import durable
from hostctl.agent import generation, health, parsed, requiring, restarting
from hostctl.agent.machine import Machine
from hostctl.config.names import Name
from hostctl.config.workload import Workload
from hostctl.errors import EXIT_USAGE, HostctlError
from hostctl.layout import HostLayout
from hostctl.run import run

MAX_BYTES = 512 << 10
"""Of one secret; systemd takes credentials up to 1 MiB, encoded."""
TIMEOUT = 60.0  # seconds; a TPM is slow


class SecretError(HostctlError):
    """A secret cannot be stored or removed."""

    id = "secret-failed"


class SecretNameError(SecretError):
    """This is no name of a secret, or there is none of this name."""

    id = "secret-name"
    exit_code = EXIT_USAGE


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredSecret:
    """A secret whose value is here. ``changed`` is in seconds since 1970."""

    name: str
    changed: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SecretRow:
    """A secret that is declared, or has a value. ``changed`` is UTC, ISO 8601, and empty when it has no value."""

    name: str
    changed: str
    declared: bool
    workloads: tuple[str, ...]


def _path(layout: HostLayout, name: str) -> Path:
    try:
        return layout.secrets / Name.parse(name)
    except ValueError as error:
        raise SecretNameError(str(error)) from error


def put(layout: HostLayout, name: str, value: bytes) -> None:
    """Store a value, in place of a former one; a power cut leaves the one or the other.

    Args:
        layout: the machine's paths.
        name: the secret.
        value: its bytes, taken as they are.

    Raises:
        SecretNameError: the name is none.
        SecretError: the value is empty or too large.
        CommandError: it could not be encrypted.
    """
    path = _path(layout, name)
    if not value:
        raise SecretError("the value is empty", hint=f"hostctl secret set {name} < FILE")
    if len(value) > MAX_BYTES:
        raise SecretError(f"the value has more than {MAX_BYTES >> 10} KiB")
    layout.secrets.mkdir(parents=True, exist_ok=True, mode=0o700)
    encrypted = run(
        ["systemd-creds", "encrypt", "--quiet", f"--name={name}", "-", "-"], stdin=value, timeout=TIMEOUT
    ).stdout
    durable.write_file(path, encrypted, mode=0o600)


def remove(layout: HostLayout, name: str) -> None:
    """Remove a value.

    Raises:
        SecretNameError: there is none of this name.
    """
    path = _path(layout, name)
    try:
        path.unlink()
    except FileNotFoundError as error:
        raise SecretNameError(f"there is no secret {name!r}", hint="hostctl secret ls") from error
    durable.sync_directory(layout.secrets)


def stored(layout: HostLayout) -> tuple[StoredSecret, ...]:
    """Return the secrets that have a value, by name."""
    if not layout.secrets.is_dir():
        return ()
    files = sorted(path for path in layout.secrets.iterdir() if not path.name.startswith("."))
    return tuple(StoredSecret(name=path.name, changed=path.stat().st_mtime) for path in files)


def users(declared: Mapping[Name, Workload], name: str) -> tuple[str, ...]:
    """Return the workloads that see a secret, as a file or in their environment."""
    return tuple(str(each) for each, workload in declared.items() if name in workload.used_secrets)


def listed(layout: HostLayout) -> tuple[SecretRow, ...]:
    """Return the secrets that are declared or have a value, by name."""
    found = generation.current(layout)
    declaration = parsed.declaration(found) if found else None
    declared = {str(name) for name in declaration.secrets} if declaration else set()
    changed = {each.name: each.changed for each in stored(layout)}
    rows = []
    for name in sorted(declared | set(changed)):
        time = datetime.fromtimestamp(changed[name], UTC).isoformat(timespec="seconds") if name in changed else ""
        used = sorted(users(declaration.workloads, name)) if declaration else ()
        rows.append(SecretRow(name=name, changed=time, declared=name in declared, workloads=tuple(used)))
    return tuple(rows)


def restart_users(
    layout: HostLayout,
    machine: Machine,
    name: str,
    *,
    notify: Callable[[str], None],
    wait: Callable[..., health.Report] = health.wait,
) -> tuple[str, ...]:
    """Restart the workloads that see a secret and are up, and return them; a job sees it from its next run on.

    First those that are not replicated, or are restarted with each other, all at once, so that systemd restarts none
    twice; then replicas one after the other.

    Args:
        layout: the machine's paths.
        machine: the running system.
        name: the secret.
        notify: told what is waited for.
        wait: waits for the health of a replica.

    Raises:
        UnhealthyError: a replica did not become healthy; those behind it were not restarted.
    """
    found = generation.current(layout)
    if found is None:
        return ()
    declared = parsed.declaration(found).workloads
    keys = {
        each: restarting.running(found.record.keys(each), machine)
        for each in users(declared, name)
        if declared[Name(each)].type != "job"
    }
    together = {str(other) for workload in declared.values() for other in workload.requires}
    together |= {each for each in keys if each in requiring.requirers(declared, keys.keys() - {each})}
    turns = [each for each, running in keys.items() if len(running) > 1 and each not in together]
    restarting.at_once([key for each, running in keys.items() if each not in turns for key in running], machine)
    for each in turns:
        restarting.in_order(
            keys[each], lambda key: restarting.at_once([key], machine), found, machine, notify=notify, wait=wait
        )
    return tuple(each for each, running in keys.items() if running)
