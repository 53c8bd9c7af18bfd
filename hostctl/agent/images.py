"""Which image each workload runs: pinned ones stay pinned, then what the host has, and only then the registry.

With ``pull_policy: never`` no registry is asked. An image that its registry's policy wants signed is taken only if it
was found signed by that very key, or came with the release.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hostctl.agent import generation, parsed
from hostctl.agent.generation import Pin
from hostctl.config.host import HostDeclaration
from hostctl.config.names import Name
from hostctl.config.values import ImageReference
from hostctl.errors import HostctlError
from hostctl.image.credentials import CredentialStore
from hostctl.image.registry import Access, Skopeo, access
from hostctl.image.store import ImageStore, StoredImage
from hostctl.layout import HostLayout

SHARE = 4
"""One part in so many of the file system is what images may take where nothing is declared."""


class ImageNotHereError(HostctlError):
    """An image is not on the host, and no registry may be asked."""

    id = "image-not-here"


class Images(Protocol):
    """The part of the image store that this needs."""

    def get(self, digest: str) -> StoredImage | None:
        """Return the image with a manifest digest."""

    def find(self, reference: ImageReference) -> StoredImage | None:
        """Return the image of a reference."""

    def is_signed(self, digest: str, by: str) -> bool:
        """Tell whether an image was found signed by a key for a repository; an empty text asks for nothing."""


Pull = Callable[[ImageReference, str | None], StoredImage]
"""Brings an image from its registry: the reference, and the digest that it must have (none: what the name stands for
now)."""


def choose(
    declaration: HostDeclaration,
    former: Mapping[str, Pin],
    images: Images,
    pull: Pull,
    renewed: Mapping[str, Pin] | None = None,
) -> dict[str, StoredImage]:
    """Return an image for every workload.

    A workload whose reference did not change keeps the digest of the former generation, as long as that image is here
    or can be had. An image that came with an older release and is gone is replaced by the one of the same name. An
    image that is here by its name alone, and not known to be signed, says nothing of what the registry has.

    Args:
        declaration: what is wanted.
        former: the former generation's pins, by workload.
        images: what the host has.
        pull: asks the registry.
        renewed: what names stand for now, by workload, whatever the former generation says.

    Raises:
        ImageNotHereError: with ``pull_policy: never``; all of them are named, and nothing was pulled.
    """
    wanted = {key: reference for key, reference in declared_images(declaration).items() if ":" not in key}
    return _choose(wanted, declaration, former, images, pull, renewed)


def choose_mounted(
    declaration: HostDeclaration,
    former: Mapping[str, Pin],
    images: Images,
    pull: Pull,
    renewed: Mapping[str, Pin] | None = None,
) -> dict[str, StoredImage]:
    """Return an image for everything that is mounted from one, by ``WORKLOAD:/path``; otherwise as :func:`choose`."""
    wanted = {key: reference for key, reference in declared_images(declaration).items() if ":" in key}
    return _choose(wanted, declaration, former, images, pull, renewed)


def declared_images(declaration: HostDeclaration) -> dict[str, ImageReference]:
    """Return every image that is declared, by workload, or by ``WORKLOAD:/path`` where it is mounted."""
    run = {str(name): workload.image for name, workload in declaration.workloads.items()}
    mounted = {
        mounted_key(str(name), str(target)): reference
        for name, workload in declaration.workloads.items()
        for target, reference in workload.image_volumes.items()
    }
    return {**run, **mounted}


def lacking(declaration: HostDeclaration, images: Images) -> tuple[str, ...]:
    """Return the declared images that only a registry could give, each once."""
    lack: dict[str, None] = {}
    for reference in declared_images(declaration).values():
        found = images.find(reference)
        signer = access(declaration, reference.registry).signer(reference)
        if found is None or not images.is_signed(found.digest, signer):
            lack[str(reference)] = None
    return tuple(lack)


def mounted_key(workload: str, target: str) -> str:
    """Return the name under which a generation keeps which image is mounted there."""
    return f"{workload}:{target}"


def _choose(
    wanted: Mapping[str, ImageReference],
    declaration: HostDeclaration,
    former: Mapping[str, Pin],
    images: Images,
    pull: Pull,
    renewed: Mapping[str, Pin] | None = None,
) -> dict[str, StoredImage]:
    local = {
        name: _local(reference, former.get(name), images, (renewed or {}).get(name))
        for name, reference in wanted.items()
    }
    signers = {name: access(declaration, each.registry).signer(each) for name, each in wanted.items()}
    signed = {
        name: found is None or images.is_signed(found.digest, signers[name]) for name, (found, _) in local.items()
    }
    _check_never(declaration, wanted, {name: found for name, (found, _) in local.items()}, signed)
    return {
        name: found if found is not None and signed[name] else _ask(pull, wanted[name], found, digest)
        for name, (found, digest) in local.items()
    }


def _ask(pull: Pull, reference: ImageReference, found: StoredImage | None, digest: str) -> StoredImage:
    """Ask the registry, for what the name stands for now if it has no longer what a generation had and nobody has."""
    from hostctl.image.refusal import NotThereError  # noqa: PLC0415 - only when the host lacks an image

    try:
        return pull(reference, digest or None)
    except NotThereError:
        if found is not None or digest in ("", reference.digest):
            raise
        return pull(reference, reference.digest)


def _local(
    reference: ImageReference, pin: Pin | None, images: Images, new: Pin | None
) -> tuple[StoredImage | None, str]:
    """Return the image of a reference that is here, if it is, and the digest to ask its registry for."""
    if new is not None and new.reference == str(reference):
        return images.get(new.digest), new.digest
    pinned = pin.digest if pin is not None and pin.reference == str(reference) else ""
    kept = images.get(pinned) if pinned else None
    found = kept or images.find(reference)
    asked = pinned if kept is not None or found is None else ""
    return found, asked or reference.digest or ""


def _check_never(
    declaration: HostDeclaration,
    wanted: Mapping[str, ImageReference],
    local: Mapping[str, StoredImage | None],
    signed: Mapping[str, bool],
) -> None:
    """Refuse what only a registry could give where none may be asked."""
    lacking: list[str] = []
    for key, reference in wanted.items():
        name, _, path = key.partition(":")
        if declaration.workloads[Name(name)].pull_policy != "never" or (local[key] is not None and signed[key]):
            continue
        place = f"workloads.{name}." + (f"image_volumes.{path}" if path else "image")
        lacking.append(f"{place}: {reference} is {'not here' if local[key] is None else 'not known to be signed'}")
    if lacking:
        raise ImageNotHereError(
            "images are not on this host, and with pull_policy: never no registry is asked",
            details="\n".join(lacking),
            hint="hostctl load -i ARCHIVE, or hostctl pull NAME",
        )


def declared(layout: HostLayout) -> HostDeclaration | None:
    """Return the declaration in force; none before the first generation."""
    stored = generation.current(layout)
    return parsed.declaration(stored) if stored else None


def room(layout: HostLayout, declaration: HostDeclaration | None) -> int:
    """Return the bytes that pulled images may take."""
    wanted = declaration.images.max_size if declaration else None
    layout.images.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(layout.images).total // SHARE if wanted is None else int(wanted)


def open_store(layout: HostLayout, declaration: HostDeclaration | None) -> ImageStore:
    """Return the store of this host, bounded as declared, from which nothing goes that a generation needs.

    Raises:
        GenerationError: a generation cannot be read, so that nobody knows what it needs.
    """
    pinned = generation.pinned(layout)
    return ImageStore(layout.images, layout.baked_images, limit=room(layout, declaration), pinned=pinned)


def lacking_here(layout: HostLayout, declaration: HostDeclaration) -> tuple[str, ...]:
    """Return the images of :func:`lacking` of this host."""
    return lacking(declaration, open_store(layout, declaration))


def collect(layout: HostLayout, pinned: Collection[str]) -> tuple[Path, ...]:
    """Bound the store as declared; images with a digest in ``pinned`` stay. Returns the files that were removed."""
    store = ImageStore(layout.images, layout.baked_images)
    return store.collect(pinned, limit=room(layout, declared(layout)))


def credential_store(layout: HostLayout) -> CredentialStore:
    """Return the store of this host's credentials."""
    return CredentialStore(folder=layout.credentials)


