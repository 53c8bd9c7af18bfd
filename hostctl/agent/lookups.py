"""What ``pull_policy: always`` asks of a change: which tags are looked up, and what they stand for now.

Only a change that a person asks for looks up: ``apply`` and ``plan`` all such workloads, ``run`` and ``create`` the one
that they add. Nothing that happens by itself does, a boot least of all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import groupby

from hostctl.agent.generation import Pin
from hostctl.agent.images import declared_images
from hostctl.config.host import HostDeclaration
from hostctl.config.names import Name
from hostctl.config.values import ImageReference
from hostctl.errors import EXIT_UNAVAILABLE, HostctlError


class LookUpError(HostctlError):
    """Nobody says what a tag stands for that is to be looked up."""

    id = "image-look-up"
    exit_code = EXIT_UNAVAILABLE


def wanted(declaration: HostDeclaration, only: Collection[str] | None = None) -> dict[str, ImageReference]:
    """Return the images whose tags are looked up, by workload or ``WORKLOAD:/path``; ``only`` those of these workloads.

    One that is named by its digest is not: no registry could say anything new of it.
    """
    return {
        key: reference
        for key, reference in declared_images(declaration).items()
        if (name := key.partition(":")[0]) and (only is None or name in only)
        if declaration.workloads[Name(name)].pull_policy == "always" and reference.digest is None
    }


def look_up(
    images: Mapping[str, ImageReference],
    resolve: Callable[[ImageReference], str],
    notify: Callable[[str], None] = lambda text: None,
) -> dict[str, Pin]:
    """Return what tags stand for now, by the keys of ``images``; each is asked for once.

    Raises:
        LookUpError: of some that is not known; all of them are named.
    """
    found: dict[str, Pin] = {}
    unknown: list[str] = []
    ordered = sorted((str(reference), key) for key, reference in images.items())
    for name, users in groupby(ordered, key=lambda each: each[0]):
        keys = [key for _, key in users]
        notify(f"looking {name} up")
        try:
            digest = resolve(images[keys[0]])
        except HostctlError as error:
            said = f"{error.brief}: {error.details}" if error.details else error.brief
            unknown.append(f"{', '.join(keys)}: {said}")
            continue
        found |= {key: Pin(reference=name, digest=digest) for key in keys}
    if unknown:
        raise LookUpError(
            "it is not known what tags stand for that pull_policy: always looks up; nothing was changed",
            details="\n".join(unknown),
            hint="try again when the registry answers; pull_policy: missing takes the images that are here",
        )
    return {key: found[key] for key in images}
