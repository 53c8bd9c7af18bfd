"""Finds an image by what people call it: a name by Docker's rules, a digest, an id, or the beginning of either."""

from __future__ import annotations

import re

from hostctl.config.values import ImageReference
from hostctl.image.room import ImageStoreError
from hostctl.image.store import ImageStore, StoredImage

_HEX = re.compile(r"(sha256:)?([0-9a-f]{4,64})")


class UnknownImageError(ImageStoreError):
    """There is no such image on this host."""

    id = "image-unknown"


class AmbiguousImageError(UnknownImageError):
    """There are several images that may be meant."""

    id = "image-ambiguous"


def reference(text: str) -> ImageReference:
    """Return the reference that ``text`` writes.

    Raises:
        UnknownImageError: it is none.
    """
    try:
        return ImageReference(text)
    except ValueError as error:
        raise UnknownImageError(str(error)) from error


def find(store: ImageStore, text: str) -> StoredImage:
    """Return the image that ``text`` means; a name goes before an id.

    Raises:
        UnknownImageError: none is meant.
        AmbiguousImageError: several are.
    """
    known = store.list()
    named = [image for image in known if is_named(image, text)]
    if named:
        return next((image for image in named if image.reference == str(reference(text))), named[0])
    match = _HEX.fullmatch(text)
    wanted = {
        image.digest: image
        for image in known
        if match and any(each.removeprefix("sha256:").startswith(match[2]) for each in (image.id, image.digest))
    }
    if len(wanted) > 1:
        raise AmbiguousImageError(f"{text} is the beginning of several ids", details="\n".join(sorted(wanted)))
    if not wanted:
        raise UnknownImageError(f"there is no image {text}", hint="`hostctl images` lists them")
    return next(iter(wanted.values()))


def is_named(image: StoredImage, text: str) -> bool:
    """Tell whether a text is an image's name, or its digest in the repository of that name."""
    try:
        wanted = ImageReference(text)
    except ValueError:
        return False
    if str(wanted) == image.reference or not (wanted.digest and image.reference):
        return str(wanted) == image.reference
    known = ImageReference(image.reference)
    return wanted.digest == image.digest and wanted.place == known.place