@dataclass(frozen=True, kw_only=True, slots=True)
class Registries:
    """The registries as a declaration reaches them, and the store that pulls go to; see :data:`Pull`."""

    layout: HostLayout
    declaration: HostDeclaration | None
    store: ImageStore
    notify: Callable[[str], None] = lambda text: None

    def access(self, registry: str) -> Access:
        """Return how a registry is reached, credentials included."""
        return access(self.declaration, registry, credential_store(self.layout).get)

    def resolve(self, reference: ImageReference) -> str:
        """Return the digest that a name stands for now.

        Raises:
            PullError: the registry cannot be reached or has no such image.
            ImageFormatError: what it gave is not sound.
        """
        from hostctl.image import pull  # noqa: PLC0415 - only when a registry is asked

        return pull.resolve(reference, access=self.access(reference.registry), skopeo=self._skopeo())

    def __call__(self, reference: ImageReference, digest: str | None) -> StoredImage:
        """Pull."""
        from hostctl.image import pull  # noqa: PLC0415 - only when the host lacks an image

        if digest is None or digest == reference.digest:  # that may be one of an index
            here = self.store.find(reference) if digest else None
            digest = self.resolve(reference) if here is None else here.digest
        reach = self.access(reference.registry)
        return pull.pull(reference, digest, self.store, access=reach, skopeo=self._skopeo(), notify=self.notify)

    def _skopeo(self) -> Skopeo:
        return Skopeo(runtime=self.layout.runtime / "registries")
