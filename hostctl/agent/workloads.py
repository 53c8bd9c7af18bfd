"""The workloads' part of a generation on this host: their images, addresses, ids, bundles and units.

Only the edges are here: the image store, the registry and two files. What a workload becomes is decided by
:mod:`hostctl.workload`, and which address it has by :mod:`hostctl.network`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from hostctl.agent import generation, leaving, stage, transient
from hostctl.agent.generation import Draft, Pin, Stored
from hostctl.agent.images import Registries, choose, choose_mounted, mounted_key, open_store
from hostctl.agent.render import MADE_BY
from hostctl.agent.stage import Rendered
from hostctl.agent.tree import Link, Tree, merge, text
from hostctl.config.host import HostDeclaration
from hostctl.config.values import TimeZone
from hostctl.errors import HostctlError
from hostctl.image.store import StoredImage
from hostctl.layout import HostLayout
from hostctl.network import declared, document, surroundings
from hostctl.network.declared import connection
from hostctl.network.model import NetworkPlan
from hostctl.workload import bundle, device_links, identity, instance, probe, secret_env
from hostctl.workload.spec import WorkloadSpec

SECCOMP_PROFILE = "usr/share/containers/seccomp.json"  # of the package golang-github-containers-common


ZONES = "usr/share/zoneinfo"
SLICE = "systemd/system/system.slice.d/50-hostctl.conf"


class ZoneMissingError(HostctlError):
    """A workload wants a time zone that this release does not have."""

    id = "time-zone-missing"


class ProfileMissingError(HostctlError):
    """This release has no system call profile, without which no workload is run."""

    id = "seccomp-profile-missing"


class AppArmorProfileMissingError(HostctlError):
    """A workload wants an AppArmor profile that this release does not have."""

    id = "apparmor-profile-missing"


def former_network(former: Stored | None) -> NetworkPlan | None:
    """Return the network plan of a generation; none before the first.

    Raises:
        NetworkPlanError: it is damaged.
    """
    if former is None:
        return None
    return document.decode((former.path / "network.json").read_bytes())


def zones(declaration: HostDeclaration, folder: Path) -> dict[TimeZone, bytes]:
    """Return the rules of every time zone that a workload declares, from the database below ``folder``.

    Raises:
        ZoneMissingError: this release has no such zone.
    """
    wanted = {workload.timezone for workload in declaration.workloads.values() if workload.timezone is not None}
    try:
        return {zone: (folder / zone).read_bytes() for zone in sorted(wanted)}
    except OSError as error:
        raise ZoneMissingError(f"this release has no time zone {error.filename}") from error


def check_apparmor(declaration: HostDeclaration, folder: Path) -> None:
    """Refuse workloads that are to be confined by profiles which were not loaded at boot from ``folder``.

    Raises:
        AppArmorProfileMissingError: there are such; each is named.
    """
    wanted = {name: each.apparmor for name, each in declaration.workloads.items() if each.apparmor is not None}
    missing = {name: profile for name, profile in wanted.items() if not (folder / profile).is_file()}
    if missing:
        known = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else ""
        raise AppArmorProfileMissingError(
            f"this release has no AppArmor profile {', '.join(sorted(set(missing.values())))}",
            details="\n".join(f"workloads.{name}.apparmor: {profile}" for name, profile in missing.items()),
            hint=f"it has {known}" if known else "profiles come with a release: `apparmor` in release.yaml",
        )


def _program(module: ModuleType) -> Path:
    """Return what the interpreter runs as a program: a module as it was compiled, else that is done at every start."""
    source = str(module.__file__)
    compiled = Path(importlib.util.cache_from_source(source))
    return compiled if compiled.is_file() else Path(source)


def specs(
    declaration: HostDeclaration,
    images: Mapping[str, StoredImage],
    mounted: Mapping[str, StoredImage],
    ranges: Mapping[str, int],
    plan: NetworkPlan,
    rules: Mapping[TimeZone, bytes],
    instances: Mapping[str, str] | None = None,
) -> tuple[WorkloadSpec, ...]:
    """Return every container of every declared workload with everything decided."""
    connected = {(each.name, each.instance): connection(plan, each) for each in plan.workloads}
    several = {str(name): each.replicas for name, each in declaration.workloads.items() if each.replicas > 1}
    awaited = {
        other
        for workload in declaration.workloads.values()
        for other, dependency in workload.depends_on.items()
        if dependency.condition == "healthy"
    }
    return tuple(
        WorkloadSpec(
            name=str(name),
            workload=workload,
            image=images[str(name)],
            range_number=ranges[instance.key(str(name), number)],
            network=connected.get((str(name), (instances or {}).get(str(name), number))),
            image_volumes={str(path): mounted[mounted_key(name, path)] for path in workload.image_volumes},
            awaited=name in awaited,
            configs={str(config): declaration.configs[config].content for config in workload.used_configs},
            zone=rules[workload.timezone] if workload.timezone is not None else None,
            instance=(instances or {}).get(str(name), number),
            replicas_of={str(other): several[other] for other in workload.depends_on if other in several},
        )
        for name, workload in declaration.workloads.items()
        for number in instance.numbers(workload.replicas)
    )


def etc(wanted: tuple[WorkloadSpec, ...], plan: NetworkPlan, declaration: HostDeclaration) -> Tree:
    """Return what the workloads put below /etc: units, links, and their names.

    The host's name server answers the workloads and reads /etc/hosts anew when it changes, so a workload finds one
    that was declared after it started. A declared /etc/hosts goes before that, and has to name those it wants found.
    """
    from hostctl.workload import units  # noqa: PLC0415 - jinja2 is an import of 60 ms, start-up counts

    trees: list[Tree] = []
    programs = [_program(module) for module in (probe, secret_env, device_links)]
    for spec in wanted:
        rendered = units.render(spec, *programs)
        trees.append({path: text(content) for path, content in rendered.items()})
        trees.append({path: Link(target=target) for path, target in units.links(spec).items()})
    if plan.workloads and "hosts" not in {path.below_etc for path in declaration.files}:
        lines = [f"127.0.0.1 localhost {declaration.hostname}", "::1 localhost ip6-localhost"]
        called = instance.labels(each.key for each in plan.workloads)
        lines += [
            f"{place.address} {' '.join(dict.fromkeys((each.name, called[each.key])))}"
            for each in plan.workloads
            for place in each.attachments[:1]
        ]
        trees.append({"hosts": text("".join(f"{line}\n" for line in lines))})
    # What a cgroup is left is at most what those above it are: without this, reservations would mean nothing.
    reserved = sum(spec.workload.memory_reservation or 0 for spec in wanted)
    if reserved:
        trees.append({SLICE: text(f"{MADE_BY}[Slice]\nMemoryLow={reserved}\n")})
    return merge(*trees)


@dataclass(frozen=True, kw_only=True, slots=True)
class HostWorkloads:
    """Renders the workloads of the host below ``layout``; see :data:`hostctl.agent.stage.WorkloadRenderer`."""

    layout: HostLayout
    notify: Callable[[str], None] = lambda text: None

    def __call__(self, declaration: HostDeclaration, former: Stored | None, draft: Draft) -> Rendered:
        """Return the units, bundles and network of all workloads; images that are not here are pulled.

        Raises:
            PullError, ImageFormatError, LayerError: an image cannot be had.
            ImageNotHereError: one is not here, and no registry may be asked.
            WorkloadError: a workload cannot be run as it is declared, or as its image wants.
            ZoneMissingError, AppArmorProfileMissingError, ProfileMissingError: the release lacks what it needs.
        """
        check_apparmor(declaration, self.layout.apparmor)
        store = open_store(self.layout, declaration)
        pull = Registries(layout=self.layout, declaration=declaration, store=store, notify=self.notify)
        images = choose(declaration, former.record.images if former else {}, store, pull, draft.renewed)
        pins = former.record.mounted if former else {}
        mounted = choose_mounted(declaration, pins, store, pull, draft.renewed)
        held = [
            instance.key(str(name), number)
            for name, workload in declaration.workloads.items()
            for number in instance.numbers(workload.replicas)
        ]
        ranges = identity.allocate(held, former.record.ranges if former else {}, self._spent(former))
        pools = declared.pools(declaration, stage.machine_id(self.layout), surroundings.routes(self.layout.root))
        network, lasting = former_network(former), transient.transients(declaration)
        plan = declared.plan(declaration, ranges, network, pools, draft.instances, draft.leaving, lasting)
        rules = zones(declaration, self.layout.root / ZONES)
        wanted = specs(declaration, images, mounted, ranges, plan, rules, draft.instances)
        made = etc(wanted, plan, declaration)
        stays = leaving.tree(former, draft.leaving, made) if former else {}
        profile = self._profile() if wanted else b""
        return Rendered(
            images={spec.name: Pin(reference=str(spec.workload.image), digest=spec.image.digest) for spec in wanted},
            mounted={
                mounted_key(spec.name, path): Pin(reference=str(reference), digest=spec.image_volumes[path].digest)
                for spec in wanted
                for path, reference in spec.workload.image_volumes.items()
            },
            ranges=ranges,
            units={**made, **stays},
            bundles={
                **{spec.key: bundle.render(spec, profile) for spec in wanted},
                **(leaving.bundles(former, draft.leaving) if former else {}),
            },
            network=document.encode(plan),
        )

    def _spent(self, former: Stored | None) -> frozenset[str]:
        """Return who gives its range of user ids up."""
        left = self.layout.workloads.iterdir() if self.layout.workloads.is_dir() else ()
        known = generation.known(self.layout) | {instance.name_of(path.name) for path in left}
        return transient.spent(former.record.ranges if former else (), known)

    def _profile(self) -> bytes:
        path = self.layout.root / SECCOMP_PROFILE
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise ProfileMissingError(f"{path} is missing, so no workload can be confined") from error
