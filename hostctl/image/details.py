"""What an image's configuration says beyond what running it needs: age, labels, how its layers were made.

Format: https://github.com/opencontainers/image-spec v1.1, config.md. What is not of the expected type is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hostctl.image.room import ImageStoreError
from hostctl.image.store import ImageStore, StoredImage

TEXT = 4096  # characters of one field that are shown
STEPS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of an image's history; ``size`` is that of its layer on this host in bytes."""

    created: str
    created_by: str
    comment: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Details:
    """What there is to know of an image."""

    created: str
    author: str
    architecture: str
    os: str
    labels: Mapping[str, str]
    history: tuple[Step, ...]


def _text(value: object) -> str:
    shown = value[:TEXT] if isinstance(value, str) else ""
    return "".join(letter if letter.isprintable() else "�" for letter in shown)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def details(store: ImageStore, image: StoredImage) -> Details:
    """Return what an image's configuration says; errors as :meth:`ImageStore.documents`."""
    document = _mapping(json.loads(store.documents(image.digest)[1]))
    labels = _mapping(_mapping(document.get("config")).get("Labels"))
    return Details(
        created=_text(document.get("created")),
        author=_text(document.get("author")),
        architecture=_text(document.get("architecture")),
        os=_text(document.get("os")),
        labels={_text(name): _text(value) for name, value in labels.items()},
        history=_history(document.get("history"), [path.stat().st_size for path in image.layers]),
    )


def listed(store: ImageStore, images: Sequence[StoredImage]) -> list[dict[str, object]]:
    """Return images as a program reads a list of them."""
    return [
        {
            "reference": image.reference,
            "digest": image.digest,
            "id": image.id,
            "bytes": image.bytes,
            "created": details(store, image).created,
        }
        for image in images
    ]


def described(store: ImageStore, image: StoredImage) -> dict[str, object]:
    """Return everything known of an image, but for its history."""
    known = asdict(details(store, image))
    config = {key: value for key, value in asdict(image.config).items() if key != "diff_ids"}
    return {
        "id": image.id,
        "digest": image.digest,
        "references": [name for name, digest in store.names().items() if digest == image.digest],
        "bytes": image.bytes,
        "baked": store.is_baked(image.digest),
        **{key: value for key, value in known.items() if key != "history"},
        "config": config,
        "layers": list(image.config.diff_ids),
    }


def _history(value: object, sizes: Sequence[int]) -> tuple[Step, ...]:
    left = list(sizes)
    steps = []
    for entry in (_mapping(each) for each in (value if isinstance(value, list) else [])[:STEPS]):
        size = 0 if entry.get("empty_layer") is True or not left else left.pop(0)
        steps.append(
            Step(
                created=_text(entry.get("created")),
                created_by=_text(entry.get("created_by")),
                comment=_text(entry.get("comment")),
                size=size,
            )
        )
    return tuple(steps)


def damage(store: ImageStore, image: StoredImage) -> tuple[str, ...]:
    """Read an image whole and return what of it is not as it was stored; layers that came with the release are left to
    the verified root.

    Raises:
        ImageStoreError: the caller may not read layers.
    """
    found = []
    for path in dict.fromkeys(image.layers):
        check = path.with_suffix(".check")
        if store.baked is not None and store.baked in path.parents:
            continue
        if not check.is_file():
            found.append(f"{path.stem}: there is nothing to compare it with")
        elif not _matches(path, check):
            found.append(f"{path.stem}: it is damaged")
    return tuple(found)


def _matches(layer: Path, check: Path) -> bool:
    from hostctl.image import verity  # noqa: PLC0415 - only for this

    try:
        return verity.matches(layer, check.read_text())
    except PermissionError as error:
        raise ImageStoreError("only root may read what is in an image", hint="use sudo") from error
