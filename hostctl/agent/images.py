"""Which image each workload runs: pinned ones stay pinned, then what the host has, and only then the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from hostctl.agent.generation import Pin
from hostctl.config.host import HostDeclaration
from hostctl.config.values import ImageReference
from hostctl.image.store import StoredImage


class Images(Protocol):
    """The part of the image store that this needs."""

    def get(self, digest: str) -> StoredImage | None:
        """Return the image with a manifest digest."""

    def find(self, reference: ImageReference) -> StoredImage | None:
        """Return the image of a reference."""


Pull = Callable[[ImageReference, str | None, bool], StoredImage]
"""Brings an image from its registry: the reference, the digest that it must have (none: what the name stands for now),
and whether the registry may be insecure."""


def choose(
    declaration: HostDeclaration, former: Mapping[str, Pin], images: Images, pull: Pull
) -> dict[str, StoredImage]:
    """Return an image for every workload.

    A workload whose reference did not change keeps the digest of the former generation, as long as that image is here
    or can be had. An image that came with an older release and is gone is replaced by the one of the same name.

    Args:
        declaration: what is wanted.
        former: the former generation's pins, by workload.
        images: what the host has.
        pull: asks the registry.
    """
    wanted = {str(name): workload.image for name, workload in declaration.workloads.items()}
    return _choose(wanted, declaration, former, images, pull)


def choose_mounted(
    declaration: HostDeclaration, former: Mapping[str, Pin], images: Images, pull: Pull
) -> dict[str, StoredImage]:
    """Return an image for everything that is mounted from one, by ``WORKLOAD:/path``; otherwise as :func:`choose`."""
    wanted = {
        mounted_key(str(name), str(target)): reference
        for name, workload in declaration.workloads.items()
        for target, reference in workload.image_volumes.items()
    }
    return _choose(wanted, declaration, former, images, pull)


def mounted_key(workload: str, target: str) -> str:
    """Return the name under which a generation keeps which image is mounted there."""
    return f"{workload}:{target}"


def _choose(
    wanted: Mapping[str, ImageReference],
    declaration: HostDeclaration,
    former: Mapping[str, Pin],
    images: Images,
    pull: Pull,
) -> dict[str, StoredImage]:
    chosen: dict[str, StoredImage] = {}
    registries = {str(host): registry for host, registry in declaration.registries.items()}
    for name, reference in wanted.items():
        pin = former.get(name)
        kept = images.get(pin.digest) if pin is not None and pin.reference == str(reference) else None
        found = kept or images.find(reference)
        if found is None:
            registry = registries.get(reference.registry)
            insecure = registry is not None and registry.insecure
            found = pull(reference, reference.digest, insecure)
        chosen[name] = found
    return chosen
