"""The difference between the declaration in force and a wanted one, as a list of actions with their reasons.

Pure. ``hostctl plan`` prints the list, ``hostctl apply`` executes the same one; with an empty list nothing is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from hostctl.agent.generation import Pin
from hostctl.agent.outcome import Action, Area, Kind
from hostctl.agent.requiring import requirers
from hostctl.config import networks, rolling
from hostctl.config.host import HostDeclaration

SHOWN = 60  # characters of a value that a reason shows


def _shown(value: object) -> str:
    shown = "none" if value is None or value in ((), {}) else str(value)
    if isinstance(value, tuple) and value:
        shown = " ".join(str(part) for part in value)
    elif isinstance(value, bool):
        shown = "true" if value else "false"
    elif isinstance(value, Mapping) and value:
        return f"{len(value)} entries"
    shown = shown.replace("\n", "⏎")
    return shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "…"


def _difference(old: Any, new: Any) -> str:  # noqa: ANN401 - any of the declaration's dataclasses
    if isinstance(old, str) or isinstance(new, str):
        return f"{_shown(old)} → {_shown(new)}"
    changed = [part.name for part in fields(new) if getattr(old, part.name) != getattr(new, part.name)]
    parts = []
    for name in changed:
        before, after = _shown(getattr(old, name)), _shown(getattr(new, name))
        parts.append(f"{name} changed" if before == after or name == "content" else f"{name} {before} → {after}")
    return ", ".join(parts)


def _mapping(area: Area, old: Mapping[Any, Any], new: Mapping[Any, Any]) -> list[Action]:
    actions = [
        Action(kind="remove", area=area, subject=str(name), reason="no longer declared")
        for name in old
        if name not in new
    ]
    for name, value in new.items():
        if name not in old:
            actions.append(Action(kind="create", area=area, subject=str(name), reason="declared"))
        elif old[name] != value:
            actions.append(Action(kind="change", area=area, subject=str(name), reason=_difference(old[name], value)))
    return actions


def _scaled(actions: list[Action], old: HostDeclaration, new: HostDeclaration) -> list[Action]:
    """Return the actions with those changes told apart that are of nothing but the number of replicas."""
    before, after = ({str(name): each for name, each in one.workloads.items()} for one in (old, new))

    def only_scaled(name: str) -> bool:
        return replace(before[name], replicas=after[name].replicas) == after[name]

    return [
        replace(each, area="replicas") if each.kind == "change" and only_scaled(each.subject) else each
        for each in actions
    ]


def _by_configs(old: HostDeclaration, new: HostDeclaration, touched: set[str]) -> list[Action]:
    """Return the changes of workloads that stay as they are but use a config that does not."""
    actions = []
    for name, workload in new.workloads.items():
        used = [str(each) for each in workload.used_configs if old.configs.get(each) != new.configs[each]]
        if used and str(name) not in touched:
            reason = f"it uses config {', '.join(used)}"
            actions.append(Action(kind="change", area="workload", subject=str(name), reason=reason))
    return actions


def _single(area: Area, old: object, new: object) -> list[Action]:
    if old == new:
        return []
    kind: Kind = "create" if old is None else "remove" if new is None else "change"
    reason = _difference(old, new) if kind == "change" else "declared" if new is not None else "no longer declared"
    return [Action(kind=kind, area=area, subject=area, reason=reason)]


def _moved(old: HostDeclaration, new: HostDeclaration, touched: set[str]) -> list[Action]:
    """Return the workloads that did not change themselves, but have to be connected anew."""
    before, after = networks.declared(old), networks.declared(new)
    changed = {name for name, network in after.items() if network != before.get(name)}
    if old.network_pool != new.network_pool:
        changed |= {name for name, network in after.items() if network.subnet is None or network.ipv6 == "pool"}
    moved = []
    for name, workload in new.workloads.items():
        on = changed.intersection(networks.attachments(workload))
        if on and str(name) not in touched:
            reason = f"network {', '.join(sorted(on))} changed"
            moved.append(Action(kind="change", area="workload", subject=str(name), reason=reason))
    return moved


def plan(
    old: HostDeclaration | None, new: HostDeclaration, *, old_release: str = "", new_release: str = ""
) -> tuple[Action, ...]:
    """Return what must be done to go from ``old`` (none: no generation yet) to ``new``, in the order of doing.

    Removed things come before created ones of the same kind, workloads come last. When the release that renders
    differs, every workload that stays is rendered anew and restarted.
    """
    if old is None:
        old = HostDeclaration(version=1, hostname=new.hostname)
        first = [Action(kind="create", area="hostname", subject="hostname", reason=f"first generation: {new.hostname}")]
        if new.timezone == old.timezone:
            first.append(Action(kind="create", area="timezone", subject="timezone", reason=str(new.timezone)))
    else:
        first = []
    actions = [
        *first,
        *_single("hostname", old.hostname, new.hostname),
        *_single("timezone", old.timezone, new.timezone),
        *_mapping("user", old.users, new.users),
        *_mapping("file", old.files, new.files),
        *_mapping("sysctl", old.sysctl, new.sysctl),
        *_mapping("network", old.network, new.network),
        *_mapping("workload-network", old.networks, new.networks),
        *_single("workload-network", old.network_pool, new.network_pool),
        *_single("update", old.update, new.update),
        *_single("auto-update", bool(rolling.renewed(old)) or None, bool(rolling.renewed(new)) or None),
        *_single("metrics", old.metrics, new.metrics),
        *_mapping("health", old.health, new.health),
        *_mapping("registry", old.registries, new.registries),
        *_single("images", old.images, new.images),
        *_mapping("volume", old.volumes, new.volumes),
        *_mapping("config", old.configs, new.configs),
        *_mapping("secret", old.secrets, new.secrets),
    ]
    if old.allow_run != new.allow_run:
        said = "workloads that are not declared may be run" if new.allow_run else "only what is declared runs"
        actions.append(Action(kind="change", area="run", subject="allow_run", reason=said))
    actions += _single("build", old.build, new.build)
    containers = _scaled(_mapping("workload", old.workloads, new.workloads), old, new)
    containers += _by_configs(old, new, _named(containers))
    containers += _moved(old, new, _named(containers))
    if not first and old_release != new_release:
        reason = f"rendered by release {old_release}, now {new_release}"
        actions.append(Action(kind="change", area="release", subject="release", reason=reason))
        touched = _named(containers)
        containers += [
            Action(kind="change", area="workload", subject=str(name), reason=reason)
            for name in new.workloads
            if name not in touched
        ]
    return (*actions, *containers)


def _named(actions: list[Action]) -> set[str]:
    """Return the workloads of which every container is stopped or started."""
    return {action.subject for action in actions if action.area == "workload"}


def with_images(actions: tuple[Action, ...], old: Mapping[str, Pin], new: Mapping[str, Pin]) -> tuple[Action, ...]:
    """Return the actions, with the changes of workloads that get another image under the same name.

    Args:
        actions: what is done in any case.
        old: the images by workload, or by ``WORKLOAD:/path`` where they are mounted.
        new: those that are wanted; one that is not here stays.
    """
    moved: dict[str, list[str]] = {}
    for key, pin in sorted(new.items()):
        name, _, path = key.partition(":")
        before = old.get(key)
        if before is not None and before.reference == pin.reference and before.digest != pin.digest:
            what = f"image of {path}" if path else "image"
            moved.setdefault(name, []).append(f"{what} {short(before.digest)} → {short(pin.digest)}")
    done = []
    for each in actions:
        known = moved.pop(each.subject, []) if (each.area, each.kind) == ("workload", "change") else []
        done.append(replace(each, reason=", ".join((each.reason, *known))))
    return (
        *done,
        *(
            Action(kind="change", area="workload", subject=name, reason=", ".join(reasons), cause="image")
            for name, reasons in moved.items()
        ),
    )


def with_requirers(
    actions: tuple[Action, ...], old: HostDeclaration | None, new: HostDeclaration
) -> tuple[Action, ...]:
    """Return the actions, with the restarts of workloads that require one which is stopped for a while, or in part.

    Args:
        actions: what is done in any case, images included.
        old: the declaration in force.
        new: the wanted one; who stays as it was requires the same in both.
    """
    if old is None:
        return actions
    known = set(workloads(actions, "create", "change"))
    return (
        *actions,
        *(
            Action(
                kind="change",
                area="workload",
                subject=name,
                reason=f"it requires {', '.join(of)}",
                cause="required",
            )
            for name, of in requirers(new.workloads, stopped(actions, old, new)).items()
            if name not in known
        ),
    )


def stopped(actions: tuple[Action, ...], old: HostDeclaration, new: HostDeclaration) -> frozenset[str]:
    """Return the workloads of which a container is stopped, if they do not change beside themselves."""
    before, after = ({str(name): each.replicas for name, each in one.workloads.items()} for one in (old, new))
    fewer = [name for name in scaled(actions) if after[name] < before[name]]
    return frozenset((*workloads(actions, "change", "remove"), *fewer))


def following(actions: tuple[Action, ...]) -> frozenset[str]:
    """Return the workloads that are not changed themselves: they get another image, or require what is stopped."""
    own = {each.subject for each in actions if each.area in ("workload", "replicas") and each.cause == "declared"}
    return frozenset(workloads(actions, "change")) - own


def short(digest: str) -> str:
    """Return as much of a digest as people can tell apart."""
    return digest[:19]


def touched(actions: tuple[Action, ...], *areas: Area) -> bool:
    """Tell whether any action is of one of ``areas``."""
    return any(action.area in areas for action in actions)


def scaled(actions: tuple[Action, ...]) -> tuple[str, ...]:
    """Return the names of the workloads of which only the number of containers changes."""
    others = set(workloads(actions, "create", "change", "remove"))
    return tuple(each.subject for each in actions if each.area == "replicas" and each.subject not in others)


def workloads(actions: tuple[Action, ...], *kinds: Kind) -> tuple[str, ...]:
    """Return the names of the workloads that actions of these kinds are about."""
    return tuple(action.subject for action in actions if action.area == "workload" and action.kind in kinds)
