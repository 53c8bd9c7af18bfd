"""Workloads that are run without being in host.yaml, where the declaration allows it. Pure.

One is added to the declaration in force, which makes a generation as any change does, so it has the same checks, limits
and confinement as a declared one. Its name begins with ``run-``, which no declaration may be changed by otherwise. It
is there until it is removed or a host.yaml is applied, which knows nothing of it. Volumes that somebody made and that
it mounts are declared with it, and as long as it; a label of the workload says which.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence

from hostctl.config.dump import Plain, plain, to_yaml
from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host
from hostctl.errors import EXIT_USAGE, HostctlError
from hostctl.workload.instance import RUN, name_of

SETTINGS = frozenset(
    {
        *("image", "command", "args", "env", "ports", "volumes", "memory", "cpus", "pids", "restart", "read_only"),
        *("user", "network", "networks", "working_dir", "tmpfs", "labels", "hostname", "capabilities", "cap_drop"),
        "pull_policy",
    }
)
TOO_MUCH = "SYS_ADMIN"  # a capability that only host.yaml gives, and builds have
VOLUMES = "hostctl.volumes"  # the label with the volumes that are declared because it mounts them


class RunNotAllowedError(HostctlError):
    """The declaration does not allow workloads that are not in it."""

    id = "run-not-allowed"


class RunRequestError(HostctlError):
    """What is to be run cannot be."""

    id = "run-invalid"
    exit_code = EXIT_USAGE


class UnknownRunError(RunRequestError):
    """There is no such workload that was run."""

    id = "run-unknown"


def full_name(name: str) -> str:
    """Return the name of the workload: with the prefix, made up if there is none."""
    name = name or secrets.token_hex(4)
    return name if name.startswith(RUN) else f"{RUN}{name}"


def transients(declaration: HostDeclaration) -> tuple[str, ...]:
    """Return the names of the workloads that were run."""
    return tuple(str(name) for name in declaration.workloads if str(name).startswith(RUN))


def spent(keys: Iterable[str], known: Collection[str]) -> frozenset[str]:
    """Return the containers of workloads that were run and that nothing needs any more.

    Args:
        keys: of containers of any workloads.
        known: workloads that a generation has, or that have left something.
    """
    return frozenset(key for key in keys if key.startswith(RUN) and name_of(key) not in known)


def add(text: str, name: str, request: str, *, by_hand: bool = False, volumes: Collection[str] = ()) -> str:
    """Return the declaration with one workload more.

    Args:
        text: the declaration in force.
        name: of the workload, with the prefix.
        request: a JSON object with settings of a workload, of which only those in :data:`SETTINGS` may be set.
        by_hand: it waits for its start.
        volumes: those that are there, declared or not.

    Raises:
        RunNotAllowedError: ``allow_run`` is not set.
        RunRequestError: there is such a workload, a volume that it mounts is not there, or the request is none.
        DeclarationError: a setting is wrong.
    """
    declaration = parse_host(text, "host.yaml")
    if not declaration.allow_run:
        raise RunNotAllowedError(
            "this host runs only what its host.yaml declares", hint="allow_run: true in host.yaml, if that is wanted"
        )
    try:
        wanted: Mapping[str, object] = json.loads(request)
        unknown = sorted(set(wanted) - SETTINGS)
    except (ValueError, TypeError) as error:
        raise RunRequestError("the request is none", details=repr(error)) from error
    if unknown or "image" not in wanted:
        raise RunRequestError(f"{', '.join(unknown) or 'no image'}: not for a workload that is run")
    if name in declaration.workloads:
        raise RunRequestError(f"there is a workload {name} already", hint=f"hostctl rm {name}")
    added = wanted.get("capabilities")
    if isinstance(added, list) and TOO_MUCH in {str(each).upper().removeprefix("CAP_") for each in added}:
        raise RunRequestError(f"CAP_{TOO_MUCH}: not for a workload that is run", hint="declare it in host.yaml")
    # As Docker, a boot starts again what is restarted when it ends; what ran once has had its run.
    once = by_hand or wanted.get("restart") == "no"
    settings = {**wanted, **({"autostart": False} if once else {})}
    own = _own_volumes(declaration, wanted, volumes)
    labels = wanted.get("labels")
    if labels is None or isinstance(labels, Mapping):
        given = {key: value for key, value in (labels or {}).items() if key != VOLUMES}
        settings["labels"] = {**given, **({VOLUMES: " ".join(own)} if own else {})}
    changed = rewritten(declaration, {name: settings}, volumes=[*map(str, declaration.volumes), *own])
    parse_host(changed, "the workload to run")
    return changed


def _own_volumes(declaration: HostDeclaration, wanted: Mapping[str, object], there: Collection[str]) -> Sequence[str]:
    """Return the volumes that are declared because this one, or another that was run, mounts them.

    Raises:
        RunRequestError: one is not there.
    """
    mounted = _sources(wanted)
    missing = [each for each in mounted if each not in declaration.volumes and each not in there]
    if missing:
        raise RunRequestError(f"there is no volume {missing[0]!r}", hint=f"hostctl volume create {missing[0]}")
    others = [workload for each, workload in declaration.workloads.items() if each.startswith(RUN)]
    of_others = {each for workload in others for each in _declared_for(workload.labels)}
    return [each for each in mounted if each not in declaration.volumes or each in of_others]


def _sources(wanted: Mapping[str, object]) -> Sequence[str]:
    """Return the volumes that a request mounts; what is wrong with it otherwise is for the declaration to say."""
    mounts = wanted.get("volumes")
    names = [str(each).partition(":")[0] for each in mounts] if isinstance(mounts, list) else []
    return [name for name in dict.fromkeys(names) if not name.startswith("/")]


def _declared_for(labels: Mapping[str, str]) -> Sequence[str]:
    return labels.get(VOLUMES, "").split()


def remove(text: str, name: str) -> str:
    """Return the declaration without a workload that was run.

    Args:
        text: the declaration in force.
        name: of the workload, with the prefix or without.

    Raises:
        RunRequestError: it is declared by host.yaml, or there is none.
    """
    declaration = parse_host(text, "host.yaml")
    full = require(declaration, name, hint="take it out of host.yaml, and apply that")
    removed = next(workload for each, workload in declaration.workloads.items() if each == full)
    others = [workload for each, workload in declaration.workloads.items() if each != full]
    used = {str(mount.volume) for workload in others for mount in workload.volumes if not mount.of_host}
    gone = {each for each in _declared_for(removed.labels) if each not in used}
    kept = [str(each) for each in declaration.volumes if each not in gone]
    return rewritten(declaration, {}, without=full, volumes=kept)


def rename(text: str, old: str, new: str, *, image: str | None = None) -> str:
    """Return the declaration with another name for a workload that was run.

    Args:
        text: the declaration in force.
        old: its name, with the prefix or without.
        new: the wanted one, with the prefix or without.
        image: the reference that it has from now on; none keeps the one it has.

    Raises:
        RunRequestError: it is declared by host.yaml, there is none, or the name is taken.
        DeclarationError: the new name is none.
    """
    declaration = parse_host(text, "host.yaml")
    full, wanted = require(declaration, old, hint="change its name in host.yaml"), full_name(new)
    if not new or wanted in declaration.workloads:
        raise RunRequestError(f"there is a workload {wanted} already" if new else "a new name is needed")
    settings = _workloads(declaration)[full]
    assert isinstance(settings, dict)  # noqa: S101 - a workload is a mapping
    changed = rewritten(declaration, {wanted: {**settings, **({"image": image} if image else {})}}, without=full)
    parse_host(changed, "the workload's new name")
    return changed


def edited(declaration: HostDeclaration, name: str, settings: Mapping[str, object]) -> str:
    """Return the declaration with other settings of a workload, given by their names."""
    workload = _workloads(declaration)[name]
    assert isinstance(workload, dict)  # noqa: S101 - a workload is a mapping
    # In its place: a mapping keeps the order in which its keys came.
    return rewritten(declaration, {name: {**workload, **settings}})


def require(declaration: HostDeclaration, name: str, *, hint: str) -> str:
    """Return the full name of a workload that was run.

    Args:
        declaration: the one in force.
        name: with the prefix or without.
        hint: what to do with one that host.yaml declares.

    Raises:
        RunRequestError: it is declared by host.yaml.
        UnknownRunError: there is none.
    """
    full = full_name(name)
    if full in declaration.workloads:
        return full
    if name in declaration.workloads:
        raise RunRequestError(f"workload {name} is declared", hint=hint)
    raise UnknownRunError(f"there is no workload {full!r}")


def _workloads(declaration: HostDeclaration) -> dict[str, Plain]:
    tree = plain(declaration)
    assert isinstance(tree, dict)  # noqa: S101 - a declaration is a mapping
    former = tree.get("workloads") or {}
    assert isinstance(former, dict)  # noqa: S101 - as above
    return former


def rewritten(
    declaration: HostDeclaration,
    more: Mapping[str, object],
    *,
    without: str = "",
    volumes: Sequence[str] | None = None,
) -> str:
    """Return the declaration with further workloads, by name, without one, and if wanted with other volumes."""
    tree = plain(declaration)
    assert isinstance(tree, dict)  # noqa: S101 - a declaration is a mapping
    workloads = {name: each for name, each in _workloads(declaration).items() if name != without}
    if volumes is not None:
        former = tree.get("volumes") or {}
        assert isinstance(former, dict)  # noqa: S101 - as above
        tree["volumes"] = {name: former.get(name, {}) for name in volumes}
    return to_yaml({**tree, "workloads": {**workloads, **more}})
