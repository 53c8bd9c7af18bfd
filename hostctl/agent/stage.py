"""Makes the content of a generation from a declaration: what lies below /etc, the workloads' part, and the record.

What a workload becomes is decided by the renderer that the stager is given; this module only puts the parts together.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hostctl.agent import generation, render
from hostctl.agent.generation import Content, Draft, Pin, Record, Stored
from hostctl.agent.tree import Tree, merge
from hostctl.config.host import HostDeclaration
from hostctl.layout import HostLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """The workloads' part of a generation. ``ranges`` are numbers of user id ranges, also of replicas."""

    images: Mapping[str, Pin] = field(default_factory=dict)
    mounted: Mapping[str, Pin] = field(default_factory=dict)
    ranges: Mapping[str, int] = field(default_factory=dict)
    units: Tree = field(default_factory=dict)
    bundles: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    network: bytes = b"{}\n"


WorkloadRenderer = Callable[[HostDeclaration, Stored | None, Draft], Rendered]
"""Renders all workloads of a declaration, given the former generation and what is decided of the new one; may pull
images."""


def machine_id(layout: HostLayout) -> str:
    """Return the id of this machine: the running one, else a new one (machine-id(5))."""
    path = layout.root / "etc/machine-id"
    known = path.read_text().strip() if path.is_file() else ""
    if len(known) == 32 and all(digit in "0123456789abcdef" for digit in known) and known != "0" * 32:
        return known
    return secrets.token_hex(16)


@dataclass(frozen=True, kw_only=True, slots=True)
class HostStager:
    """The transaction's stager on a host; see :data:`hostctl.agent.apply.Stager`."""

    layout: HostLayout
    release: str
    workloads: WorkloadRenderer

    def __call__(self, text: str, declaration: HostDeclaration, former: Stored | None, draft: Draft) -> Content:
        """Return the content of the generation that ``draft`` begins.

        Raises:
            TreeError: a declared file collides with a rendered one.
        """
        known = former.record.uids if former else {}
        uids = render.allocate_uids([str(name) for name in declaration.users], known, generation.uids(self.layout))
        part = self.workloads(declaration, former, draft)
        record = Record(
            number=draft.number,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            release=self.release,
            declaration_sha256=hashlib.sha256(text.encode()).hexdigest(),
            images=part.images,
            mounted=part.mounted,
            uids=uids,
            ranges=part.ranges,
            instances=draft.instances,
            replicas={str(name): each.replicas for name, each in declaration.workloads.items() if each.replicas > 1},
            withheld=draft.withheld,
        )
        host = render.host(declaration, machine_id=machine_id(self.layout), uids=uids)
        return Content(
            record=record,
            declaration=text,
            etc=merge(host, part.units),
            bundles=part.bundles,
            network=part.network,
        )
